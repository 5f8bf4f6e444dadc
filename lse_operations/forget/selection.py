"""Finds the runs to erase: in the rows where the database has the whole day, else in files, zips or the copy."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import Summary, read_summary
from lse_archive.folder.pruned import is_pruned, pruned_runs
from lse_archive.folder.publish import SCRATCH
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.layout import DayPaths
from lse_archive.runs.header import RunHeader
from lse_archive.zips.unzip import zip_runs
from lse_operations.forget.places import Places, remote_days
from lse_operations.restore.copies import RemoteArchive
from lse_resources.destinations.protocol import Destination
from lse_resources.postgres.analysis.json_values import jsonb_text, load_exact_json, object_members

THREAD_KEYS = ("session_id", "thread_id", "conversation_id")
"""Keys of metadata that name a thread: https://docs.langchain.com/langsmith/threads."""

_ONE_DAY = timedelta(days=1)
_MATCH = """
SELECT run_date, run_id::text, trace_id::text FROM runs
WHERE project = %(project)s AND run_date = ANY(%(days)s) AND (
    run_id = ANY(%(runs)s::uuid[]) OR trace_id = ANY(%(traces)s::uuid[])
    OR EXISTS (SELECT 1 FROM unnest(%(keys)s::text[], %(values)s::text[]) AS wanted(key, value)
               WHERE data #>> ARRAY['metadata', key] = value OR data #>> ARRAY['extra', 'metadata', key] = value)
    OR data ->> 'thread_id' = ANY(%(threads)s)
)
"""
# A row that is a rendering of its run, or has none, does not show all of its metadata.
_WHOLE = """
SELECT run_date, count(*), count(*) FILTER (WHERE data IS NULL OR mark IS NOT NULL) FROM runs
WHERE project = %s GROUP BY run_date
"""


@dataclass(frozen=True, slots=True)
class Selectors:
    """What is asked for; a run that one of them names is selected.

    Attributes:
        runs, traces: Ids, lower case with hyphens.
        threads: Values of one of `THREAD_KEYS`.
        metadata: Keys and values, as text.
        runs_only: Runs that `threads` or `metadata` select are taken alone, without the rest of their traces.
        first, last: Limits of the days; None: no limit. Whole traces may reach over them by a day.
    """

    runs: frozenset[str] = frozenset()
    traces: frozenset[str] = frozenset()
    threads: frozenset[str] = frozenset()
    metadata: frozenset[tuple[str, str]] = frozenset()
    runs_only: bool = False
    first: date | None = None
    last: date | None = None

    def sha256(self, project: str) -> str:
        """The hash of the selection, for the certificate: the selection itself may name a person."""
        ids = [sorted(one) for one in (self.runs, self.traces, self.threads)]
        values = (project, ids, sorted(self.metadata), self.runs_only, str(self.first), str(self.last))
        return hashlib.sha256(msgspec.json.encode(values)).hexdigest()

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """Keys and values of metadata that select a run, those of threads included."""
        return {*self.metadata, *((key, thread) for key in THREAD_KEYS for thread in self.threads)}

    def names(self, header: RunHeader) -> bool:
        """Whether the ids select a run."""
        return header.run_id in self.runs or header.trace_id in self.traces


def _describes(document: bytes, pairs: Set[tuple[str, str]], threads: Set[str]) -> bool:
    """Whether the metadata of a run's JSON has one of the pairs, or the run is of one of the threads."""
    run = object_members(document)
    of_extra = object_members(bytes(run.get("extra", b"{}")))
    for metadata in (object_members(bytes(one.get("metadata", b"{}"))) for one in (run, of_extra)):
        if any(key in metadata and _text(bytes(metadata[key])) == value for key, value in pairs):
            return True
    return _text(bytes(run.get("thread_id", b"null"))) in threads


def _text(value: bytes) -> str | None:
    loaded: Any = load_exact_json(value)
    return loaded if loaded is None or isinstance(loaded, str) else jsonb_text(loaded)


@dataclass(slots=True)
class Selected:
    """The runs that were found.

    Attributes:
        days: Their ids by day.
        traces: Ids of their traces.
        sources: By day, where they were read: `rows`, `files`, `zip` or the name of the destination.
    """

    days: dict[date, set[str]] = field(default_factory=dict)
    traces: set[str] = field(default_factory=set)
    sources: dict[date, str] = field(default_factory=dict)

    def add(self, day: date, run_id: str, trace_id: str | None) -> None:
        self.days.setdefault(day, set()).add(run_id)
        self.traces.add(trace_id or run_id)

    @property
    def runs(self) -> int:
        return sum(map(len, self.days.values()))


def select_runs(
    places: Places,
    destination: Destination | None,
    project: str,
    selectors: Selectors,
    *,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Selected:
    """Finds the runs of a project that the selectors name. Writes nothing but short-lived downloads.

    Args:
        progress: Called with (days searched, days in total).

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
        DestinationError: The destination refused or cannot be reached.
        ArchiveError: A day cannot be read: what it holds is not known.
    """
    search = _Search(places, destination, project, remote_days(places, destination, project))
    days = [day for day in search.days() if _is_between(day, selectors.first, selectors.last)]
    found = Selected()
    search.search(found, days, selectors, progress)
    if (selectors.threads or selectors.metadata) and not selectors.runs_only and found.traces:
        traces = Selectors(traces=frozenset(found.traces))
        first = selectors.first - _ONE_DAY if selectors.first else None
        last = selectors.last + _ONE_DAY if selectors.last else None
        search.search(found, [day for day in search.days() if _is_between(day, first, last)], traces, progress)
    return found


def _is_between(day: date, first: date | None, last: date | None) -> bool:
    return (first is None or day >= first) and (last is None or day <= last)


@dataclass(slots=True)
class _Search:
    places: Places
    destination: Destination | None
    project: str
    remote: Mapping[date, RemoteArchive]
    _rows: dict[date, tuple[int, int]] | None = None

    def days(self) -> list[date]:
        """All days of the project, in any place, oldest first."""
        layout = self.places.layout
        local = {*layout.days(self.project), *layout.pruned_days(self.project), *layout.zipped_days(self.project)}
        return sorted(local | self.remote.keys() | self.rows().keys())

    def rows(self) -> dict[date, tuple[int, int]]:
        """The number of rows of each day, and of those that do not hold the whole run."""
        if self._rows is None:
            self._rows = {}
            if self.places.database is not None:
                with self.places.database.session(f"cannot count the rows of {self.project}") as connection:
                    for day, rows, unclear in connection.execute(_WHOLE, (self.project,)):
                        self._rows[day] = rows, unclear
        return self._rows

    def search(
        self,
        found: Selected,
        days: list[date],
        selectors: Selectors,
        progress: Callable[[int, int | None], None],
    ) -> None:
        in_rows = [day for day in days if self._has_all_rows(self.places.layout.day(self.project, day))]
        if in_rows:
            self._search_rows(found, in_rows, selectors)
        others = [day for day in days if day not in set(in_rows)]
        progress(len(in_rows), len(days))
        reads, pairs = bool(selectors.threads or selectors.metadata), selectors.pairs
        for done, day in enumerate(others, len(in_rows) + 1):
            paths = self.places.layout.day(self.project, day)
            for header, document in self._runs(paths, found, heads_only=not reads):
                if selectors.names(header) or (reads and _describes(document, pairs, selectors.threads)):
                    found.add(day, header.run_id, header.trace_id)
            progress(done, len(days))
        # Rows may lie under a day of which the files are incomplete.
        if self.places.database is not None and (partly := [day for day in others if day in self.rows()]):
            self._search_rows(found, partly, selectors)

    def _has_all_rows(self, paths: DayPaths) -> bool:
        rows, unclear = self.rows().get(paths.day, (0, 0))
        if not rows or unclear:
            return False
        summary = _summary(paths)
        if summary is not None:
            return summary.runs == rows and not summary.unfit_files
        copy = self.remote.get(paths.day)
        return copy is None or copy.files[0].app_properties.get("runs") == str(rows)

    def _search_rows(self, found: Selected, days: list[date], selectors: Selectors) -> None:
        assert self.places.database is not None
        pairs = sorted(selectors.pairs)
        values = {
            "project": self.project,
            "days": days,
            "runs": sorted(selectors.runs),
            "traces": sorted(selectors.traces),
            "threads": sorted(selectors.threads),
            "keys": [key for key, _ in pairs],
            "values": [value for _, value in pairs],
        }
        with self.places.database.session(f"cannot search the rows of {self.project}") as connection:
            for day, run_id, trace_id in connection.execute(_MATCH, values):
                found.add(day, run_id, trace_id)
                found.sources.setdefault(day, "rows")

    def _runs(self, paths: DayPaths, found: Selected, *, heads_only: bool) -> Iterator[tuple[RunHeader, bytes]]:
        """The runs of a day, from the nearest place that has them all."""
        if paths.folder.is_dir():
            found.sources[paths.day] = "files"
            for file in read_folder(paths.folder, paths.day):
                if isinstance(file, RunFile):
                    yield file.header, file.document
        elif heads_only and is_pruned(paths) and (heads := _pruned_heads(paths)) is not None:
            found.sources[paths.day] = "the list of the pruned day"
            yield from ((header, b"{}") for header in heads)
        elif paths.zip.is_file():
            found.sources[paths.day] = "zip"
            yield from zip_runs(paths.zip, paths.day)
        elif self.destination is not None and (copy := self.remote.get(paths.day)):
            found.sources[paths.day] = self.destination.place
            paths.archive_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=paths.archive_dir) as scratch:
                self.destination.download(copy.file, target := Path(scratch) / paths.zip.name)
                yield from zip_runs(target, paths.day)


def _summary(paths: DayPaths) -> Summary | None:
    with contextlib.suppress(CorruptArchiveError):
        return read_summary(paths.pruned if is_pruned(paths) else paths.folder)
    return None


def _pruned_heads(paths: DayPaths) -> list[RunHeader] | None:
    """The ids of a pruned day's runs; None if its list cannot be read."""
    with contextlib.suppress(CorruptArchiveError):
        return [
            RunHeader(run_id, trace_id or run_id, 0, None, None, False, False, 0, 0.0)
            for run_id, trace_id, _ in pruned_runs(paths)
        ]
    return None
