"""Feedback of the local LangSmith, given and read by the real SDK."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date

import httpx
import pytest
from langsmith import Client

from lse_demo.faults import Fault, Faults, on
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore

KEY = {"X-API-Key": DEMO_KEY}


@pytest.fixture
def store() -> Iterator[LangSmithStore]:
    with LangSmithStore() as store:
        store.generate("p", date(2026, 1, 2), runs=10)
        yield store


@pytest.fixture
def server(store: LangSmithStore) -> Iterator[LangSmithServer]:
    with LangSmithServer(store, faults=Faults(seed=1)) as server:
        yield server
    assert server.violations == []


def read(server: LangSmithServer, **parameters: object) -> httpx.Response:
    return httpx.get(f"{server.url}/api/v1/feedback", params=parameters, headers=KEY)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("queued", [False, True], ids=["sent", "queued"])
def test_the_sdk_gives_edits_lists_and_deletes_feedback(store, server, queued):
    client = Client(api_url=server.url, api_key=DEMO_KEY)
    run, project = store.runs("p")[0].id, store.project("p").id
    given = client.create_feedback(
        run, "quality", score=0.5, comment="fine", trace_id=run if queued else None, session_id=project
    )
    client.flush()
    [found] = client.list_feedback(run_ids=[run])
    assert (found.id, found.score, found.comment, str(found.session_id)) == (given.id, 0.5, "fine", project)
    assert found.start_time is not None
    client.update_feedback(given.id, score=1.0)
    changed = client.read_feedback(given.id)
    assert changed.score == 1.0
    assert changed.modified_at > found.modified_at
    assert changed.created_at == found.created_at
    client.delete_feedback(given.id)
    assert list(client.list_feedback(run_ids=[run])) == []
    client.cleanup()


def test_runs_are_served_with_the_statistics_of_their_feedback(store, server):
    run, other = (run.id for run in store.runs("p")[:2])
    project = store.project("p").id
    for score in (0.0, 1.0):
        store.feedback.create({"run_id": run, "key": "quality", "score": score, "comment": "c"})
    body = {"project_ids": [project], "min_start_time": "2026-01-02T00:00:00Z", "selects": ["ID", "FEEDBACK_STATS"]}
    items = httpx.post(f"{server.url}/api/v2/runs/query", json=body, headers=KEY).json()["items"]
    stats = {item["id"]: item["feedback_stats"] for item in items}
    assert (stats[run]["quality"]["n"], stats[run]["quality"]["avg"], stats[other]) == (2, 0.5, None)
    body = {"session": [project], "start_time": "2026-01-02T00:00:00Z", "select": ["id", "feedback_stats"]}
    runs = httpx.post(f"{server.url}/runs/query", json=body, headers=KEY).json()["runs"]
    assert {one["id"]: one["feedback_stats"] for one in runs} == stats
    counted = httpx.post(f"{server.url}/runs/stats", json={"session": [project]}, headers=KEY).json()
    assert counted["feedback_stats"]["quality"]["n"] == 2


def test_the_parameters_of_a_listing(store, server):
    runs, project = [run.id for run in store.runs("p")[:2]], store.project("p").id
    for number in range(150):
        at = f"2026-01-05T00:00:00.{number:06}Z"
        store.feedback.create({"run_id": runs[number % 2], "key": f"k{number % 3}", "created_at": at})
    store.feedback.create({"session_id": project, "key": "project", "created_at": "2026-01-06T00:00:00Z"})
    assert len(read(server, run=runs).json()) == 100
    assert len(read(server, run=runs, offset=100).json()) == 50
    assert len(read(server, run=runs[0], limit=99).json()) == 75
    assert len(read(server, run=runs[0], key="k0").json()) == 25
    assert [one["key"] for one in read(server, session=project, level="session").json()] == ["project"]
    assert len(read(server, session=project, level="run", min_created_at="2026-01-05T00:00:00.000140Z").json()) == 10
    assert len(read(server, session=project, max_created_at="2026-01-05T00:00:00.000009Z").json()) == 10
    assert read(server, run=",".join(runs)).status_code == 422
    assert read(server, run=runs, limit=101).status_code == 422
    assert read(server, session=str(uuid.uuid4())).json() == []


def test_the_order_of_a_listing_can_change(store, server):
    run = store.runs("p")[0].id
    for _ in range(50):
        store.feedback.create({"run_id": run, "key": "k"})
    server.faults.add(Fault("shuffle", on("GET", "/feedback")))
    orders = {tuple(one["id"] for one in read(server, run=run).json()) for _ in range(5)}
    assert len(orders) > 1
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_malformed_feedback_is_refused(store, server):
    for body in ({}, {"run_id": "x", "id": "not a uuid"}, {"run_id": "x", "created_at": "never"}):
        assert httpx.post(f"{server.url}/feedback", json=body, headers=KEY).status_code == 422
    nothing = f"{server.url}/feedback/{uuid.uuid4()}"
    assert httpx.get(nothing, headers=KEY).status_code == 404
    assert httpx.patch(nothing, json={"score": 1}, headers=KEY).status_code == 404
    assert httpx.delete(nothing, headers=KEY).status_code == 404
