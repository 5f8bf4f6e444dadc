"""The lake has the same views and the same values as the database, also of hostile runs."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString

import pandas as pd
import polars as pl
import pyarrow.dataset as arrow_dataset
import pytest
from database_fixtures import RunFolder, attachment, feedback, recreate, run_id
from document_strategies import DRAFTS, EXTREMES, Draft
from hypothesis import HealthCheck, Phase, given, settings
from pyarrow import parquet

from lse_archive.folder.contents import ensure_manifest
from lse_archive.layout import Layout
from lse_resources.lake.lake import Lake
from lse_resources.lake.place import LocalPlace
from lse_resources.lake.writer import write_day
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

pytestmark = pytest.mark.slow

DAYS = [date(2026, 1, 31), date(2026, 2, 1), date(2026, 3, 20)]
PROJECTS = ["support / 'EMEA' 東", "a%2Fb+c"]
_NAMES = "workspace,run_id,trace_id,name,inputs,outputs,error,metadata,tags,total_cost,start_time,mark".split(",")  # noqa: SIM905
# Every mark of `lse_resources.postgres.jsonb` but `refused`, which only a run of 256 MB has.
_ODD = [
    r'"\u0000"',
    r'"\ud800"',
    '"\x01"',
    '{"a": 1, "a": 2}',
    "-0.0",
    "1e131072",
    "NaN",
    "[" * 2500 + "]" * 2500,
    '"\udcff"',
    "01",
    "[1, 1.50, true, null, {}]",
    "123456789012345678901234567890.123456789",
]
_PG_RUN_FACTS = """
SELECT project, run_date, run_id::text, trace_id::text, parent_run_id::text, depth, is_root, name, run_type, status,
       start_time, end_time, latency_seconds, prompt_tokens, completion_tokens, total_tokens,
       CASE WHEN abs(prompt_cost) < 1e9 THEN round(prompt_cost, 24) END,
       CASE WHEN abs(completion_cost) < 1e9 THEN round(completion_cost, 24) END,
       CASE WHEN abs(total_cost) < 1e9 THEN round(total_cost, 24) END,
       error, model, tags,
       CASE WHEN jsonb_typeof(metadata) = 'object'
            THEN (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each_text(metadata)) END,
       thread_id, mark, feedback_scores
FROM run_facts ORDER BY run_id, project, run_date
"""
_COMPARED: dict[str, tuple[LiteralString, str]] = {
    "run_facts": (_PG_RUN_FACTS, "SELECT * FROM run_facts ORDER BY run_id, project, run_date"),
    "trace_facts": (
        """SELECT project, run_date, trace_id::text, root_run_id::text, root_name, runs, errors, pending, start_time,
                  end_time, duration_seconds, total_tokens, total_cost FROM trace_facts ORDER BY trace_id, run_date""",
        "SELECT * FROM trace_facts ORDER BY trace_id, run_date",
    ),
    "daily_facts": (
        "SELECT * FROM daily_facts ORDER BY project, run_date",
        "SELECT * FROM daily_facts ORDER BY project, run_date",
    ),
    "feedback_facts": (
        """SELECT project, run_date, id::text, run_id::text, trace_id::text, key, score::float, value, comment,
                  correction, source_type, created_at, modified_at, deleted, mark
           FROM feedback_facts ORDER BY id, project""",
        "SELECT * FROM feedback_facts ORDER BY id, project",
    ),
    "attachments": (
        """SELECT project, run_date, run_id::text, name, media_type, bytes, sha256, file, mark FROM attachments
           ORDER BY project, run_date, run_id, name COLLATE "C" """,
        "SELECT * EXCLUDE (workspace) FROM attachments ORDER BY project, run_date, run_id, name",
    ),
}


@pytest.fixture(scope="module")
def database(postgres_template: Callable[[str], str]) -> Database:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    name = f"lake_{worker}"
    recreate(postgres_template, name, f"lse_template_{worker}")
    return Database(postgres_template(name))


@pytest.fixture(scope="module")
def lake(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The days of both projects, loaded and in a lake; returns its directory."""
    base = tmp_path_factory.mktemp("lake")
    place = LocalPlace(base / "lake [x]")
    for number, project in enumerate(PROJECTS):
        for index, day in enumerate(DAYS):
            paths = Layout(base / "data", base / "archives").day(project, day)
            folder = RunFolder(paths.folder, day)
            _fill(folder, 1000 * (number + 1), index)
            load_day(database, project, day, paths.folder)
            content = ensure_manifest(paths).content_sha256
            manifest = write_day(
                place, project, day, paths.folder, content, workspace="w1" if number else None, scratch=base / "scratch"
            )
            assert manifest.tables["runs"].rows > 5
    return base / "lake [x]"


def _fill(folder: RunFolder, first: int, index: int) -> None:
    """Runs with every mark and type, feedback of several days on them, and attachments."""
    traces = first + 100
    chance = random.Random(first + index)
    for number in range(traces + 6 * index, traces + 6 * index + 6):  # the last trace continues on the next day
        folder.write(
            number,
            run_type=chance.choice(["LLM", "embedding", "chain"]),
            status=chance.choice(["success", "ERROR", "", "pending"]),
            total_cost=chance.choice([0.1, "0.000012345678901234567", None]),
            tags=["a", 1, None, {"b": [1e2]}],
            metadata={"thread_id": "t", "n": 1.5, "none": None, "é": {"b": 1, "a": [2]}},
        )
    if index == 2:  # a trace of the first days, more than 30 days later
        folder.write(traces + 90, trace_id=run_id(traces + 4), parent_run_ids=[])
    if index == 0:
        for number, odd in enumerate(_ODD, first):
            folder.write(
                number, folder.with_text(number, odd).replace(b'"outputs"', b'"former"').replace(b'"odd"', b'"outputs"')
            )
        for number, members in enumerate(EXTREMES, first + 30):
            run = {"id": run_id(number), "start_time": folder.run(number)["start_time"]}
            folder.write(number, f"{json.dumps(run)[:-1]}, {members}}}".encode())
        for number, draft in enumerate(_drafts(), first + 200):
            began = datetime.fromisoformat(str(folder.run(number)["start_time"]))
            folder.write(number, draft.build(run_id(number), int(began.timestamp() * 1_000_000)))
    run = traces + 6 * index
    folder.write_feedback(
        feedback(first + 1, traces, score=0.1 + index, modified_at=f"2026-02-0{index + 1}T08:00:00"),
        feedback(first + 10 + index, run, score=0.2, key="a"),
        feedback(first + 20 + index, run, score=True, key="a", value={"x": [1.50, 10**40]}, correction="right"),
        feedback(first + 30 + index, run, score=0.7, key="a", lse_deleted_at="2026-02-01T00:00:00Z"),
        feedback(first + 40 + index, run, score=None, value="NaN \u0000", comment="\ud800"),
        feedback(first + 50 + index, run, score="1e-3", key=None),
        b'{"no": "record"',
    )
    folder.write_feedback(feedback(first + 60 + index, None, score=1), feedback(first + 2, traces), apart=True)
    folder.write_attachments(attachment(run, "b"), attachment(run, "a \u0000", media_type=None), attachment(run, "é"))


def _drafts() -> list[Draft]:
    found: list[Draft] = []

    @settings(
        max_examples=150,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(DRAFTS)
    def collect(draft: Draft) -> None:
        found.append(draft)

    collect()
    return found


def comparable(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, Decimal):
        return round(value, 20)
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("view", _COMPARED)
def test_a_view_of_the_lake_has_the_rows_of_the_database(lake: Path, database: Database, view: str) -> None:
    in_database, in_lake = _COMPARED[view]
    with database.connect() as connection:
        cursor = connection.execute(in_database)
        names = [column.name for column in cursor.description or ()]
        expected = [list(row) for row in cursor.fetchall()]
    with Lake(str(lake)).stream(in_lake) as (columns, rows):
        found = [list(row) for row in rows]
    if view != "run_facts":  # there, three columns have no name
        assert columns == names
    for row in found:
        for name in ("value", "correction"):
            if name in columns and row[columns.index(name)] is not None:
                row[columns.index(name)] = json.loads(row[columns.index(name)])
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        for name, left, right in zip(columns, one, other, strict=True):
            assert comparable(left) == comparable(right), (view, name, one[2])


def test_duckdb_polars_pyarrow_and_pandas_read_the_same_values(lake: Path) -> None:
    names = [name for name in _NAMES if name != "metadata"]
    statement = f"SELECT project, run_date, {', '.join(_NAMES)} FROM runs ORDER BY run_id, project, run_date"
    by_duckdb = Lake(str(lake)).frame(statement).to_pylist()
    files = sorted(lake.glob("runs/*/*/runs.parquet"))
    by_arrow = [row for file in files for row in parquet.read_table(file, partitioning=None).to_pylist()]
    partitioned = arrow_dataset.dataset(lake / "runs", partitioning="hive", format="parquet").to_table()
    by_polars = pl.concat([pl.read_parquet(file, glob=False, hive_partitioning=False) for file in files]).to_dicts()
    by_pandas = pd.concat([pd.read_parquet(file, partitioning=None, dtype_backend="pyarrow") for file in files])
    key = [(row["run_id"], row["project"], row["run_date"]) for row in by_duckdb]
    assert sorted({row[1] for row in key}) == sorted(PROJECTS)
    assert sorted(set(partitioned["project"].to_pylist())) == sorted(PROJECTS)

    def ordered(rows: list[dict[str, Any]]) -> list[list[Any]]:
        return sorted(
            ([row[name] for name in names] for row in rows), key=lambda row: (row[1], str(row[10]), repr(row))
        )

    expected = ordered(by_duckdb)
    assert len(expected) > 300
    assert ordered(by_arrow) == expected
    assert ordered(by_polars) == expected
    records = by_pandas.astype(object).where(by_pandas.notna(), None).to_dict("records")
    listed = [{k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()} for row in records]
    assert ordered(listed) == expected
    maps = [dict(row["metadata"]) for row in by_arrow if row["metadata"] is not None]
    assert [dict(row["metadata"]) for row in by_polars if row["metadata"] is not None] == maps
