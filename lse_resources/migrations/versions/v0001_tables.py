"""The tables: runs by month, the audit of loads, the state of days."""

from alembic import op

revision = "0001"
down_revision = None

# jsonb as text is what PostgreSQL itself makes of the content: equal content gives equal text.
_TABLES = """
CREATE TABLE loads (
    load_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('load', 'overwrite', 'repair', 'rollback', 'deletion')),
    project     text,
    run_date    date,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    role        text NOT NULL DEFAULT session_user,
    client      text NOT NULL,
    inserted    integer NOT NULL DEFAULT 0,
    replaced    integer NOT NULL DEFAULT 0,
    deleted     integer NOT NULL DEFAULT 0,
    failed      integer NOT NULL DEFAULT 0,
    undone_by   bigint REFERENCES loads
);
CREATE INDEX loads_day ON loads (project, run_date);
COMMENT ON TABLE loads IS 'Every load, overwrite, repair, rollback and deletion; without finished_at: cut short.';

CREATE TABLE runs (
    run_id      uuid NOT NULL,
    trace_id    uuid NOT NULL,
    project     text NOT NULL,
    run_date    date NOT NULL,
    data        jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    file_sha256 bytea,
    row_sha256  bytea,
    mark        text[],
    load_id     bigint,
    PRIMARY KEY (run_id, run_date)
) PARTITION BY RANGE (run_date);
CREATE INDEX runs_day ON runs (project, run_date);
CREATE INDEX runs_trace ON runs (trace_id);
COMMENT ON COLUMN runs.data IS 'The run as LangSmith sent it; where mark is set, a rendering of it.';
COMMENT ON COLUMN runs.file_sha256 IS 'Of the run file that was loaded.';
COMMENT ON COLUMN runs.row_sha256 IS 'Of convert_to(data::text, ''UTF8''), computed when the row was written.';
COMMENT ON COLUMN runs.mark IS 'Why jsonb cannot hold the run as it is; NULL: it does.';
COMMENT ON COLUMN runs.load_id IS 'The load that wrote the row.';

CREATE TABLE replaced_runs (
    replaced_by bigint NOT NULL REFERENCES loads,
    replaced_at timestamptz NOT NULL DEFAULT now(),
    run_id      uuid NOT NULL,
    trace_id    uuid NOT NULL,
    project     text NOT NULL,
    run_date    date NOT NULL,
    data        jsonb,
    created_at  timestamptz NOT NULL,
    file_sha256 bytea,
    row_sha256  bytea,
    mark        text[],
    load_id     bigint,
    PRIMARY KEY (replaced_by, run_id, run_date)
);
CREATE INDEX replaced_runs_at ON replaced_runs (replaced_at);
CREATE INDEX replaced_runs_load ON replaced_runs (load_id);
COMMENT ON TABLE replaced_runs IS 'Rows as they were before a load replaced them, kept for a while to undo it.';

CREATE TABLE days (
    project          text NOT NULL,
    run_date         date NOT NULL,
    content_sha256   text,
    runs             bigint,
    traces           bigint,
    bytes            bigint,
    pending          bigint,
    langsmith_count  bigint,
    proof            text,
    zip_sha256       text,
    zip_bytes        bigint,
    drive_file_id    text,
    drive_sha256     text,
    rows             bigint,
    loaded_at        timestamptz,
    looked_at        timestamptz,
    verified_at      timestamptz,
    consistent       boolean,
    files_pruned_at  timestamptz,
    zip_pruned_at    timestamptz,
    PRIMARY KEY (project, run_date)
);
COMMENT ON TABLE days IS 'What is known of each archived day; can be made again from disk and Drive.';
"""

# A detached table is filled by no one, so attaching it locks the parent for an instant only, and not against readers.
# SECURITY DEFINER: a role that loads runs need not own the tables.
_PARTITIONS = """
CREATE FUNCTION lse_ensure_month(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    first date := date_trunc('month', day::timestamp)::date;
    name  text := 'runs_' || to_char(first, 'YYYY_MM');
BEGIN
    PERFORM 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'runs'::regclass AND c.relname = name;
    IF FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('lse_ensure_month'));
    IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE runs INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE runs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            name, first, (first + interval '1 month')::date);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION lse_ensure_month(date) FROM PUBLIC;
"""

# lz4 packs and unpacks several times faster than pglz, at about the same size; not every build has it.
_COMPRESSION = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE runs ALTER COLUMN data SET COMPRESSION lz4;
        ALTER TABLE replaced_runs ALTER COLUMN data SET COMPRESSION lz4;
    END IF;
END
$$;
"""


def upgrade() -> None:
    # Straight to psycopg, which leaves % alone where there are no parameters.
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for statements in (_TABLES, _PARTITIONS, _COMPRESSION):
        connection.execute(statements)
