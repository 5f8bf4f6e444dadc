"""The rate limit of one API key, learned from the answers and shared by all users of the key in this process."""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections.abc import Callable

_RETRY_AFTER_CAP_SECONDS = 300.0
_POLL_SECONDS = 0.25


class AdaptiveLimiter:
    """At most `limit` requests in any `period`; the limit follows what the server accepts.

    Until the first 429, requests beyond the limit probe the server: one at a time, then two, four and so on. So a
    server without a limit is used at full speed after a few round trips, and one with a limit answers a single 429.
    The requests that it had accepted in that period are its limit. After that, one request at a time probes beyond the
    limit, less often after each refusal.

    Every ticket ends with `accepted`, `refused` or `failed`.

    Args:
        limit: Requests per period at the start.
        period: Seconds.
        ceiling: The highest limit ever used.
    """

    def __init__(
        self,
        limit: int = 10,
        period: float = 10.0,
        ceiling: int = 300,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = min(limit, ceiling)
        self.period = period
        self.ceiling = ceiling
        self._clock = clock
        # Clocks and latency vary: a request waits a little longer than the period of an earlier one.
        self._margin = 0.01 * period
        self._open: dict[int, float] = {}  # unanswered tickets, and when they were issued
        self._counted: list[float] = []  # approximate times at which the server counted the answered ones, sorted
        self._lock = threading.Lock()
        self._probes = 1
        self._probing: set[int] = set()
        self._tickets = 0
        self._refused = False
        self._refusals_in_a_row = 0
        self._refused_at = -math.inf
        self._blocked_until = -math.inf
        self._probe_after = -math.inf
        self._quiet = 0.0

    def reserve(self) -> tuple[int, float]:
        """Reserves one request.

        Returns:
            A ticket and 0.0 if the request may be sent now; otherwise 0 and the seconds until the next try.
        """
        with self._lock:
            now = self._clock()
            if now < self._blocked_until:
                return 0, self._blocked_until - now
            self._forget_old(now)
            beyond = self._used() >= self.limit
            if beyond and not self._may_probe(now):
                until = self._counted[0] + self.period + self._margin - now if self._counted else _POLL_SECONDS
                return 0, max(0.001, min(until, _POLL_SECONDS))
            self._tickets += 1
            self._open[self._tickets] = now
            if beyond:
                self._probing.add(self._tickets)
            return self._tickets, 0.0

    def accepted(self, ticket: int) -> None:
        """Records an answer other than 429."""
        with self._lock:
            self._count(ticket)
            self._refusals_in_a_row = 0
            if ticket in self._probing:
                self._probing.discard(ticket)
                self.limit = min(self.ceiling, self.limit + 1)
                if self._refused:
                    self._probe_after = self._clock() + self._quiet
                else:
                    self._probes = min(self.ceiling, 2 * self._probes)

    def failed(self, ticket: int) -> None:
        """Records a request without an answer: whether the server counted it is not known."""
        with self._lock:
            self._count(ticket)
            self._probing.discard(ticket)

    def refused(self, ticket: int, retry_after: float | None) -> None:
        """Records an answer 429; `retry_after` in seconds, if the answer had it."""
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            sent = self._open.pop(ticket)  # refused requests do not count
            probe = ticket in self._probing
            self._probing.discard(ticket)
            self.limit = max(1, min(self.limit, self._used()))
            if sent > self._refused_at:  # else it was sent before another refusal, and adds nothing
                if self._refusals_in_a_row:  # refused within the limit: it is too high, or others use the key
                    self.limit = max(1, self.limit - 1 if self._refusals_in_a_row == 1 else self.limit // 2)
                self._refusals_in_a_row += 1
                self._refused_at = now
                self._quiet = min(30 * self.period, max(6 * self.period, 2 * self._quiet)) if probe else self.period
            self._refused, self._probes = True, 1
            if retry_after is None:
                oldest = self._counted[0] + self.period + self._margin - now if self._counted else 0.0
                growing = 0.1 * self.period * 2.0 ** min(self._refusals_in_a_row - 1, 16)
                retry_after = max(oldest, min(6 * self.period, growing))
            wait = min(_RETRY_AFTER_CAP_SECONDS, max(0.0, retry_after))
            self._blocked_until = max(self._blocked_until, now + wait)
            self._probe_after = self._blocked_until + self._quiet

    def parallelism(self, latency: float) -> int:
        """The number of parallel requests of this latency (seconds) that use the whole limit."""
        with self._lock:
            if not self._refused:
                # The limit is unknown: enough for the start, and more after probes were accepted.
                return 4 if self._probes == 1 else max(4, min(self._probes, 16))
            return max(1, math.ceil(self.limit / self.period * latency))

    def _used(self) -> int:
        return len(self._open) + len(self._counted)

    def _count(self, ticket: int) -> None:
        # The server counts a request between its sending and its answer. Assume half a round trip after the sending,
        # at most a tenth of the period.
        sent = self._open.pop(ticket)
        bisect.insort(self._counted, sent + 0.5 * min(self._clock() - sent, 0.1 * self.period))

    def _may_probe(self, now: float) -> bool:
        if self.limit >= self.ceiling or len(self._probing) >= self._probes:
            return False
        # A probe is conclusive only if the server still counts all other requests of the limit.
        recent = len(self._counted) - bisect.bisect_left(self._counted, now - 0.94 * self.period)
        if recent + len(self._open) < self.limit:
            return False
        return not self._refused or now >= self._probe_after

    def _forget_old(self, now: float) -> None:
        del self._counted[: bisect.bisect_right(self._counted, now - self.period - self._margin)]
