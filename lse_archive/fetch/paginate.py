"""Walks all runs of a window, several pages at once, and proves that the end was reached.

LangSmith answers newest first, so each page also tells how far back everything is known. A free worker takes over the
older half of the largest span that is still being walked: a busy hour is split again and again until nothing is left.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from lse_archive.days import Window, format_time
from lse_archive.errors import SourceError
from lse_archive.fetch.source import LostCursorError, Page, RunSource

MAX_WORKERS = 8
_MAX_STALLS = 10
_MAX_EMPTY_PAGES = 100


@dataclass(frozen=True, slots=True)
class PageReport:
    """What a sink saw in a page.

    Attributes:
        new: Runs that were not known before.
        newest: Start of the newest of those, None if there is none.
        oldest: Start of the oldest run, None for an empty page.
        ordered: Whether the page was sorted, newest first.
    """

    new: int
    newest: int | None
    oldest: int | None
    ordered: bool


class Sink(Protocol):
    """Where the pages go. Called from several threads."""

    def add(self, runs: list[bytes]) -> PageReport:
        """Takes a page."""
        ...

    def mark_complete(self, window: Window) -> None:
        """Learns that every run of the window has been added."""
        ...


class _Span:
    """A part of the window that one worker walks; its lower end moves up when another worker takes the rest."""

    def __init__(self, low: int, high: int, density: float = 0.0) -> None:
        self.low = low
        self.position = high  # everything at or after it has been seen
        self.density = density  # runs per microsecond around the position
        self._high = high
        self._seen = 0

    def advance(self, position: int, runs: int) -> None:
        self._seen += runs
        # The last page alone tells of a busy hour that begins, the average of a lull that will end.
        self.density = max(runs / (self.position - position), self._seen / (self._high - position))
        self.position = position

    def remaining(self) -> float:
        """An estimate of the runs that are still to come."""
        return self.density * max(0, self.position - self.low)


class _Walker:
    def __init__(self, source: RunSource, sink: Sink, spans: Iterable[Window], ids_only: bool) -> None:
        self._source = source
        self._ids_only = ids_only
        self._sink = sink
        self._waiting = [_Span(span.start, span.end) for span in spans]
        self._active: list[_Span] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._events: queue.SimpleQueue[Future[None] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Walks everything; the first error ends it, when the answers under way have been taken."""
        error: BaseException | None = None
        running = 0
        with ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="lse-fetch") as pool:
            try:
                while True:
                    while error is None and running < self._wanted() and (span := self._next_span()):
                        running += 1
                        pool.submit(self._walk, span).add_done_callback(self._events.put)
                    if not running:
                        break
                    if done := self._events.get():
                        running -= 1
                        error = error or done.exception()
                        if error:
                            self._stop.set()
            finally:
                self._stop.set()
        if error:
            raise error

    def _wanted(self) -> int:
        return min(MAX_WORKERS, max(1, self._source.parallelism()))

    def _next_span(self) -> _Span | None:
        with self._lock:
            span = self._waiting.pop() if self._waiting else self._split_largest()
            if span:
                self._active.append(span)
            return span

    def _split_largest(self) -> _Span | None:
        largest = max(self._active, key=_Span.remaining, default=None)
        if largest is None or largest.remaining() < 2 * self._source.page_size or largest.position - largest.low < 2:
            return None
        middle = largest.low + (largest.position - largest.low) // 2
        older = _Span(largest.low, middle, largest.density)
        largest.low = middle
        return older

    def _walk(self, span: _Span) -> None:
        try:
            query, cursor = Window(span.low, span.position), None
            chain: set[object] = set()  # cursors and pages since the query was last asked anew
            stalls, empty, ordered, distrust = 0, 0, True, False
            while not self._stop.is_set():
                try:
                    page = self._source.page(
                        query, cursor, ids_only=self._ids_only, size_offset=stalls, stop=self._stop
                    )
                except LostCursorError:
                    cursor = None
                else:
                    before = span.position
                    report = self._take(page, query, span, ordered)
                    ordered = ordered and self._in_order(report, before)
                    if report.new or span.position < before:
                        stalls = 0
                    if ordered and span.position <= span.low:
                        break
                    if page.next_cursor is None and not page.full and not (distrust and report.new):
                        self._sink.mark_complete(query)
                        break
                    cursor = page.next_cursor
                    marks = {cursor, (report.oldest, len(page.runs), hash(page.runs[-1]))} if page.runs else {cursor}
                    empty = 0 if page.runs else empty + 1
                    if marks & chain or empty > _MAX_EMPTY_PAGES:
                        cursor = None
                    chain |= marks
                    # A full page without a cursor, or a page that repeats, does not prove the end: from then on
                    # only an answer without a new run does.
                    distrust = distrust or cursor is None
                if cursor is None:
                    stalls += 1
                    if stalls > _MAX_STALLS:
                        raise _stalled(span.position)
                    query = Window(span.low, span.position) if ordered else query
                    chain.clear()
                    empty = 0
        finally:
            with self._lock:
                self._active.remove(span)

    def _take(self, page: Page, query: Window, span: _Span, ordered: bool) -> PageReport:
        report = self._sink.add(page.runs)
        # The oldest microsecond may go on in the next page: it counts as seen only when something older came.
        reached = query.end if report.oldest is None else report.oldest + 1
        if ordered and self._in_order(report, span.position) and reached < span.position:
            self._sink.mark_complete(Window(max(reached, query.start), span.position))
            with self._lock:
                span.advance(reached, report.new)
        self._events.put(None)
        return report

    @staticmethod
    def _in_order(report: PageReport, position: int) -> bool:
        return report.ordered and (report.newest is None or report.newest < position)


def _stalled(position: int) -> SourceError:
    return SourceError(
        f"LangSmith does not get past {format_time(max(0, position - 1))}",
        why="it repeats the same runs, or forgets its cursors, again and again",
        hint="Nothing was published; what was fetched is kept, and the next fetch goes on from there",
    )


def paginate(source: RunSource, sink: Sink, spans: Iterable[Window], *, ids_only: bool = False) -> None:
    """Brings every run of the spans to the sink.

    Args:
        ids_only: Ask for nothing but ids and start times.

    Raises:
        SourceError: Not every run could be had. What the sink has covered until then is complete.
    """
    _Walker(source, sink, spans, ids_only).run()
