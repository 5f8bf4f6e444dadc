"""Loads a day's folder: its run files into the table `runs`, and its records into `feedback` and `attachments`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import SUMS, read_sums, require_own
from lse_archive.folder.reader import NOT_AS_RECORDED, DayReader, InvalidFile, RunFile, open_run_files
from lse_archive.folder.records import RECORD_FILES, RecordKind, read_records
from lse_archive.folder.tombstones import Tombstones
from lse_archive.results import LoadResult
from lse_archive.texts import counted
from lse_resources.postgres.advisory_locks import OnWait, day_advisory_lock
from lse_resources.postgres.database import Database, require_utf8
from lse_resources.postgres.erasures_table import read_tombstones
from lse_resources.postgres.load.batches import BATCH_SIZE, CONNECTIONS, batches
from lse_resources.postgres.load.records import RecordOutcome, load_records
from lse_resources.postgres.load.rollback import delete_old_replaced_rows
from lse_resources.postgres.load.writer import Existing, Outcome, RowWriter
from lse_resources.postgres.loads_table import Kind, begin_load, finish_load
from lse_resources.postgres.parallel import in_parallel

_MAX_ERRORS = 100

PROGRESS_EVERY = 500
"""Number of files after which progress is reported."""

_SELECT_KNOWN = """
SELECT file_sha256, uuid_send(run_id) FROM runs WHERE project = %s AND run_date = %s AND file_sha256 IS NOT NULL
"""

Progress = Callable[[int, int], None]
"""Called with (done, total), in files."""


class PartlyLoadedError(CorruptArchiveError):
    """Damaged files were not loaded; all others were.

    Attributes:
        rows: The day's rows after the load.
    """

    def __init__(self, what: str, *, why: str, hint: str, rows: int) -> None:
        super().__init__(what, why=why, hint=hint)
        self.rows = rows


def load_day(
    database: Database,
    project: str,
    day: date,
    folder: Path,
    *,
    batch_size: int = BATCH_SIZE,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_wait: OnWait | None = None,
) -> LoadResult:
    """Loads the run files that have no row, and the records whose row is missing or differs.

    Waits while another process loads or verifies the day.

    Args:
        project: The project's LangSmith name.
        folder: The day's run files.
        batch_size: Runs in one transaction.
        overwrite: Also replace the rows of runs whose file has changed.
        dry_run: Count only, and write nothing.
        on_wait: Called once with the holder, if another session loads or verifies the day.

    Raises:
        UsageError: The folder does not exist.
        ArchiveConflictError: The folder belongs to another project.
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        CorruptArchiveError: The day's checksums cannot be read.
        PartlyLoadedError: Files differ from the day's checksums. They are not loaded; all others are.
        DatabaseError: Postgres cannot be reached or fails. Committed batches stay loaded.
    """
    started = time.monotonic()
    damaged: list[str] = []
    kind: Kind = "overwrite" if overwrite else "load"
    doing = f"cannot load {project} {day} into Postgres"
    with (
        database.session(doing) as connection,
        day_advisory_lock(connection, project, day, on_wait=on_wait),
        open_run_files(folder) as opened,  # after the wait: rows of an older state must not replace newer ones
    ):
        require_utf8(connection, doing)
        require_own(opened, project)
        sums = read_sums(opened)
        reader = DayReader(opened, day, sums)
        result = LoadResult(project=project, date=str(day), dry_run=dry_run, total_files=len(reader.names))
        # Bytes instead of UUIDs: 200,000 runs take 40 MB instead of 80 MB.
        known = dict(connection.cursor(binary=True).execute(_SELECT_KNOWN, (project, day)))
        tombstones = read_tombstones(connection, project, day)
        load_id = result.load_id = None if dry_run else begin_load(connection, kind, project, day)
        existing: Existing = "replace" if overwrite else "keep"
        files = _to_load(reader, known, tombstones, result, damaged, progress)
        total = Outcome()
        for written in write_rows(database, project, day, files, existing, load_id, batch_size):
            total += written
            if progress:
                progress(result.total_runs + len(result.errors), result.total_files)
        _report(result, total)
        for table in RECORD_FILES:
            records = read_records(opened, table, sums)
            outcome = load_records(database, table, project, day, records, load_id, tombstones)
            _add_records(result, table, outcome, damaged)
        if load_id is not None:
            _complete_audit(database, load_id, result)
    if progress and result.total_files:
        progress(result.total_files, result.total_files)
    if damaged:
        raise PartlyLoadedError(
            f"not loaded: {counted(len(damaged), 'file')} of {project} {day}",
            why=f"{damaged[0]} differs from its checksum in {SUMS}" + (", others too" if len(damaged) > 1 else ""),
            hint="Restore the day (lse archive restore) or fetch it again, then load it again",
            rows=result.rows,
        )
    result.duration_seconds = time.monotonic() - started
    return result


def _to_load(
    reader: DayReader,
    known: dict[bytes, bytes],
    tombstones: Tombstones,
    result: LoadResult,
    damaged: list[str],
    progress: Progress | None,
) -> Iterator[RunFile | None]:
    """Yields the files without a row of the same hash, and None for each of the others, which are counted."""
    for number, file in enumerate(reader.files(known), 1):
        if isinstance(file, InvalidFile):
            result.failed_inserts += 1
            result.errors.append(f"{file.name}: {file.reason}")
            if file.reason == NOT_AS_RECORDED:
                damaged.append(file.name)
            continue
        result.total_runs += 1
        if isinstance(file, RunFile) and file.header.run_id in tombstones:
            result.forgotten += 1
            yield None
        elif isinstance(file, RunFile):
            yield file
        else:
            result.left += 1
            yield None
        if progress and number % PROGRESS_EVERY == 0:
            progress(number, result.total_files)


def _add_records(result: LoadResult, table: RecordKind, outcome: RecordOutcome, damaged: list[str]) -> None:
    setattr(result, table, outcome.total)
    setattr(result, f"{table}_written", outcome.written)
    result.marked += outcome.marked
    result.forgotten_records += outcome.forgotten
    result.records_refused += len(outcome.refused)
    result.failed_inserts += len(outcome.refused) + len(outcome.invalid)
    result.errors += outcome.refused[:_MAX_ERRORS]
    result.errors += [f"{record.place}: {record.reason}" for record in outcome.invalid[:_MAX_ERRORS]]
    damaged += [record.place for record in outcome.invalid if record.reason == NOT_AS_RECORDED]


def _complete_audit(database: Database, load_id: int, result: LoadResult) -> None:
    # A new connection: the one with the lock may have been lost while the writers reconnected.
    with database.session("cannot complete the audit of the load") as connection:
        finish_load(
            connection,
            load_id,
            inserted=result.successful_inserts,
            replaced=result.replaced,
            failed=result.failed_inserts,
        )
        if result.replaced:
            delete_old_replaced_rows(connection)


def write_rows(
    database: Database,
    project: str,
    day: date,
    files: Iterable[RunFile | None],
    existing: Existing,
    load_id: int | None,
    batch_size: int = BATCH_SIZE,
) -> Generator[Outcome]:
    """Writes a stream of run files over several connections, one transaction per batch; yields each batch's outcome.

    None in the stream is a file that needs no writing.

    Raises:
        DatabaseError: Postgres cannot be reached or fails.
    """
    if load_id is not None:
        with database.session("cannot prepare the month's partition") as connection:
            connection.execute("SELECT lse_ensure_month(%s)", (day,))
    with ExitStack() as stack:
        writers = [RowWriter(database, project, day, existing, load_id) for _ in range(CONNECTIONS)]
        for writer in writers:
            stack.callback(writer.close)
        yield from stack.enter_context(closing(in_parallel(RowWriter.write, writers, batches(files, batch_size))))


def _report(result: LoadResult, total: Outcome) -> None:
    result.batches_processed = total.batches
    result.successful_inserts = total.inserted
    result.replaced = total.replaced
    result.left += total.left
    result.changed_not_replaced = total.changed
    result.marked = total.marked
    result.failed_inserts += total.failed
    result.errors = (result.errors + total.errors)[:_MAX_ERRORS]
