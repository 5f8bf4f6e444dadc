"""Compares the run files of a day with its rows: ids, traces, the recorded hashes and the contents as they are now."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psycopg

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import read_summary, read_sums
from lse_archive.folder.reader import NOT_AS_RECORDED, DayReader, InvalidFile, RunFile
from lse_archive.results import Inconsistency, VerificationResult
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import TELL_EVERY, Progress, write_rows
from lse_resources.postgres.load.writer import Outcome
from lse_resources.postgres.loads_table import begin_load, finish_load
from lse_resources.postgres.locks import day_advisory_lock
from lse_resources.postgres.verify.contents import ContentDifference, compare_contents
from lse_resources.postgres.verify.hashes import compare_hashes

FileSide = Iterable[tuple[str, str | None, bytes]]
"""What the rows must agree with: run id, trace id (None: not known) and the sha256 of the run file."""


def verify_day(
    database: Database,
    project: str,
    day: date,
    folder: Path,
    *,
    detailed: bool = False,
    fix_missing: bool = False,
    fix: bool = False,
    progress: Progress | None = None,
) -> VerificationResult:
    """Compares a day's folder with its rows.

    Every file is hashed now and compared with the hash recorded when its row was written; the server computes the
    hash of every row's content now and compares it with the one it computed then.

    Args:
        detailed: Compare contents with contents too, and name the JSON paths that differ.
        fix_missing: Load the runs that have no row.
        fix: Replace the rows that differ as well, from the files; rows without a file stay, and stay reported.

    Raises:
        UsageError: There is no such folder.
        CorruptArchiveError: Its checksums cannot be read.
        DatabaseError: Postgres cannot be reached or cannot go on.
    """
    started = time.monotonic()
    side = _Folder(folder, DayReader(folder, day, read_sums(folder)))
    fixed: list[str] = []
    with _locked(database, project, day) as connection:
        result = _verify(connection, database, project, day, side, detailed=detailed, progress=progress)
        if (fix_missing or fix) and (wanted := _to_fix(result, differing=fix)):
            fixed = _repair(database, project, day, side, wanted)
            result = _verify(connection, database, project, day, side, detailed=detailed)
    result.fixed = fixed
    result.duration_seconds = time.monotonic() - started
    return result


def verify_against(database: Database, project: str, day: date, files: FileSide) -> VerificationResult:
    """Compares any listing of a day's run files, such as that of its zip, with its rows.

    Raises:
        DatabaseError: Postgres cannot be reached or cannot go on.
    """
    started = time.monotonic()
    with _locked(database, project, day) as connection:

        def feed(copy: psycopg.Copy) -> None:
            for row in files:
                copy.write_row(row)

        result = compare_hashes(connection, database, project, day, feed)
    result.duration_seconds = time.monotonic() - started
    return result


@contextmanager
def _locked(database: Database, project: str, day: date) -> Generator[psycopg.Connection]:
    with (
        database.session(f"cannot verify {project} {day}") as connection,
        day_advisory_lock(connection, project, day),
    ):
        yield connection


@dataclass
class _Folder:
    """The file side of a folder; what is unfit is put aside while it is read."""

    folder: Path
    reader: DayReader
    unfit: list[InvalidFile] = field(default_factory=list)

    def runs(self, progress: Progress | None = None) -> Iterator[RunFile]:
        self.unfit.clear()
        total = len(self.reader.names)
        for done, file in enumerate(self.reader.files(), 1):
            if isinstance(file, RunFile):
                yield file
            elif isinstance(file, InvalidFile):
                self.unfit.append(file)
            if progress and (done % TELL_EVERY == 0 or done == total):
                progress(done, total)

    def damaged_since_published(self) -> bool:
        """Whether a file is unfit that was not so when the day was published; unknown for folders of other origin."""
        try:
            summary = read_summary(self.folder)
        except CorruptArchiveError:
            return True
        if any(file.reason == NOT_AS_RECORDED for file in self.unfit):
            return True
        return summary is not None and not {file.name for file in self.unfit} <= set(summary.unfit_files)


def _verify(
    connection: psycopg.Connection,
    database: Database,
    project: str,
    day: date,
    side: _Folder,
    *,
    detailed: bool,
    progress: Progress | None = None,
) -> VerificationResult:
    differences: list[ContentDifference] = []

    def feed(copy: psycopg.Copy) -> None:
        def passing() -> Iterator[RunFile]:
            for file in side.runs(progress):
                copy.write_row((file.header.run_id, file.header.trace_id, file.sha256))
                yield file

        if detailed:
            differences.extend(compare_contents(database, project, day, passing()))
        else:
            for _ in passing():
                pass

    result = compare_hashes(connection, database, project, day, feed)
    result.total_files = len(side.reader.names)
    result.broken_files = [f"{file.name}: {file.reason}" for file in side.unfit]
    _merge(result, differences)
    if side.damaged_since_published():
        result.is_consistent = False
    return result


def _merge(result: VerificationResult, differences: Iterable[ContentDifference]) -> None:
    """Adds what the comparison of contents found to what the hashes told."""
    known = {one.run_id: one for one in result.inconsistent_runs}
    traces = set(result.inconsistent_traces)
    for found in differences:
        before = known.get(found.run_id)
        known[found.run_id] = Inconsistency(
            run_id=found.run_id,
            trace_id=found.trace_id,
            what=", ".join(dict.fromkeys([*(before.what.split(", ") if before else ()), *found.what.split(", ")])),
            expected=before.expected if before else "what the file holds",
            found=before.found if before else "other content, with the hashes of the file",
            paths=list(found.paths),
        )
        traces.add(found.trace_id)
        result.is_consistent = False
    result.inconsistent_runs = [known[run_id] for run_id in sorted(known)]
    result.inconsistent_traces = sorted(traces.difference(result.missing_traces_in_db))


def _to_fix(result: VerificationResult, *, differing: bool) -> set[str]:
    elsewhere = {one.run_id for one in result.filed_elsewhere}
    if not differing:
        return set(result.missing_runs_in_db) - elsewhere
    return set(result.missing_runs_in_db) | {one.run_id for one in result.inconsistent_runs}


def _repair(database: Database, project: str, day: date, side: _Folder, wanted: set[str]) -> list[str]:
    """Writes the rows of some runs anew from their files. Returns the runs that were written."""
    files = (file for file in side.runs() if file.header.run_id in wanted)
    done = Outcome()
    with database.session(f"cannot repair {project} {day}") as connection:
        load_id = begin_load(connection, "repair", project, day)
        for outcome in write_rows(database, project, day, files, "repair", load_id):
            done += outcome
        finish_load(connection, load_id, inserted=done.inserted, replaced=done.replaced, failed=done.failed)
        written = connection.execute(
            "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s AND load_id = %s ORDER BY 1",
            (project, day, load_id),
        )
        return [run_id for (run_id,) in written]
