"""The patience of LangSmith requests: seconds without progress, by a simulated clock."""

from __future__ import annotations

import threading

import httpx
import pytest

from lse_archive.errors import SourceError
from lse_resources.langsmith.http import LangSmithHttp, UnansweredError, shared
from lse_resources.langsmith.limiter import AdaptiveLimiter
from lse_resources.langsmith.settings import LangSmithSettings


class FakeTime(threading.Event):
    """An event that is never set; waiting advances the clock."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return False


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def http(time: FakeTime) -> LangSmithHttp:
    settings = LangSmithSettings("key", patience=40.0)
    shared.cache_clear()
    shared(settings).queries = AdaptiveLimiter(1000, 10.0, ceiling=1000, clock=time.clock)
    return LangSmithHttp(settings, httpx.Client(), clock=time.clock)


def test_a_request_that_always_fails_ends_after_the_patience(http: LangSmithHttp, time: FakeTime) -> None:
    with pytest.raises(
        SourceError,
        match=r"cannot read: HTTP 503\. \d+ attempts failed, and the patience of 40 s",
    ):
        http.send("cannot read", lambda: httpx.Response(503), stop=time)
    assert time.now == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("reason", "hint"), [("certificate has expired", "clock"), ("self-signed certificate", "SSL_CERT_FILE")]
)
def test_a_certificate_that_is_refused_is_final(http: LangSmithHttp, time: FakeTime, reason: str, hint: str) -> None:
    def request() -> httpx.Response:
        raise httpx.ConnectError(f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason} (_ssl.c:1006)")

    with pytest.raises(SourceError, match=f"{reason}.*{hint}"):
        http.send("cannot read", request, stop=time)
    assert time.now == 0.0


def test_a_retry_after_is_respected_within_the_patience(http: LangSmithHttp, time: FakeTime) -> None:
    answers = iter([httpx.Response(503, headers={"Retry-After": "35"}), httpx.Response(200, content=b"[]")])
    assert http.send("cannot read", lambda: next(answers), stop=time) == b"[]"
    assert time.now == 35.0
    with pytest.raises(SourceError):
        http.send("cannot read", lambda: httpx.Response(503, headers={"Retry-After": "3600"}), stop=time)
    assert time.now == pytest.approx(75.0)


def test_a_request_ends_after_its_attempts_without_those_that_the_rate_limit_refused(
    http: LangSmithHttp, time: FakeTime
) -> None:
    asked: list[int] = []

    def answer() -> httpx.Response:
        asked.append(429 if len(asked) % 2 else 502)
        return httpx.Response(asked[-1], headers={"Retry-After": "0"})

    with pytest.raises(UnansweredError, match=r"HTTP 502\. 5 attempts failed: check"):
        http.send("cannot read", answer, attempts=3, stop=time)
    assert asked == [502, 429, 502, 429, 502]


def test_the_error_names_the_last_failure_if_the_rate_limit_leaves_no_time_for_another_attempt(
    http: LangSmithHttp, time: FakeTime
) -> None:
    limiter = AdaptiveLimiter(1, 100.0, ceiling=1, clock=time.clock)
    with pytest.raises(UnansweredError, match=r"HTTP 502"):
        http.send("cannot read", lambda: httpx.Response(502), limiter=limiter, stop=time)


def test_a_smaller_page_restarts_the_patience(http: LangSmithHttp, time: FakeTime) -> None:
    sizes = [8]

    def shrink(_: str) -> bool:
        sizes.append(sizes[-1] // 2)
        return sizes[-1] > 0

    with pytest.raises(SourceError):
        http.send("cannot read", lambda: httpx.Response(503), shrink=shrink, stop=time)
    assert sizes[:5] == [8, 4, 2, 1, 0]
    assert time.now > 40.0
