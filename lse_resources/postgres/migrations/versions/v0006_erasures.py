"""The tables of erasures: the certificates, and a tombstone for each run that must not come back."""

from alembic import op

revision = "0006"
down_revision = "0005"

# Neither table has anything of what was erased. Run ids are random: their hash needs no key, and a key that is lost
# would let the runs come back. `rewrite` names what a killed erasure has still to rewrite.
_TABLES = """
CREATE TABLE erasures (
    erasure_id       uuid PRIMARY KEY,
    project          text NOT NULL,
    requested_by     text NOT NULL,
    role             text NOT NULL DEFAULT session_user,
    reason           text NOT NULL,
    selection_sha256 text NOT NULL,
    started_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    counts           jsonb NOT NULL DEFAULT '{}',
    checked          jsonb NOT NULL DEFAULT '{}',
    left_behind      jsonb NOT NULL DEFAULT '[]',
    rewrite          text[] NOT NULL DEFAULT '{}',
    rewrite_events   text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE erasures IS 'The certificate of each erasure; without finished_at: not complete.';
COMMENT ON COLUMN erasures.counts IS 'What was erased: numbers by place and kind.';
COMMENT ON COLUMN erasures.checked IS 'What was looked at afterwards, and the results.';
COMMENT ON COLUMN erasures.left_behind IS 'What could not be erased, why, and until when.';
COMMENT ON COLUMN erasures.rewrite IS 'Tables whose files may still hold erased rows.';
COMMENT ON COLUMN erasures.rewrite_events IS 'The same, in the database of Dagster.';

CREATE TABLE tombstones (
    run_sha256 bytea NOT NULL,
    project    text NOT NULL,
    run_date   date NOT NULL,
    erasure_id uuid NOT NULL,
    erased_at  timestamptz NOT NULL,
    PRIMARY KEY (project, run_date, run_sha256)
);
COMMENT ON TABLE tombstones IS 'Runs that were erased on request: a load refuses them.';
COMMENT ON COLUMN tombstones.run_sha256 IS 'Of the run id, in lower case with hyphens.';
"""

# Whoever may use the loads may use what is beside them, without another `lse db grant`.
_GRANTS = """
DO $$
DECLARE
    entry record;
BEGIN
    FOR entry IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
        FROM pg_class AS class CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
        WHERE class.oid = 'loads'::regclass AND acl.grantee <> class.relowner
    LOOP
        EXECUTE format('GRANT %s ON erasures, tombstones TO %s', entry.privilege_type, entry.role);
    END LOOP;
END
$$;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for statements in (_TABLES, _GRANTS):
        connection.execute(statements)
