"""Loads the run files of a day into the table `runs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from queue import SimpleQueue

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import SUMS, read_sums
from lse_archive.folder.reader import NOT_AS_RECORDED, DayReader, InvalidFile, RunFile
from lse_archive.results import LoadResult
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.batches import BATCH_SIZE, CONNECTIONS, batches
from lse_resources.postgres.load.rollback import forget_replaced
from lse_resources.postgres.load.writer import Existing, Outcome, RowWriter
from lse_resources.postgres.loads_table import Kind, begin_load, finish_load
from lse_resources.postgres.locks import day_advisory_lock
from lse_resources.postgres.parallel import in_parallel

_MAX_ERRORS = 100

TELL_EVERY = 500
"""Files after which progress is told, whatever is done with them."""

_KNOWN = """
SELECT file_sha256, uuid_send(run_id) FROM runs WHERE project = %s AND run_date = %s AND file_sha256 IS NOT NULL
"""

Progress = Callable[[int, int], None]
"""Is told how many files are done, and how many there are."""


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
) -> LoadResult:
    """Makes rows of the run files that have none. Another load or verification of the day is waited for.

    Args:
        project: The project's LangSmith name.
        folder: The day's run files; they are the truth.
        batch_size: Runs in one transaction.
        overwrite: Replace the rows whose file has changed since, too.
        dry_run: Only count what would be done.

    Raises:
        UsageError: There is no such folder.
        CorruptArchiveError: Files are not as the day's checksums say: these are not loaded, all others are.
        DatabaseError: Postgres cannot be reached or cannot go on. What it says is loaded stays loaded.
    """
    started = time.monotonic()
    reader = DayReader(folder, day, read_sums(folder))
    damaged: list[str] = []
    result = LoadResult(project=project, date=str(day), dry_run=dry_run, total_files=len(reader.names))
    kind: Kind = "overwrite" if overwrite else "load"
    with (
        database.session(f"cannot load {project} {day} into Postgres") as connection,
        day_advisory_lock(connection, project, day),
    ):
        # As bytes: for 200,000 runs they take 40 MB, as objects twice that.
        known = dict(connection.cursor(binary=True).execute(_KNOWN, (project, day)))
        load_id = result.load_id = None if dry_run else begin_load(connection, kind, project, day)
        existing: Existing = "replace" if overwrite else "keep"
        files = _to_load(reader, known, result, damaged, progress)
        done = Outcome()
        for outcome in write_rows(database, project, day, files, existing, load_id, batch_size):
            done += outcome
            if progress:
                progress(result.total_runs + len(result.errors), result.total_files)
        _report(result, done)
        if load_id is not None:
            _complete_audit(database, load_id, result)
    if progress and result.total_files:
        progress(result.total_files, result.total_files)
    if damaged:
        raise CorruptArchiveError(
            f"{len(damaged)} of {len(reader.names)} run files of {project} {day} are not loaded",
            why=f"{damaged[0]} is not as {SUMS} has it" + (", and so are others" if len(damaged) > 1 else ""),
            hint="Restore the day (lse archive restore) or fetch it again, then load it again",
        )
    result.duration_seconds = time.monotonic() - started
    return result


def _to_load(
    reader: DayReader,
    known: dict[bytes, bytes],
    result: LoadResult,
    damaged: list[str],
    progress: Progress | None,
) -> Iterator[RunFile | None]:
    """The files that have no row of the same content; the others are counted, None stands for them."""
    for number, file in enumerate(reader.files(known), 1):
        if isinstance(file, InvalidFile):
            result.failed_inserts += 1
            result.errors.append(f"{file.name}: {file.reason}")
            if file.reason == NOT_AS_RECORDED:
                damaged.append(file.name)
            continue
        result.total_runs += 1
        if isinstance(file, RunFile):
            yield file
        else:
            result.left += 1
            yield None
        if progress and number % TELL_EVERY == 0:
            progress(number, result.total_files)


def _complete_audit(database: Database, load_id: int, result: LoadResult) -> None:
    # Not on the locked connection: that one may have been lost on the way, which the writers survive.
    with database.session("cannot complete the audit of the load") as connection:
        finish_load(
            connection,
            load_id,
            inserted=result.successful_inserts,
            replaced=result.replaced,
            failed=result.failed_inserts,
        )
        if result.replaced:
            forget_replaced(connection)


def write_rows(
    database: Database,
    project: str,
    day: date,
    files: Iterable[RunFile | None],
    existing: Existing,
    load_id: int | None,
    batch_size: int = BATCH_SIZE,
) -> Generator[Outcome]:
    """Writes a stream of run files, a transaction per batch, over a few connections; yields what became of each batch.

    None in the stream stands for a file that needs no writing.

    Raises:
        DatabaseError: Postgres cannot go on.
    """
    if load_id is not None:
        with database.session("cannot prepare the month's partition") as connection:
            connection.execute("SELECT lse_ensure_month(%s)", (day,))
    with _writers(database, project, day, existing, load_id) as idle:

        def write(batch: list[RunFile]) -> Outcome:
            writer = idle.get()
            try:
                return writer.write(batch)
            finally:
                idle.put(writer)

        with closing(in_parallel(write, batches(files, batch_size), CONNECTIONS)) as outcomes:
            yield from outcomes


@contextmanager
def _writers(
    database: Database, project: str, day: date, existing: Existing, load_id: int | None
) -> Generator[SimpleQueue[RowWriter]]:
    writers = [RowWriter(database, project, day, existing, load_id) for _ in range(CONNECTIONS)]
    idle: SimpleQueue[RowWriter] = SimpleQueue()
    for writer in writers:
        idle.put(writer)
    try:
        yield idle
    finally:
        for writer in writers:
            writer.close()


def _report(result: LoadResult, done: Outcome) -> None:
    result.batches_processed = done.batches
    result.successful_inserts = done.inserted
    result.replaced = done.replaced
    result.left += done.left
    result.changed_not_replaced = done.changed
    result.marked = done.marked
    result.failed_inserts += done.failed
    result.errors = (result.errors + done.errors)[:_MAX_ERRORS]
