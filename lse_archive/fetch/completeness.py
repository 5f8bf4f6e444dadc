"""Compares a fetched day with LangSmith's own count, and fetches the runs that are missing."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from lse_archive.days import Window, day_window, today
from lse_archive.errors import SourceError
from lse_archive.fetch.paginate import PageReport, paginate
from lse_archive.fetch.source import AttachmentLinks, Page, RunSource, WindowCount
from lse_archive.fetch.staging import Staging
from lse_archive.runs.header import read_header
from lse_archive.runs.scanner import NotARunError

_IDS_PER_REQUEST = 100

Verdict = Literal["equal", "fewer", "more", "unproven", "not_asked"]


@dataclass(frozen=True, slots=True)
class CountCheck:
    """The result of the comparison with LangSmith's count.

    Attributes:
        verdict: See `FetchResult.count_check`.
        counted: What LangSmith counted; None if it was not requested.
        roots: LangSmith's count of the root runs; requested only if the counts of all runs differ.
    """

    verdict: Verdict
    counted: WindowCount | None = None
    roots: int | None = None

    @property
    def count(self) -> int | None:
        """LangSmith's count of the day's runs; None if it was not requested."""
        return self.counted.runs if self.counted else None


def check_completeness(
    source: RunSource,
    staging: Staging,
    day: date,
    *,
    ask_count: bool,
    retention_days: int | None,
    tombstones: int = 0,
) -> CountCheck:
    """Compares the fetched runs with LangSmith's count; if some are missing, fetches them and compares again.

    The counts alone decide: whether a run is missing or unreadable is not asked here. Except with tombstones: LangSmith
    may have deleted any of those runs, so that a count may be right by chance. Then all ids are listed, those without a
    tombstone must be here, and the count proves the day only if it is that of the listed ids.

    Args:
        tombstones: Number of the day's runs that were erased on purpose.
        ask_count: Compare with LangSmith's count. False: the day is not checked.
        retention_days: Days for which LangSmith keeps the project's runs; None if without limit.

    Raises:
        SourceError: LangSmith did not answer.
    """
    # LangSmith deletes the first runs of the day when that many days have passed since its beginning.
    past_retention = retention_days is not None and today() >= day + timedelta(days=retention_days)
    if not ask_count:
        return CountCheck("unproven" if past_retention else "not_asked")
    window = day_window(day)
    counted = source.count(window)
    if staging.served_runs() < counted.runs or tombstones:
        _repair(source, staging, window)
        if staging.served_runs() > counted.runs:  # more runs have arrived since the count
            counted = source.count(window)
    served = staging.served_runs()
    if served == counted.runs:
        return CountCheck("unproven" if past_retention else "equal", counted)
    least = served - staging.forgotten_runs()
    if tombstones and least <= counted.runs <= least + tombstones:
        return CountCheck("unproven", counted)
    roots = None
    with contextlib.suppress(SourceError):  # the verdict does not depend on it
        roots = source.count(window, roots_only=True).runs
    if served < counted.runs:
        return CountCheck("fewer", counted, roots)
    return CountCheck("unproven" if past_retention else "more", counted, roots)


def _repair(source: RunSource, staging: Staging, window: Window) -> None:
    """Lists the ids of all runs, and fetches those that were not served."""
    missing = _MissingIds(staging, window)
    paginate(source, missing, [window], ids_only=True)
    listed = sorted(missing.starts.items())
    for begin in range(0, len(listed), _IDS_PER_REQUEST):
        staging.add(source.runs_by_id(dict(listed[begin : begin + _IDS_PER_REQUEST]), window))


class _MissingIds:
    """A sink that collects the listed runs which are not yet served in staging.

    Attributes:
        starts: Their start times by id.
    """

    def __init__(self, staging: Staging, window: Window) -> None:
        self._staging = staging
        self._window = window
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self.starts: dict[str, int] = {}

    def add(self, page: Page) -> PageReport:
        headers = []
        for run in page.runs:
            with contextlib.suppress(NotARunError):  # without an id it cannot be requested; the count shows it
                headers.append(read_header(run))
        starts = [header.start for header in headers]
        with self._lock:
            new = {
                header.run_id: header.start
                for header in headers
                if header.start in self._window and header.run_id not in self._seen
            }
            self._seen.update(new)
            self.starts |= {run_id: new[run_id] for run_id in self._staging.unknown(list(new))}
        ordered = starts == sorted(starts, reverse=True)
        return PageReport(len(new), max(new.values(), default=None), min(starts, default=None), ordered)

    def download(self, attachments: AttachmentLinks, stop: threading.Event) -> None:
        """Does nothing: a listing has no links."""

    def mark_complete(self, window: Window) -> None:
        """Does nothing: a listing is not resumed."""
