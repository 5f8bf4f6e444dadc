"""One request to LangSmith: sent within the limit, repeated where that can help, explained where it cannot."""

from __future__ import annotations

import logging
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
from lse_resources.limiter import AdaptiveLimiter

if TYPE_CHECKING:
    import langsmith

_log = logging.getLogger(__name__)

# Worth asking again; every other 4xx is final: 400, 401, 403, 404 and 422 never change by waiting.
_TRANSIENT = frozenset({408, 409, 425, 429})
# The answer was too large, or took too long to make: a smaller page may pass.
_TOO_LARGE = frozenset({413, 502, 503, 504})
_MAX_BACKOFF_SECONDS = 30.0


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
    """

    api_key: str = field(repr=False)
    endpoint: str = "https://api.smith.langchain.com"
    workspace_id: str | None = None
    timeout: float = 120.0
    patience: float = 300.0
    max_requests: int = 300
    stats_seconds: float = 10.0

    @property
    def root(self) -> str:
        """The endpoint without `/api/v1` or `/api`, below which v2 lies."""
        root = self.endpoint.rstrip("/")
        return root.removesuffix("/api/v1") if root.endswith("/api/v1") else root.removesuffix("/api")


class NotServedError(SourceError):
    """The deployment does not have this route: 404, 405, 410 or 501 to a request without a cursor."""


class TooLargeError(SourceError):
    """The answer is too large to be made or sent: a smaller page may pass."""


class StatusError(SourceError):
    """A final answer other than success; `status` is its code."""

    def __init__(self, status: int, what: str, *, why: str = "", todo: str = "") -> None:
        self.status = status
        super().__init__(what, why=why, todo=todo)


@dataclass
class Shared:
    """What one process knows of a deployment and a key, whatever project or day it works on.

    Attributes:
        queries, counts: The limiters of run queries and of `/runs/stats`.
        dialect: `v2` or `v1`, once it has been answered.
    """

    queries: AdaptiveLimiter
    counts: AdaptiveLimiter
    dialect: str | None = None


@cache
def shared(settings: LangSmithSettings) -> Shared:
    """The one `Shared` of these settings in this process."""
    return Shared(
        AdaptiveLimiter(10, 10.0, ceiling=settings.max_requests),
        AdaptiveLimiter(1, settings.stats_seconds, ceiling=1),
    )


class LangSmithHttp:
    """Sends requests through the SDK's generated client. Safe to use from several threads.

    Attributes:
        requests: Requests sent.
        throttled: Answers of 429.
        latency: Seconds that an answer takes, smoothed.
    """

    def __init__(self, settings: LangSmithSettings) -> None:
        import langsmith

        self.settings = settings
        self.client: langsmith.Langsmith = langsmith.Langsmith(
            api_key=settings.api_key,
            tenant_id=settings.workspace_id or "",
            base_url=settings.root,
            timeout=settings.timeout,
            max_retries=0,
        )
        if not settings.workspace_id:
            self.client.tenant_id = None
        self.shared = shared(settings)
        self.requests = self.throttled = 0
        self.latency = 0.3
        self._cancelled = threading.Event()
        self._deprecations: set[str] = set()

    def cancel(self) -> None:
        """Makes waiting requests give up."""
        self._cancelled.set()

    def close(self) -> None:
        self.client.close()

    def send(
        self,
        what: str,
        request: Callable[[], tuple[bytes, Mapping[str, str]]],
        *,
        limiter: AdaptiveLimiter | None = None,
        check: Callable[[bytes], object] | None = None,
        smaller_page_helps: bool = False,
    ) -> bytes:
        """Sends a request until it is answered; returns the body.

        Args:
            what: What is being done, for the error: "cannot list the runs of 'chat'".
            request: Sends once and returns body and headers.
            limiter: Default: that of queries.
            check: Raises ValueError where the body is not what it should be: then it is asked for again.
            smaller_page_helps: Raise TooLargeError instead of asking for the same again.

        Raises:
            AccessError: The key or the workspace is refused.
            NotServedError: The deployment does not have this route.
            StatusError: Another final answer.
            TooLargeError: See `smaller_page_helps`.
            SourceError: It failed for as long as the settings' patience lasts.
        """
        limiter = limiter or self.shared.queries
        deadline = time.monotonic() + self.settings.patience
        attempt = 0
        while True:
            ticket = self._wait_for_turn(limiter, what)
            self.requests += 1
            began = time.monotonic()
            status, retry_after, why = 0, None, ""
            try:
                body, headers = request()
            except Exception as error:  # noqa: BLE001 - the SDK's and its transport's errors, sorted out here
                status, retry_after, why = _failure(error)
            else:
                self.latency += 0.2 * (time.monotonic() - began - self.latency)
                self._note_deprecation(headers)
                limiter.accepted(ticket)
                try:
                    if check:
                        check(body)
                    return body
                except ValueError as error:
                    why = f"the answer is damaged: {error}"
            if status == 429:
                self.throttled += 1
                limiter.refused(ticket, retry_after)
            elif status:
                limiter.accepted(ticket)
            if 400 <= status < 500 and status not in _TRANSIENT | _TOO_LARGE:
                raise _final(status, what, why)
            if smaller_page_helps and (status in _TOO_LARGE or why == _TIMED_OUT):
                raise TooLargeError(what, why=why)
            if status == 501:
                raise NotServedError(what, why=why)
            if time.monotonic() >= deadline:
                raise SourceError(what, why=why, todo=_todo(status, self.settings.patience))
            attempt += 1
            if status != 429:
                _log.info("%s: %s; asking again", what, why)
                backoff = min(_MAX_BACKOFF_SECONDS, 0.25 * 2.0 ** min(attempt, 8)) * random.uniform(0.5, 1.0)
                self._sleep(min(retry_after or backoff, self.settings.patience), what)

    def _wait_for_turn(self, limiter: AdaptiveLimiter, what: str) -> int:
        while True:
            ticket, seconds = limiter.reserve()
            if ticket:
                return ticket
            self._sleep(seconds, what)

    def _sleep(self, seconds: float, what: str) -> None:
        if self._cancelled.wait(seconds):
            raise SourceError(what, why="it was cancelled", todo="Start it again: it goes on where it stopped")

    def _note_deprecation(self, headers: Mapping[str, str]) -> None:
        sunset = headers.get("Sunset") or headers.get("Deprecation")
        if sunset and sunset not in self._deprecations:
            self._deprecations.add(sunset)
            _log.warning("LangSmith announces the end of a route that is in use: %s", sunset)


_TIMED_OUT = "no answer in time"


def _failure(error: Exception) -> tuple[int, float | None, str]:
    """Status, Retry-After in seconds and cause of what the SDK raised."""
    import langsmith._exceptions as sdk

    if isinstance(error, sdk.APIStatusError):
        status = error.status_code
        detail = " ".join(error.response.text.split())[:300]
        return status, _seconds(error.response.headers.get("Retry-After")), f"HTTP {status} {detail}".strip()
    if isinstance(error, sdk.APITimeoutError):
        return 0, None, _TIMED_OUT
    if isinstance(error, sdk.APIConnectionError):
        cause = error.__cause__
        return 0, None, f"{type(cause).__name__}: {cause}" if cause else "the connection failed"
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return 0, None, f"{type(error).__name__}: {error}"
    raise error


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


def _final(status: int, what: str, why: str) -> SourceError:
    if status in (401, 403):
        todo = "Check LANGSMITH_API_KEY"
        if "org_scoped_key_requires_workspace" in why:
            todo = "The key is for a whole organisation: set LANGSMITH_WORKSPACE_ID"
        elif status == 403:
            todo += ", and LANGSMITH_WORKSPACE_ID if the key is for a whole organisation"
        return AccessError(what, why=why, todo=todo)
    if status in (404, 405, 410):
        return NotServedError(what, why=why, todo="Check LANGSMITH_ENDPOINT, and that the project still exists")
    return StatusError(status, what, why=why, todo="Asking again will not help; report it if it stays")


def _todo(status: int, patience: float) -> str:
    kept = "Nothing was published; what was fetched is kept, and the next fetch goes on from there"
    if status == 429:
        return f"LangSmith refused for {patience:.0f} s: another client may use the same key; try later. {kept}"
    return f"It did not get better in {patience:.0f} s: see whether LangSmith can be reached, and try again. {kept}"
