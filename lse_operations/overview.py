"""The status of each day for `lse status`, from the disk and the table `days`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from lse_archive.days import days_between
from lse_archive.errors import ArchiveError
from lse_archive.folder.state import DayState, DayVerdict, has_content, read_state
from lse_archive.layout import WORK_DIR, Layout
from lse_archive.names import project_folder, zip_name
from lse_operations.day_selection import expires_soon, is_fetch_due, last_day
from lse_operations.late_feedback import is_feedback_due
from lse_operations.project_state import Retention, retention
from lse_resources.postgres.database import Database
from lse_resources.postgres.urls import running_url
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

Rows = Mapping[tuple[str, date], tuple[int | None, DayVerdict | None]]
"""By project and day: rows after the last load, and the verdict of the last verification."""

_NOTHING = DayState()
_ROWS = "SELECT project, run_date, rows, verdict FROM days WHERE run_date BETWEEN %s AND %s"


@dataclass(frozen=True, slots=True)
class DayView:
    """The status of one day.

    Attributes:
        files: `here`, `pruned` (deleted here to save space), or `missing`.
        zip: The same.
        drive: Whether an upload of this content was confirmed, and the copy was not pruned since.
        postgres: Whether rows were loaded; None if the database cannot be reached.
        verified: What the last comparison of all places showed, see `DayState.verdict`.
        behind: The places that are still to be done: `files` (the day is to be fetched), `zip`, `drive`, `postgres`,
            `verified`. A destination that is not configured, a database that cannot be reached, and a place where a
            difference was found are not: a person decides which side of a difference is right.
        incomplete: See `DayState.is_incomplete`.
        last_day: The last day on which LangSmith serves the whole day; None if it is past.
        expires: Whether it expires soon, and is not archived and verified.
        retention: For how many days LangSmith keeps its traces; `last_day` and `expires` follow from it.
    """

    project: str
    date: date
    files: str
    zip: str
    drive: bool
    postgres: bool | None
    verified: DayVerdict | None
    behind: tuple[str, ...]
    incomplete: bool
    last_day: date | None
    expires: bool
    retention: Retention

    @property
    def is_gap(self) -> bool:
        """Whether no copy of the day is known."""
        return self.files == "missing" and self.zip == "missing" and not self.drive

    @property
    def differs(self) -> bool:
        """Whether the last comparison found a difference."""
        return self.verified == "wrong"

    @property
    def is_fetched_only(self) -> bool:
        """Whether the run files are the only known copy."""
        return self.files == "here" and self.zip != "here" and not self.drive and not self.postgres


def read_rows(settings: Settings, first: date, last: date) -> tuple[Rows | None, str]:
    """The rows and "", or None and the reason if the database cannot be reached. Does not start an embedded server."""
    try:
        with Database(running_url(settings)).session("cannot read the states of days") as connection:
            found = connection.execute(_ROWS, (first, last)).fetchall()
    except ArchiveError as error:
        return None, str(error)
    return {(project, day): (rows, verdict) for project, day, rows, verdict in found}, ""


def unlisted(layout: Layout, listed: list[ProjectConfig], rows: Rows | None) -> dict[str, list[date]]:
    """The days of archived projects that are not listed, by project; from the disk and from `rows`."""
    found: dict[str, set[date]] = {}
    for project, day in rows or ():
        found.setdefault(project, set()).add(day)
    known = {one.name for one in listed}
    for name in layout.projects():
        found.setdefault(name, set())
    return {
        name: sorted({*days, *archived_days(layout, name)}) for name, days in sorted(found.items()) if name not in known
    }


def archived_days(layout: Layout, project: str) -> set[date]:
    """The days of a project that have run files, a zip, or the record of a pruned day."""
    return {*layout.days(project), *layout.pruned_days(project), *layout.zipped_days(project)}


def overview(
    settings: Settings, projects: Sequence[ProjectConfig], first: date, last: date, rows: Rows | None, now: datetime
) -> list[list[DayView]]:
    """Each project's days from `first` to `last`, oldest first, without those before the project's first day."""
    zips = _names(settings.layout.archive_dir)
    return [list(_days(settings, project, first, last, rows, now, zips)) for project in projects]


def all_days(settings: Settings, projects: Sequence[ProjectConfig], now: datetime) -> list[list[DayView]]:
    """Each project's days from its first to yesterday, oldest first."""
    yesterday = now.astimezone(UTC).date() - timedelta(days=1)
    first = min((project.start for project in projects), default=yesterday)
    rows, _ = read_rows(settings, first, yesterday)
    return overview(settings, projects, first, yesterday, rows, now)


def days_behind(settings: Settings, projects: Sequence[ProjectConfig], now: datetime) -> list[list[DayView]]:
    """Each project's days that are behind: those to fetch first, because LangSmith deletes them; the oldest first."""
    views = all_days(settings, projects, now)
    return [sorted((day for day in days if day.behind), key=lambda day: "files" not in day.behind) for days in views]


def _days(
    settings: Settings,
    project: ProjectConfig,
    first: date,
    last: date,
    rows: Rows | None,
    now: datetime,
    zips: frozenset[str],
) -> Iterator[DayView]:
    if last < (first := max(first, project.start)):
        return
    kept = retention(settings.layout, project)
    project = replace(project, retention_days=kept.days)
    today = now.astimezone(UTC).date()
    folder = settings.layout.data_dir / project_folder(project.name)
    here, work = _names(folder), _names(folder / WORK_DIR)
    for day in days_between(first, last):
        paths = settings.layout.day(project.name, day)
        state = read_state(paths) if f"{day}.state.json" in work else _NOTHING
        files = "here" if str(day) in here else "pruned" if f"{day}.pruned" in work else "missing"
        zipped = zip_name(project.name, day) in zips
        loaded, recorded = rows.get((project.name, day), (None, None)) if rows is not None else (None, None)
        verified = "wrong" if recorded == "wrong" else state.verdict
        uploaded = state.drive_sha256 is not None and state.copy_pruned_at is None
        if uploaded and verified is None and files != "missing":
            uploaded = has_content(paths, state.drive_content)
        waits = paths.late_feedback.name in work
        is_due = is_fetch_due(project, day, state, now) or is_feedback_due(project, day, state, now, waits=waits)
        behind = {"files": is_due}
        if files == "here":
            behind |= {
                "zip": not zipped and not state.zip_pruned_at,
                "drive": not uploaded and settings.has_destination and not state.copy_pruned_at,
                "postgres": rows is not None and loaded is None,
                "verified": verified is None,
            }
        elif files == "pruned":
            # Without files there is nothing to load: what another database lacks, its verification shows.
            is_unknown = rows is not None and loaded is None and recorded is None
            behind |= {
                "drive": zipped and not uploaded and settings.has_destination and not state.copy_pruned_at,
                "verified": verified is None or is_unknown,
            }
        served_until = last_day(project, day)
        yield DayView(
            project=project.name,
            date=day,
            files=files,
            zip="here" if zipped else "pruned" if state.zip_pruned_at else "missing",
            drive=uploaded,
            postgres=loaded is not None if rows is not None else None,
            verified=verified,
            behind=tuple(place for place, is_behind in behind.items() if is_behind),
            incomplete=state.is_incomplete,
            last_day=served_until if served_until >= today else None,
            expires=verified in (None, "wrong") and expires_soon(project, day, today),
            retention=kept,
        )


def _names(directory: Path) -> frozenset[str]:
    try:
        with os.scandir(directory) as entries:
            return frozenset(entry.name for entry in entries)
    except FileNotFoundError:
        return frozenset()
