"""Fetches all runs of a window, several pages at a time, and proves that the end was reached.

LangSmith serves the newest runs first: all runs newer than the oldest run of a page are known. A free worker takes
the older half of the largest unfinished span, so that a busy hour is split until it is complete.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from lse_archive.days import Window, format_time
from lse_archive.errors import SourceError
from lse_archive.fetch.source import AttachmentLinks, LostCursorError, Page, RunSource

MAX_WORKERS = 8
_MAX_RESTARTS = 10
_MAX_EMPTY_PAGES = 100


@dataclass(frozen=True, slots=True)
class PageReport:
    """The comparison of a page with the runs that a sink has.

    Attributes:
        new: Runs that the sink did not have, unserved and unreadable ones included.
        newest: Start of the newest of the new runs, None if none is known.
        oldest: Start of the oldest run, None if none is known.
        ordered: Whether the page was sorted, newest first.
    """

    new: int
    newest: int | None
    oldest: int | None
    ordered: bool


class Sink(Protocol):
    """Receives the pages. Called from several threads."""

    def add(self, page: Page) -> PageReport:
        """Adds the runs of a page; records those that LangSmith does not serve, and that the runs have attachments."""
        ...

    def download(self, attachments: AttachmentLinks, stop: threading.Event) -> None:
        """Downloads the attachments of a page that was added."""
        ...

    def mark_complete(self, window: Window) -> None:
        """Records that every run of the window has been added."""
        ...


class _Span:
    """A part of the window that one worker fetches. Its lower end moves up when another worker takes the older part."""

    def __init__(self, low: int, high: int, density: float = 0.0) -> None:
        self.low = low
        self.position = high  # all runs at or after it have been added
        self.density = density  # runs per microsecond around the position
        self._high = high
        self._seen = 0

    def advance(self, position: int, runs: int) -> None:
        self._seen += runs
        # The last page detects a busy hour that begins; the average prevents too low an estimate in a short lull.
        self.density = max(runs / (self.position - position), self._seen / (self._high - position))
        self.position = position

    def remaining(self) -> float:
        """The estimated number of runs that are not fetched yet."""
        return self.density * max(0, self.position - self.low)


class _Paginator:
    def __init__(self, source: RunSource, sink: Sink, spans: Iterable[Window], ids_only: bool) -> None:
        self._source = source
        self._ids_only = ids_only
        self._sink = sink
        self._pending = [_Span(span.start, span.end) for span in spans]
        self._active: list[_Span] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._slots = threading.Condition()
        self._pages = 0  # that are in memory, or requested
        self._events: queue.SimpleQueue[Future[None] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Fetches all spans. After the first error, waits for the running requests, then raises it."""
        error: BaseException | None = None
        running = 0
        with ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="lse-fetch") as pool:
            try:
                while True:
                    while error is None and running < self._worker_limit() and (span := self._next_span()):
                        running += 1
                        pool.submit(self._run_span, span).add_done_callback(self._events.put)
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

    def _worker_limit(self) -> int:
        return min(MAX_WORKERS, max(1, self._source.parallelism()))

    def _next_span(self) -> _Span | None:
        with self._lock:
            span = self._pending.pop() if self._pending else self._split_largest()
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

    def _run_span(self, span: _Span) -> None:
        try:
            self._fetch_span(span)
        finally:
            with self._lock:
                self._active.remove(span)

    def _fetch_span(self, span: _Span) -> None:
        """Fetches the span's pages until its end is proven, or another span has failed."""
        query, cursor, chain = Window(span.low, span.position), None, _Chain()
        restarts, ordered, unreliable = 0, True, False
        while not self._stop.is_set():
            with self._page_slot():
                try:
                    page = self._source.page(
                        query, cursor, ids_only=self._ids_only, size_offset=restarts, stop=self._stop
                    )
                except LostCursorError:
                    cursor = None
                else:
                    report = self._sink.add(page)
                    ordered = ordered and report.ordered and (report.newest is None or report.newest < span.position)
                    advanced = ordered and self._advance(span, query, report)
                    self._events.put(None)  # the span's density has changed: it may be worth splitting
                    self._sink.download(page.attachments, self._stop)
                    if report.new or advanced:
                        restarts = 0
                    if ordered and span.position <= span.low:
                        return
                    if page.next_cursor is None and not page.full and not (unreliable and report.new):
                        self._sink.mark_complete(query)
                        return
                    cursor = chain.next_cursor(page, report)
                    # A full page without a cursor, or a repeated page, does not prove the end: after it, only a page
                    # without a new run does.
                    unreliable = unreliable or cursor is None
                    del page  # its runs must not be in memory while the next page is fetched
            if cursor is None:
                restarts += 1
                if restarts > _MAX_RESTARTS:
                    raise _stalled(span.position)
                query = Window(span.low, span.position) if ordered else query
                chain = _Chain()

    @contextlib.contextmanager
    def _page_slot(self) -> Generator[None]:
        """Waits until another page may be in memory: the limit falls when pages become large."""
        with self._slots:
            self._slots.wait_for(lambda: self._pages < self._worker_limit())
            self._pages += 1
        try:
            yield
        finally:
            with self._slots:
                self._pages -= 1
                self._slots.notify_all()

    def _advance(self, span: _Span, query: Window, report: PageReport) -> bool:
        """Moves the span's position to the oldest run of a page; returns whether it moved."""
        # The oldest microsecond may continue on the next page: it is complete only when an older run was served.
        reached = query.end if report.oldest is None else report.oldest + 1
        if reached >= span.position:
            return False
        self._sink.mark_complete(Window(max(reached, query.start), span.position))
        with self._lock:
            span.advance(reached, report.new)
        return True


class _Chain:
    """The pages of one query, each reached by the cursor of the page before."""

    def __init__(self) -> None:
        self._seen: set[object] = set()  # cursors and pages
        self._empty_pages = 0

    def next_cursor(self, page: Page, report: PageReport) -> str | None:
        """The cursor to follow; None if there is none, or if LangSmith repeats itself."""
        marks: set[object] = {page.next_cursor}
        if page.runs:
            marks.add((report.oldest, len(page.runs), hash(page.runs[-1])))
        self._empty_pages = 0 if page.runs else self._empty_pages + 1
        repeated = bool(marks & self._seen) or self._empty_pages > _MAX_EMPTY_PAGES
        self._seen |= marks
        return None if repeated else page.next_cursor


def _stalled(position: int) -> SourceError:
    return SourceError(
        f"LangSmith does not get past {format_time(max(0, position - 1))}",
        why="it repeatedly serves the same runs, or rejects its own cursors",
        hint="Nothing was published; the fetched runs are kept, and the next fetch continues from there",
    )


def paginate(source: RunSource, sink: Sink, spans: Iterable[Window], *, ids_only: bool = False) -> None:
    """Adds every run of the spans to the sink.

    Args:
        ids_only: Request only ids and start times.

    Raises:
        SourceError: Not every run could be fetched. The windows that were marked complete until then are complete.
    """
    _Paginator(source, sink, spans, ids_only).run()
