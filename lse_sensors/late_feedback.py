"""The daily pass over late feedback: the days that it concerns are due again."""

import contextlib
from datetime import UTC, datetime

import dagster as dg

from lse_archive.days import day_ranges
from lse_archive.errors import ArchiveError
from lse_archive.printable import printable
from lse_archive.texts import counted
from lse_operations.late_feedback import find_late_feedback
from lse_operations.project_state import note_retention
from lse_platform.home import known_projects
from lse_resources.langsmith.client import LangSmith
from lse_resources.settings import Settings


@dg.op(pool="langsmith")
def find(context: dg.OpExecutionContext) -> None:
    """Finds late feedback of every project. A project that cannot be read does not stop the others."""
    settings, now, failed = Settings.load(), datetime.now(UTC), list[str]()
    with contextlib.ExitStack() as exits:
        try:
            client = exits.enter_context(contextlib.closing(LangSmith(settings.langsmith)))
        except ArchiveError as error:
            raise dg.Failure(printable(str(error)), allow_retries=False) from error
        for project in known_projects(settings):
            if project.schedule == "off":
                continue
            try:
                with contextlib.closing(client.source(project.name)) as source:
                    note_retention(settings.layout, project.name, client.retention_days(source.project))
                    days = find_late_feedback(settings.layout, project, source, now)
            except ArchiveError as error:
                failed.append(printable(str(error)))
                continue
            if days:
                found = day_ranges(str(day) for day in days)
                context.log.info(f"{printable(project.name)}: feedback was given to runs of {found}")
    if failed:
        raise dg.Failure(
            f"late feedback of {counted(len(failed), 'project')} could not be read, for example: {failed[0]}"
        )


@dg.job(executor_def=dg.in_process_executor)
def late_feedback() -> None:
    """Finds feedback that was given to archived days."""
    find()


late_feedback_schedule = dg.ScheduleDefinition(
    name="daily_late_feedback",
    job=late_feedback,
    cron_schedule="10 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Finds feedback that was given since yesterday; the days of its runs are fetched again.",
)
