"""Completes erasures that were interrupted: a killed `lse forget` is finished by the platform."""

import dagster as dg

from lse_archive.errors import ArchiveError
from lse_archive.texts import counted
from lse_operations.forget.journal import Journal
from lse_platform.forget_places import open_places
from lse_resources.settings import Settings

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.op
def complete_erasures(context: dg.OpExecutionContext) -> None:
    """Completes the erasures that are open, unless a process does so already."""
    from lse_operations.forget.engine import complete  # pyarrow is slow to import

    outcome = complete(open_places(Settings.load()), wait=False, say=context.log.info, on_wait=context.log.info)
    context.log.info(f"completed: {counted(len(outcome.certificates), 'erasure')}")
    for _, error in outcome.errors:
        raise dg.Failure(str(error))


@dg.job(executor_def=dg.in_process_executor)
def erasures() -> None:
    """Completes erasures that were interrupted."""
    complete_erasures()


@dg.sensor(
    name="open_erasures",
    job=erasures,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def open_erasures_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Starts the job when an erasure is open and no process works on it."""
    journal = Journal(Settings.load().layout)
    try:
        if not journal.open_intents():
            return dg.SkipReason("no erasure is open")
        with journal.lock(wait=False) as is_free:
            if not is_free:
                return dg.SkipReason("a process completes the open erasures")
    except (ArchiveError, OSError) as error:
        return dg.SkipReason(f"the erasures cannot be read: {error}")
    if context.instance.get_runs(dg.RunsFilter(job_name=erasures.name, statuses=_UNFINISHED)):
        return dg.SkipReason("the job runs already")
    return dg.RunRequest()
