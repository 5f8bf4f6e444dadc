"""The limiter finds a server's limit from its answers; the clock is simulated."""

from __future__ import annotations

from collections import deque

import pytest

from lse_resources.langsmith.limiter import AdaptiveLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Accepts at most `limit` requests in any `period`; None: no limit."""

    def __init__(self, clock: Clock, limit: int | None, period: float = 10.0) -> None:
        self._clock, self.limit, self._period = clock, limit, period
        self._accepted: deque[float] = deque()

    def takes(self) -> bool:
        while self._accepted and self._accepted[0] <= self._clock() - self._period:
            self._accepted.popleft()
        if self.limit is not None and len(self._accepted) >= self.limit:
            return False
        self._accepted.append(self._clock())
        return True


class Run:
    """Sends requests; counts answers and refusals."""

    def __init__(self, limiter: AdaptiveLimiter, server: Server, clock: Clock) -> None:
        self._limiter, self._server, self._clock = limiter, server, clock
        self._in_flight: deque[tuple[float, int]] = deque()
        self.answered = self.refused = 0

    def ask(self, requests: int, *, at_once: int, latency: float = 0.3, retry_after: float | None = None) -> float:
        """Sends requests until this many are answered; returns the seconds taken."""
        began, goal = self._clock(), self.answered + requests
        while self.answered < goal:
            wait = 0.001
            if len(self._in_flight) < min(at_once, goal - self.answered):
                ticket, wait = self._limiter.reserve()
                if ticket:
                    self._in_flight.append((self._clock() + latency, ticket))
                    continue
            if self._in_flight:
                wait = min(wait, self._in_flight[0][0] - self._clock()) if wait > 0.001 else wait
            self._clock.now += max(wait, 0.001)
            while self._in_flight and self._in_flight[0][0] <= self._clock():
                self._answer(self._in_flight.popleft()[1], retry_after)
        return self._clock() - began

    def _answer(self, ticket: int, retry_after: float | None) -> None:
        if self._server.takes():
            self.answered += 1
            self._limiter.accepted(ticket)
        else:
            self.refused += 1
            self._limiter.refused(ticket, retry_after)


def running(limit: int | None, **options: int) -> tuple[Run, AdaptiveLimiter, Server]:
    clock = Clock()
    server = Server(clock, limit)
    limiter = AdaptiveLimiter(clock=clock, **options)
    return Run(limiter, server, clock), limiter, server


def test_without_a_limit_the_rate_rises_quickly():
    run, limiter, _ = running(None, ceiling=300)
    assert run.ask(250, at_once=8) < 1.3 * (250 * 0.3 / 8) + 2
    assert run.refused == 0
    assert limiter.parallelism(0.3) >= 8


def test_the_ceiling_is_never_exceeded():
    run, limiter, _ = running(None, ceiling=20)
    assert run.ask(100, at_once=8) >= 40
    assert (limiter.limit, run.refused) == (20, 0)


def test_a_limit_is_found_by_one_refusal_and_then_used_fully():
    run, limiter, _ = running(10)
    assert run.ask(50, at_once=4) <= 1.2 * 50
    assert (limiter.limit, run.refused <= 2) == (10, True)
    assert limiter.parallelism(0.3) == 1
    assert limiter.parallelism(3.1) == 4


def test_a_limit_estimated_too_high_is_corrected_with_few_refusals():
    run, limiter, _ = running(10)
    ticket, _ = limiter.reserve()
    limiter.accepted(ticket)  # another route: the server does not count it
    assert run.ask(200, at_once=4) <= 1.2 * 200
    assert limiter.limit >= 9
    assert run.refused <= 5


def test_the_rate_recovers_after_a_temporary_lower_limit():
    run, _, server = running(10)
    run.ask(30, at_once=4)
    server.limit = 5
    run.ask(10, at_once=4)
    server.limit = 10
    run.ask(60, at_once=4)
    assert run.ask(100, at_once=4) <= 1.25 * 100


@pytest.mark.parametrize("latency", [0.3, 1.5])
@pytest.mark.parametrize("limit", [3, 5, 7, 10, 15])
def test_any_limit_is_found_and_used_fully(limit, latency):
    run, limiter, _ = running(limit)
    assert run.ask(200, at_once=4, latency=latency) <= 1.1 * (200 / limit * 10)
    assert limiter.limit == limit
    assert run.refused <= 6


def test_a_limit_that_rises_is_found_again():
    run, limiter, server = running(10)
    run.ask(30, at_once=4)
    server.limit = None
    run.ask(300, at_once=8)
    assert limiter.limit > 10


def test_retry_after_is_respected_and_bounded():
    clock = Clock()
    limiter = AdaptiveLimiter(clock=clock)
    for retry_after, wait in ((7.0, 7.0), (0.0, 0.0), (100_000.0, 300.0)):
        ticket, _ = limiter.reserve()
        limiter.refused(ticket, retry_after)
        assert limiter.reserve() == (0, wait) if wait else limiter.reserve()[0]
        clock.now += 1000


def test_without_retry_after_the_wait_grows():
    clock = Clock()
    limiter = AdaptiveLimiter(clock=clock)
    waits = []
    for _ in range(9):
        ticket, _ = limiter.reserve()
        limiter.refused(ticket, None)
        _, seconds = limiter.reserve()
        waits.append(seconds)
        clock.now += seconds
    assert waits == sorted(waits)
    assert waits[-1] == 60
    assert limiter.limit == 1


def test_probing_continues_after_a_failed_probe():
    limiter = AdaptiveLimiter(2, clock=Clock())
    tickets = [limiter.reserve()[0] for _ in range(3)]
    assert all(tickets)
    assert limiter.reserve()[0] == 0
    limiter.failed(tickets[-1])
    assert limiter.reserve()[0]


def test_a_ceiling_of_one_allows_one_request_per_period():
    clock = Clock()
    limiter = AdaptiveLimiter(1, 10.0, ceiling=1, clock=clock)
    ticket, _ = limiter.reserve()
    limiter.accepted(ticket)
    assert limiter.reserve()[0] == 0
    clock.now += 10.05
    assert limiter.reserve()[0] == 0
    clock.now += 0.2
    assert limiter.reserve()[0]
