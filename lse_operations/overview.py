"""The status of each day for `lse status`, from the disk and the table `days`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from lse_archive.days import days_between
from lse_archive.errors import ArchiveError
from lse_archive.folder.state import DayState, read_state
from lse_archive.layout import WORK_DIR, Layout
from lse_archive.names import project_folder, zip_name
from lse_operations.day_selection import expires_soon, last_day
from lse_resources.postgres.database import Database
from lse_resources.postgres.urls import embedded_server
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

Rows = Mapping[tuple[str, date], tuple[int | None, bool | None]]
"""By project and day: rows after the last load, and whether the last verification found nothing wrong."""

_NOTHING = DayState()
_ROWS = "SELECT project, run_date, rows, consistent FROM days WHERE run_date BETWEEN %s AND %s"


@dataclass(frozen=True, slots=True)
class DayView:
    """The status of one day.

    Attributes:
        files: `here`, `pruned` (deleted here to save space), or `missing`.
        zip: The same.
        drive: Whether an upload was confirmed, and the copy was not pruned since.
        postgres: Whether rows were loaded; None if the database cannot be reached.
        verified: Whether all places agreed when they were last compared.
        differs: Whether the last comparison found a difference.
        incomplete: See `DayState.is_incomplete`.
        last_day: The last day on which LangSmith serves the whole day; None if it is past.
        expires: Whether it expires soon, and is not archived and verified.
    """

    project: str
    date: date
    files: str
    zip: str
    drive: bool
    postgres: bool | None
    verified: bool
    differs: bool
    incomplete: bool
    last_day: date | None
    expires: bool

    @property
    def is_gap(self) -> bool:
        """Whether no copy of the day is known."""
        return self.files == "missing" and self.zip == "missing" and not self.drive

    @property
    def is_fetched_only(self) -> bool:
        """Whether the run files are the only known copy."""
        return self.files == "here" and self.zip != "here" and not self.drive and not self.postgres


def read_rows(settings: Settings, first: date, last: date) -> tuple[Rows | None, str]:
    """The rows and "", or None and the reason if the database cannot be reached. Does not start an embedded server."""
    try:
        if settings.lse_database_url:
            url = settings.lse_database_url.get_secret_value()
        else:
            server = embedded_server(settings)
            if not server.is_running():
                return None, "the embedded database is not running (lse up starts it)"
            url = server.url("lse")
        with Database(url).session("cannot read the states of days") as connection:
            found = connection.execute(_ROWS, (first, last)).fetchall()
    except ArchiveError as error:
        return None, str(error)
    return {(project, day): (rows, consistent) for project, day, rows, consistent in found}, ""


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
    layout: Layout, projects: list[ProjectConfig], first: date, last: date, rows: Rows | None, now: datetime
) -> list[list[DayView]]:
    """Each project's days from `first` to `last`, oldest first, without those before the project's first day."""
    zips = _names(layout.archive_dir)
    return [list(_days(layout, project, first, last, rows, now, zips)) for project in projects]


def _days(
    layout: Layout,
    project: ProjectConfig,
    first: date,
    last: date,
    rows: Rows | None,
    now: datetime,
    zips: frozenset[str],
) -> Iterator[DayView]:
    if last < (first := max(first, project.start)):
        return
    today = now.astimezone(UTC).date()
    folder = layout.data_dir / project_folder(project.name)
    here, work = _names(folder), _names(folder / WORK_DIR)
    for day in days_between(first, last):
        state = read_state(layout.day(project.name, day)) if f"{day}.state.json" in work else _NOTHING
        files = "here" if str(day) in here else "pruned" if f"{day}.pruned" in work else "missing"
        zipped = zip_name(project.name, day) in zips
        loaded, consistent = rows.get((project.name, day), (None, None)) if rows is not None else (None, None)
        verified = state.verified_at is not None and consistent is not False
        served_until = last_day(project, day)
        yield DayView(
            project=project.name,
            date=day,
            files=files,
            zip="here" if zipped else "pruned" if state.zip_pruned_at else "missing",
            drive=state.drive_sha256 is not None and state.copy_pruned_at is None,
            postgres=loaded is not None if rows is not None else None,
            verified=verified,
            differs=consistent is False,
            incomplete=state.is_incomplete,
            last_day=served_until if served_until >= today else None,
            expires=not verified and expires_soon(project, day, today),
        )


def _names(directory: Path) -> frozenset[str]:
    try:
        with os.scandir(directory) as entries:
            return frozenset(entry.name for entry in entries)
    except FileNotFoundError:
        return frozenset()
