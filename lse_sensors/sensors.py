"""Sensors: alerts about checks and runs, exited runs, expiring days, unlisted projects, and ends of LangSmith's API."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg
import msgspec

from lse_archive.days import day_ranges
from lse_archive.errors import ArchiveError
from lse_archive.texts import counted
from lse_operations.day_selection import expiring
from lse_operations.new_projects import add_new, missing_projects
from lse_operations.project_state import read_project_state
from lse_platform.exited_runs import fail_exited_runs
from lse_platform.home import known_projects
from lse_resources.alerts import Alert, Send, targets
from lse_resources.langsmith.client import LangSmith
from lse_resources.projects import adds_new_projects
from lse_resources.settings import Settings
from lse_sensors.events import is_running, new_state, read_events
from lse_sensors.outbox import Outbox
from lse_sensors.problems import AlertState, add_events, take_alerts

_RUNNING = dg.DefaultSensorStatus.RUNNING


def outbox_of(settings: Settings) -> Outbox:
    """The outbox of alerts under the home."""
    return Outbox(settings.home / "alerts")


@dg.sensor(name="alerts", minimum_interval_seconds=15, default_status=_RUNNING)
def alerts_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Alerts once on every failed check and failed run, and when its day is resolved.

    All failures of one backfill, or of one tick of a schedule, are one alert at its end.
    """
    settings = Settings.load()
    where, now = targets(settings), time.time()
    state = msgspec.json.decode(context.cursor, type=AlertState) if context.cursor else new_state(context.instance)
    add_events(state, read_events(context.instance, state, known_projects(settings), now), now)
    ui_url = settings.lse_ui_url.rstrip("/")
    alerts = take_alerts(state, lambda batch: is_running(context.instance, batch), now, ui_url)
    outbox = outbox_of(settings)
    for number, alert in enumerate(alerts):
        # The same alert has the same key: if the cursor was not saved, it is not duplicated. Another one has another
        # key, also if no newer event was read: a batch has ended, or an event was committed late.
        digest = hashlib.sha256(msgspec.json.encode(alert)).hexdigest()[:16]
        outbox.put(f"{state.newest:012}-{number}-{digest}", alert, where)
    context.update_cursor(msgspec.json.encode(state).decode())
    return _delivered(outbox, where, len(alerts))


def _delivered(outbox: Outbox, where: Mapping[str, Send], new: int) -> dg.SkipReason:
    failures = outbox.deliver(where)
    if failures:
        return dg.SkipReason(f"{counted(new, 'new alert')}; not delivered, sent again later: {'; '.join(failures)}")
    return dg.SkipReason(counted(new, "new alert") if new else "nothing new")


@dg.sensor(name="dead_runs", minimum_interval_seconds=30, default_status=_RUNNING)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fails runs whose process has exited, so that they free queue slots; the daemon retries those it launched."""
    failed = fail_exited_runs(context.instance)
    says = counted(len(failed), "run of an exited process", "runs of exited processes")
    return dg.SkipReason(f"failed {says}" if failed else "no run has lost its process")


@dg.sensor(name="expiring_days", minimum_interval_seconds=3600, default_status=_RUNNING)
def expiring_days_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Warns, once for each day, of days that are not archived and verified and soon cannot be fetched any more."""
    settings, now = Settings.load(), datetime.now(UTC)
    reported: list[str] = msgspec.json.decode(context.cursor, type=list[str]) if context.cursor else []
    found = [one for project in known_projects(settings) for one in expiring(settings.layout, project, now)]
    new = [one for one in found if f"{one.day} {one.project}" not in reported]
    if new:
        first = min(one.last for one in new)
        lines = []
        for name in dict.fromkeys(one.project for one in new):
            days = day_ranges(str(one.day) for one in new if one.project == name)
            kept = next(one.retention.says() for one in new if one.project == name)
            lines.append(f"{name}: {days}: lse archive full-sweep --force --project '{name}' --start-date … ({kept})")
        title = counted(len(new), "day is", "days are")
        title += f" not archived and verified, and can be fetched until {first} only"
        outbox_of(settings).put(f"expiring-{_stamp(now)}", Alert(title, lines), targets(settings))
    # Days that LangSmith no longer serves, and days that are verified, leave the cursor.
    context.update_cursor(msgspec.json.encode([f"{one.day} {one.project}" for one in found]).decode())
    return dg.SkipReason(f"{counted(len(found), 'day is', 'days are')} about to expire, {len(new)} new")


@dg.sensor(name="new_projects", minimum_interval_seconds=6 * 3600, default_status=_RUNNING)
def new_projects_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Alerts once on LangSmith projects that are not archived; adds them where `add_new_projects` is set."""
    settings, now = Settings.load(), datetime.now(UTC)
    reported: list[str] = msgspec.json.decode(context.cursor, type=list[str]) if context.cursor else []
    try:
        with contextlib.closing(LangSmith(settings.langsmith)) as client:
            missing = missing_projects(client, settings.projects_file)
    except ArchiveError as error:
        return dg.SkipReason(f"LangSmith's projects could not be listed: {error}")
    if adds_new_projects(settings.projects_file):
        refused = add_new(settings.projects_file, missing, now.date())
        added = [name for name in missing if name not in refused]
        title = f"{counted(len(added), 'new LangSmith project is', 'new LangSmith projects are')} archived from now on"
        if refused:
            title += f", {len(refused)} cannot be"
        new = [*added, *(str(error) for name, error in refused.items() if name not in reported)]
        reported = list(refused)
    else:
        title = f"{counted(len(missing), 'LangSmith project is', 'LangSmith projects are')} not archived"
        new, reported = [name for name in missing if name not in reported], missing
    if new:
        lines = [*new, "Archive them all: lse projects sync. One of them: lse projects add NAME --start DAY"]
        outbox_of(settings).put(f"projects-{_stamp(now)}", Alert(title, lines), targets(settings))
    context.update_cursor(msgspec.json.encode(reported).decode())
    return dg.SkipReason(f"{counted(len(missing), 'project was', 'projects were')} not archived, {len(new)} new")


@dg.sensor(name="announced_ends", minimum_interval_seconds=3600, default_status=_RUNNING)
def announced_ends_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Alerts once on each route of LangSmith's API whose end the answers to a fetch have announced."""
    settings = Settings.load()
    reported: list[str] = msgspec.json.decode(context.cursor, type=list[str]) if context.cursor else []
    states = [read_project_state(settings.layout, project.name) for project in known_projects(settings)]
    new = sorted({end for state in states for end in state.announced_ends}.difference(reported))
    if new:
        title = f"LangSmith announces the end of {counted(len(new), 'route')} that LSE uses"
        lines = [*new, "Update LSE before that day; lse doctor shows which routes it still uses"]
        outbox_of(settings).put(f"ends-{_stamp(datetime.now(UTC))}", Alert(title, lines), targets(settings))
    context.update_cursor(msgspec.json.encode([*reported, *new]).decode())
    return dg.SkipReason(f"{counted(len(new), 'new announcement')}")


def _stamp(now: datetime) -> str:
    return now.strftime("%Y%m%dT%H%M%S")


SENSORS = [alerts_sensor, dead_runs_sensor, expiring_days_sensor, new_projects_sensor, announced_ends_sensor]
