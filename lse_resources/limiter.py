"""How fast one API key may ask: learned from the answers, shared by everything that uses the key in this process."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

_CONSECUTIVE_CAP_SECONDS = 60.0
_RETRY_AFTER_CAP_SECONDS = 300.0


class AdaptiveLimiter:
    """At most `limit` requests in any `period`; the limit follows what the server accepts.

    Until the server has refused once, a request beyond the limit is sent now and then to see whether it is let
    through: first one at a time, then two, four and so on, so that a server without a limit is used at full speed
    after a few round trips, and one with a limit says so with a single 429. What it had accepted in the period
    until then is its limit. After that, one request beyond the limit is tried after ever longer quiet times.

    Args:
        limit: Requests per period to begin with.
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
        self._floor_for_quick_recovery = self.limit
        self._clock = clock
        # The server counts arrivals: a request must not arrive a moment before its predecessor's period is over.
        self._margin = 0.02 * period
        self._sent: deque[float] = deque()
        self._lock = threading.Lock()
        self._probes = 1
        self._probing: set[int] = set()
        self._tickets = 0
        self._refused = False
        self._refusals_in_a_row = 0
        self._blocked_until = 0.0
        self._probe_after = 0.0
        self._quiet = 0.0

    def reserve(self) -> tuple[int, float]:
        """Asks for one request.

        Returns:
            A ticket and 0.0 where it may be sent now; otherwise 0 and the seconds after which to ask again.
        """
        with self._lock:
            now = self._clock()
            if now < self._blocked_until:
                return 0, self._blocked_until - now
            self._forget_old(now)
            beyond = len(self._sent) >= self.limit
            if beyond and not self._may_probe(now):
                return 0, max(0.001, min(self._sent[0] + self.period + self._margin - now, 0.25))
            self._tickets += 1
            self._sent.append(now)
            if beyond:
                self._probing.add(self._tickets)
            return self._tickets, 0.0

    def accepted(self, ticket: int) -> None:
        """Tells that the request was not refused for its rate."""
        with self._lock:
            self._refusals_in_a_row = 0
            if ticket in self._probing:
                self._probing.discard(ticket)
                self.limit = min(self.ceiling, self.limit + 1)
                if self._refused:
                    self._probe_after = self._clock() + self._quiet
                else:
                    self._probes *= 2

    def refused(self, ticket: int, retry_after: float | None) -> None:
        """Tells that the request was answered by 429; `retry_after` in seconds, if the answer had it."""
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            self._probing.discard(ticket)
            if self._sent:
                self._sent.pop()  # what is refused does not count
            if not self._refusals_in_a_row:
                self.limit = max(1, min(self.limit, len(self._sent)))
            self._refusals_in_a_row += 1
            self._refused, self._probes = True, 1
            quiet = 3 * self.period if self.limit >= self._floor_for_quick_recovery else self.period
            self._quiet = min(30 * self.period, max(2 * self._quiet, quiet))
            if retry_after is None:
                oldest = self._sent[0] + self.period + self._margin - now if self._sent else 0.0
                retry_after = max(oldest, min(_CONSECUTIVE_CAP_SECONDS, 2.0 ** (self._refusals_in_a_row - 1)))
            wait = min(_RETRY_AFTER_CAP_SECONDS, max(0.0, retry_after))
            self._blocked_until = max(self._blocked_until, now + wait)
            self._probe_after = self._blocked_until + self._quiet

    def parallelism(self, latency: float) -> int:
        """How many requests of this latency (seconds) at once use the limit up."""
        with self._lock:
            if not self._refused:
                # Nothing is known yet: enough to use what may be sent, and to find out more.
                free = self.limit - len(self._sent)
                return max(4, 1 + min(self._probes, 12)) if free > 0 or self._probes > 1 else 1
            return max(1, math.ceil(self.limit / self.period * latency))

    def _may_probe(self, now: float) -> bool:
        if self.limit >= self.ceiling or len(self._probing) >= self._probes:
            return False
        return not self._refused or now >= self._probe_after

    def _forget_old(self, now: float) -> None:
        while self._sent and self._sent[0] <= now - self.period - self._margin:
            self._sent.popleft()
