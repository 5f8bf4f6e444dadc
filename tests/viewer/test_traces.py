"""A trace, the panel of a run, its values, attachments and file, and a thread."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from datetime import timedelta
from html import unescape
from typing import Any
from uuid import UUID

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, attachment, feedback, run_id
from hypothesis import given
from hypothesis import strategies as st
from viewer_fixtures import Viewer, text_of

from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.loads_table import begin_load
from lse_resources.postgres.pages.session import reading
from lse_resources.postgres.pages.traces import TraceRun, tree_order
from lse_viewer import archive, traces

_PNG = b"\x89PNG\r\n\x1a\n-not-really"


def _link(html: str, label: str) -> str:
    [found] = re.findall(rf'<a href="([^"]*)">{label}</a>', html)
    return unescape(found)


def _rows(html: str) -> list[tuple[int, str]]:
    """Level and name of each run of the tree."""
    found = re.findall(r'aria-level="(\d+)".*?<span class="name">(.*?)</span>', html, re.DOTALL)
    return [(int(level), name) for level, name in found]


@given(st.lists(st.one_of(st.none(), st.integers(0, 12)), max_size=12))
def test_the_tree_has_every_run_once_below_its_parent(parents: list[int | None]) -> None:
    ids = [UUID(int=number) for number in range(13)]
    runs = [
        TraceRun(ids[number], None if parent is None else ids[parent], *[None] * 9)  # ty: ignore[invalid-argument-type]
        for number, parent in enumerate(parents)
    ]
    rows = tree_order(runs)
    assert sorted(row.run.run_id for row in rows) == ids[: len(runs)]
    places = {row.run.run_id: (place, row.level) for place, row in enumerate(rows)}
    for place, row in enumerate(rows):
        if row.level:
            parent = row.run.parent_run_id
            assert parent is not None
            assert places[parent][0] < place
            assert places[parent][1] == row.level - 1
        assert row.is_orphan == (row.run.parent_run_id is not None and row.run.parent_run_id not in places)


def test_a_trace_across_midnight_is_whole(viewer: Viewer) -> None:
    today, tomorrow = viewer.folder(), viewer.folder(DAY + timedelta(days=1))
    today.write(0, name="root", run_type="CHAIN")
    today.write(1, name="child", status="ERROR", error="Boom", total_cost=0.5, total_tokens=7)
    tomorrow.write(2, name="grandchild", parent_run_ids=[run_id(0), run_id(1)], total_cost="0.25", total_tokens=3)
    tomorrow.write(3, name="orphan", parent_run_ids=[run_id(99)], run_type="TOOL", total_tokens=1000)
    viewer.load(today)
    viewer.load(tomorrow)
    opened = viewer.get(f"/archive/run/{run_id(2)}")
    assert opened.url.path == f"/archive/trace/{run_id(0)}"
    assert _rows(opened.text) == [(1, "root"), (2, "child"), (3, "grandchild"), (1, "orphan")]
    text = text_of(opened.text)
    assert "4 runs 1 error 10 tokens $0.75" in text
    assert "its parent is not archived" in text
    [selected] = re.findall(r'aria-selected="true".*?data-run="([^"]*)"', opened.text)
    assert selected == run_id(2)
    assert _link(opened.text, "Parent") == f"/archive/run/{run_id(1)}"
    assert "Boom" not in text
    assert "Boom" in viewer.text(f"/archive/trace/{run_id(0)}", run=run_id(1))


def test_a_long_trace_comes_in_parts(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    with viewer.database.connect() as connection:
        connection.execute("SELECT lse_ensure_month(%s)", (DAY,))
        connection.execute(
            """INSERT INTO runs (run_id, trace_id, project, run_date, data)
               SELECT lpad(to_hex(n), 32, '0')::uuid, %s, 'p', %s,
                      jsonb_build_object('id', n, 'name', 'run ' || n, 'start_time', '2026-01-31T12:00:00Z',
                                         'parent_run_id', CASE WHEN n > 1 THEN %s END)
               FROM generate_series(1, 3000) AS n""",
            (UUID(int=1), DAY, str(UUID(int=1))),
        )
    monkeypatch.setattr(traces, "ROWS", 700)
    sessions = list[Database]()
    monkeypatch.setattr(archive, "reading", lambda database: sessions.append(database) or reading(database))
    html = viewer.get(f"/archive/trace/{UUID(int=1)}").text
    assert len(sessions) == 1
    shown = _rows(html)
    assert len(shown) == 700
    assert _link(html, "Further runs") == f"/archive/trace/{UUID(int=1)}?begin=700"
    # Further rows are of the trace as it was read: a row that comes or goes meanwhile moves no other one.
    with viewer.database.connect() as connection:
        connection.execute("DELETE FROM runs WHERE run_id = %s", (UUID(int=2),))
    while following := re.findall(r'data-following="(\d+)"', html):
        html = viewer.get(f"/archive/trace/{UUID(int=1)}/rows", begin=following[0]).text
        shown += _rows(html)
    assert len(set(shown)) == len(shown) == 3000
    with viewer.database.connect() as connection:
        begin_load(connection, "load", PROJECT, DAY)
    assert len(_rows(viewer.get(f"/archive/trace/{UUID(int=1)}/rows", begin="2800").text)) == 199
    # A run far down is among the rows when it is opened.
    deep = viewer.get(f"/archive/run/{UUID(int=2500)}").text
    assert (2, "run 2500") in _rows(deep)


def test_the_panel_has_all_parts_of_a_run(viewer: Viewer) -> None:
    folder = viewer.folder()
    system = {"role": "system", "content": "Be brief."}
    human = {
        "lc": 1,
        "id": ["langchain", "schema", "messages", "HumanMessage"],
        "kwargs": {"content": "Why\tso?\nTell <b>me</b>."},
    }
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"day": "monday"}'}}
    folder.write(
        0,
        inputs={"messages": [[system, human]]},
        outputs={
            "generations": [[{"text": "", "message": {"role": "assistant", "content": None, "tool_calls": [call]}}]]
        },
        error="ValueError: no\n  at line 1",
        metadata={"thread_id": "t1", "answer": 42.10},
        tags=["blue"],
        events=[{"name": "new_token"}],
        prompt_tokens=5,
        completion_tokens=2,
        total_tokens=7,
        total_cost=0.0000123,
    )
    folder.write_feedback(
        feedback(1, run=0, score=0.5, comment="good", value={"a": [1]}),
        feedback(2, run=0, lse_deleted_at="2026-02-02T00:00:00"),
    )
    viewer.load(folder)
    update_day(viewer.database, PROJECT, DAY, {"verdict": "proven", "verified_at": "2026-02-03T00:00:00Z"})
    html = viewer.get(f"/archive/run/{run_id(0)}/panel").text
    text = text_of(html)
    for part in (
        "system Be brief.",
        "user Why so? Tell <b>me</b>.",
        'assistant look_up {"day": "monday"}',
        "7 (5 in, 2 out)",
        "$0.000012",
        "proven on 2026-02-03",
        'correctness 0.5 {"a": [1]} good',
        "deleted in LangSmith",
        "blue",
        'thread_id "t1"',
        "answer 42.1",
        "new_token",
    ):
        assert part in text, part
    assert "ValueError: no\n  at line 1" in html
    assert "/assets/" in html
    assert f"verification?view=partitions&amp;partition={DAY}" in html
    assert json.loads(viewer.get(f"/archive/run/{run_id(0)}/file").content)["tags"] == ["blue"]
    assert "is not in the database" in viewer.text(f"/archive/run/{run_id(9)}", 404)
    assert "is not an id" in viewer.text("/archive/trace/x", 400)


def test_values_are_shown_in_parts_and_whole_on_demand(viewer: Viewer) -> None:
    deep = "[" * 1900 + '"bottom"' + "]" * 1900
    many = json.dumps(list(range(250)))
    wide = json.dumps({f"key {number}": number for number in range(150)})
    long = "x" * 1_000_000
    exact = "1.10000000000000000001"
    inputs = f'{{"wide": {wide}, "long": "{long}", "many": {many}, "deep": {deep}, "exact": {exact}}}'
    folder: RunFolder = viewer.folder()
    folder.write(0, folder.with_text(0, inputs).replace(b'"inputs"', b'"former"').replace(b'"odd"', b'"inputs"'))
    viewer.load(folder)
    address = f"/archive/run/{run_id(0)}"
    html = viewer.get(f"{address}/panel").text
    assert len(html) < 100_000
    assert exact in html
    values = [
        unescape(found)
        for found in re.findall(r'href="(/archive/run/[^"]*/value\?path=[^"]*)">all 1,000,000 char', html)
    ]
    assert viewer.get(values[0]).text == long
    headers = viewer.get(values[0]).headers
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-security-policy"].startswith("sandbox")
    many, *_ = re.findall(r'data-src="([^"]*)"><summary><span class="key">many', html)
    opened_many = viewer.get(many).text
    assert re.findall(r'class="literal">(\d+)', opened_many) == [str(number) for number in range(100)]
    [rest] = re.findall(r'data-src="([^"]*begin=100)"', opened_many)
    part = viewer.get(unescape(rest)).text
    assert re.findall(r'class="literal">(\d+)', part) == [str(number) for number in range(100, 200)]
    assert "50 more" in text_of(part)
    wider, *_ = re.findall(r'data-src="([^"]*)"><summary><span class="key">wide', html)
    part = viewer.get(f"{wider}&begin=100").text
    assert re.findall(r'class="literal">(\d+)', part)[-1] == "149"
    assert part.count('class="literal"') == 50
    nodes = re.findall(r'data-src="([^"]*tree\?path=[\d.]*)"', html)
    # Three levels are here, and each node leads to the next ones.
    path = unescape(nodes[0]).partition("path=")[2]
    further = viewer.get(unescape(nodes[0])).text
    assert re.findall(r'data-src="([^"]*)"', further)[0].endswith(f"path={path}.0.0.0")
    bottom = viewer.get(f"{address}/tree", path=path + ".0" * (1900 - path.count(".") - 1)).text
    assert '"bottom"' in text_of(bottom)
    assert "data-src" not in bottom
    assert "no such value" in viewer.text(f"{address}/tree", 404, path="9999")
    assert "names no value" in viewer.text(f"{address}/tree", 400, path="x")


def test_a_run_without_content_says_why(viewer: Viewer) -> None:
    with viewer.database.connect() as connection:
        connection.execute("SELECT lse_ensure_month(%s)", (DAY,))
        connection.execute(
            "INSERT INTO runs (run_id, trace_id, project, run_date, mark) VALUES (%s, %s, 'p', %s, '{refused}')",
            (run_id(0), run_id(0), DAY),
        )
    assert "PostgreSQL refused it" in viewer.text(f"/archive/run/{run_id(0)}")
    viewer.get(f"/archive/run/{run_id(0)}/value")
    assert "is not known" in viewer.text(f"/archive/run/{run_id(0)}/file", 404)


def test_attachments_are_shown_or_saved_from_the_folder_or_the_zip(viewer: Viewer) -> None:
    folder = viewer.folder()
    folder.write(0)
    entries = [
        attachment(0, "cat.png"),
        attachment(0, "page<b>.html", media_type="text/html"),
        attachment(0, "vector", media_type="image/svg+xml"),
        attachment(0, "song", media_type="audio/mpeg"),
        attachment(0, "elsewhere", sha256="../../../etc/passwd", file="../../../etc/passwd", media_type=None),
    ]
    for entry in entries[:4]:
        (folder.path / str(entry["file"])).write_bytes(_PNG)
    folder.write_attachments(*entries[:4])
    viewer.load(folder)
    with viewer.database.connect() as connection:
        row = "INSERT INTO attachments (id, project, run_date, data) VALUES (gen_random_uuid(), %s, %s, %s)"
        connection.execute(row, (PROJECT, DAY, json.dumps(entries[4])))
    html = viewer.get(f"/archive/run/{run_id(0)}/panel").text
    links = {unescape(name): link for link, name in re.findall(r'<li><a href="(/archive[^"]*)">([^<]*)</a>', html)}
    assert set(links) == {entry["name"] for entry in entries}
    assert re.findall(r'<img src="([^"]*)"', html) == [links["cat.png"]]
    assert re.findall(r'<audio[^>]*src="([^"]*)"', html) == [links["song"]]
    zip_path = viewer.settings.layout.day(PROJECT, DAY).zip
    for _ in ("folder", "zip"):
        for name, kind, saved in (
            ("cat.png", "image/png", None),
            ("song", "audio/mpeg", None),
            ("vector", "application/octet-stream", "attachment; filename*=UTF-8''vector"),
            ("page<b>.html", "application/octet-stream", "attachment; filename*=UTF-8''page%3Cb%3E.html"),
        ):
            response = viewer.get(links[name])
            assert response.content == _PNG
            assert response.headers["content-type"] == kind
            assert response.headers.get("content-disposition") == saved
            assert response.headers["content-security-policy"].startswith("sandbox")
            assert response.headers["x-content-type-options"] == "nosniff"
        if folder.path.exists():
            zip_path.parent.mkdir(parents=True)
            with zipfile.ZipFile(zip_path, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in folder.path.iterdir():
                    archive.write(path, f"{DAY}/{path.name}")
            shutil.rmtree(folder.path)
    assert "no such attachment" in viewer.text(links["elsewhere"], 404)
    zip_path.unlink()
    assert f"lse archive restore --date {DAY}" in viewer.text(links["cat.png"], 404)


def test_a_thread_is_one_conversation(viewer: Viewer) -> None:
    folder = viewer.folder()
    first = [{"role": "user", "content": "one?"}]
    second = [*first, {"role": "assistant", "content": "ONE"}, {"role": "user", "content": "two?"}]
    for number, said, answer in ((0, first, "ONE"), (4, second, "TWO")):
        folder.write(
            number,
            inputs={"messages": said},
            outputs={"messages": [*said, {"role": "assistant", "content": answer}]},
            metadata={"thread_id": "t <1>"},
        )
    folder.write(8, inputs={"n": 1}, outputs={}, metadata={"thread_id": "t <1>"}, name="no messages")
    folder.write(12, metadata={"thread_id": "other"})
    viewer.load(folder)
    text = viewer.text(_link(viewer.get(f"/archive/run/{run_id(4)}/panel").text, "Thread"))
    assert "Thread t <1>" in text
    assert "3 turns" in text
    positions = [
        text.index(part) for part in ("user one?", "assistant ONE", "user two?", "assistant TWO", "no messages")
    ]
    assert positions == sorted(positions)
    assert text.count("one?") == text.count("ONE") == 1
    assert "2 messages are repeated" in text
    assert "no turn within" in viewer.text("/archive/thread", 404, project=PROJECT, id="t", day=str(DAY))


def test_hostile_contents_are_harmless(viewer: Viewer) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\ud800\x1b[2J\"'&"
    call = {"name": hostile, "args": hostile}
    fields: dict[str, Any] = {
        "inputs": {
            "messages": [
                {
                    "role": hostile,
                    "content": hostile,
                    "name": hostile,
                    "tool_calls": [call],
                }
            ]
        },
        "outputs": {hostile: {hostile: [hostile]}},
        "metadata": {"thread_id": hostile, "link": "javascript:alert(1)"},
        **dict.fromkeys(("name", "error", "run_type", "status"), hostile),
        "tags": [hostile],
    }
    folder = viewer.folder()
    folder.write(0, **fields)
    folder.write_feedback(
        feedback(1, run=0, key=hostile, comment=hostile, value=hostile, correction={hostile: hostile})
    )
    (folder.path / str(attachment(0, "x")["file"])).write_bytes(b"x")
    folder.write_attachments(attachment(0, "x") | {"name": hostile, "media_type": f"image/png{hostile}"})
    viewer.load(folder)
    page = viewer.get(f"/archive/run/{run_id(0)}").text
    thread = viewer.get(_link(page, "Thread")).text
    node = viewer.get(f"/archive/run/{run_id(0)}/tree").text
    for html in (page, thread, node):
        assert html.count("<script") == html.count('<script src="/archive/static/pages.js"')
        assert not re.search(r"<img|<[^>]* on\w+=|href=\"(?!/archive|/assets|/\"|#)", html)
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", html)
        assert "&lt;script&gt;alert(1)" in html
    assert "rendering" in page
