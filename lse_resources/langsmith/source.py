"""The runs of one LangSmith project, in the API version that the deployment has."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import httpx

from lse_archive.days import Window, day_of, day_window, format_time, to_micros
from lse_archive.errors import SourceError
from lse_archive.fetch.feedback import MAX_FEEDBACK, FeedbackAnswer, FeedbackQuery
from lse_archive.fetch.source import (
    ApiVersionChangedError,
    AttachmentLink,
    DownloadTarget,
    LostCursorError,
    Page,
    UnservedRun,
    WindowCount,
)
from lse_archive.runs.feedback import KeyStats, read_stats
from lse_archive.runs.header import RunHeader, read_header
from lse_archive.runs.pages import cut_list, cut_page
from lse_archive.runs.scanner import NotARunError, cut_member
from lse_resources.langsmith.http import (
    LangSmithHttp,
    NotServedError,
    PageTooLargeError,
    StatusError,
    UnansweredError,
)
from lse_resources.langsmith.storage import Storage, media_type_of
from lse_resources.langsmith.v1 import V1, MissingPayloadError
from lse_resources.langsmith.v2 import V2, filter_of

_log = logging.getLogger(__name__)

# Statuses of a request with a cursor that show that the cursor is lost.
_LOST_CURSOR = frozenset({400, 404, 410, 422})
_MAX_IDS = 100
_DOWNLOADS = 8
# Bytes of a page of several runs, and of all pages in memory. 1,000 runs of 6 KB are 6 MB.
_PAGE_BYTES = 16 << 20
_MEMORY_BYTES = 64 << 20
_NO_LIMIT = math.inf
# Once a page had to be fetched by ids, LangSmith has served others: a failing request is sent only this often.
_ATTEMPTS = 4
_SAMPLES = 10
_NOT_SERVED = (UnansweredError, StatusError)


@dataclass(frozen=True, slots=True)
class Project:
    """A tracing project, or an experiment.

    Attributes:
        id: UUID.
        name: As LangSmith shows it.
        url: Its page in LangSmith, if known.
        tenant_id: Of its workspace, if known.
        dataset_id: Of the dataset that an experiment belongs to; None for a tracing project.
        trace_tier: `shortlived` or `longlived`; None if LangSmith did not say.
        longlived_days: The project's own setting for long-lived traces, if it has one.
    """

    id: str
    name: str
    url: str | None = None
    tenant_id: str | None = None
    dataset_id: str | None = None
    trace_tier: str | None = None
    longlived_days: int | None = None


class ProjectSource:
    """The runs of one project: the `RunSource` of a fetch.

    Args:
        http: Stays open when the source is closed.
        api_version: The first to try; if the deployment does not have it, the other one is used.
    """

    def __init__(self, http: LangSmithHttp, project: Project, api_version: str) -> None:
        self._http = http
        self.project = project
        v2 = V2(http.settings, project.id)
        self._storage = Storage(http.settings)
        v1 = V1(http.settings, project.id, self._storage.read)
        self._versions: list[V1 | V2] = [v1, v2] if api_version == "v1" else [v2, v1]
        self._download_pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="lse-payload")
        self._is_proven = False
        self._page_size = self._versions[0].max_page
        self._proven_size = 0
        self._good_pages = 0
        self._page_bytes = 1  # of the last pages
        self._isolates = False
        self._witness: RunHeader | None = None  # a run that LangSmith has served
        self._lock = threading.Lock()

    @property
    def _version(self) -> V1 | V2:
        return self._versions[0]

    @property
    def api_version(self) -> str:
        """See `RunSource.api_version`."""
        return self._version.name

    @property
    def project_id(self) -> str:
        return self.project.id

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def requests(self) -> int:
        return self._http.requests

    @property
    def throttled(self) -> int:
        return self._http.throttled

    def close(self) -> None:
        self._download_pool.shutdown()
        self._storage.close()

    def parallelism(self) -> int:
        return min(self._http.shared.queries.parallelism(self._http.latency), _MEMORY_BYTES // self._page_bytes)

    def page(
        self,
        window: Window,
        cursor: str | None,
        *,
        ids_only: bool = False,
        size_offset: int = 0,
        stop: threading.Event | None = None,
    ) -> Page:
        """See `RunSource.page`.

        The runs of a page that LangSmith cannot serve are listed, and requested by id, so that the others are served.
        """
        attempts = _ATTEMPTS if self._isolates and not ids_only else None
        try:
            answer, size = self._request_page(
                window, cursor, ids_only=ids_only, size_offset=size_offset, attempts=attempts, stop=stop
            )
        except _NOT_SERVED:
            if ids_only:
                raise
            return self._page_by_ids(window, cursor, stop)
        if not ids_only:
            self._remember(answer.runs)
        self._grow(size, sum(map(len, answer.runs)))
        return answer

    def runs_by_id(self, starts: Mapping[str, int], window: Window, *, stop: threading.Event | None = None) -> Page:
        """See `RunSource.runs_by_id`. Ids that fail together are halved, down to the single run."""
        ids, runs, unserved = list(starts), [], []
        attachments: dict[str, Sequence[AttachmentLink]] = {}
        parts = [ids[begin : begin + _MAX_IDS] for begin in range(0, len(ids), _MAX_IDS)][::-1]
        while parts:
            part = parts.pop()
            try:
                answer = self._request_page(
                    window, None, ids=part, attempts=1 if len(part) > 1 else _ATTEMPTS, stop=stop
                )[0]
            except _NOT_SERVED as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                answer, rest = self._last_attempt(part[0], starts[part[0]], window, error, stop)
                if not answer.runs:
                    unserved.append(UnservedRun(part[0], starts[part[0]], rest))
                    _log.info("LangSmith lists the run %s and does not serve it: %s", part[0], error.why)
            else:
                if len(answer.runs) < len(part):
                    here = {header.run_id for run in answer.runs if (header := _header(run))}
                    unserved += [UnservedRun(run_id, starts[run_id]) for run_id in part if run_id not in here]
            self._remember(answer.runs)
            runs += answer.runs
            attachments |= answer.attachments
        return Page(runs, unserved=unserved, attachments=attachments)

    def download(self, link: AttachmentLink, target: DownloadTarget, stop: threading.Event) -> str | None:
        """See `RunSource.download`."""
        return self._storage.download(link, target, stop)

    def _page_by_ids(self, window: Window, cursor: str | None, stop: threading.Event | None) -> Page:
        listed = self._request_page(window, cursor, ids_only=True, size=_MAX_IDS, stop=stop)[0]
        self._isolates = True
        headers = [(run, _header(run)) for run in listed.runs]
        page = self.runs_by_id({header.run_id: header.start for _, header in headers if header}, window, stop=stop)
        unreadable = [run for run, header in headers if not header]
        return replace(listed, runs=[*page.runs, *unreadable], unserved=page.unserved, attachments=page.attachments)

    def _last_attempt(
        self, run_id: str, start: int, window: Window, error: SourceError, stop: threading.Event | None
    ) -> tuple[Page, list[bytes]]:
        """Requests a run that failed alone once more, after LangSmith has served another one.

        Returns:
            A page with the run if it is served now; else an empty one, and what is served of the run.

        Raises:
            SourceError: LangSmith serves no other run either: the fault is not the run's.
        """
        witness = self._witness or self._find_witness(run_id, start, error, stop)
        self._request_page(Window(witness.start, witness.start + 1), None, ids=[witness.run_id], stop=stop)
        rest: list[bytes] = []
        try:
            return self._request_page(window, None, ids=[run_id], attempts=1, rest=rest, stop=stop)[0], []
        except _NOT_SERVED:
            return Page([]), rest

    def _find_witness(self, run_id: str, start: int, error: SourceError, stop: threading.Event | None) -> RunHeader:
        day = day_window(day_of(start))
        listed = self._request_page(day, None, ids_only=True, size=_MAX_IDS, stop=stop)[0]
        others = [header for run in listed.runs if (header := _header(run)) and header.run_id != run_id]
        for header in others[:: max(1, len(others) // _SAMPLES)]:
            try:
                self._remember(self._request_page(day, None, ids=[header.run_id], attempts=1, stop=stop)[0].runs)
            except _NOT_SERVED:
                continue
            if self._witness:
                return self._witness
        raise SourceError(
            f"LangSmith lists the runs of '{self.project.name}' and serves none of them",
            why=f"for example {run_id}: {error.why}",
            hint="Nothing was published; fetch the day again before its retention ends",
        ) from error

    def _remember(self, runs: list[bytes]) -> None:
        """Keeps the header of a small run: it shows later that LangSmith serves runs."""
        if runs and self._witness is None:
            self._witness = _header(min(runs, key=len))

    def feedback(self, query: FeedbackQuery, *, stop: threading.Event | None = None) -> FeedbackAnswer:
        """See `FeedbackSource.feedback`. `GET /feedback` is the same in both API versions.

        A record that is not JSON is asked for again, and then kept as it came.
        """
        # Whether the bounds are part of the window is not documented: a microsecond more on both sides.
        bounds = (("min_created_at", query.since, -1), ("max_created_at", query.until, 0))
        parameters = [
            *(("run", run_id) for run_id in query.runs),
            *((("session", self.project.id),) if not query.runs else ()),
            *((("key", query.key),) if query.key is not None else ()),
            *((name, format_time(moment + margin)) for name, moment, margin in bounds if moment is not None),
            ("limit", str(MAX_FEEDBACK)),
        ]
        url = self._http.settings.v1_url("/feedback")
        can_split = len(query.runs) > 1
        too_large, damaged = False, 0
        records: list[bytes] = []

        def request() -> httpx.Response:
            nonlocal too_large
            answer = None
            with contextlib.suppress(PageTooLargeError):
                answer = self._http.get(url, parameters, _PAGE_BYTES if can_split else _NO_LIMIT)
            too_large = answer is None or (answer.status_code == 413 and can_split)
            return httpx.Response(200) if answer is None or too_large else answer

        def check(body: bytes) -> None:
            nonlocal records, damaged
            damaged += 1
            records = [] if too_large else cut_list(body, strict=damaged < _ATTEMPTS)

        what = f"cannot read the feedback of '{self.project.name}'"
        try:
            self._http.send(what, request, limiter=self._http.shared.others, check=check, stop=stop)
        except NotServedError as error:
            hint = "A deployment without feedback needs --skip-feedback"
            raise SourceError(what, why=error.why, hint=hint) from error
        return FeedbackAnswer(records, full=too_large or len(records) >= MAX_FEEDBACK)

    def count(self, window: Window, *, roots_only: bool = False) -> WindowCount:
        """See `RunSource.count`. `POST /runs/stats` is the same in both API versions.

        Without `select` it answers all statistics, those of feedback too (`Client.get_run_stats` of the SDK).
        """
        query = {
            "session": [self.project.id],
            "start_time": format_time(window.start),
            "filter": filter_of(window),
            **({"is_root": True} if roots_only else {}),
        }
        url = self._http.settings.v1_url("/runs/stats")

        asked_at = 0

        def request() -> httpx.Response:
            nonlocal asked_at
            asked_at = to_micros(datetime.now(UTC))
            return self._http.client.post(url, json=query)

        what = f"cannot count the runs of '{self.project.name}'"
        try:
            body = self._http.send(what, request, limiter=self._http.shared.counts, check=_statistics)
            return WindowCount(*_statistics(body), asked_at)
        except NotServedError as error:
            raise SourceError(what, why=error.why, hint="A deployment without /runs/stats needs --no-count") from error

    def _request_page(
        self,
        window: Window,
        cursor: str | None,
        *,
        ids: list[str] | None = None,
        ids_only: bool = False,
        size: int | None = None,
        size_offset: int = 0,
        attempts: int | None = None,
        rest: list[bytes] | None = None,
        stop: threading.Event | None = None,
    ) -> tuple[Page, int]:
        """Requests a page; returns it and the requested number of runs.

        Args:
            size: Requested number of runs. Default: that of `ids`, else the page size, which is halved after failures.
            attempts: See `LangSmithHttp.send`.
            rest: Receives what is served of a run that is not whole.
        """
        api_version = self._version
        fixed = len(ids) if ids else size and min(size, api_version.max_page)
        asked, limit, too_large = 0, _PAGE_BYTES, False
        answer = Page([])

        def request() -> httpx.Response:
            nonlocal asked, limit, too_large
            asked = fixed or min(self._page_size, api_version.max_page)
            # One run may have any size. So may the few of a page of one run and the offset, which proves an end.
            limit = _NO_LIMIT if asked == 1 or ids_only else _PAGE_BYTES
            asked = asked + size_offset if asked + size_offset <= api_version.max_page else max(1, asked - size_offset)
            body = api_version.query(window, cursor=cursor, size=asked, ids=ids, ids_only=ids_only)
            try:
                return self._http.post(api_version.url, body, limit)
            except PageTooLargeError:
                too_large = True
                raise

        def check(body: bytes) -> None:
            nonlocal answer, too_large
            runs, next_cursor = cut_page(body, strict=rest is None)
            runs, attachments = _cut_links(runs, api_version.link_member, api_version.link_prefix)
            try:
                runs = self._complete(api_version, runs, limit)
                answer = Page(runs, next_cursor, full=len(runs) >= asked, attachments=attachments)
            except PageTooLargeError:
                too_large = True
                raise
            except MissingPayloadError as error:
                if rest is not None:
                    rest[:] = error.rest
                raise

        def shrink(why: str) -> bool:
            nonlocal size_offset, too_large
            if too_large:
                too_large = False
                return self._shrink(asked - size_offset, why, again=True)
            if size_offset:
                size_offset = 0
                return True
            return self._shrink(asked, why)

        what = f"cannot list the runs of '{self.project.name}' ({api_version.name})"
        try:
            self._http.send(what, request, check=check, shrink=None if fixed else shrink, attempts=attempts, stop=stop)
        except NotServedError as error:
            if cursor is not None:
                raise LostCursorError from error
            if not self._change_version(api_version, error):
                raise
            raise ApiVersionChangedError from error
        except StatusError as error:
            if cursor is not None and error.status in _LOST_CURSOR:
                raise LostCursorError from error
            raise
        self._is_proven = True
        self._http.shared.api_version = api_version.name
        return answer, asked

    def _complete(self, api_version: V1 | V2, runs: list[bytes], limit: float) -> list[bytes]:
        if not any(map(api_version.is_partial, runs)):
            return runs
        completed: list[bytes] = []
        for begin in range(0, len(runs), _DOWNLOADS):
            completed += self._download_pool.map(api_version.complete, runs[begin : begin + _DOWNLOADS])
            if sum(map(len, completed)) > limit:
                raise PageTooLargeError(f"the page has more than {limit:,} bytes with its offloaded payloads")
        return completed

    def _change_version(self, failed: V1 | V2, error: NotServedError) -> bool:
        with self._lock:
            if self._is_proven or len(self._versions) == 1:
                return self._version is not failed
            self._versions.remove(failed)
            self._page_size = self._version.max_page
            _log.info("LangSmith does not have %s (%s): using %s", failed.name, error.why, self._version.name)
            return True

    def _shrink(self, size: int, why: str, *, again: bool = False) -> bool:
        """Halves the page size after a failed page of `size` runs; False if it cannot be halved.

        Args:
            again: The same size would fail again.
        """
        with self._lock:
            self._good_pages = 0
            if size > self._page_size:
                return True  # another page has halved it already
            if size <= self._proven_size and not again:
                self._proven_size = 0  # this size has worked: halve it at the second failure only
                return True
            self._page_size = max(1, size // 2)
            _log.info("%s; requesting %d runs a page", why, self._page_size)
            return size > 1

    def _grow(self, size: int, page_bytes: int) -> None:
        with self._lock:
            self._page_bytes = max(page_bytes, self._page_bytes // 2, 1)
            self._good_pages += 1
            self._proven_size = max(self._proven_size, size)
            fits = 2 * page_bytes <= _PAGE_BYTES
            if self._good_pages >= 4 and fits and size == self._page_size < self._version.max_page:
                self._good_pages = 0
                self._page_size = min(self._version.max_page, size * 2)


def _cut_links(runs: list[bytes], member: str, prefix: str) -> tuple[list[bytes], dict[str, list[AttachmentLink]]]:
    """The runs without the member that has the links to their attachments, and the links by run id.

    A run without an id that can be read has no links: the day counts as incomplete until it can.

    Raises:
        NotARunError: The links cannot be read.
    """
    cut: list[bytes] = []
    attachments: dict[str, list[AttachmentLink]] = {}
    for run in runs:
        try:
            rest, value = cut_member(run, member)
        except NotARunError:  # it is kept as it came
            rest, value = run, None
        cut.append(rest)
        if value and (links := _links(value, prefix)) and (header := _header(rest)):
            attachments[header.run_id] = links
    return cut, attachments


def _links(value: bytes, prefix: str) -> list[AttachmentLink]:
    """The links of `attachments` (name: link), or of `s3_urls` (prefix and name: an object with the link)."""
    try:
        found = json.loads(value, strict=False)
    except (ValueError, RecursionError):
        raise NotARunError("the links to its attachments cannot be read") from None
    links = []
    for key, place in found.items() if isinstance(found, dict) else ():
        if key.startswith(prefix):
            given = place if isinstance(place, dict) else {"presigned_url": place}
            url = given.get("presigned_url")
            name, media_type = key.removeprefix(prefix), media_type_of(given.get("mime_type"))
            links.append(AttachmentLink(name, media_type, url if isinstance(url, str) else ""))
    return links


def _header(run: bytes) -> RunHeader | None:
    try:
        return read_header(run)
    except NotARunError:
        return None


def _statistics(body: bytes) -> tuple[int, dict[bytes, KeyStats] | None]:
    """The number of runs, and the statistics of their feedback, which a deployment may leave out."""
    answer = json.loads(body)
    count = answer.get("run_count") if isinstance(answer, dict) else None
    if not isinstance(count, int):
        raise ValueError("it has no run_count")
    stats = answer.get("feedback_stats")
    return count, read_stats(json.dumps(stats).encode()) if isinstance(stats, dict) else None
