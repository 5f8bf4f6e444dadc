"""`lse show`: the tree of a trace and its runs, from the database and from files."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from database_fixtures import DAY, PROJECT, run_id
from home_fixtures import Installation
from viewer_fixtures import Viewer

_HOSTILE = "</b>[red]\x1b[2J\u202e"


@pytest.fixture
def days(viewer: Viewer, tmp_path: Path) -> list[Path]:
    """A trace across midnight, loaded: a folder of the first day, and a zip of the second."""
    today, tomorrow = viewer.folder(), viewer.folder(DAY + timedelta(days=1))
    today.write(0, name="root", run_type="CHAIN")
    today.write(1, name=_HOSTILE, status="ERROR", total_cost=0.5, total_tokens=7)
    today.write(4, name="of another trace")
    tomorrow.write(2, name="grandchild", parent_run_ids=[run_id(0), run_id(1)], total_cost="0.25", total_tokens=3)
    # An unescaped control character and line breaks, as older tools wrote them.
    text = json.dumps(tomorrow.run(3) | {"name": "orphan", "parent_run_ids": [run_id(99)], "a": 1.10}, indent=1)
    tomorrow.write(3, text.replace('"orphan"', '"orphan\x1b"').encode())
    viewer.load(today)
    viewer.load(tomorrow)
    return [today.path, Path(shutil.make_archive(str(tmp_path / f"{PROJECT}_{tomorrow.day}"), "zip", tomorrow.path))]


def test_a_trace_is_printed_as_a_tree(
    days: list[Path], bare_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lse = bare_installation.lse
    sources = [word for path in days for word in ("--from", str(path))]
    runs = (run_id(0), run_id(2))
    trees = [lse("show", run).out for run in runs]
    stored = lse("show", run_id(3), "--json").out
    # Files need no database.
    monkeypatch.setenv("LSE_DATABASE_URL", "postgresql://127.0.0.1:1/none")
    for run, tree in zip(runs, trees, strict=True):
        heading, *lines = lse("show", run, *sources).out.splitlines()
        assert tree.splitlines() == [f"{PROJECT} · {heading}", *lines]
        assert "· 4 runs · 1 error · 13 tokens · $0.75" in heading
        assert [line[36:] for line in lines] == [
            "chain root",
            "└─ llm </b>[red]\\x1b[2J\\u202e  (error)",
            f"   └─ llm grandchild{'  (this run)' if run == run_id(2) else ''}",
            "llm orphan\\x1b  (its parent is not archived)",
        ]
        assert lines[2].split()[:4] == ["1.5", "s", "3", "$0.25"]
    printed = lse("show", run_id(3), "--json", *sources, *sources).out
    for text in (printed, stored):
        assert [json.loads(line)["id"] for line in text.splitlines()] == [run_id(number) for number in range(4)]
        assert not set(text) & {"\x1b", "\u202e"}
        assert '"a": 1.1' in text
    assert json.loads(printed.splitlines()[3])["name"] == "orphan\x1b"
    for arguments, code, part in (
        ([run_id(9)], 1, "cannot"),
        ([run_id(9), *sources], 1, f"no trace or run {run_id(9)} is in"),
        ([run_id(9), "--from", "none"], 2, "none does not exist"),
        (["x"], 2, "'x' is not an id"),
    ):
        ended = lse("show", *arguments)
        assert ended.code == code, ended
        assert part in ended.err
        assert ended.out == ""


def test_a_trace_that_is_not_loaded_is_an_error(viewer: Viewer, bare_installation: Installation) -> None:
    ended = bare_installation.lse("show", run_id(0))
    assert ended.code == 1
    assert f"no trace or run {run_id(0)} is in the database" in ended.err
    assert "lse archive to-db" in ended.err
