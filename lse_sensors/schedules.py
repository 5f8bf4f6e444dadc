"""The schedule of a project: the weekly verification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC

import dagster as dg

from lse_archive.names import project_slug
from lse_archive.printable import markdown
from lse_operations.day_selection import days_to_verify
from lse_platform.asset_keys import asset_key, job_name
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings


def weekly_schedule(project: ProjectConfig) -> dg.ScheduleDefinition:
    """Verifies a project's days again, from the first start of the platform on."""
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
            yield dg.RunRequest(
                run_key=f"{day} at {now:%Y-%m-%dT%H:%M}",
                partition_key=str(day),
                tags={"dagster/priority": "-1", ".dagster/lse_again": "true"},
                asset_selection=[asset_key(project.name, "verification")],
            )
        if not days:
            yield dg.SkipReason("no day is archived yet")

    return weekly
