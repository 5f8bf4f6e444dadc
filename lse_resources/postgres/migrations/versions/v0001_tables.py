"""The tables: runs partitioned by month, the audit of loads, the state of days."""

from alembic import op

revision = "0001"
down_revision = None

# The functions of the typed columns. None may fail for any run file: a run with an invalid field is a run too. They run
# for twelve columns a row: PL/pgSQL is faster than SQL that is not inlined, `translate` than a regular expression.
# Timestamps without a zone are UTC (langsmith SDK, schemas.py), so that reading them is immutable; the reader of run
# files has checked that they are dates.
_READERS = r"""
CREATE FUNCTION lse_time(value text) RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF translate(left(value, 19), '123456789T', '000000000 ') = '0000-00-00 00:00:00' THEN
        CASE translate(substr(value, 20), '0123456789', '')
            WHEN 'Z', '.Z', '+:', '.+:', '-:', '.-:' THEN RETURN value::timestamptz;
            WHEN '', '.' THEN RETURN (value || 'Z')::timestamptz;
            ELSE RETURN NULL;
        END CASE;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION lse_number(value jsonb) RETURNS numeric LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    kind text := jsonb_typeof(value);
BEGIN
    IF kind = 'number' AND abs(value::numeric) < 1e30 THEN
        RETURN value::numeric;
    ELSIF kind = 'string' AND value #>> '{}' ~ '^-?\d{1,30}(\.\d{1,60})?([eE]-?\d{1,2})?$' THEN
        RETURN (value #>> '{}')::numeric;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION lse_count(value jsonb) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    kind text := jsonb_typeof(value);
BEGIN
    IF kind = 'number' AND value::numeric BETWEEN 0 AND 1e18 THEN
        RETURN value::bigint;
    ELSIF kind = 'string' AND value #>> '{}' ~ '^\d{1,18}$' THEN
        RETURN (value #>> '{}')::bigint;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION lse_uuid(value text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF value LIKE '________-____-____-____-____________'
       AND translate(lower(value), '0123456789abcdef', '') = '----' THEN
        RETURN value::uuid;
    END IF;
    RETURN NULL;
END
$$;
"""

# PostgreSQL's text of jsonb is canonical: equal content gives equal text.
# Generated columns always agree with `data`, and queries need not decompress it. Both formats of the API are read:
# v1 `success`, `parent_run_id`, costs as strings; v2 `SUCCESS`, `parent_run_ids` with the root first.
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
    name              text        GENERATED ALWAYS AS (data ->> 'name') STORED,
    run_type          text        GENERATED ALWAYS AS (lower(data ->> 'run_type')) STORED,
    status            text        GENERATED ALWAYS AS (
        CASE WHEN data ->> 'status' <> '' THEN lower(data ->> 'status')
             WHEN data ->> 'error' <> '' THEN 'error'
             WHEN data ->> 'end_time' <> '' THEN 'success'
             WHEN data ? 'id' THEN 'pending' END) STORED,
    start_time        timestamptz GENERATED ALWAYS AS (lse_time(data ->> 'start_time')) STORED,
    end_time          timestamptz GENERATED ALWAYS AS (lse_time(data ->> 'end_time')) STORED,
    parent_run_id     uuid        GENERATED ALWAYS AS (
        lse_uuid(coalesce(data ->> 'parent_run_id', data -> 'parent_run_ids' ->> -1))) STORED,
    depth             integer     GENERATED ALWAYS AS (
        length(data ->> 'dotted_order') - length(replace(data ->> 'dotted_order', '.', ''))) STORED,
    prompt_tokens     bigint      GENERATED ALWAYS AS (lse_count(data -> 'prompt_tokens')) STORED,
    completion_tokens bigint      GENERATED ALWAYS AS (lse_count(data -> 'completion_tokens')) STORED,
    total_tokens      bigint      GENERATED ALWAYS AS (lse_count(data -> 'total_tokens')) STORED,
    total_cost        numeric     GENERATED ALWAYS AS (lse_number(data -> 'total_cost')) STORED,
    model             text        GENERATED ALWAYS AS (
        coalesce(data #>> '{metadata,ls_model_name}', data #>> '{extra,metadata,ls_model_name}',
                 data #>> '{extra,invocation_params,model}', data #>> '{extra,invocation_params,model_name}')) STORED,
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

# Nobody writes to a detached table: attaching it locks the parent only briefly, and not against readers.
# SECURITY DEFINER: a role that loads runs need not own the tables; the search path excludes its temporary tables.
_PARTITIONS = """
CREATE FUNCTION lse_ensure_month(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
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
    PERFORM 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'runs'::regclass AND c.relname = name;
    IF FOUND THEN  -- made by another in this moment
        RETURN;
    END IF;
    IF to_regclass(name) IS NOT NULL THEN
        RAISE EXCEPTION '% was detached from runs', name USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Attach, rename or drop it';
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE runs INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE runs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, first, (first + interval '1 month')::date);
END
$$;
REVOKE ALL ON FUNCTION lse_ensure_month(date) FROM PUBLIC;
"""

# lz4 is several times faster than pglz, at about the same size; not every build has it.
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
    # Sent by psycopg, which does not interpret % in a statement without parameters.
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    (schema,) = connection.execute("SELECT quote_ident(current_schema())").fetchone()
    for statements in (_READERS, _TABLES, _PARTITIONS.replace("{schema}", schema), _COMPRESSION):
        connection.execute(statements)
