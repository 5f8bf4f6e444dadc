"""Tests of the demo's agent: traces through the real SDK, reproducible by seed."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import date

import pytest
from langsmith import Client

from lse_demo.agent import fill
from lse_demo.langsmith.encoding import split
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore

DAY = date(2026, 1, 2)


@pytest.fixture
def store() -> Iterator[LangSmithStore]:
    with LangSmithStore() as store:
        yield store


def trace_into(store: LangSmithStore, *, traces: int, seed: int = 7, day: date = DAY) -> tuple[int, list[int]]:
    seen: list[int] = []
    with LangSmithServer(store) as server:
        client = Client(server.url, api_key=DEMO_KEY)
        made = fill(client, "p", day, traces, seed, seen.append)
        client.close()
        assert server.violations == []
    return made, seen


def test_all_runs_arrive_and_progress_is_reported(store):
    made, seen = trace_into(store, traces=40)
    assert made == len(store.runs("p")) == seen[-1]
    assert seen == sorted(seen)
    assert len(seen) == 40


def test_the_same_seed_creates_the_same_runs(store):
    trace_into(store, traces=10)
    first = {run.id: split(run.v2) for run in store.runs("p")}
    with LangSmithStore() as other:
        trace_into(other, traces=10)
        second = {run.id: split(run.v2) for run in other.runs("p")}
    assert first.keys() == second.keys()
    same = ("name", "start_time", "end_time", "inputs", "outputs", "error", "dotted_order", "total_cost")
    assert all(first[run_id][name] == second[run_id][name] for run_id in first for name in same)
    with LangSmithStore() as other:
        trace_into(other, traces=10, seed=8)
        assert first.keys().isdisjoint(run.id for run in other.runs("p"))


def test_the_traces_contain_edge_cases_for_archives(store):
    trace_into(store, traces=60)
    runs = [split(run.v2) for run in store.runs("p")]
    names = {json.loads(run["name"]) for run in runs}
    assert any("🤖" in name and "/../" in name and '"' in name for name in names)
    assert any(b"\\u0000" in run["outputs"] for run in runs)
    assert any(b'\\ud83d"' in run["inputs"] for run in runs)
    assert max(len(run["outputs"]) for run in runs) > 900_000
    statuses = Counter(json.loads(run["status"]) for run in runs)
    assert statuses["PENDING"] == 1
    assert statuses["ERROR"] > 0
    assert any(b"Traceback" in run["error"] for run in runs)
    days: dict[bytes, set[bytes]] = {}
    for run in runs:
        days.setdefault(run["trace_id"], set()).add(run["start_time"][1:11])
    assert [sorted(found) for found in days.values() if len(found) > 1] == [[b"2026-01-02", b"2026-01-03"]]
    depths = Counter(len(json.loads(run["parent_run_ids"])) for run in runs)
    assert set(depths) == {0, 1, 2}
    threads = Counter(json.loads(run["thread_id"]) for run in runs if run["is_root"] == b"true")
    assert threads.most_common(1)[0][1] == 4
    assert all(json.loads(run["total_cost"]) > 0 for run in runs if run["run_type"] == b'"LLM"')


def test_some_traces_have_attachments(store):
    trace_into(store, traces=6)
    runs = [run.id for run in store.runs("p")]
    files = [(name, store.file(run, name)) for run, names in store.files(runs).items() for name in names]
    assert sorted(name for name, _ in files) == ["cover", "letter", "page 1 📄"]
    pictures = {found for name, found in files if name != "letter"}
    [(media_type, content)] = [found for found in pictures if found]
    assert (media_type, content[:8], content[-8:-4]) == ("image/png", b"\x89PNG\r\n\x1a\n", b"IEND")


def test_two_days_share_no_ids(store):
    trace_into(store, traces=8)
    first = {run.id for run in store.runs("p")}
    made, _ = trace_into(store, traces=8, day=date(2026, 1, 3))
    assert len(store.runs("p")) == len(first) + made


def test_some_traces_get_feedback(store):
    trace_into(store, traces=40)
    rows = store._db.execute("SELECT key, body, run IN (SELECT id FROM runs) FROM feedback").fetchall()
    records = [json.loads(body) for _, body, _ in rows]
    assert {key for key, _, _ in rows} == {"thumbs", "helpfulness", "tone"}
    assert all(known for _, _, known in rows)
    assert any(record["comment"] for record in records)
    assert any(record["correction"] for record in records)
    assert {record["feedback_source"]["type"] for record in records} == {"api", "model"}
