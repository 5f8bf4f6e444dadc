"""Compares the run files of a day with its rows: ids, traces, recorded hashes, and current contents."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import msgspec
import psycopg

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import read_summary, read_sums
from lse_archive.folder.opened import Folder
from lse_archive.folder.reader import NOT_AS_RECORDED, DayReader, InvalidFile, RunFile, open_run_files
from lse_archive.results import Inconsistency, VerificationResult
from lse_resources.postgres.advisory_locks import OnWait, day_advisory_lock
from lse_resources.postgres.database import Database, require_utf8
from lse_resources.postgres.load.day import PROGRESS_EVERY, Progress, write_rows
from lse_resources.postgres.load.writer import Outcome
from lse_resources.postgres.loads_table import begin_load, finish_load
from lse_resources.postgres.verify.contents import compare_contents
from lse_resources.postgres.verify.hashes import compare_hashes

ExpectedRow = tuple[str, str | None, bytes]
"""Run id, trace id (None: unknown), and the sha256 of the run file."""


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
    on_wait: OnWait | None = None,
) -> VerificationResult:
    """Compares a day's folder with its rows.

    Every file is hashed again and compared with the hash in its row. The server hashes the content of every row again
    and compares it with the hash that it recorded when the row was written.

    Args:
        detailed: Compare contents too, and report the JSON paths that differ.
        fix_missing: Load the runs that have no row.
        fix: Load them, and replace the rows that differ. Rows without a file stay and are reported.
        on_wait: Called once with the holder, if another session loads or verifies the day.

    Raises:
        UsageError: The folder does not exist.
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        CorruptArchiveError: Its checksums cannot be read.
        DatabaseError: Postgres cannot be reached or fails.
    """
    started = time.monotonic()
    fixed: list[str] = []
    with _locked(database, project, day, on_wait) as connection, open_run_files(folder) as opened:
        files = _DayFiles(opened, DayReader(opened, day, read_sums(opened)))
        result = _verify(connection, database, project, day, files, detailed=detailed, progress=progress)
        if (fix_missing or fix) and (run_ids := _to_fix(result, differing=fix)):
            fixed = _repair(database, project, day, files, run_ids)
            result = _verify(connection, database, project, day, files, detailed=detailed)
    result.fixed = fixed
    result.duration_seconds = time.monotonic() - started
    return result


def verify_against(
    database: Database, project: str, day: date, expected: Iterable[ExpectedRow], *, on_wait: OnWait | None = None
) -> VerificationResult:
    """Compares a list of a day's run files, such as that of its zip, with its rows.

    Raises:
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        DatabaseError: Postgres cannot be reached or fails.
    """
    started = time.monotonic()
    with _locked(database, project, day, on_wait) as connection:

        def copy_expected(copy: psycopg.Copy) -> None:
            for row in expected:
                copy.write_row(row)

        result = compare_hashes(connection, database, project, day, copy_expected)
    result.duration_seconds = time.monotonic() - started
    return result


@contextmanager
def _locked(database: Database, project: str, day: date, on_wait: OnWait | None) -> Generator[psycopg.Connection]:
    doing = f"cannot verify {project} {day}"
    with database.session(doing) as connection, day_advisory_lock(connection, project, day, on_wait=on_wait):
        require_utf8(connection, doing)
        yield connection


@dataclass
class _DayFiles:
    """The run files of a folder; each reading collects the invalid files anew."""

    folder: Folder
    reader: DayReader
    invalid: list[InvalidFile] = field(default_factory=list)

    def runs(self, progress: Progress | None = None) -> Iterator[RunFile]:
        self.invalid.clear()
        total = len(self.reader.names)
        for done, file in enumerate(self.reader.files(), 1):
            if isinstance(file, RunFile):
                yield file
            elif isinstance(file, InvalidFile):
                self.invalid.append(file)
            if progress and (done % PROGRESS_EVERY == 0 or done == total):
                progress(done, total)

    def damaged_since_published(self) -> bool:
        """Whether a file became invalid after the day was published. Unknown, hence false, without a summary."""
        try:
            summary = read_summary(self.folder)
        except CorruptArchiveError:
            return True
        if any(file.reason == NOT_AS_RECORDED for file in self.invalid):
            return True
        return summary is not None and not {file.name for file in self.invalid} <= set(summary.unfit_files)


def _verify(
    connection: psycopg.Connection,
    database: Database,
    project: str,
    day: date,
    files: _DayFiles,
    *,
    detailed: bool,
    progress: Progress | None = None,
) -> VerificationResult:
    differences: list[Inconsistency] = []

    def copy_expected(copy: psycopg.Copy) -> None:
        def copied() -> Iterator[RunFile]:
            for file in files.runs(progress):
                copy.write_row((file.header.run_id, file.header.trace_id, file.sha256))
                yield file

        if detailed:
            differences.extend(compare_contents(database, project, day, copied()))
        else:
            for _ in copied():
                pass

    result = compare_hashes(connection, database, project, day, copy_expected)
    result.total_files = len(files.reader.names)
    result.broken_files = [f"{file.name}: {file.reason}" for file in files.invalid]
    _add_content_differences(result, differences)
    if files.damaged_since_published():
        result.is_consistent = False
    return result


def _add_content_differences(result: VerificationResult, differences: Iterable[Inconsistency]) -> None:
    """Adds the differences of contents; a run whose hashes differ too is listed once, with both."""
    by_run = {one.run_id: one for one in result.inconsistent_runs}
    traces = set(result.inconsistent_traces)
    for found in differences:
        if before := by_run.get(found.run_id):
            what = dict.fromkeys([*before.what.split(", "), *found.what.split(", ")])
            found = msgspec.structs.replace(before, what=", ".join(what), paths=found.paths)
        by_run[found.run_id] = found
        traces.add(found.trace_id)
        result.is_consistent = False
    result.inconsistent_runs = [by_run[run_id] for run_id in sorted(by_run)]
    result.inconsistent_traces = sorted(traces.difference(result.missing_traces_in_db))


def _to_fix(result: VerificationResult, *, differing: bool) -> set[str]:
    """The runs to load. Runs filed under another project or day are moved only with `differing`."""
    missing = set(result.missing_runs_in_db)
    if differing:
        return missing | {one.run_id for one in result.inconsistent_runs}
    return missing - {one.run_id for one in result.filed_elsewhere}


def _repair(database: Database, project: str, day: date, files: _DayFiles, run_ids: set[str]) -> list[str]:
    """Writes the rows of some runs again from their files. Returns the ids of the rows written."""
    to_write = (file for file in files.runs() if file.header.run_id in run_ids)
    total = Outcome()
    with database.session(f"cannot repair {project} {day}") as connection:
        load_id = begin_load(connection, "repair", project, day)
        for outcome in write_rows(database, project, day, to_write, "repair", load_id):
            total += outcome
        finish_load(connection, load_id, inserted=total.inserted, replaced=total.replaced, failed=total.failed)
        written = connection.execute(
            "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s AND load_id = %s ORDER BY 1",
            (project, day, load_id),
        )
        return [run_id for (run_id,) in written]
