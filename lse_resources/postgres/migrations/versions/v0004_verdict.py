"""The result of a verification has three values: a day that cannot be proven is not a proven one."""

from alembic import op

revision = "0004"
down_revision = "0003"

_FILL = """
UPDATE days
SET verdict = CASE WHEN NOT consistent THEN 'wrong' WHEN proof = 'equal' THEN 'proven' ELSE 'not_provable' END
WHERE consistent IS NOT NULL
"""


def upgrade() -> None:
    op.execute("ALTER TABLE days ADD COLUMN verdict text")
    op.execute(_FILL)
    op.execute("ALTER TABLE days DROP COLUMN consistent")
