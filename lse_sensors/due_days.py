"""The sensor that archives due days: yesterday at its time, and at once what was missed or lacks a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import SENSOR_NAME_TAG

from lse_archive.names import project_slug
from lse_archive.texts import counted
from lse_operations.overview import DayView, days_behind
from lse_operations.steps import STEPS, day_steps
from lse_platform.asset_keys import asset_key, job_name
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings
from lse_sensors.events import UNFINISHED

CATCH_UP_DAYS = 31
"""Maximum number of a project's days in one tick, beside yesterday. The next ones follow when these are done."""

_NAME = "due_days"
_LATE, _PARTITION = ".dagster/lse_late", "dagster/partition"
_FIRST_WAIT, _LONGEST_WAIT = timedelta(hours=1), timedelta(days=1)
_ATTEMPTS_COUNTED = timedelta(days=7)


def due_days_sensor(
    projects: Sequence[ProjectConfig], jobs: Sequence[dg.JobDefinition | UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    """The sensor of these projects, at least one. What is due: `DayView.behind` in `overview.py`.

    Args:
        jobs: The jobs of the projects.
    """

    @dg.sensor(
        name=_NAME,
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Archives yesterday at each project's daily time, fetches the day three days back again, and at"
        " once starts days that were missed or lack a place. What LangSmith deletes first comes first.",
    )
    def due_days(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        settings, now = Settings.load(), datetime.now(UTC)
        behind = days_behind(settings, projects, now)
        unfinished = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if any(behind) else []
        days = [day for found in behind if found for day in to_start(context.instance, found, unfinished, now)]
        for day in sorted(days, key=_last_day):
            yield request(day, now, day_steps(settings), has_destination=settings.has_destination)
        if not days:
            waiting = sum(map(len, behind))
            yield dg.SkipReason(
                f"{counted(waiting, 'day is', 'days are')} under way, or retried later" if waiting else "no day is due"
            )

    return due_days


def to_start(
    instance: dg.DagsterInstance, behind: Sequence[DayView], unfinished: Sequence[dg.DagsterRun], now: datetime
) -> list[DayView]:
    """The days that are started now, of those of one project that are behind.

    A day that is queued or running is not started again. One that this sensor has started waits an hour, doubled with
    each attempt of the last week, at most a day. While late days are under way, no others are added: the failures of
    one tick are one alert.

    Args:
        unfinished: The runs that are queued or running.
    """
    project, yesterday = behind[0].project, now.date() - timedelta(days=1)
    slug, job = project_slug(project), job_name(project)
    # A backfill has another job, with the same assets.
    under_way = [run for run in unfinished if run.job_name == job or _has_asset_of(run, slug)]
    busy = {run.tags.get(_PARTITION) for run in under_way}
    attempts: dict[str | None, list[datetime]] = {}
    own = dg.RunsFilter(job_name=job, tags={SENSOR_NAME_TAG: _NAME}, created_after=now - _ATTEMPTS_COUNTED)
    for record in instance.get_run_records(own):
        attempts.setdefault(record.dagster_run.tags.get(_PARTITION), []).append(record.create_timestamp)
    days = [day for day in behind if str(day.date) not in busy and _wait_is_over(attempts.get(str(day.date), []), now)]
    late = [] if any(_LATE in run.tags for run in under_way) else [day for day in days if day.date != yesterday]
    return [*(day for day in days if day.date == yesterday), *late[:CATCH_UP_DAYS]]


def _has_asset_of(run: dg.DagsterRun, slug: str) -> bool:
    return any(key.path[0] == slug for key in run.asset_selection or ())


def _wait_is_over(attempts: Sequence[datetime], now: datetime) -> bool:
    if not attempts:
        return True
    return now - max(attempts) >= min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (len(attempts) - 1))


def _last_day(day: DayView) -> date:
    """The last day on which LangSmith serves a day that is to be fetched; of others the last possible date."""
    return (day.last_day if "files" in day.behind else None) or date.max


def _steps(day: DayView, all_steps: Sequence[str]) -> list[str]:
    """The steps of a day that is behind. All but the fetch change nothing where nothing is to be done."""
    if "files" in day.behind:
        return list(all_steps)
    if day.files == "here":
        return [step for step in all_steps if step != "run_files"]
    # Of a pruned day, the zip and the record are left.
    found = {"drive_file": "drive" in day.behind, "verification": "verified" in day.behind}
    return [step for step, is_behind in found.items() if is_behind]


def request(day: DayView, now: datetime, all_steps: Sequence[str] = STEPS, *, has_destination: bool) -> dg.RunRequest:
    """A run of the steps of a day that is behind; yesterday's is not held up by late ones."""
    steps = [step for step in _steps(day, all_steps) if step != "drive_file" or has_destination]
    is_late = now.date() - day.date > timedelta(days=1)
    job = job_name(day.project)
    return dg.RunRequest(
        run_key=f"{job} {day.date} at {now:%Y-%m-%dT%H:%M}",
        job_name=job,
        partition_key=str(day.date),
        tags={_LATE: "true"} if is_late else {"dagster/priority": "1"},
        asset_selection=None if len(steps) == len(all_steps) else [asset_key(day.project, step) for step in steps],
    )
