"""Fetches a day from LangSmith, proves that it is complete, and publishes the union with what is there."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from lse_archive.days import Window, day_window, today
from lse_archive.errors import ArchiveError, CorruptArchiveError, SourceError
from lse_archive.fetch.paginate import PageReport, paginate
from lse_archive.fetch.source import ApiVersionChangedError, RunSource
from lse_archive.fetch.staging import Staging
from lse_archive.fetch.union import unite
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import Summary, Tally, content_hash, read_summary, write_manifest
from lse_archive.folder.pruned import require_restored
from lse_archive.folder.state import now_text, publish_day, read_state, update_state
from lse_archive.layout import DayPaths
from lse_archive.results import FetchResult
from lse_archive.runs.header import read_header
from lse_archive.runs.scanner import NotARunError

_IDS_PER_REQUEST = 100

Verdict = Literal["equal", "fewer", "more", "unproven", "not_asked"]


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How a day is fetched.

    Attributes:
        ask_count: Compare with LangSmith's own count.
        allow_shrink: Publish what LangSmith serves now, without what it no longer serves.
        retention_days: How long LangSmith keeps the project's runs; None if for ever.
    """

    ask_count: bool = True
    allow_shrink: bool = False
    retention_days: int | None = 14


def fetch_day(
    paths: DayPaths,
    source: RunSource,
    options: FetchOptions | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> FetchResult:
    """Brings every run of the day into the day's folder, or nothing.

    An existing folder is looked at again: what changed is replaced, what LangSmith no longer serves is kept. If the
    fetch fails, its finished pages stay in staging, and the next one goes on from there.

    Args:
        progress: Told how many runs each page added.
        on_wait: Told who holds the day's lock, if somebody does.

    Raises:
        SourceError: LangSmith could not be read to the end.
        ArchiveConflictError: A kept file and a fetched one want the same name.
        PrunedDayError: The day's files were given up to save space, and must be restored first.
        DayLockedError: Another process writes the day.
    """
    options = options or FetchOptions()
    began = time.monotonic()
    window = day_window(paths.day)
    with _disk_errors(paths), day_lock(paths, on_wait=on_wait):
        require_restored(paths)
        with contextlib.closing(Staging(paths, progress)) as staging:
            try:
                _walk_gaps(source, staging)
            except ApiVersionChangedError:
                _walk_gaps(source, staging)
            proof = _prove(source, staging, window, paths.day, options)
            result = _publish_union(paths, source, staging, options, proof)
    result.requests = source.requests
    result.throttled = source.throttled
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def _walk_gaps(source: RunSource, staging: Staging) -> None:
    staging.resume(api_version=source.api_version, project_id=source.project_id)
    paginate(source, staging, staging.gaps())


# ---- proof ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Proof:
    verdict: Verdict
    count: int | None = None
    roots: int | None = None


def _prove(source: RunSource, staging: Staging, window: Window, day: date, options: FetchOptions) -> _Proof:
    # The first runs of the day go when that many days have passed since its beginning.
    past_retention = options.retention_days is not None and today() >= day + timedelta(days=options.retention_days)
    if not options.ask_count:
        return _Proof("unproven" if past_retention else "not_asked")
    count = source.count(window)
    if staging.served_runs() < count:
        _repair(source, staging, window)
        if staging.served_runs() > count:  # more have arrived since
            count = source.count(window)
    served = staging.served_runs()
    if served == count:
        return _Proof("unproven" if past_retention else "equal", count)
    roots = None
    with contextlib.suppress(SourceError):  # it only tells more about what is known already
        roots = source.count(window, roots_only=True)
    return _Proof("fewer" if served < count else "unproven" if past_retention else "more", count, roots)


class _Missing:
    """The sink of a listing: collects the ids that have not been served yet."""

    def __init__(self, staging: Staging, window: Window) -> None:
        self._staging = staging
        self._window = window
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self.ids: set[str] = set()

    def add(self, runs: list[bytes]) -> PageReport:
        try:
            listed = [read_header(run) for run in runs]
        except NotARunError as error:
            raise SourceError("LangSmith listed a run that cannot be filed", why=str(error)) from error
        starts = [header.start for header in listed]
        with self._lock:
            new = {header.run_id: header.start for header in listed if header.start in self._window}
            new = {run_id: start for run_id, start in new.items() if run_id not in self._seen}
            self._seen.update(new)
            self.ids.update(self._staging.unknown(list(new)))
        ordered = starts == sorted(starts, reverse=True)
        return PageReport(len(new), max(new.values(), default=None), min(starts, default=None), ordered)

    def mark_complete(self, window: Window) -> None:
        """A listing keeps no journal."""


def _repair(source: RunSource, staging: Staging, window: Window) -> None:
    missing = _Missing(staging, window)
    paginate(source, missing, [window], ids_only=True)
    ids = sorted(missing.ids)
    for begin in range(0, len(ids), _IDS_PER_REQUEST):
        staging.add(source.runs_by_id(ids[begin : begin + _IDS_PER_REQUEST], window))


# ---- the union ------------------------------------------------------------------------------------------------------


def _publish_union(
    paths: DayPaths, source: RunSource, staging: Staging, options: FetchOptions, proof: _Proof
) -> FetchResult:
    existed = paths.folder.is_dir()
    with staging.transaction():
        changed, unchanged = unite(paths, staging, allow_shrink=options.allow_shrink) if existed else (0, 0)
    kept = staging.kept_ids()
    tally = Tally(paths.day)
    for header, size in staging.headers():
        tally.add(header, size)
    content = content_hash(staging.sums())
    summary = _readable_summary(paths)
    same = summary is not None and summary.content_sha256 == content and is_as_recorded(paths)
    if not same:
        summary = tally.summary(
            paths.project,
            content,
            staging.others(),
            langsmith_project_id=source.project_id,
            langsmith_count=proof.count,
            api=source.api_version,
            changed_at=now_text(),
        )
        write_manifest(staging.runs_folder, summary, staging.sums())
        publish_day(paths, staging.runs_folder)
    proven = read_state(paths).proven_content
    verdict = proof.verdict
    if verdict == "equal":
        proven = content
    elif verdict == "unproven" and proven == content:
        verdict = "equal"  # it was proven when LangSmith still had the day, and has not changed since
    served = staging.served_runs()
    staging.discard()
    update_state(
        paths,
        last_fetched_at=now_text(),
        served_runs=served,
        langsmith_count=proof.count,
        count_check=verdict,
        proven_content=proven,
        no_longer_served=kept,
    )
    return FetchResult(
        project=paths.project,
        date=str(paths.day),
        outcome="unchanged" if same else "updated" if existed else "created",
        runs=tally.runs,
        traces=tally.traces,
        bytes=tally.bytes,
        pending=tally.pending,
        added=tally.runs - len(kept) - changed - unchanged,
        changed=changed,
        unchanged=unchanged,
        no_longer_served=len(kept),
        misfiled=sorted(staging.misplaced),
        langsmith_count=proof.count,
        root_runs=tally.root_runs,
        langsmith_root_count=proof.roots,
        count_check=verdict,
        api=source.api_version,
    )


def _readable_summary(paths: DayPaths) -> Summary | None:
    try:
        return read_summary(paths.folder)
    except CorruptArchiveError:
        return None  # it is made anew


@contextlib.contextmanager
def _disk_errors(paths: DayPaths) -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.DatabaseError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ArchiveError(
            f"{paths.project} {paths.day} cannot be written under {paths.data_dir}",
            why=why or str(error),
            hint="Free space or mend the rights; nothing was published in part, and the next fetch goes on from here",
        ) from error
