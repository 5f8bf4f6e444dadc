"""One request to LangSmith: sent within the limit, repeated where that can help, explained where it cannot."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING

from lse_archive.errors import AccessError, SourceError
from lse_resources.langsmith.limiter import AdaptiveLimiter

if TYPE_CHECKING:
    from langsmith import Langsmith

_log = logging.getLogger(__name__)

# Worth asking again; every other 4xx is final: 400, 401, 403, 404 and 422 never change by waiting.
_TRANSIENT = frozenset({408, 409, 413, 425, 429})
# The answer was too large, or took too long to make: a smaller page may pass.
_TOO_LARGE = frozenset({413, 502, 503, 504})
_MAX_BACKOFF_SECONDS = 30.0
_TOLD_AT = 3  # the failure in a row from which on people want to know
_TOLD_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class LangSmithSettings:
    """Where LangSmith is and how it may be asked.

    Attributes:
        api_key: The key; never part of an error, a log or `repr`.
        endpoint: Root of the API, with or without `/api/v1`, as `LANGSMITH_ENDPOINT` has it.
        workspace_id: Sent as `X-Tenant-Id`; needed with a key of a whole organisation.
        timeout: Seconds for one answer.
        patience: Seconds for which a request that fails is repeated before the fetch gives up.
        max_requests: Most requests in 10 seconds, however fast the server is.
        stats_seconds: Seconds between two counts (`/runs/stats` allows one per 10 s on the US cloud).
        backoff: Seconds until a request that failed is repeated, doubled at each further failure.
    """

    api_key: str = field(repr=False)
    endpoint: str = "https://api.smith.langchain.com"
    workspace_id: str | None = None
    timeout: float = 120.0
    patience: float = 300.0
    max_requests: int = 300
    stats_seconds: float = 10.0
    backoff: float = 0.5

    @property
    def root(self) -> str:
        """The endpoint without `/api/v1` or `/api`, below which v2 lies."""
        root = self.endpoint.rstrip("/")
        return root.removesuffix("/api/v1") if root.endswith("/api/v1") else root.removesuffix("/api")


class NotServedError(SourceError):
    """The deployment does not have this route: 404, 405, 410 or 501."""


class StatusError(SourceError):
    """A final answer other than success; `status` is its code."""

    def __init__(self, status: int, what: str, *, why: str = "", hint: str = "") -> None:
        self.status = status
        super().__init__(what, why=why, hint=hint)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request brought no good answer; `status` is 0 where there was none."""

    why: str
    status: int = 0
    retry_after: float | None = None
    timed_out: bool = False

    @property
    def may_be_too_large(self) -> bool:
        return self.status in _TOO_LARGE or self.timed_out

    @property
    def final(self) -> bool:
        return self.status == 501 or (400 <= self.status < 500 and self.status not in _TRANSIENT)


@dataclass
class Shared:
    """What one process knows of a deployment and a key, whatever project or day it works on.

    Attributes:
        queries, counts, others: The limiters of run queries, of `/runs/stats` and of everything else.
        api_version: `v2` or `v1`, once it has been answered.
        told: When it was last said that one waits for it, by the monotonic clock.
    """

    queries: AdaptiveLimiter
    counts: AdaptiveLimiter
    others: AdaptiveLimiter
    api_version: str | None = None
    told: float = -math.inf


@cache
def shared(settings: LangSmithSettings) -> Shared:
    """The one `Shared` of these settings in this process."""
    return Shared(
        AdaptiveLimiter(10, 10.0, ceiling=settings.max_requests),
        AdaptiveLimiter(1, settings.stats_seconds, ceiling=1),
        AdaptiveLimiter(100, 10.0, ceiling=100),
    )


class LangSmithHttp:
    """Sends requests through the SDK's generated client. Safe to use from several threads.

    Attributes:
        requests: Requests sent.
        throttled: Answers of 429.
        latency: Seconds that an answer takes, smoothed.

    Args:
        client: Default: a new one.
    """

    def __init__(self, settings: LangSmithSettings, client: Langsmith | None = None) -> None:
        self.settings = settings
        self.client = client or _new_client(settings)
        self.shared = shared(settings)
        self.requests = self.throttled = 0
        self.latency = 0.3
        self._counters = threading.Lock()
        self._deprecations: set[str] = set()

    def sibling(self) -> LangSmithHttp:
        """Over the same connections, with counters of its own; only the first of them is closed."""
        return LangSmithHttp(self.settings, self.client)

    def close(self) -> None:
        self.client.close()

    def send(
        self,
        what: str,
        request: Callable[[], tuple[bytes, Mapping[str, str]]],
        *,
        limiter: AdaptiveLimiter | None = None,
        check: Callable[[bytes], object] | None = None,
        shrink: Callable[[str], bool] | None = None,
        stop: threading.Event | None = None,
    ) -> bytes:
        """Sends a request until it is answered; returns the body.

        Args:
            what: What is being done, for the error: "cannot list the runs of 'chat'".
            request: Sends once and returns body and headers.
            limiter: Default: that of queries.
            check: Raises ValueError where the body is not what it should be: then it is asked for again.
            shrink: Makes the next request ask for less, because of what it is told; False where it cannot.
            stop: Ends waiting.

        Raises:
            AccessError: The key or the workspace is refused.
            NotServedError: The deployment does not have this route.
            StatusError: Another final answer.
            SourceError: It failed for as long as the settings' patience lasts, or was stopped.
        """
        limiter = limiter or self.shared.queries
        stop = stop or threading.Event()
        deadline = math.inf
        attempt = 0
        while True:
            ticket = self._wait_for_turn(limiter, what, deadline, stop)
            answer = self._try(request, limiter, ticket, check)
            if isinstance(answer, bytes):
                return answer
            shrunk = answer.may_be_too_large and shrink is not None and shrink(answer.why)
            if answer.final and not shrunk:
                raise _final(answer, what)
            now = time.monotonic()
            if now >= deadline and not shrunk:
                raise self._given_up(answer, what)
            if shrunk or deadline == math.inf:
                deadline = now + self.settings.patience
            attempt += 1
            if answer.status not in (413, 429):
                _log.info("%s: %s; asking again", what, answer.why)
                if attempt == _TOLD_AT:
                    self._tell(answer.why)
                backoff = self.settings.backoff * 2.0 ** min(attempt - 1, 8) * random.uniform(0.5, 1.0)
                self._sleep(min(answer.retry_after or backoff, _MAX_BACKOFF_SECONDS), what, stop)

    def _try(
        self,
        request: Callable[[], tuple[bytes, Mapping[str, str]]],
        limiter: AdaptiveLimiter,
        ticket: int,
        check: Callable[[bytes], object] | None,
    ) -> bytes | _Failure:
        with self._counters:
            self.requests += 1
        began = time.monotonic()
        try:
            body, headers = request()
        except Exception as error:
            failure = _failure(error, secret=self.settings.api_key)
            if failure is None:
                limiter.failed(ticket)
                raise
            if failure.status == 429:
                limiter.refused(ticket, failure.retry_after)
                with self._counters:
                    self.throttled += 1
            elif failure.status:
                limiter.accepted(ticket)
            else:
                limiter.failed(ticket)
            return failure
        limiter.accepted(ticket)
        self.latency += 0.2 * (time.monotonic() - began - self.latency)
        self._note_deprecation(headers)
        try:
            if check:
                check(body)
        except ValueError as error:
            return _Failure(f"the answer is damaged: {error}")
        return body

    def _tell(self, why: str) -> None:
        """Says what a person before the screen waits for: once, though many threads do."""
        with self._counters:
            if time.monotonic() - self.shared.told < _TOLD_EVERY_SECONDS:
                return
            self.shared.told = time.monotonic()
        _log.warning("  waiting for LangSmith: %s; asked again for %.0f s", why, self.settings.patience)

    def _wait_for_turn(self, limiter: AdaptiveLimiter, what: str, deadline: float, stop: threading.Event) -> int:
        while True:
            ticket, seconds = limiter.reserve()
            if ticket:
                return ticket
            if time.monotonic() + seconds > deadline:
                raise self._given_up(_Failure(f"HTTP 429, to be asked again in {seconds:.0f} s", 429), what)
            self._sleep(seconds, what, stop)

    def _sleep(self, seconds: float, what: str, stop: threading.Event) -> None:
        if stop.wait(seconds):
            raise SourceError(what, why="it was stopped", hint=_KEPT)

    def _given_up(self, failure: _Failure, what: str) -> SourceError:
        patience = self.settings.patience
        if failure.status == 429:
            hint = f"LangSmith refused for {patience:.0f} s: another client may use the same key; try later. {_KEPT}"
        else:
            hint = f"It did not get better in {patience:.0f} s: see whether LangSmith can be reached. {_KEPT}"
        return SourceError(what, why=failure.why, hint=hint)

    def _note_deprecation(self, headers: Mapping[str, str]) -> None:
        sunset = headers.get("Sunset") or headers.get("Deprecation")
        if sunset and sunset not in self._deprecations:
            self._deprecations.add(sunset)
            _log.warning("LangSmith announces the end of a route that is in use: %s", sunset)


def _new_client(settings: LangSmithSettings) -> Langsmith:
    from langsmith import Langsmith

    client = Langsmith(
        api_key=settings.api_key,
        tenant_id=settings.workspace_id or "",
        base_url=settings.root,
        timeout=settings.timeout,
        max_retries=0,
    )
    if not settings.workspace_id:
        client.tenant_id = None
    return client


_KEPT = "Nothing was published; what was fetched is kept, and the next fetch goes on from there"


def _failure(error: Exception, *, secret: str) -> _Failure | None:
    """What the SDK's error means; None if it is not about the request. A server may repeat the key: it is left out."""
    import langsmith._exceptions as sdk

    if isinstance(error, sdk.APIStatusError):
        status = error.status_code
        detail = " ".join(error.response.text.split()).replace(secret, "…")[:300]
        return _Failure(f"HTTP {status} {detail}".strip(), status, _seconds(error.response.headers.get("Retry-After")))
    if isinstance(error, sdk.APITimeoutError):
        return _Failure("no answer in time", timed_out=True)
    cause = error.__cause__ if isinstance(error, sdk.APIConnectionError) else error
    if cause is None:
        return _Failure("the connection failed")
    if cause is error and type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return None
    return _Failure(f"{type(cause).__name__}: {cause}".replace(secret, "…"))


def _seconds(retry_after: str | None) -> float | None:
    # RFC 9110, 10.2.3: a number of seconds, or a date.
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _final(failure: _Failure, what: str) -> SourceError:
    status, why = failure.status, failure.why
    if status in (401, 403):
        hint = "Check LANGSMITH_API_KEY"
        if "org_scoped_key_requires_workspace" in why:
            hint = "The key is for a whole organisation: set LANGSMITH_WORKSPACE_ID"
        elif status == 403:
            hint += ", and LANGSMITH_WORKSPACE_ID if the key is for a whole organisation"
        return AccessError(what, why=why, hint=hint)
    if status in (404, 405, 410, 501):
        return NotServedError(what, why=why, hint="Check LANGSMITH_ENDPOINT, and that the project still exists")
    return StatusError(status, what, why=why, hint="Asking again will not help; report it if it stays")
