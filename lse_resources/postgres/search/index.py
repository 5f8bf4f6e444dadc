"""Adds the runs of a day to the search index."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import date
from functools import lru_cache, partial
from uuid import UUID

import psycopg

from lse_archive.results import IndexResult
from lse_archive.runs.words import index_words, run_texts
from lse_resources.postgres.advisory_locks import OnWait, day_advisory_lock
from lse_resources.postgres.analysis.json_values import load_json
from lse_resources.postgres.database import Database, explained
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.load.batches import BATCH_SIZE, CONNECTIONS
from lse_resources.postgres.load.connection import RetryingConnection
from lse_resources.postgres.load.day import Progress
from lse_resources.postgres.parallel import in_parallel
from lse_resources.postgres.search.keys import day_key, word_key

_NOT_INDEXED = """
NOT EXISTS (SELECT FROM run_search WHERE run_search.run_id = runs.run_id AND run_search.run_date = runs.run_date)
"""
_SELECT_MISSING = f"""
SELECT run_id, coalesce(pg_column_size(data), 0) FROM runs
WHERE project = %s AND run_date = %s AND {_NOT_INDEXED} ORDER BY start_time, run_id
"""
# A run whose start is unknown is at the beginning of its day.
_SELECT_TEXTS = f"""
SELECT run_id, coalesce(start_time, run_date::timestamp AT TIME ZONE 'UTC'),
       name, data ->> 'error', (data -> 'inputs')::text, (data -> 'outputs')::text
FROM runs WHERE run_id = ANY(%s) AND project = %s AND run_date = %s AND {_NOT_INDEXED}
"""
_COPY = "COPY run_search (run_id, run_date, project, start_time, keys, is_cut) FROM STDIN"
_COUNT = "SELECT count(*), count(*) FILTER (WHERE is_cut) FROM run_search WHERE project = %s AND run_date = %s"
# As stored, compressed; a larger run is a batch by itself.
_BATCH_BYTES = 2_000_000


def index_day(
    database: Database, project: str, day: date, *, progress: Progress | None = None, on_wait: OnWait | None = None
) -> IndexResult:
    """Adds the rows of a day that the index lacks, and records in the table `days` that it has all of them.

    A row that is replaced or deleted leaves the index at once, by a trigger. Waits while another process loads or
    verifies the day.

    Args:
        on_wait: Called once with the holder, if another session loads or verifies the day.

    Raises:
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        DatabaseError: Postgres cannot be reached or fails. Committed batches stay in the index.
    """
    started = time.monotonic()
    indexed = 0
    with (
        database.session(f"cannot index {project} {day}") as connection,
        day_advisory_lock(connection, project, day, on_wait=on_wait),
    ):
        connection.execute("SELECT lse_ensure_month(%s)", (day,))
        missing = connection.execute(_SELECT_MISSING, (project, day)).fetchall()
        for count in _index(database, project, day, missing):
            indexed += count
            if progress:
                progress(indexed, len(missing))
        [(runs, cut)] = connection.execute(_COUNT, (project, day)).fetchall()
        [(now,)] = connection.execute("SELECT clock_timestamp()").fetchall()
        update_day(database, project, day, {"indexed_at": now})
    seconds = time.monotonic() - started
    return IndexResult(project=project, date=str(day), runs=runs, indexed=indexed, cut=cut, duration_seconds=seconds)


def _index(database: Database, project: str, day: date, missing: Sequence[tuple[UUID, int]]) -> Iterator[int]:
    with ExitStack() as stack:
        writers = [_Writer(database, project, day) for _ in range(CONNECTIONS)]
        for writer in writers:
            stack.callback(writer.close)
        yield from stack.enter_context(closing(in_parallel(_Writer.write, writers, _batches(missing))))


def _batches(missing: Sequence[tuple[UUID, int]]) -> Iterator[list[UUID]]:
    batch: list[UUID] = []
    size = 0
    for run_id, stored in missing:
        if batch and (len(batch) == BATCH_SIZE or size + stored > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(run_id)
        size += stored
    if batch:
        yield batch


class _Writer:
    """Indexes batches of a day's runs over one connection, opened on first use and again after it is lost."""

    def __init__(self, database: Database, project: str, day: date) -> None:
        self._connection = RetryingConnection(database)
        self._key = (project, day)
        self._day_keys = {day_key(day), day_key(day, project)}
        self.close = self._connection.close

    def write(self, run_ids: Sequence[UUID]) -> int:
        """Adds runs, in one transaction; returns their number.

        Raises:
            DatabaseError: The server stays unreachable, or refuses.
        """
        with explained("cannot index {} {}".format(*self._key)):
            return self._connection.repeat(partial(self._transact, run_ids))

    def _transact(self, run_ids: Sequence[UUID], connection: psycopg.Connection) -> int:
        with connection.transaction():
            rows = connection.execute(_SELECT_TEXTS, (list(run_ids), *self._key)).fetchall()
            with connection.cursor().copy(_COPY) as copy:
                for run_id, start, name, error, inputs, outputs in rows:
                    texts, is_cut = run_texts(name, error, load_text(inputs), load_text(outputs))
                    keys = self._day_keys.union(map(_word_key, index_words(text for _, text in texts)))
                    array = f"{{{','.join(map(str, keys))}}}"
                    copy.write_row((run_id, self._key[1], self._key[0], start, array, is_cut))
        return len(run_ids)


_word_key = lru_cache(1 << 18)(word_key)


def load_text(text: str | None) -> object:
    return None if text is None else load_json(text)
