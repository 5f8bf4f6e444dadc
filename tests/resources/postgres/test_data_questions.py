"""The SQL and Python of docs/data.md run, and answer the question."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from database_fixtures import RunFolder, attachment, feedback, run_id

from lse_resources.postgres.analysis.frames import Runs
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

DOCUMENT = Path(__file__).parents[3] / "docs" / "data.md"
PROJECT = "support"
DAY = date(2026, 1, 31)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def support(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Three traces: the first two used version `one` of a prompt, the third version `two`."""
    folder = RunFolder(tmp_path / "data" / "support" / str(DAY), DAY)
    for run in range(12):
        metadata = {"thread_id": "t"} if run % 4 == 0 else {"lc_hub_commit_hash": "one" if run < 8 else "two"}
        folder.write(run, metadata=metadata)
    folder.write_feedback(
        feedback(1, run=0, key="user_score", score=1),
        feedback(2, run=4, key="user_score", score=False, comment="no", created_at="2026-02-02T00:00:00"),
        feedback(3, run=4, key="user_score", score=1),
        feedback(4, run=8, key="user_score", score=1),
        feedback(5, run=8, key="user_score", score=0) | {"lse_deleted_at": "2026-02-03T00:00:00Z"},
    )
    same = {"sha256": "0" * 64, "file": "_attachment_" + "0" * 64, "bytes": 10}
    folder.write_attachments(
        attachment(0, "a", **same), attachment(4, "b", **same), attachment(8, "c", bytes=5, media_type=None)
    )
    folder.record(PROJECT)
    load_day(database, PROJECT, DAY, folder.path)
    monkeypatch.chdir(tmp_path)
    return Runs(database)


def test_the_questions_in_sql_have_the_right_answers(support: Runs) -> None:
    versions, thumbs_down, by_type, disputed, threads = [support.query(statement)[1] for statement in blocks("sql")]

    assert [(version, key, round(mean, 2), records) for version, key, mean, records in versions] == [
        ("two", "user_score", 1, 1),
        ("one", "user_score", Decimal("0.67"), 3),
    ]
    assert [(str(row[0]), row[1], row[3], row[4]) for row in thumbs_down] == [(run_id(4), "run 4", "no", None)]
    assert thumbs_down[0][2]["messages"][0]["content"].startswith("question 4")
    assert by_type == [("image/png", 2, 2, 20, 10), (None, 1, 1, 5, 5)]
    assert [(str(run), scores) for run, scores in disputed] == [(run_id(4), [1, 0])]
    tokens = sum(range(12))
    assert threads == [("t", 3, DAY, DAY, tokens, None)]


def test_the_questions_in_python_run(support: Runs) -> None:
    [program] = blocks("python")
    url = re.search(r'"(postgresql://[^"]+)"', program)
    assert url is not None
    names: dict[str, Any] = {}
    exec(program.replace(url[1], support._database.url), names)

    assert names["scores"].to_dict() == {"user_score": 0.75}
    assert len(names["attachments"]) == 3
    assert len(names["feedback"]) == 5
