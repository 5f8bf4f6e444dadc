"""The tables of feedback and attachments, and their views; feedback scores of runs; threads."""

from alembic import op

revision = "0005"
down_revision = "0004"

# Not partitioned: a row is small, and a feedback record that is filed under two days must be found by its id at once.
# All columns but the key are read from `data`, so that they always agree with it.
_TABLES = """
CREATE TABLE feedback (
    id          uuid NOT NULL,
    project     text NOT NULL,
    run_date    date NOT NULL,
    data        jsonb,
    loaded_at   timestamptz NOT NULL DEFAULT now(),
    line_sha256 bytea,
    row_sha256  bytea,
    mark        text[],
    load_id     bigint,
    run_id      uuid        GENERATED ALWAYS AS (lse_uuid(data ->> 'run_id')) STORED,
    trace_id    uuid        GENERATED ALWAYS AS (lse_uuid(data ->> 'trace_id')) STORED,
    key         text        GENERATED ALWAYS AS (data ->> 'key') STORED,
    score       numeric     GENERATED ALWAYS AS (
        CASE data -> 'score' WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE lse_number(data -> 'score') END) STORED,
    value       jsonb       GENERATED ALWAYS AS (nullif(data -> 'value', 'null')) STORED,
    comment     text        GENERATED ALWAYS AS (data ->> 'comment') STORED,
    correction  jsonb       GENERATED ALWAYS AS (nullif(data -> 'correction', 'null')) STORED,
    source_type text        GENERATED ALWAYS AS (data #>> '{feedback_source,type}') STORED,
    created_at  timestamptz GENERATED ALWAYS AS (lse_time(data ->> 'created_at')) STORED,
    modified_at timestamptz GENERATED ALWAYS AS (lse_time(data ->> 'modified_at')) STORED,
    deleted     boolean     GENERATED ALWAYS AS (coalesce(data ? 'lse_deleted_at', false)) STORED,
    PRIMARY KEY (id, project, run_date)
);
CREATE INDEX feedback_day ON feedback (project, run_date);
CREATE INDEX feedback_run ON feedback (run_id);
COMMENT ON TABLE feedback IS 'One row per feedback record and day; the rows follow the files of the day.';
COMMENT ON COLUMN feedback.deleted IS 'LangSmith no longer had the record when the day was last read in full.';

CREATE TABLE attachments (
    id          uuid NOT NULL,
    project     text NOT NULL,
    run_date    date NOT NULL,
    data        jsonb,
    loaded_at   timestamptz NOT NULL DEFAULT now(),
    line_sha256 bytea,
    row_sha256  bytea,
    mark        text[],
    load_id     bigint,
    run_id      uuid   GENERATED ALWAYS AS (lse_uuid(data ->> 'run_id')) STORED,
    name        text   GENERATED ALWAYS AS (data ->> 'name') STORED,
    media_type  text   GENERATED ALWAYS AS (data ->> 'media_type') STORED,
    bytes       bigint GENERATED ALWAYS AS (lse_count(data -> 'bytes')) STORED,
    sha256      text   GENERATED ALWAYS AS (data ->> 'sha256') STORED,
    file        text   GENERATED ALWAYS AS (data ->> 'file') STORED,
    PRIMARY KEY (id, project, run_date)
);
CREATE INDEX attachments_day ON attachments (project, run_date);
CREATE INDEX attachments_run ON attachments (run_id);
COMMENT ON TABLE attachments IS 'One row per attachment of a run; the content is a file in the day''s folder and zip.';
COMMENT ON COLUMN attachments.id IS 'A hash of run and name: a name may be any text of any length.';

DO $$
DECLARE
    records text;
BEGIN
    FOREACH records IN ARRAY ARRAY['feedback', 'attachments'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.data IS %L', records,
            'The record as the day''s file has it; where mark is set, a rendering of it.');
        EXECUTE format('COMMENT ON COLUMN %I.line_sha256 IS %L', records, 'Of the record in the day''s file.');
        EXECUTE format('COMMENT ON COLUMN %I.row_sha256 IS %L', records,
            'Of convert_to(data::text, ''UTF8''), computed when the row was written.');
        EXECUTE format('COMMENT ON COLUMN %I.mark IS %L', records,
            'Why jsonb cannot hold the record as it is; NULL: it does.');
        EXECUTE format('COMMENT ON COLUMN %I.load_id IS %L', records, 'The load that inserted the row.');
    END LOOP;
END
$$;
"""

# A record may be filed twice: first apart, under the day on which it was given, and under the day of its run once that
# is archived. The newest counts; of equal ones that of the earlier day, on which the run began.
_FEEDBACK_FACTS = """
CREATE VIEW feedback_facts AS
SELECT project, run_date, id, run_id, trace_id, key, score, value, comment, correction, source_type, created_at,
       modified_at, deleted, mark
FROM feedback AS record
WHERE NOT EXISTS (
    SELECT FROM feedback AS other
    WHERE other.id = record.id AND other.project = record.project
      AND (coalesce(other.modified_at, '-infinity'), record.run_date)
        > (coalesce(record.modified_at, '-infinity'), other.run_date)
);
COMMENT ON VIEW feedback_facts IS 'One row per feedback record of a project. Times in UTC; a score of true is 1.';
"""

# New columns of a view can only come last. The quotient of the mean has 40 decimals for any magnitude.
_RUN_FACTS = """
CREATE OR REPLACE VIEW run_facts AS
SELECT project, run_date, run_id, trace_id, parent_run_id, depth, parent_run_id IS NULL AS is_root,
       name, run_type, status, start_time, end_time,
       extract(epoch FROM end_time - start_time)::double precision AS latency_seconds,
       prompt_tokens, completion_tokens, total_tokens,
       lse_number(data -> 'prompt_cost') AS prompt_cost,
       lse_number(data -> 'completion_cost') AS completion_cost, total_cost,
       nullif(data ->> 'error', '') AS error, model,
       CASE WHEN jsonb_typeof(data -> 'tags') = 'array'
            THEN ARRAY(SELECT jsonb_array_elements_text(data -> 'tags')) END AS tags,
       coalesce(nullif(data -> 'metadata', 'null'), nullif(data #> '{extra,metadata}', 'null')) AS metadata,
       coalesce(data ->> 'thread_id', data #>> '{metadata,thread_id}', data #>> '{extra,metadata,thread_id}')
           AS thread_id,
       mark,
       (SELECT jsonb_object_agg(key, mean)
        FROM (SELECT key, trim_scale(round(sum(score) / round(count(*)::numeric, 40), 12)) AS mean FROM feedback_facts
              WHERE feedback_facts.run_id = runs.run_id AND feedback_facts.project = runs.project
                AND NOT deleted AND key IS NOT NULL AND score IS NOT NULL
              GROUP BY key) AS means) AS feedback_scores
FROM runs;
"""

# The thread of a trace is that of its root, so that only the contents of roots are read. The runs of a trace are those
# of 30 days, and only model calls are added up, as in trace_facts.
_THREAD_FACTS = """
CREATE VIEW thread_facts AS
SELECT project, thread_id,
       (array_agg(run_id ORDER BY start_time, run_id))[1] AS first_run_id,
       (array_agg(run_id ORDER BY start_time DESC NULLS LAST, run_id DESC))[1] AS last_run_id,
       min(run_date) AS first_date, max(run_date) AS last_date,
       count(*) AS turns, sum(runs)::bigint AS runs, sum(errors)::bigint AS errors,
       min(start_time) AS start_time, max(last_end) AS end_time,
       sum(total_tokens) AS total_tokens, sum(total_cost) AS total_cost
FROM (SELECT project, run_date, run_id, trace_id, start_time,
             coalesce(data ->> 'thread_id', data #>> '{metadata,thread_id}', data #>> '{extra,metadata,thread_id}')
                 AS thread_id
      FROM runs WHERE parent_run_id IS NULL) AS turn
CROSS JOIN LATERAL (
    SELECT count(*) AS runs, count(*) FILTER (WHERE status = 'error') AS errors, max(end_time) AS last_end,
           sum(total_tokens) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_tokens,
           sum(total_cost) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_cost
    FROM runs
    WHERE trace_id = turn.trace_id AND project = turn.project
      AND run_date BETWEEN turn.run_date AND turn.run_date + 30
) AS whole
WHERE thread_id IS NOT NULL
GROUP BY project, thread_id;
COMMENT ON VIEW thread_facts IS 'One row per thread, over all days. A turn is a trace. Tokens and cost of model calls.';
"""

# Whoever may use the runs may use what is beside them, without another `lse db grant`.
_GRANTS = """
DO $$
DECLARE
    entry record;
BEGIN
    FOR entry IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role,
               pair.made
        FROM (VALUES ('runs', 'feedback, attachments'), ('run_facts', 'feedback_facts, thread_facts'))
            AS pair(existing, made)
        JOIN pg_class AS class ON class.oid = pair.existing::regclass
        CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
        WHERE acl.grantee <> class.relowner
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', entry.privilege_type, entry.made, entry.role);
    END LOOP;
END
$$;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for statements in (_TABLES, _FEEDBACK_FACTS, _RUN_FACTS, _THREAD_FACTS, _GRANTS):
        connection.execute(statements)
