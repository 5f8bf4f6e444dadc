"""Day selection: which days are due, expire or are verified again, from files and states on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from lse_archive.days import days_between
from lse_archive.folder.state import DayState, read_state
from lse_archive.layout import Layout
from lse_operations.project_state import Retention, retention
from lse_resources.projects import ProjectConfig

SETTLED_AFTER_DAYS = 3
"""Runs of a day can arrive and end late: the day is fetched again this many days later."""

VERIFIED_WEEKLY_DAYS = 30
ROTATION_WEEKS = 26
"""An older day is verified once in this number of weeks."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A day that is not archived and verified, its last day in LangSmith, and the retention that this follows from."""

    project: str
    day: date
    last: date
    retention: Retention


def servable(project: ProjectConfig, now: datetime) -> list[date]:
    """The days, newest first, that are over and that LangSmith still serves as a whole."""
    today = now.astimezone(UTC).date()
    first = max(project.start, today - timedelta(days=project.retention_days - 1))
    return sorted(days_between(first, today - timedelta(days=1)), reverse=True)


def is_fetch_due(project: ProjectConfig, day: date, state: DayState, now: datetime) -> bool:
    """Whether the day is to be fetched at `now`.

    It is if it was never fetched, or not since it has settled, or if the fetch did not prove what is here: it is
    incomplete, or its content has changed since. A day is over, and has settled, at the project's daily time.
    """
    if project.schedule == "off":
        return False
    daily = at_daily_time(project, now)
    if day >= daily.date() or last_day(project, day) < now.astimezone(UTC).date():
        return False
    last_fetched_at = moment(state.last_fetched_at)
    if last_fetched_at is None or state.is_incomplete:
        return True
    if state.count_check == "equal" and state.verdict == "not_provable":
        return True
    settled = datetime.combine(day + timedelta(days=SETTLED_AFTER_DAYS), time(), UTC)
    return last_fetched_at < settled <= daily


def at_daily_time(project: ProjectConfig, now: datetime) -> datetime:
    """The time at which a day of the project begins at midnight, if it begins at its daily time; not `off`."""
    hour, minute = map(int, project.schedule.split(":"))
    return now.astimezone(UTC) - timedelta(hours=hour, minutes=minute)


def days_to_verify(layout: Layout, project: ProjectConfig, now: datetime) -> list[date]:
    """The archived days to verify again in the week of `now`, newest first: all recent ones, and a share of the rest.

    Disks fail, rows are changed by hand, files are deleted on Drive: every day is verified once in half a year.
    """
    today = now.astimezone(UTC).date()
    week = today.toordinal() // 7
    known = {*layout.days(project.name), *layout.pruned_days(project.name)}
    archived = [day for day in known if project.start <= day < today]
    return sorted(
        (
            day
            for day in archived
            if (today - day).days <= VERIFIED_WEEKLY_DAYS or day.toordinal() % ROTATION_WEEKS == week % ROTATION_WEEKS
        ),
        reverse=True,
    )


def expiring(layout: Layout, project: ProjectConfig, now: datetime) -> Iterator[Expiring]:
    """Yields the days, oldest first, that expire soon and are not archived and verified."""
    today, kept = now.astimezone(UTC).date(), retention(layout, project)
    project = replace(project, retention_days=kept.days)
    for day in reversed(servable(project, now)):
        if expires_soon(project, day, today):
            state = read_state(layout.day(project.name, day))
            if state.verdict in (None, "wrong") or state.is_incomplete:
                yield Expiring(project.name, day, last_day(project, day), kept)


def expires_soon(project: ProjectConfig, day: date, today: date) -> bool:
    """Whether LangSmith still serves the day, and its retention is in the last third, or in the last two days.

    Earlier than that, the sensor `due_days` retries the day.
    """
    return 0 <= (last_day(project, day) - today).days < max(2, project.retention_days // 3)


def last_day(project: ProjectConfig, day: date) -> date:
    """The last day on which LangSmith serves the whole of a day."""
    return day + timedelta(days=project.retention_days - 1)


def moment(text: str | None) -> datetime | None:
    """Parses a time of a state; None if there is none or it is malformed."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
