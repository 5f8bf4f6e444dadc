"""The code location: all projects of `projects.toml`. It makes no network calls."""

from __future__ import annotations

import gc
import logging

import dagster as dg

from lse_archive.names import project_slug
from lse_assets.assets import project_definitions
from lse_assets.resources import ArchiveResource, DestinationResource, LangSmithResource, PostgresResource
from lse_operations.reporter import LogReporter, StepReporter
from lse_operations.steps import day_steps
from lse_platform.home import known_projects
from lse_resources.projects import KEY_HINT, key_owners
from lse_resources.settings import Settings
from lse_sensors.due_days import due_days_sensor
from lse_sensors.erasures import erasures, open_erasures_sensor
from lse_sensors.late_feedback import late_feedback, late_feedback_schedule
from lse_sensors.maintenance import maintenance, maintenance_schedule
from lse_sensors.schedules import weekly_schedule
from lse_sensors.sensors import SENSORS

_log = logging.getLogger(__name__)


def resources(ui: StepReporter) -> dict[str, object]:
    """Returns the resources of the assets; `ui` reports the progress of the steps."""
    return {
        "archive": ArchiveResource(),
        "langsmith": LangSmithResource(),
        "google_drive": DestinationResource(),
        "postgres": PostgresResource(),
        "ui": ui,
    }


@dg.definitions
def definitions() -> dg.Definitions:
    """Reads `projects.toml` and defines each project's assets and schedule, and the sensors."""
    # A hundred projects are 260,000 permanent objects: frequent garbage collections would be slow.
    gc.set_threshold(100_000)
    settings = Settings.load()
    listed = known_projects(settings)
    owners = key_owners(listed)
    projects = [project for project in listed if owners[project_slug(project.name)] == project.name]
    for project in listed:
        if project not in projects:
            owner = owners[project_slug(project.name)]
            _log.error("'%s' is not archived: its key is that of '%s'. %s", project.name, owner, KEY_HINT)
    of_projects = [project_definitions(project, day_steps(settings)) for project in projects]
    active = [project for project in projects if project.schedule != "off"]
    jobs = [job for one in of_projects for job in one.jobs or ()]
    return dg.Definitions.merge(
        dg.Definitions(
            resources=resources(LogReporter()),
            executor=dg.in_process_executor,
            jobs=[maintenance, late_feedback, erasures],
            schedules=[maintenance_schedule, late_feedback_schedule, *map(weekly_schedule, active)],
            sensors=[*SENSORS, open_erasures_sensor, *([due_days_sensor(active, jobs)] if active else [])],
        ),
        *of_projects,
    )
