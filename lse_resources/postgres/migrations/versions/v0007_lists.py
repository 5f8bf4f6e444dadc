"""Indexes for lists and trends of runs in the browser."""

from alembic import op

revision = "0007"
down_revision = "0006"

# A list of runs is read in the order of an index, so that every page costs the same. Errors and roots are few, and what
# is looked for most. No column of text is in an index beside the project: a text has any length, an entry of an index
# has a limit, and the run could not be loaded.
_INDEXES = """
DROP INDEX runs_day;
CREATE INDEX runs_day ON runs (project, run_date, start_time, run_id);
CREATE INDEX runs_errors ON runs (project, run_date, start_time, run_id)
    INCLUDE (parent_run_id, end_time, total_tokens, total_cost) WHERE status = 'error';
CREATE INDEX runs_roots ON runs (project, run_date, start_time, run_id) INCLUDE (end_time, total_tokens, total_cost)
    WHERE parent_run_id IS NULL;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(_INDEXES)
