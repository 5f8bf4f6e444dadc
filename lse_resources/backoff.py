"""The delays between the attempts of a failing operation, and the time after which it fails finally."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

WARN_AFTER = 3
"""The failure in a row at which the user is informed."""

_MAX_DELAY_SECONDS = 30.0
# A server that answers but accepts no data gets more time than one that does not answer: the operation ends at this
# multiple of its patience without progress.
_MAX_PATIENCES_WITHOUT_PROGRESS = 4


class Backoff:
    """Counts the failures of one operation since its last progress, and computes the delay before the next attempt.

    Args:
        patience: Seconds for which an operation may fail without progress.
        first_delay: Seconds before the second attempt; doubled at each further failure, up to 30 s.
        clock: Returns seconds.
        jitter: Returns a number from 0 to 1: the part of `first_delay` that is added to each delay.
    """

    def __init__(
        self,
        patience: float,
        *,
        first_delay: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.failures = 0
        self._patience = patience
        self._first_delay = first_delay
        self._clock = clock
        self._jitter = jitter
        self._deadline = self._limit = math.inf

    def restart(self) -> None:
        """Restarts the time and the delays: the operation advanced."""
        self.failures = 0
        self.renew()

    def renew(self) -> None:
        """Restarts the time alone: the next attempt is another request."""
        self._deadline = self._limit = math.inf

    def extend(self) -> None:
        """Extends the deadline, not beyond four times the patience: the service answered, the work did not advance."""
        if self.failures:
            self._deadline = min(self._clock() + self._patience, self._limit)

    def fail(self, retry_after: float = 0.0) -> float | None:
        """Counts a failure.

        Args:
            retry_after: Seconds that the server requests.

        Returns:
            The seconds until the next attempt, at most those that are left; None if there are none.
        """
        now = self._clock()
        if self._deadline == math.inf:
            self._deadline = now + self._patience
            self._limit = now + _MAX_PATIENCES_WITHOUT_PROGRESS * self._patience
        self.failures += 1
        if not self.allows(0.0):
            return None
        delay = self._first_delay * (2.0 ** min(self.failures - 1, 8) + self._jitter())
        return min(max(min(delay, _MAX_DELAY_SECONDS), retry_after), self._deadline - now)

    def allows(self, seconds: float) -> bool:
        """Whether an attempt after so many seconds is before the deadline."""
        return self._clock() + seconds < self._deadline


def retry_after_seconds(value: str | None) -> float | None:
    """The seconds of a `Retry-After` header: a number, or a date (RFC 9110, 10.2.3); None if it is neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
