"""Lists of runs: filters, order and pages, the statement beside a list, and downloads."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, feedback, run_id
from viewer_fixtures import Viewer

from lse_resources.postgres.analysis.frames import Runs
from lse_resources.postgres.pages import runs as pages

_COUNT = 24
_LATENCIES = [0.25, 1.5, 1.5, 30.0, None, 2.0]


def _document(number: int) -> dict[str, Any]:
    """Fields of a run that differ from run to run; the values repeat in different rhythms."""
    start = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC) + timedelta(seconds=number // 2)
    latency = _LATENCIES[number % 6]
    return {
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(seconds=latency)).isoformat() if latency is not None else None,
        "run_type": ["LLM", "CHAIN", "TOOL"][number % 3],
        "status": "ERROR" if number % 5 == 0 else "SUCCESS",
        "error": f"ValueError: 100% of {number}_x" if number % 5 == 0 else None,
        "total_tokens": [None, 10, 200][number % 3],
        "total_cost": [None, 0.25, "0.25", 1e-7][number % 4],
        "tags": ["even"] if number % 2 == 0 else ["odd", "a,b"],
        "metadata": {"ls_model_name": ["gpt-x", "other"][number % 2], "thread_id": f"t{number % 7}", "n": number},
        "inputs": {"question": f'say "{number}"\nü'},
        "outputs": ["BACK\\slash"] if number == 9 else {},
    }


def _filled(viewer: Viewer) -> list[dict[str, Any]]:
    folder = viewer.folder()
    documents = []
    for number in range(_COUNT):
        folder.write(number, **_document(number))
        documents.append(folder.run(number) | _document(number))
    folder.write_feedback(
        *(feedback(number, run=number, score=number / 10) for number in range(4)),
        feedback(20, run=5, score=1, lse_deleted_at="2026-02-02T00:00:00"),
    )
    viewer.load(folder)
    return documents


def _names(html: str) -> list[str]:
    return re.findall(r'<th scope="row" class="name">.*?(run \d+)', html, re.DOTALL)


def _latency(run: dict[str, Any]) -> float:
    return _LATENCIES[int(run["name"].split()[1]) % 6] or 0


_FILTERS: list[tuple[dict[str, str], Callable[[int, dict[str, Any]], bool]]] = [
    ({}, lambda number, run: True),
    ({"root": "1"}, lambda number, run: number % 4 == 0),
    ({"name": "RUN 1"}, lambda number, run: "run 1" in run["name"]),
    ({"name": "%"}, lambda number, run: False),
    ({"name": "run_1"}, lambda number, run: False),
    ({"type": "tool"}, lambda number, run: run["run_type"] == "TOOL"),
    ({"status": "error"}, lambda number, run: run["status"] == "ERROR"),
    ({"model": "gpt-x"}, lambda number, run: number % 2 == 0),
    ({"tag": "a,b"}, lambda number, run: number % 2 == 1),
    ({"metadata": "n=7"}, lambda number, run: number == 7),
    ({"thread": "t3"}, lambda number, run: number % 7 == 3),
    ({"seconds": "1.5"}, lambda number, run: _latency(run) >= 1.5),
    ({"cost": "0.25"}, lambda number, run: number % 4 in (1, 2)),
    ({"tokens": "11"}, lambda number, run: run["total_tokens"] == 200),
    ({"feedback": "correctness"}, lambda number, run: number < 4),
    ({"feedback": "correctness", "score_from": "0.1", "score_to": "0.2"}, lambda number, run: number in (1, 2)),
    ({"text": 'SAY "11"\nü'}, lambda number, run: number == 11),
    ({"text": "back\\Slash"}, lambda number, run: number == 9),
    ({"text": "100% of 5_"}, lambda number, run: number == 5),
    ({"status": "error", "type": "llm"}, lambda number, run: number % 15 == 0),
    ({"root": "1", "seconds": "2", "tag": "even"}, lambda number, run: number % 4 == 0 and _latency(run) >= 2),
    ({"status": "error' OR 'a' = 'a"}, lambda number, run: False),
]


def test_filters_combine_and_the_statement_beside_the_list_selects_the_same(viewer: Viewer) -> None:
    documents = _filled(viewer)
    for values, matches in _FILTERS:
        expected = [run for number, run in enumerate(documents) if matches(number, run)]
        html = viewer.get("/archive/runs", project=PROJECT, **values).text
        assert sorted(_names(html)) == sorted(run["name"] for run in expected), values
        statement = unescape(re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)[0])
        columns, rows = Runs(viewer.database).query(statement)
        assert sorted(str(row[columns.index("run_id")]) for row in rows) == sorted(run["id"] for run in expected)


@pytest.mark.parametrize("sort", ["start", "latency", "cost", "tokens"])
def test_each_page_continues_the_last_one(viewer: Viewer, monkeypatch: pytest.MonkeyPatch, sort: str) -> None:
    documents = _filled(viewer)
    viewer.load(viewer.folder(DAY - timedelta(days=1)).fill(3, first=100))
    with viewer.database.connect() as connection:  # runs of which the database holds no content
        for number in (200, 201, 202):
            connection.execute(
                "INSERT INTO runs (run_id, trace_id, project, run_date, mark) VALUES (%s, %s, %s, %s, '{refused}')",
                (run_id(number), run_id(number), PROJECT, DAY),
            )
    monkeypatch.setattr(pages, "PAGE_ROWS", 2)
    shown, following = list[str](), f"/archive/runs?project={PROJECT}&sort={sort}"
    pages_read = 0
    while following:
        html = viewer.get(following).text
        shown += re.findall(r'class="name">.*?(run \d+|\(no name\))', html, re.DOTALL)
        pages_read += 1
        [following] = [unescape(found) for found in re.findall(r'rel="next" href="([^"]*)"', html)] or [""]
    assert pages_read == (_COUNT + 6) / 2
    assert shown.count("(no name)") == 3
    named = [name for name in shown if name != "(no name)"]
    assert sorted(named) == sorted([run["name"] for run in documents] + [f"run {number}" for number in (100, 101, 102)])
    numbers = [int(name.split()[1]) for name in named]
    if sort == "start":
        assert shown[:3] == ["(no name)"] * 3
        assert numbers == [*reversed(range(_COUNT)), 102, 101, 100]
    else:
        column = {"latency": "latency_seconds", "cost": "total_cost", "tokens": "total_tokens"}[sort]
        frame = Runs(viewer.database).load_runs(PROJECT, DAY - timedelta(days=1), DAY).set_index("name")[column]
        values = frame.astype("float64").fillna(-1)[named].tolist()
        assert values == sorted(values, reverse=True)


def test_a_download_has_all_runs_of_the_list(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = _filled(viewer)
    monkeypatch.setattr(pages, "PAGE_ROWS", 2)
    html = viewer.get("/archive/runs", project=PROJECT, status="error", **{"from": str(DAY), "to": str(DAY)}).text
    links = {kind: unescape(link) for link, kind in re.findall(r'href="(/archive/runs\.(\w+)\?[^"]*)"', html)}
    expected = [run for run in documents if run["status"] == "ERROR"]
    table = viewer.get(links["csv"])
    assert table.headers["content-disposition"] == 'attachment; filename="runs.csv"'
    assert table.headers["content-security-policy"].startswith("sandbox")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["run_id"] for row in rows] == [run["id"] for run in reversed(expected)]
    lines = viewer.get(links["jsonl"]).text.splitlines()
    assert list(map(json.loads, lines)) == list(reversed(expected))
    assert viewer.get("/archive/runs.xml", 404, project=PROJECT)
    assert "a download needs a range" in viewer.text("/archive/runs.csv", 400, project=PROJECT).lower()


def test_runs_by_id_with_those_that_are_not_there(viewer: Viewer) -> None:
    _filled(viewer)
    text = viewer.text("/archive/runs", project=PROJECT, id=[run_id(3), run_id(5), run_id(77)])
    assert f"Not in the database: {run_id(77)}" in text
    assert "run 3" in text
    assert "run 5" in text
    assert "run 4" not in text


def test_a_malformed_filter_is_an_error_page(viewer: Viewer) -> None:
    for name, value, says in (
        ("from", "2026-02-30", "is not a day"),
        ("seconds", "nan", "is not a number"),
        ("cost", "1e99", "is not a number"),
        ("tokens", "-1", "is not a number"),
        ("metadata", "x", "is not written as key=value"),
        ("sort", "name", "is not one of"),
        ("id", "7", "is not the id of a run"),
        ("after", "2026-01-31~x~y", "names no page"),
        ("text", "a\0b", "NUL"),
    ):
        assert says in viewer.text("/archive/runs", 400, project=PROJECT, **{name: value}), name


def test_texts_of_any_length_are_loaded_and_listed(viewer: Viewer) -> None:
    long = " ".join(str(number * 7919) for number in range(4000))  # an entry of an index has at most 2,704 bytes
    folder = viewer.folder()
    folder.write(0, status="ERROR", name=long, run_type=long, error=long)
    folder.write(1, status=long, metadata={"ls_model_name": long, "thread_id": long})
    viewer.load(folder)
    assert viewer.get("/archive/runs", project=PROJECT).text.count('class="name"') == 2


def test_hostile_values_of_runs_are_escaped(viewer: Viewer) -> None:
    folder: RunFolder = viewer.folder()
    hostile = '<img src=x onerror="alert(1)">\u202e\ud800'
    folder.write(
        1, name=hostile, error=hostile, tags=[hostile], status=hostile, run_type=hostile, metadata={"thread_id": "t"}
    )
    folder.write_feedback(feedback(1, run=1, key=hostile))
    viewer.load(folder)
    html = viewer.get("/archive/runs", project=PROJECT, name="<img", text='onerror="').text
    assert html.count("&lt;img src=x onerror=") >= 5
    assert "<img" not in html
    assert "\u202e" not in html
    assert "rendering" in html
