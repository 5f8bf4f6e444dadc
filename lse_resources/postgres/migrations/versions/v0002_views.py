"""The views for analysts: one row per run, per trace, and per day."""

from alembic import op

revision = "0002"
down_revision = "0001"

_RUN_FACTS = """
CREATE VIEW run_facts AS
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
       mark
FROM runs;
COMMENT ON VIEW run_facts IS 'One row per run, the shapes of both APIs made one. Times in UTC, costs in USD.';
"""

# A trace is found by its first run, so that a filter on project and run_date (its first day) uses the index. It has the
# runs of the 30 days after that: without a bound, every trace would search all months. LIMIT makes the search for an
# earlier run an index lookup; NOT EXISTS would be planned as a join of whole months.
# A chain reports the sum of its model calls: only model calls are added up, so that nothing counts twice.
_TRACE_FACTS = """
CREATE VIEW trace_facts AS
SELECT first.project, first.run_date, first.trace_id, whole.root_run_id, whole.root_name, whole.runs, whole.errors,
       whole.pending, whole.start_time, whole.end_time,
       extract(epoch FROM whole.end_time - whole.start_time)::double precision AS duration_seconds,
       whole.total_tokens, whole.total_cost
FROM runs AS first
LEFT JOIN LATERAL (
    SELECT true AS found FROM runs AS earlier
    WHERE earlier.trace_id = first.trace_id
      AND earlier.run_date BETWEEN first.run_date - 30 AND first.run_date
      AND (earlier.run_date, coalesce(earlier.start_time, 'infinity'), earlier.run_id)
        < (first.run_date, coalesce(first.start_time, 'infinity'), first.run_id)
    LIMIT 1
) AS earlier ON true
CROSS JOIN LATERAL (
    SELECT (array_agg(run_id ORDER BY start_time, run_id) FILTER (WHERE parent_run_id IS NULL))[1] AS root_run_id,
           (array_agg(name ORDER BY start_time, run_id) FILTER (WHERE parent_run_id IS NULL))[1] AS root_name,
           count(*) AS runs,
           count(*) FILTER (WHERE status = 'error') AS errors,
           count(*) FILTER (WHERE status = 'pending') AS pending,
           min(start_time) AS start_time,
           max(end_time) AS end_time,
           sum(total_tokens) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_tokens,
           sum(total_cost) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_cost
    FROM runs
    WHERE trace_id = first.trace_id
      AND run_date BETWEEN first.run_date AND first.run_date + 30
) AS whole
WHERE earlier.found IS NULL;
COMMENT ON VIEW trace_facts IS 'One row per trace, under the day it began on. Tokens and cost of its model calls.';
"""

_DAILY_FACTS = """
CREATE VIEW daily_facts AS
SELECT project, run_date, count(*) AS runs, count(DISTINCT trace_id) AS traces,
       count(*) FILTER (WHERE parent_run_id IS NULL) AS root_runs,
       count(*) FILTER (WHERE status = 'error') AS errors,
       count(*) FILTER (WHERE status = 'pending') AS pending,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM end_time - start_time)::double precision)
           FILTER (WHERE parent_run_id IS NULL) AS median_root_seconds,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM end_time - start_time)::double precision)
           FILTER (WHERE parent_run_id IS NULL) AS p95_root_seconds,
       sum(total_tokens) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_tokens,
       sum(total_cost) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_cost
FROM runs GROUP BY project, run_date;
COMMENT ON VIEW daily_facts IS 'One row per project and UTC day. Tokens and cost of its model calls.';
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for statements in (_RUN_FACTS, _TRACE_FACTS, _DAILY_FACTS):
        connection.execute(statements)
