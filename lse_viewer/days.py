"""The first page, with all projects, and the calendar of a project's days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from lse_archive.days import today
from lse_archive.errors import UsageError
from lse_operations.overview import DayView, archived_days, overview, read_rows
from lse_platform.home import known_projects
from lse_resources.postgres.pages.projects import read_projects_with_days
from lse_resources.projects import ProjectConfig
from lse_viewer.archive import Archive, NotFoundError, archive_of, project_of, text_of
from lse_viewer.rendering import page

# The name of a state (its class in the style sheet), its mark, and its meaning.
STATES = {
    "proven": ("✓", "proven"),
    "unprovable": ("○", "not provable: all places agree, but nothing can prove that the day is complete"),
    "wrong": ("✗", "a difference was found, or LangSmith did not serve everything"),
    "open": ("…", "archived, not verified yet"),
    "gap": ("·", "not archived"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A day of the calendar.

    Attributes:
        state: One of `STATES`.
        rows: Rows in the database after the last load; None: not loaded, or not known.
    """

    day: date
    state: str
    rows: int | None
    expires: bool

    @property
    def mark(self) -> str:
        return STATES[self.state][0]

    @property
    def says(self) -> str:
        """The state in words, for the reader of a screen, too."""
        text = STATES[self.state][1]
        return f"{text}; LangSmith deletes it soon" if self.expires else text


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the calendar: its weeks from Monday on.

    Attributes:
        weeks: Days, None in other months, with their cell, None for a day that needs no copy.
    """

    first: date
    weeks: list[list[tuple[date | None, Cell | None]]]


def projects_page(request: Request) -> Response:
    """All projects that are archived or listed."""
    archive = archive_of(request)
    with archive.reading() as connection:
        projects = read_projects_with_days(connection)
    archived = {one.project for one in projects}
    listed = [one.name for one in known_projects(archive.settings) if one.name not in archived]
    return page("projects.html", projects=projects, listed=listed)


def days_page(request: Request) -> Response:
    """The days of a project in one year, by default the last one that is archived."""
    archive, project = archive_of(request), project_of(request)
    yesterday = today() - timedelta(days=1)
    first, last, rows = _range(archive, project, yesterday)
    year = _year(text_of(request, "year"), last.year)
    start, end = max(first, date(year, 1, 1)), min(last, date(year, 12, 31))
    views = []
    if start <= end:
        config = ProjectConfig(project, start, schedule="off")
        listed = (one for one in known_projects(archive.settings) if one.name == project)
        [views] = overview(
            archive.settings, [next(listed, config)], start, min(end, yesterday), rows, datetime.now(UTC)
        )
    cells = {view.date: _cell(view, (rows or {}).get((project, view.date), (None, None))[0]) for view in views}
    return page(
        "days.html",
        project=project,
        year=year,
        years=range(first.year, last.year + 1),
        months=list(_months(cells)),
        states=STATES,
        known=rows is not None,
    )


def _range(archive: Archive, project: str, yesterday: date) -> tuple[date, date, dict | None]:
    """The project's first and last day, and the rows of its days."""
    rows, _ = read_rows(archive.settings, date.min, yesterday)
    days = archived_days(archive.settings.layout, project) | {day for name, day in rows or () if name == project}
    starts = [one.start for one in known_projects(archive.settings) if one.name == project]
    if not days and not starts:
        raise NotFoundError(
            f"no day of '{project}' is archived", hint="The first page has the projects that are archived"
        )
    return min([*days, *starts]), max([*days, yesterday] if starts else days), dict(rows) if rows is not None else None


def _year(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= date.max.year):
        raise UsageError(f"'{text}' is not a year")
    return int(text)


def _cell(view: DayView, rows: int | None) -> Cell:
    if view.differs or view.incomplete:
        state = "wrong"
    elif view.verified:
        state = {"proven": "proven", "not_provable": "unprovable"}[view.verified]
    else:
        state = "gap" if view.is_gap and not view.postgres else "open"
    return Cell(view.date, state, rows, view.expires)


def _months(cells: dict[date, Cell]) -> Iterator[Month]:
    """The months that have a cell, the newest first."""
    for first in sorted({day.replace(day=1) for day in cells}, reverse=True):
        monday = first - timedelta(days=first.weekday()) if first.toordinal() > first.weekday() else first
        weeks: list[list[tuple[date | None, Cell | None]]] = []
        while monday <= first or monday.month == first.month:
            days = [monday + timedelta(days=offset) for offset in range(7)]
            weeks.append([(day, cells.get(day)) if day.month == first.month else (None, None) for day in days])
            monday += timedelta(days=7)
        yield Month(first, weeks)
