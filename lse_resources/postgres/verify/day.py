"""Compares the files of a day with its rows: ids, traces, recorded hashes, and current contents."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

import msgspec
import psycopg

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import read_summary, read_sums, require_own
from lse_archive.folder.opened import Folder
from lse_archive.folder.reader import NOT_AS_RECORDED, DayReader, InvalidFile, RunFile, open_run_files
from lse_archive.folder.records import RECORD_FILES, InvalidRecord, Record, RecordKind, read_records
from lse_archive.results import Inconsistency, VerificationResult
from lse_resources.postgres.advisory_locks import OnWait, day_advisory_lock
from lse_resources.postgres.database import Database, require_utf8
from lse_resources.postgres.erasures_table import read_tombstones
from lse_resources.postgres.load.day import PROGRESS_EVERY, Progress, write_rows
from lse_resources.postgres.load.records import load_records
from lse_resources.postgres.load.writer import Outcome
from lse_resources.postgres.loads_table import begin_load, finish_load
from lse_resources.postgres.verify.contents import compare_contents
from lse_resources.postgres.verify.hashes import compare_hashes
from lse_resources.postgres.verify.records import MISSING_IN_DB, MISSING_IN_FILES, compare_records

ExpectedRow = tuple[str, str | None, bytes]
"""Run id, trace id (None: unknown), and the sha256 of the run file."""
ReadRecords = Mapping[RecordKind, Callable[[], Iterable[Record | InvalidRecord]]]
"""By kind a function that reads the records beside the runs from their beginning."""


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
        fix_missing: Load the runs and records that have no row.
        fix: Load them, and replace the rows that differ. Rows without a file stay and are reported.
        on_wait: Called once with the holder, if another session loads or verifies the day.

    Raises:
        UsageError: The folder does not exist.
        ArchiveConflictError: The folder belongs to another project.
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        CorruptArchiveError: Its checksums cannot be read.
        DatabaseError: Postgres cannot be reached or fails.
    """
    started = time.monotonic()
    fixed: list[str] = []
    fixed_records = 0
    with _locked(database, project, day, on_wait) as connection, open_run_files(folder) as opened:
        require_own(opened, project)
        sums = read_sums(opened)
        files = _DayFiles(opened, DayReader(opened, day, sums), sums)
        result = _verify(connection, database, project, day, files, detailed=detailed, progress=progress)
        run_ids, records = _to_fix(result, differing=fix), _records_to_fix(result, differing=fix)
        if (fix_missing or fix) and (run_ids or any(records.values())):
            fixed, fixed_records = _repair(database, project, day, files, run_ids, records)
            result = _verify(connection, database, project, day, files, detailed=detailed)
    result.fixed, result.fixed_records = fixed, fixed_records
    result.duration_seconds = time.monotonic() - started
    return result


def verify_against(
    database: Database,
    project: str,
    day: date,
    expected: Iterable[ExpectedRow],
    records: ReadRecords | None = None,
    *,
    on_wait: OnWait | None = None,
) -> VerificationResult:
    """Compares lists of a day's run files and records, such as those of a pruned day, with its rows.

    Args:
        records: Reads the records of each kind from their beginning; a kind that is not there is not compared.

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
        _add_records(result, connection, records or {}, detailed=False)
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
    """The files of a folder; each reading of the runs collects the invalid files anew."""

    folder: Folder
    reader: DayReader
    sums: Mapping[str, bytes] | None
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

    def records(self, kind: RecordKind) -> Iterator[Record | InvalidRecord]:
        return read_records(self.folder, kind, self.sums)

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
    records: ReadRecords = {kind: partial(files.records, kind) for kind in RECORD_FILES}
    _add_records(result, connection, records, detailed=detailed)
    if files.damaged_since_published():
        result.is_consistent = False
    return result


def _add_records(
    result: VerificationResult, connection: psycopg.Connection, records: ReadRecords, *, detailed: bool
) -> None:
    """Adds the comparison of the records beside the runs."""
    for kind, read in records.items():
        day = date.fromisoformat(result.date)
        compared = compare_records(connection, kind, result.project, day, read, detailed=detailed)
        setattr(result, f"{kind}_in_files", compared.in_files)
        setattr(result, f"{kind}_in_db", compared.in_db)
        result.inconsistent_records += compared.differences
        result.broken_files += [f"{record.place}: {record.reason}" for record in compared.invalid]
        if compared.differences or any(record.reason == NOT_AS_RECORDED for record in compared.invalid):
            result.is_consistent = False


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


def _records_to_fix(result: VerificationResult, *, differing: bool) -> dict[RecordKind, set[str]]:
    """The records to load: those without a row, and with `differing` those whose row differs."""
    return {
        kind: {
            record.id
            for record in result.inconsistent_records
            if record.table == kind
            and (record.what == MISSING_IN_DB or (differing and record.what != MISSING_IN_FILES))
        }
        for kind in RECORD_FILES
    }


def _repair(
    database: Database,
    project: str,
    day: date,
    files: _DayFiles,
    run_ids: set[str],
    records: Mapping[RecordKind, set[str]],
) -> tuple[list[str], int]:
    """Writes the rows of some runs and records again from their files.

    Returns:
        The ids of the runs, and the number of records, whose rows were written.
    """
    total, written_records = Outcome(), 0
    with database.session(f"cannot repair {project} {day}") as connection:
        load_id = begin_load(connection, "repair", project, day)
        tombstones = read_tombstones(connection, project, day)
        if run_ids := {run_id for run_id in run_ids if run_id not in tombstones}:
            to_write = (file for file in files.runs() if file.header.run_id in run_ids)
            for outcome in write_rows(database, project, day, to_write, "repair", load_id):
                total += outcome
        for kind, ids in records.items():
            to_load = (record for record in files.records(kind) if isinstance(record, Record) and record.key in ids)
            outcome = load_records(database, kind, project, day, to_load, load_id, tombstones, rewrite=True)
            written_records += outcome.written
        finish_load(connection, load_id, inserted=total.inserted, replaced=total.replaced, failed=total.failed)
        written = connection.execute(
            "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s AND load_id = %s ORDER BY 1",
            (project, day, load_id),
        )
        return [run_id for (run_id,) in written], written_records
