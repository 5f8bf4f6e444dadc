"""Schedules of a project: the daily archive and the weekly verification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from lse_archive.names import project_slug
from lse_archive.printable import markdown
from lse_operations.day_selection import days_to_archive, days_to_verify
from lse_platform.asset_keys import asset_key, job_name
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings


def project_schedules(project: ProjectConfig) -> list[dg.ScheduleDefinition]:
    """The schedules of a project, running from the first start of the platform; none if it is `off`."""
    if project.schedule == "off":
        return []
    return [_daily(project), _weekly(project)]


def _daily(project: ProjectConfig) -> dg.ScheduleDefinition:
    hour, minute = project.schedule.split(":")
    name = markdown(project.name)

    @dg.schedule(
        name=f"daily_{project_slug(project.name).replace('-', '_')}",
        job_name=job_name(project.name),
        cron_schedule=f"{int(minute)} {int(hour)} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Archives yesterday of '{name}', fetches the day three days back again, and missed days.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = context.scheduled_execution_time.astimezone(UTC)
        days = days_to_archive(Settings.load().layout, project, now)
        for day in days:
            yesterday = day == now.date() - timedelta(days=1)
            yield _request(day, now, {"dagster/priority": "1"} if yesterday else {"lse/late": "true"})
        if not days:
            yield dg.SkipReason("every day that LangSmith serves is archived and settled")

    return daily


def _weekly(project: ProjectConfig) -> dg.ScheduleDefinition:
    # Projects are spread over Sunday night; each has a fixed time.
    offset = int.from_bytes(hashlib.sha256(project.name.encode(errors="surrogatepass")).digest()[:2]) % 300

    @dg.schedule(
        name=f"weekly_{project_slug(project.name).replace('-', '_')}",
        job_name=job_name(project.name),
        cron_schedule=f"{offset % 60} {4 + offset // 60} * * 0",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Verifies the last 30 days of '{markdown(project.name)}' again, and a share of the older ones.",
    )
    def weekly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = context.scheduled_execution_time.astimezone(UTC)
        days = days_to_verify(Settings.load().layout, project, now)
        for day in days:
            tags = {"dagster/priority": "-1", "lse/again": "true"}
            yield _request(day, now, tags, [asset_key(project.name, "verification")])
        if not days:
            yield dg.SkipReason("no day is archived yet")

    return weekly


def _request(day: date, now: datetime, tags: dict[str, str], assets: list[dg.AssetKey] | None = None) -> dg.RunRequest:
    """A run of the project's job, or of some of its assets only."""
    key = f"{day} at {now:%Y-%m-%dT%H:%M}"
    return dg.RunRequest(run_key=key, partition_key=str(day), tags=tags, asset_selection=assets)
