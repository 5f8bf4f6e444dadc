"""The search index of runs."""

from alembic import op

revision = "0008"
down_revision = "0007"

# Hashes of words, and not the words: an entry of the index has four bytes, and any word fits. Each key array also has
# a hash of the day, so that a search reads the index day by day, and stops when it has enough. The arrays are not
# compressed: hashes do not compress.
_TABLES = """
CREATE TABLE run_search (
    run_id     uuid NOT NULL,
    run_date   date NOT NULL,
    project    text NOT NULL,
    start_time timestamptz NOT NULL,
    keys       integer[] NOT NULL,
    is_cut     boolean NOT NULL,
    PRIMARY KEY (run_id, run_date)
) PARTITION BY RANGE (run_date);
ALTER TABLE run_search ALTER COLUMN keys SET STORAGE EXTERNAL;
CREATE INDEX run_search_keys ON run_search USING gin (keys);
CREATE INDEX run_search_cut ON run_search (project, run_date) WHERE is_cut;
COMMENT ON TABLE run_search IS 'The search index: a row for each run of `runs` that is indexed.';
COMMENT ON COLUMN run_search.keys IS 'Hashes of the words of the run, of its day, and of the day of its project.';
COMMENT ON COLUMN run_search.is_cut IS 'Whether a part of the run is beyond the limits of the index.';
ALTER TABLE days ADD COLUMN indexed_at timestamptz;
COMMENT ON COLUMN days.indexed_at IS 'When the search index had all rows of the day; later loads are not in it.';
"""

# A row that is replaced, changed or deleted, by whomever, leaves the index with it.
# SECURITY DEFINER: a role that may change runs need not have rights on the index.
_TRIGGER = """
CREATE FUNCTION lse_unindex() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
BEGIN
    DELETE FROM run_search WHERE run_id = OLD.run_id AND run_date = OLD.run_date;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION lse_unindex() FROM PUBLIC;
CREATE TRIGGER runs_unindex AFTER DELETE OR UPDATE OF run_id, run_date, project, data ON runs
    FOR EACH ROW EXECUTE FUNCTION lse_unindex();
"""

# As before, for both tables. A month of runs that is made again after it was detached or dropped has an empty index.
_PARTITIONS = """
CREATE OR REPLACE FUNCTION lse_ensure_month(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    first  date := date_trunc('month', day::timestamp)::date;
    month  text := to_char(first, 'YYYY_MM');
    parent text;
    name   text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['runs', 'run_search'] LOOP
        name := parent || '_' || month;
        PERFORM 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent::regclass AND c.relname = name;
        CONTINUE WHEN FOUND;
        PERFORM pg_advisory_xact_lock(hashtext('lse_ensure_month'));
        PERFORM 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent::regclass AND c.relname = name;
        CONTINUE WHEN FOUND;  -- made by another in this moment
        IF to_regclass(name) IS NOT NULL THEN
            RAISE EXCEPTION '% was detached from %', name, parent USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Attach, rename or drop it';
        END IF;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            parent, name, first, (first + interval '1 month')::date);
        IF parent = 'runs' AND to_regclass('run_search_' || month) IS NOT NULL THEN
            EXECUTE format('TRUNCATE %I', 'run_search_' || month);
        END IF;
    END LOOP;
END
$$;
"""

# Whoever may use the runs may use what is beside them, without another `lse db grant`.
_GRANTS = """
DO $$
DECLARE
    entry record;
BEGIN
    FOR entry IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
        FROM pg_class AS class CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
        WHERE class.oid = 'runs'::regclass AND acl.grantee <> class.relowner
    LOOP
        EXECUTE format('GRANT %s ON run_search TO %s', entry.privilege_type, entry.role);
    END LOOP;
END
$$;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    (schema,) = connection.execute("SELECT quote_ident(current_schema())").fetchone()
    for statements in (_TABLES, _TRIGGER, _PARTITIONS, _GRANTS):
        connection.execute(statements.replace("{schema}", schema))
