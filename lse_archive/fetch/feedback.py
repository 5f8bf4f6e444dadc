"""Reads feedback completely, although no order of the pages is promised: a full answer is split, never paged."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Protocol

from lse_archive.runs.feedback import FeedbackRecord, read_record

MAX_FEEDBACK = 100
"""Records of one answer at most; an answer with as many may lack some."""
_EXPECTED = 90  # records for which one request asks: some may have been added since
_MAX_RUNS = 45  # their ids make a URL of about 2 KB
_WORKERS = 4


@dataclass(frozen=True, slots=True)
class FeedbackQuery:
    """Which feedback is asked for.

    Attributes:
        runs: Ids of runs; empty: the whole project.
        since, until: The half-open window of `created_at` in microseconds since the epoch; None: without a bound.
        key: The name of the metric; None: all.
    """

    runs: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class FeedbackAnswer:
    """The bytes of each record; `full` if there may be more."""

    records: Sequence[bytes]
    full: bool


class FeedbackSource(Protocol):
    """The feedback of one project. Safe to call from several threads."""

    def feedback(self, query: FeedbackQuery, *, stop: threading.Event | None = None) -> FeedbackAnswer:
        """One answer. Records of the microseconds beside the window may be in it, too.

        Raises:
            SourceError: LangSmith does not answer.
        """
        ...


def read_feedback(
    source: FeedbackSource, queries: Iterable[FeedbackQuery], add: Callable[[Sequence[FeedbackRecord]], None]
) -> set[FeedbackQuery]:
    """Asks each query, and splits those that are answered in full until every answer is short.

    Args:
        add: Receives the records of each answer, repeated ones too; called in the thread of the caller.

    Returns:
        The queries to which more records may exist: each has 100 records of one microsecond.

    Raises:
        SourceError: LangSmith does not answer.
    """
    waiting, unread = deque(queries), set[FeedbackQuery]()
    running: dict[Future[FeedbackAnswer], FeedbackQuery] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="lse-feedback") as pool:
        try:
            while waiting or running:
                while waiting and len(running) < _WORKERS:
                    query = waiting.popleft()
                    running[pool.submit(source.feedback, query, stop=stop)] = query
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    query, answer = running.pop(done), done.result()
                    records = [read_record(record) for record in answer.records]
                    add(records)
                    if answer.full:
                        parts = _split(query, records)
                        waiting.extendleft(reversed(parts))
                        if not parts or parts[0].key is not None:  # keys that are in no answer cannot be asked for
                            unread.add(query)
        finally:
            stop.set()
    return unread


def _split(query: FeedbackQuery, records: Sequence[FeedbackRecord]) -> list[FeedbackQuery]:
    """Queries that together ask the same; empty if there are none."""
    if len(query.runs) > 1:
        middle = len(query.runs) // 2
        return [replace(query, runs=query.runs[:middle]), replace(query, runs=query.runs[middle:])]
    if query.key is not None:
        return []
    inside = [one for one in records if one.created is not None and _is_inside(query, one.created)]
    times = sorted({one.created for one in inside if one.created is not None})
    is_moment = query.since is not None and query.until == query.since + 1
    if is_moment or not times:
        keys = sorted({one.key for one in records if one.key})
        return [replace(query, key=key.decode("utf-8", "replace")) for key in keys]
    # Each part holds a known record, and fewer than the whole: it ends.
    middle = times[len(times) // 2]
    bounds = [query.since, middle, query.until] if len(times) > 1 else [query.since, middle, middle + 1, query.until]
    pairs = itertools.pairwise(bounds)
    return [replace(query, since=since, until=until) for since, until in pairs if since is None or since != until]


def _is_inside(query: FeedbackQuery, created: int) -> bool:
    return (query.since is None or query.since <= created) and (query.until is None or created < query.until)


def pack(expected: Mapping[str, int]) -> Iterable[FeedbackQuery]:
    """Queries for runs with this number of expected records; each will probably have a short answer."""
    group, total = list[str](), 0
    for run_id, count in expected.items():
        if group and (total + count > _EXPECTED or len(group) == _MAX_RUNS):
            yield FeedbackQuery(tuple(group))
            group, total = [], 0
        group.append(run_id)
        total += count
    if group:
        yield FeedbackQuery(tuple(group))
