"""Keeps Dagster's database small: deletes the log lines of old runs, keeps the asset events of each day."""

import dagster as dg

from lse_archive.texts import counted
from lse_resources.postgres.database import Database
from lse_resources.postgres.urls import dagster_url, libpq_url
from lse_resources.settings import Settings

EVENT_DAYS = 30
"""Days for which all log lines of a run are kept."""

# Asset events (the UI shows days, plots and checks from them), and the start, end and failures of runs.
_KEPT = [
    "ASSET_MATERIALIZATION",
    "ASSET_MATERIALIZATION_PLANNED",
    "ASSET_FAILED_TO_MATERIALIZE",
    "ASSET_OBSERVATION",
    "ASSET_CHECK_EVALUATION",
    "ASSET_CHECK_EVALUATION_PLANNED",
    "ASSET_WIPED",
    "PIPELINE_START",
    "PIPELINE_SUCCESS",
    "PIPELINE_FAILURE",
    "PIPELINE_CANCELED",
    "STEP_FAILURE",
]
_BATCH = 10_000
# Times in this table are UTC, without a zone.
_PRUNE = """
DELETE FROM event_logs WHERE id IN (
    SELECT id FROM event_logs
    WHERE timestamp < (now() AT TIME ZONE 'utc') - make_interval(days => %s)
      AND (dagster_event_type IS NULL OR dagster_event_type <> ALL(%s))
    ORDER BY id LIMIT %s
)
"""


def prune_event_logs(dagster: Database, days: int = EVENT_DAYS) -> int:
    """Deletes old log lines, a batch at a time; returns how many.

    Args:
        dagster: Dagster's own database.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    total = 0
    with dagster.session("cannot prune the event log") as connection:
        while deleted := connection.execute(_PRUNE, (days, _KEPT, _BATCH)).rowcount:
            total += deleted
    return total


@dg.op
def prune(context: dg.OpExecutionContext) -> None:
    """Deletes log lines of old runs."""
    events = prune_event_logs(Database(libpq_url(dagster_url(Settings.load()))))
    context.log.info(f"deleted: {counted(events, 'log line')} older than {EVENT_DAYS} days")


@dg.job(executor_def=dg.in_process_executor)
def maintenance() -> None:
    """Keeps Dagster's database small."""
    prune()


maintenance_schedule = dg.ScheduleDefinition(
    name="nightly_maintenance",
    job=maintenance,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=f"Deletes log lines older than {EVENT_DAYS} days; days, plots and checks stay.",
)
