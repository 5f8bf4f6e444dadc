"""Fault injection of the local servers: faults of connections and pages, and rate limits."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from email.message import Message
from typing import Any

import httpx
import pytest

from lse_demo.faults import Fault, Faults, on
from lse_demo.http import Answer, LocalServer, Refusal, Request
from lse_demo.langsmith.gate import RateLimit
from lse_demo.langsmith.runs import V2_FIELDS
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore

DAY = date(2026, 1, 2)
START, END = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
ALL = [name.upper() for name in V2_FIELDS]
KEY = {"X-API-Key": DEMO_KEY}


class Echo(LocalServer):
    """A server that answers with the request's body."""

    def __init__(self) -> None:
        super().__init__()
        self.carried_out: list[int] = []
        self.cut_off: list[int] = []

    def handle(self, request: Request) -> Answer:
        if request.path == "/refused":
            raise Refusal(Answer.json({"detail": "no"}, 404))
        self.carried_out.append(len(request.body))
        return Answer(200, request.body)

    def partial(self, request: Request) -> None:
        self.cut_off.append(len(request.body))


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture
def store() -> Iterator[LangSmithStore]:
    with LangSmithStore() as store:
        yield store


@pytest.fixture
def server(store: LangSmithStore) -> Iterator[LangSmithServer]:
    with LangSmithServer(store) as server:
        yield server


def send(server: LocalServer, body: bytes = b"x" * 5000) -> httpx.Response:
    return httpx.post(f"{server.url}/", content=body)


def query(server: LangSmithServer, project_id: str, **body: Any) -> httpx.Response:
    window = {"min_start_time": START.isoformat(), "max_start_time": END.isoformat()}
    body = {"project_ids": [project_id], **window, **body}
    return httpx.post(f"{server.url}/api/v2/runs/query", json=body, headers=KEY)


def ids_of(response: httpx.Response) -> list[str]:
    return [item["id"] for item in response.json()["items"]]


def test_requests_are_answered_and_logged(echo):
    with httpx.Client(base_url=echo.url) as client:
        assert client.post("/a?x=1", content=b"hello").content == b"hello"
        assert client.post("/a", content=iter([b"in ", b"chunks"])).content == b"in chunks"
        assert client.get("/refused").json() == {"detail": "no"}
    assert [(r.method, r.path, r.status) for r in echo.requests] == [
        ("POST", "/a", 200),
        ("POST", "/a", 200),
        ("GET", "/refused", 404),
    ]


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("kind", ["cut_before", "cut_request", "lose_answer", "cut_body"])
def test_cut_connections(echo, kind, reset):
    echo.faults.add(Fault(kind, times=1, at=1000, reset=reset))
    orderly = () if reset else (httpx.RemoteProtocolError,)
    with pytest.raises((httpx.ReadError, httpx.WriteError, *orderly)):
        send(echo)
    assert send(echo).status_code == 200
    before = {"lose_answer": [5000], "cut_body": [5000]}.get(kind, [])
    assert echo.carried_out == [*before, 5000]
    assert echo.cut_off == ([1000] if kind == "cut_request" else [])
    assert [request.status for request in echo.requests] == [None, 200]
    assert echo.violations == []


def test_corrupted_answers(echo):
    for kind, at in (("truncate", 10), ("corrupt", 3), ("invalid_json", None)):
        echo.faults.add(Fault(kind, times=1, at=at))
    assert send(echo).content == b"x" * 10
    assert send(echo, b"abcdef").content == b"abceef"
    with pytest.raises(ValueError, match="Expecting"):
        send(echo).json()
    echo.faults.add(Fault("status", status=429, headers={"Retry-After": "7"}, body=b"{}", match=on("POST", "/")))
    answers = [send(echo) for _ in range(3)]
    assert [(a.status_code, a.headers["Retry-After"], a.content) for a in answers] == [(429, "7", b"{}")] * 3
    echo.faults.clear()
    assert send(echo).status_code == 200


def test_slow_and_call_execute_the_request(echo):
    called: list[int] = []
    echo.faults.add(Fault("slow", delay=0.01)).add(Fault("call", times=1, action=lambda: called.append(1)))
    assert [send(echo).status_code for _ in range(2)] == [200, 200]
    assert called == [1]
    assert echo.requests[0].faults == ("slow", "call")
    assert echo.requests[0].done - echo.requests[0].at >= 0.01


def test_a_plan_is_the_same_for_the_same_seed():
    def strikes(seed: int) -> list[bool]:
        faults = Faults(Fault("status", rate=0.3, after=2), seed=seed)
        return [bool(faults.select(_nothing())) for _ in range(200)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert strikes(1)[:2] == [False, False]
    assert 40 < sum(strikes(1)) < 80


def _nothing() -> Request:
    return Request("GET", "/", {}, (), Message())


def test_a_match_gets_the_body(echo):
    echo.faults.add(Fault("status", status=410, match=lambda request: b"cursor" in request.body))
    assert [send(echo, body).status_code for body in (b"{}", b"cursor")] == [200, 410]
    assert echo.faults.struck("status") == 1


def test_stop_closes_open_connections():
    with httpx.Client() as client:
        with Echo() as server:
            client.get(server.url)
        with pytest.raises(httpx.TransportError):
            client.get(server.url)


@pytest.mark.parametrize("form", ["seconds", "date", None])
def test_the_limit_answers_429(store, server, form):
    server.behavior.limit, server.behavior.retry_after = RateLimit(2, 3600.0), form
    answers = [query(server, store.project("p").id) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    after = answers[2].headers.get("Retry-After")
    assert {"seconds": after == "3600", "date": bool(after) and after.endswith("GMT"), None: after is None}[form]


def test_page_faults(store, server):
    store.generate("p", DAY, runs=30, mean_bytes=2500)
    project = store.project("p").id
    first = query(server, project, page_size=10).json()
    second = query(server, project, page_size=10, cursor=first["next_cursor"]).json()
    server.faults.add(Fault("repeat_page", times=1)).add(Fault("lost_cursor", status=410, times=1))
    again = query(server, project, page_size=10, cursor=second["next_cursor"]).json()
    assert again == {"items": second["items"], "next_cursor": second["next_cursor"]}
    assert query(server, project, page_size=10, cursor=second["next_cursor"]).status_code == 410
    server.faults.add(Fault("no_cursor", times=1)).add(Fault("overlap", times=1))
    bare = query(server, project, page_size=10).json()
    assert (len(bare["items"]), bare["next_cursor"]) == (10, None)
    overlapping = query(server, project, page_size=10).json()
    behind = query(server, project, page_size=10, cursor=overlapping["next_cursor"])
    assert ids_of(behind)[0] == overlapping["items"][-1]["id"]
    server.behavior.max_page_bytes = 20_000
    assert query(server, project, selects=ALL, page_size=20).status_code == 413
    late = Fault(
        "call", times=1, action=lambda: store.put_raw("p", b'{"id":"late","start_time":"2026-01-02T00:00:00Z"}')
    )
    server.faults.add(late)
    assert "late" in ids_of(query(server, project, page_size=100))
