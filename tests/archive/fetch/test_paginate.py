"""Pagination: every run of the window is returned, whatever faults the pages have."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_archive.days import Window
from lse_archive.errors import SourceError
from lse_archive.fetch.feedback import FeedbackAnswer, FeedbackQuery
from lse_archive.fetch.paginate import PageReport, paginate
from lse_archive.fetch.source import (
    AttachmentLink,
    AttachmentLinks,
    DownloadTarget,
    LostCursorError,
    Page,
    UnservedRun,
    WindowCount,
)

Run = tuple[int, int]  # start and number


class Source:
    """Serves runs newest first in pages; `change` may change an answer or raise."""

    api_version, project_id, requests, throttled = "v2", "", 0, 0

    def __init__(
        self, runs: list[Run], page_size: int, change: Callable[[Page, str | None], Page] | None = None
    ) -> None:
        self.runs = sorted(runs, reverse=True)
        self.page_size = page_size
        self.change = change or (lambda page, cursor: page)
        self.workers = 1
        self.asked: list[tuple[Window, str | None]] = []

    def page(
        self,
        window: Window,
        cursor: str | None,
        *,
        ids_only: bool = False,
        size_offset: int = 0,
        stop: threading.Event | None = None,
    ) -> Page:
        self.asked.append((window, cursor))
        begin = int(cursor) if cursor else 0
        found = [run for run in self.runs if run[0] in window]
        size = self.page_size + size_offset
        end = begin + size
        page = [b"%d %d" % run for run in found[begin:end]]
        more = str(end) if end < len(found) else None
        return self.change(Page(page, more, full=len(page) == size), cursor)

    def runs_by_id(self, starts: Mapping[str, int], window: Window, *, stop: threading.Event | None = None) -> Page:
        raise NotImplementedError

    def download(self, link: AttachmentLink, target: DownloadTarget, stop: threading.Event) -> str | None:
        raise NotImplementedError

    def count(self, window: Window, *, roots_only: bool = False) -> WindowCount:
        raise NotImplementedError

    def feedback(self, query: FeedbackQuery, *, stop: threading.Event | None = None) -> FeedbackAnswer:
        raise NotImplementedError

    def parallelism(self) -> int:
        return self.workers


class Sink:
    def __init__(self, served: list[Run] | None = None) -> None:
        self.served = served
        self.runs: set[Run] = set()
        self.covered: list[Window] = []
        self._lock = threading.Lock()

    def add(self, page: Page) -> PageReport:
        runs = page.runs
        parsed = [(int(run.split()[0]), int(run.split()[1])) for run in runs]
        parsed += [(run.start, int(run.run_id)) for run in page.unserved]
        starts = [start for start, _ in parsed]
        with self._lock:
            new = set(parsed) - self.runs
            self.runs |= new
        newest = max((start for start, _ in new), default=None)
        return PageReport(
            len(new),
            newest,
            min(starts, default=None),
            starts[: len(runs)] == sorted(starts[: len(runs)], reverse=True),
        )

    def download(self, attachments: AttachmentLinks, stop: threading.Event) -> None:
        pass

    def mark_complete(self, window: Window) -> None:
        with self._lock:
            self.covered.append(window)
        wanted = {run for run in self.served or () if run[0] in window}
        assert wanted <= self.runs, "a window was called complete that is not"


def paginated(source: Source, window: Window) -> Sink:
    sink = Sink(source.runs)
    paginate(source, sink, [window])
    assert sink.runs == {run for run in source.runs if run[0] in window}
    gaps = [moment for moment in range(window.start, window.end) if not any(moment in w for w in sink.covered)]
    assert not gaps
    return sink


RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10_000)), unique=True, max_size=120)
WINDOW = Window(0, 50)


@settings(deadline=None)
@given(RUNS, st.integers(3, 12), st.integers(1, 8))
def test_every_run_of_the_window_is_returned(runs, page_size, workers):
    source = Source(runs, page_size)
    source.workers = workers
    paginated(source, WINDOW)


@settings(deadline=None)
@given(RUNS, st.integers(3, 12))
def test_unsorted_pages_are_paginated_to_the_end(runs, page_size):
    source = Source(runs, page_size)
    random.Random(len(runs)).shuffle(source.runs)
    source.workers = 4
    sink = Sink()
    paginate(source, sink, [WINDOW])
    assert sink.runs == {run for run in runs if run[0] in WINDOW}


@settings(deadline=None)
@given(RUNS, st.integers(3, 12), st.integers(1, 8), st.integers(1, 4))
def test_pages_with_unserved_runs_are_paginated_to_the_end(runs, page_size, workers, every):
    def serve_some(page: Page, cursor: str | None) -> Page:
        parsed = [(run, *map(int, run.split())) for run in page.runs]
        served = [run for run, _, number in parsed if number % every]
        unserved = [UnservedRun(str(number), start) for _, start, number in parsed if not number % every]
        return Page(served, page.next_cursor, page.full, unserved)

    source = Source(runs, page_size, serve_some)
    source.workers = workers
    paginated(source, WINDOW)


def spread(runs: int, over: int = 50) -> list[Run]:
    return [(number * over // runs, number) for number in range(runs)]


def times(count: int, fault: Callable[[Page, str | None], Page]) -> Callable[[Page, str | None], Page]:
    left = [count]

    def change(page: Page, cursor: str | None) -> Page:
        if cursor is None or not left[0]:
            return page
        left[0] -= 1
        return fault(page, cursor)

    return change


def lose(page: Page, cursor: str | None) -> Page:
    raise LostCursorError


def forget(page: Page, cursor: str | None) -> Page:
    return Page(page.runs, None, page.full)


def repeat(page: Page, cursor: str | None) -> Page:
    return Page(page.runs, cursor, page.full)


def blank(page: Page, cursor: str | None) -> Page:
    return Page([], f"{cursor}", full=False)


@pytest.mark.parametrize("fault", [lose, forget, repeat, blank])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_no_run_is_missing_after_faults_of_cursors(fault, count):
    # Every page starts earlier than the one before, so pagination ends even if no cursor works.
    paginated(Source(spread(100), 7, times(count, fault)), WINDOW)


def test_a_full_page_without_a_cursor_is_not_the_end():
    source = Source(spread(40), 10, lambda page, cursor: Page(page.runs, None, page.full))
    paginated(source, WINDOW)


def test_many_runs_on_one_microsecond_are_paginated_by_the_cursor():
    paginated(Source([(7, number) for number in range(100)] + [(6, 1), (8, 1)], 10), WINDOW)


def test_a_lost_cursor_within_one_microsecond_restarts_it():
    paginated(Source([(7, number) for number in range(30)], 10, times(1, lose)), WINDOW)


@pytest.mark.parametrize("fault", [lose, forget, repeat])
def test_a_microsecond_that_cannot_be_completed_is_an_error(fault):
    source = Source([(7, number) for number in range(300)], 10, times(1000, fault))
    with pytest.raises(SourceError, match="does not get past"):
        paginate(source, Sink(source.runs), [WINDOW])


def test_empty_pages_with_new_cursors_are_followed_up_to_a_limit():
    asked = itertools.count(10_000)
    late = Source(spread(5), 10, lambda page, cursor: Page([], f"{next(asked)}", full=False))
    late.change = lambda page, cursor: (
        page if len(late.asked) > 20 else Page([], f"0{'0' * len(late.asked)}", full=False)
    )
    paginated(late, WINDOW)
    never = Source(spread(5), 10, lambda page, cursor: Page([], f"{next(asked)}", full=False))
    with pytest.raises(SourceError, match="does not get past"):
        paginate(never, Sink(), [WINDOW])


def test_a_busy_hour_is_shared_by_the_workers():
    # A tenth of the window has nearly all runs.
    source = Source([(40_000 + number, number) for number in range(9_000)] + spread(1000, 40_000), 100)
    source.workers = 4
    together = threading.Barrier(4)

    def meet(page: Page, cursor: str | None) -> Page:
        # The test ends only if four pages are requested at the same time.
        if len(source.asked) > 4 and not together.broken and not met:
            together.wait(timeout=30)
            met.append(True)
        return page

    met: list[bool] = []
    source.change = meet
    paginate(source, sink := Sink(), [Window(0, 100_000)])
    assert len(sink.runs) == 10_000
    assert met
    assert len(source.asked) <= 100 + 30


def test_one_worker_requests_only_full_pages():
    source = Source(spread(995), 100)
    paginated(source, WINDOW)
    assert len(source.asked) == 10


def test_the_first_error_ends_pagination_and_waiting_workers():
    class Waiting(Source):
        def page(
            self,
            window: Window,
            cursor: str | None,
            *,
            ids_only: bool = False,
            size_offset: int = 0,
            stop: threading.Event | None = None,
        ) -> Page:
            if len(self.asked) < 3:
                return super().page(window, cursor)
            self.asked.append((window, cursor))
            assert stop is not None
            if len(self.asked) == 5:
                raise SourceError("the cause")
            stop.wait()
            raise SourceError("stopped")

    source = Waiting(spread(1000), 10)
    source.workers = 2
    with pytest.raises(SourceError, match="the cause"):
        paginate(source, Sink(), [WINDOW])


def test_only_the_gaps_are_paginated():
    source = Source(spread(50), 10)
    sink = Sink()
    paginate(source, sink, [Window(3, 5), Window(20, 30)])
    assert sink.runs == {run for run in source.runs if run[0] in (3, 4, *range(20, 30))}
    paginate(source, sink, [])
    assert all(window.start >= 3 for window, _ in source.asked)
