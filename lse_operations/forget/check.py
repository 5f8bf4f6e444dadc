"""Proves that runs are absent from all places, and erases again what an older dump or copy brought back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

from lse_archive.days import day_window
from lse_archive.fetch.paginate import PageReport, paginate
from lse_archive.fetch.source import AttachmentLinks, Page, RunSource
from lse_archive.folder.state import now_text
from lse_archive.folder.tombstones import NONE, Tombstones, add_tombstones, read_tombstones
from lse_archive.layout import DayPaths
from lse_archive.runs.header import read_header
from lse_archive.runs.scanner import NotARunError
from lse_operations.forget.engine import record
from lse_operations.forget.journal import DayIntent, Intent, Journal
from lse_operations.forget.places import Places
from lse_operations.forget.search import search_day
from lse_operations.forget.selection import Selectors, select_runs
from lse_resources.postgres import erasures_table
from lse_resources.postgres.database import Database
from lse_resources.postgres.erase import find_forgotten_rows, find_rows
from lse_resources.postgres.loads_table import user_and_host

_IDS_IN_ROWS = """
SELECT run_id::text FROM runs WHERE project = %(project)s AND run_date = %(day)s
UNION SELECT run_id::text FROM replaced_runs WHERE project = %(project)s AND run_date = %(day)s
UNION SELECT run_id::text FROM feedback WHERE project = %(project)s AND run_date = %(day)s
UNION SELECT run_id::text FROM attachments WHERE project = %(project)s AND run_date = %(day)s
"""


@dataclass(slots=True)
class Findings:
    """What a search for erased runs found.

    Attributes:
        days: Number of days with tombstones that were searched.
        tombstones: Number of their tombstones.
        found: Each place with something, and the number of its entries.
        served: By day, how many runs with tombstones LangSmith still serves. That is not a place of the archive.
        unasked: By day, why LangSmith was not asked.
    """

    days: int = 0
    tombstones: int = 0
    found: dict[str, int] = field(default_factory=dict)
    served: dict[date, int] = field(default_factory=dict)
    unasked: dict[date, str] = field(default_factory=dict)


def tombstoned_days(places: Places, project: str, first: date | None, last: date | None) -> dict[date, Tombstones]:
    """The days of a project of which runs were erased, oldest first, with their tombstones here and in the database.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
        CorruptArchiveError: A list of tombstones cannot be read.
    """
    days = {day: read_tombstones(places.layout.day(project, day)) for day in _listed(places, project)}
    if places.database is not None:
        for day, tombstones in erasures_table.tombstones_by_day(places.database, project).items():
            days[day] = days.get(day, NONE) | tombstones
    return {
        day: days[day]
        for day in sorted(days)
        if days[day] and (first is None or day >= first) and (last is None or day <= last)
    }


def _listed(places: Places, project: str) -> set[date]:
    return {*places.layout.forgotten_days(project), *places.layout.days(project)}


def check(
    places: Places,
    project: str,
    selectors: Selectors,
    *,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Findings:
    """Searches all places for what is selected, and for every run that was erased before.

    Raises:
        ArchiveError: A place cannot be reached or read: nothing is proven.
    """
    findings = Findings()
    with places.destination() as destination:
        if selectors.runs or selectors.traces or selectors.threads or selectors.metadata:
            selected = select_runs(places, destination, project, selectors)
            for day, runs in selected.days.items():
                findings.found[f"{day}: {selected.sources.get(day, 'files')}"] = len(runs)
        run_ids = sorted(selectors.runs)
        if run_ids and (named := sum(places.find_events(run_ids).values())):
            findings.found["platform"] = named
        if places.database is not None and run_ids:
            for rows in find_rows(places.database, run_ids)[0]:
                findings.found[f"{rows.run_date}: rows of {rows.table}"] = rows.rows
        days = tombstoned_days(places, project, selectors.first, selectors.last)
        for number, (day, tombstones) in enumerate(days.items(), 1):
            paths = places.layout.day(project, day)
            for place, entries in search_day(destination, places.lake, paths, tombstones):
                if entries:
                    key = f"{day}: {place}"
                    findings.found[key] = findings.found.get(key, 0) + entries
            findings.days += 1
            findings.tombstones += len(tombstones)
            progress(number, len(days))
        if places.database is not None:
            for rows in find_forgotten_rows(places.database, project)[0]:
                findings.found[f"{rows.run_date}: rows of {rows.table}"] = rows.rows
    return findings


def ids_in_rows(database: Database, paths: DayPaths, tombstones: Tombstones) -> list[str]:
    """The ids of the runs with tombstones that rows of the day name, sorted. Raises DatabaseError."""
    with (
        database.session(f"cannot search the rows of {paths.project} {paths.day}") as connection,
        connection.cursor(name="ids") as cursor,
    ):
        connection.autocommit = False
        cursor.execute(_IDS_IN_ROWS, {"project": paths.project, "day": paths.day})
        return sorted(run_id for (run_id,) in cursor if run_id is not None and run_id in tombstones)


class _ListedIds:
    """A sink that counts the listed runs which have tombstones."""

    def __init__(self, tombstones: Tombstones) -> None:
        self._tombstones = tombstones
        self._seen: set[str] = set()

    @property
    def erased(self) -> int:
        return sum(run_id in self._tombstones for run_id in self._seen)

    def add(self, page: Page) -> PageReport:
        starts, new = [], []
        for run in page.runs:
            try:
                header = read_header(run)
            except NotARunError:
                continue
            starts.append(header.start)
            if header.run_id not in self._seen:
                self._seen.add(header.run_id)
                new.append(header.start)
        ordered = starts == sorted(starts, reverse=True)
        return PageReport(len(new), max(new, default=None), min(starts, default=None), ordered)

    def download(self, attachments: AttachmentLinks, stop: object) -> None:
        """Does nothing: a listing has no links."""

    def mark_complete(self, window: object) -> None:
        """Does nothing: a listing is not resumed."""


def served_by_langsmith(source: RunSource, day: date, tombstones: Tombstones) -> int:
    """How many runs with tombstones LangSmith still lists. Raises SourceError."""
    listed = _ListedIds(tombstones)
    paginate(source, listed, [day_window(day)], ids_only=True)
    return listed.erased


def replay(
    places: Places, projects: Iterable[str], *, progress: Callable[[int, int | None], None] = lambda _done, _total: None
) -> int:
    """Begins the erasure of what has come back of runs that have tombstones; `complete` does it.

    Tombstones and certificates that the database lost with an older dump are written into it again, and tombstones
    that only the database has beside their days.

    Returns:
        The number of days that hold such runs.

    Raises:
        ArchiveError: A place cannot be reached or read.
    """
    days_back, certificates = 0, Journal(places.layout).certificates()
    for project in projects:
        for certificate in certificates:
            if places.database is not None and certificate.project == project:
                record(places, places.database, certificate, certificate.days)
        found: dict[date, DayIntent] = {}
        days = tombstoned_days(places, project, None, None)
        with places.destination() as destination:
            for number, (day, tombstones) in enumerate(days.items(), 1):
                paths = places.layout.day(project, day)
                add_tombstones(paths, tombstones)
                ids = ids_in_rows(places.database, paths, tombstones) if places.database is not None else []
                if ids or any(entries for _, entries in search_day(destination, places.lake, paths, tombstones)):
                    found[day] = DayIntent(run_ids=ids)
                progress(number, len(days))
        intent = Intent(
            id=str(uuid.uuid4()),
            project=project,
            requested_by=user_and_host(),
            reason="lse forget --replay",
            selection_sha256=Selectors().sha256(project),
            started_at=now_text(),
            selected={"days": len(found)},
            days=found,
        )
        # Tombstones without a certificate here came with the zip of another host.
        foreign = places.database is not None and _lacks_tombstones(places.database, project, days)
        if foreign:
            record(places, places.database, intent, days)
        if found or foreign:
            Journal(places.layout).begin(intent)
        days_back += len(found)
    return days_back


def _lacks_tombstones(database: Database, project: str, days: Mapping[date, Tombstones]) -> bool:
    there = erasures_table.tombstones_by_day(database, project)
    return any(not tombstones.digests <= there.get(day, NONE).digests for day, tombstones in days.items())
