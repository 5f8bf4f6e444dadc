"""Requests to LangSmith: within the rate limit, with retries after retryable errors, and with clear errors."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache

import httpx

from lse_archive.errors import CLOCK_HINT, AccessError, SourceError
from lse_resources.backoff import WARN_AFTER, Backoff, retry_after_seconds
from lse_resources.langsmith.limiter import AdaptiveLimiter
from lse_resources.langsmith.settings import LangSmithSettings

_log = logging.getLogger(__name__)

# Retryable; every other 4xx is final.
_TRANSIENT = frozenset({408, 409, 413, 425, 429})
# The answer was too large or took too long: a smaller page may succeed.
_TOO_LARGE = frozenset({413, 502, 503, 504})
_WARN_EVERY_SECONDS = 60.0
_MAX_END = 100  # characters of an announcement
# They describe the body as it was transferred, not as it was read.
_TRANSFER_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"  # of OpenSSL


class NotServedError(SourceError):
    """The deployment does not have this route: 404, 405, 410 or 501."""


class StatusError(SourceError):
    """A final answer other than success; `status` is its code."""

    def __init__(self, status: int, what: str, *, why: str = "", hint: str = "") -> None:
        self.status = status
        super().__init__(what, why=why, hint=hint)


class PageTooLargeError(Exception):
    """A page has more bytes than its limit: a smaller one must be requested."""


class UnansweredError(SourceError):
    """A request failed until its patience or its attempts ended, and not because of the rate limit."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request failed; `status` is 0 without an answer."""

    why: str
    status: int = 0
    retry_after: float | None = None
    timed_out: bool = False

    @property
    def may_be_too_large(self) -> bool:
        return self.status in _TOO_LARGE or self.timed_out

    @property
    def final(self) -> bool:
        return (
            self.status == 501
            or _CERTIFICATE in self.why
            or (400 <= self.status < 500 and self.status not in _TRANSIENT)
        )


@dataclass
class Shared:
    """The state of one deployment and key in this process, for all projects and days.

    Attributes:
        queries, counts, others: The limiters of run queries, of `/runs/stats` and of all other requests.
        api_version: `v2` or `v1`; None until a query was answered.
        last_warned: Time of the last warning, by the monotonic clock.
        announced: By route, what its answers said of its end, in the header `Sunset` (RFC 8594) or `Deprecation`
            (RFC 9745).
    """

    queries: AdaptiveLimiter
    counts: AdaptiveLimiter
    others: AdaptiveLimiter
    api_version: str | None = None
    last_warned: float = -math.inf
    announced: dict[str, str] = field(default_factory=dict)


@cache
def shared(settings: LangSmithSettings) -> Shared:
    """Returns the one `Shared` of these settings in this process."""
    return Shared(
        AdaptiveLimiter(10, 10.0, ceiling=settings.max_requests),
        AdaptiveLimiter(1, settings.stats_seconds, ceiling=1),
        AdaptiveLimiter(100, 10.0, ceiling=100),
    )


class LangSmithHttp:
    """Sends requests with retries. Safe to use from several threads.

    Attributes:
        requests: Requests sent.
        throttled: Answers of 429.
        latency: Seconds that an answer takes, smoothed.

    Args:
        client: Default: a new one.
        clock: Returns seconds, for the patience.
    """

    def __init__(
        self,
        settings: LangSmithSettings,
        client: httpx.Client | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.client = client or _new_client(settings)
        self.shared = shared(settings)
        self.requests = self.throttled = 0
        self.latency = 0.3
        self._clock = clock
        self._counters = threading.Lock()

    def sibling(self) -> LangSmithHttp:
        """Returns one with the same connections and its own counters; close only the original."""
        return LangSmithHttp(self.settings, self.client)

    def close(self) -> None:
        self.client.close()

    def post(self, url: str, body: object, limit: float) -> httpx.Response:
        """Sends a POST.

        Raises:
            PageTooLargeError: The answer has more than `limit` bytes.
        """
        return self._read(self.client.stream("POST", url, json=body), limit)

    def get(self, url: str, query: Sequence[tuple[str, str]], limit: float) -> httpx.Response:
        """Sends a GET; the names of the query may repeat. Raises as `post`."""
        return self._read(self.client.stream("GET", url, params=list(query)), limit)

    @staticmethod
    def _read(request: AbstractContextManager[httpx.Response], limit: float) -> httpx.Response:
        with request as answer:
            parts, size = [], 0
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise PageTooLargeError(f"the page has more than {limit:,} bytes")
            headers = {name: value for name, value in answer.headers.items() if name not in _TRANSFER_HEADERS}
            content = b"".join(parts)
            return httpx.Response(answer.status_code, headers=headers, content=content, request=answer.request)

    def send(
        self,
        what: str,
        request: Callable[[], httpx.Response],
        *,
        limiter: AdaptiveLimiter | None = None,
        check: Callable[[bytes], object] | None = None,
        shrink: Callable[[str], bool] | None = None,
        attempts: int | None = None,
        stop: threading.Event | None = None,
    ) -> bytes:
        """Sends a request until it is answered; returns the body.

        Args:
            what: Start of the error: "cannot list the runs of 'chat'".
            request: Sends once and returns the answer.
            limiter: Default: that of queries.
            check: Raises ValueError for a damaged body, which is then requested again.
            shrink: Called with the reason of a failure; makes the next request smaller, False if it cannot.
            attempts: Failures other than 429 after which it ends earlier than the patience.
            stop: When set, waiting ends with an error.

        Raises:
            AccessError: The key or the workspace is refused.
            NotServedError: The deployment does not have this route.
            StatusError: Another final answer.
            UnansweredError: It failed for longer than the patience of the settings, or `attempts` times.
            SourceError: The rate limit refused it for longer than the patience, or it was stopped.
        """
        limiter = limiter or self.shared.queries
        stop = stop or threading.Event()
        backoff = Backoff(self.settings.patience, first_delay=self.settings.backoff, clock=self._clock)
        failures, failure = 0, None
        while True:
            ticket = self._wait_for_turn(limiter, what, backoff, failure, stop)
            answer = self._try(request, limiter, ticket, check)
            if isinstance(answer, bytes):
                return answer
            failure = answer
            shrunk = answer.may_be_too_large and shrink is not None and shrink(answer.why)
            if answer.final and not shrunk:
                raise _final(answer, what)
            if shrunk:
                backoff.renew()
                failures = 0
            failures += answer.status != 429
            delay = backoff.fail(answer.retry_after or 0.0)
            if delay is None or failures == attempts:
                raise self._timed_out(answer, what, backoff)
            # After 429 the limiter delays the next request; a smaller page after 413 needs no delay.
            if answer.status != 429 and not (answer.status == 413 and shrunk):
                _log.info("%s: %s; retrying", what, answer.why)
                if backoff.failures == WARN_AFTER:
                    self._warn(answer.why)
                self._sleep(delay, what, stop)

    def _try(
        self,
        request: Callable[[], httpx.Response],
        limiter: AdaptiveLimiter,
        ticket: int,
        check: Callable[[bytes], object] | None,
    ) -> bytes | _Failure:
        """Sends once, and reports the answer to the limiter; returns the body or why there is none."""
        with self._counters:
            self.requests += 1
        began = time.monotonic()
        try:
            answer = request()
        except PageTooLargeError as error:
            limiter.accepted(ticket)
            return _Failure(str(error), 413)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            limiter.failed(ticket)
            return _classify(error, secret=self.settings.api_key)
        except BaseException:
            limiter.failed(ticket)
            raise
        failure = None if answer.is_success else _classify(answer, secret=self.settings.api_key)
        if failure and failure.status == 429:
            limiter.refused(ticket, failure.retry_after)
            with self._counters:
                self.throttled += 1
        else:
            limiter.accepted(ticket)
        if failure:
            return failure
        self.latency += 0.2 * (time.monotonic() - began - self.latency)
        self._warn_of_deprecation(answer)
        try:
            if check:
                check(answer.content)
        except PageTooLargeError as error:
            return _Failure(str(error), 413)
        except ValueError as error:
            return _Failure(f"the answer is damaged: {error}")
        return answer.content

    def _warn(self, why: str) -> None:
        """Warns the user, at most once a minute for all threads."""
        with self._counters:
            if time.monotonic() - self.shared.last_warned < _WARN_EVERY_SECONDS:
                return
            self.shared.last_warned = time.monotonic()
        _log.warning("  waiting for LangSmith: %s; retrying for %.0f s", why, self.settings.patience)

    def _wait_for_turn(
        self,
        limiter: AdaptiveLimiter,
        what: str,
        backoff: Backoff,
        failure: _Failure | None,
        stop: threading.Event,
    ) -> int:
        while True:
            ticket, seconds = limiter.reserve()
            if ticket:
                return ticket
            if not backoff.allows(seconds):
                if failure is None or failure.status == 429:
                    failure = _Failure(f"HTTP 429, retry after {seconds:.0f} s", 429)
                raise self._timed_out(failure, what, backoff)
            self._sleep(seconds, what, stop)

    def _sleep(self, seconds: float, what: str, stop: threading.Event) -> None:
        if stop.wait(seconds):
            raise SourceError(what, why="it was stopped", hint=_KEPT)

    def _timed_out(self, failure: _Failure, what: str, backoff: Backoff) -> SourceError:
        patience = self.settings.patience
        if failure.status == 429:
            hint = f"LangSmith refused for {patience:.0f} s: another client may use the same key; try later. {_KEPT}"
            return SourceError(what, why=failure.why, hint=hint)
        failed = f"{backoff.failures} attempts failed" if backoff.failures > 1 else "One attempt failed"
        if not backoff.allows(0.0):
            failed += f", and the patience of {patience:.0f} s (LSE_PATIENCE) ended"
        hint = f"{failed}: check whether LangSmith can be reached. {_KEPT}"
        return UnansweredError(what, why=failure.why, hint=hint)

    def _warn_of_deprecation(self, answer: httpx.Response) -> None:
        if end := (answer.headers.get("Sunset") or answer.headers.get("Deprecation") or "")[:_MAX_END]:
            route = f"{answer.request.method} {answer.request.url.path}"
            if self.shared.announced.get(route) != end:
                self.shared.announced[route] = end
                _log.warning("LangSmith announces the end of a route that LSE uses: %s: %s", route, end)


def _new_client(settings: LangSmithSettings) -> httpx.Client:
    headers = {"Accept": "application/json", "X-API-Key": settings.api_key}
    if settings.workspace_id:
        headers["X-Tenant-Id"] = settings.workspace_id
    return httpx.Client(headers=headers, timeout=settings.timeout, follow_redirects=True)


_KEPT = "Nothing was published; the fetched pages are kept, and the next fetch continues from there"


def _classify(failed: httpx.Response | Exception, *, secret: str) -> _Failure:
    """Why a request failed. The key is left out: a server may repeat it."""
    if isinstance(failed, httpx.Response):
        status, detail = failed.status_code, " ".join(failed.text.split()).replace(secret, "…")[:300]
        retry_after = retry_after_seconds(failed.headers.get("Retry-After"))
        return _Failure(f"HTTP {status} {detail}".strip(), status, retry_after)
    if isinstance(failed, httpx.TimeoutException):
        return _Failure("no answer in time", timed_out=True)
    return _Failure(f"{type(failed).__name__}: {failed}".replace(secret, "…"))


def _final(failure: _Failure, what: str) -> SourceError:
    status, why = failure.status, failure.why
    if _CERTIFICATE in why:
        by_time = "has expired" in why or "not yet valid" in why
        hint = CLOCK_HINT if by_time else "Check LANGSMITH_ENDPOINT; SSL_CERT_FILE names the certificates to trust"
        return SourceError(what, why=why, hint=hint)
    if status in (401, 403):
        hint = "Check LANGSMITH_API_KEY"
        if "org_scoped_key_requires_workspace" in why:
            hint = "The key is for a whole organization: set LANGSMITH_WORKSPACE_ID"
        elif status == 403:
            hint += ", and LANGSMITH_WORKSPACE_ID if the key is for a whole organization"
        return AccessError(what, why=why, hint=hint)
    if status in (404, 405, 410, 501):
        return NotServedError(what, why=why, hint="Check LANGSMITH_ENDPOINT, and that the project still exists")
    return StatusError(status, what, why=why, hint="A retry does not help; report it if it happens again")
