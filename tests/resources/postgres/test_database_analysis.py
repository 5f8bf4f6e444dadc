"""Analysis: the views, the Python API, DataFrames from rows and from files, exports."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id, trace_id
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from lse_archive.errors import ArchiveError, CorruptArchiveError, DatabaseError, UsageError
from lse_archive.folder.reader import RunFile, read_folder
from lse_resources.postgres.analysis import export
from lse_resources.postgres.analysis.columns import COLUMNS, run_columns
from lse_resources.postgres.analysis.export import export_facts
from lse_resources.postgres.analysis.frames import Runs, RunTree, load_runs_from_files
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

V2: dict[str, Any] = {
    "name": "chat",
    "run_type": "LLM",
    "status": "ERROR",
    "end_time": "2026-01-31T12:00:03.250000Z",
    "parent_run_ids": [run_id(4), run_id(5)],
    "dotted_order": "20260131T120000000004Z4.20260131T120000000005Z5.20260131T120000000006Z6",
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "total_tokens": 42,
    "prompt_cost": 0.0000123,
    "completion_cost": 1e-07,
    "total_cost": 0.0000124,
    "error": "boom",
    "tags": ["a", "b"],
    "metadata": {"ls_model_name": "gpt-x", "thread_id": "t-1", "deep": {"n": 1}},
    "thread_id": "t-9",
}
V1: dict[str, Any] = {
    "name": "chat",
    "run_type": "llm",
    "status": "success",
    "end_time": "2026-01-31T12:00:03.250000",
    "parent_run_ids": None,
    "parent_run_id": run_id(5),
    "dotted_order": "20260131T120000000004Z4.20260131T120000000005Z5.20260131T120000000007Z7",
    "prompt_tokens": 30,
    "total_cost": "0.0000124",
    "error": None,
    "tags": [],
    "extra": {"metadata": {"thread_id": "t-2"}, "invocation_params": {"model_name": "claude-y"}},
}
ODD: dict[int, dict[str, Any]] = {
    8: {"status": None, "error": "bad", "end_time": None},
    9: {"status": None, "end_time": None, "tags": "none", "total_tokens": -5, "total_cost": "free", "name": None},
    10: {"status": "", "dotted_order": None, "parent_run_ids": ["no uuid"], "total_tokens": 1e30, "metadata": [1]},
    11: {"name": "nul \x00", "run_type": {"a": 1}, "total_tokens": "17", "tags": ["x", None, 3]},
}


@pytest.fixture
def loaded(database: Database, run_folder: RunFolder) -> RunFolder:
    run_folder.fill(12)
    run_folder.write(6, **V2)
    run_folder.write(7, **V1)
    for number, fields in ODD.items():
        run_folder.write(number, **fields)
    load_day(database, PROJECT, DAY, run_folder.path)
    return run_folder


def facts(database: Database, number: int) -> dict[str, Any]:
    columns, rows = Runs(database).query(f"SELECT * FROM run_facts WHERE run_id = '{run_id(number)}'")
    [row] = rows
    return dict(zip(columns, row, strict=True))


def test_a_v2_run_is_one_typed_row(database: Database, loaded: RunFolder) -> None:
    start = datetime(2026, 1, 31, 12, 0, 0, 6, tzinfo=UTC)
    assert facts(database, 6) == {
        "project": PROJECT, "run_date": DAY, "run_id": UUID(run_id(6)), "trace_id": UUID(trace_id(6)),
        "parent_run_id": UUID(run_id(5)), "depth": 2, "is_root": False, "name": "chat", "run_type": "llm",
        "status": "error", "start_time": start, "end_time": start + timedelta(seconds=3.249994),
        "latency_seconds": 3.249994, "prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42,
        "prompt_cost": Decimal("0.0000123"), "completion_cost": Decimal("1E-7"), "total_cost": Decimal("0.0000124"),
        "error": "boom", "model": "gpt-x", "tags": ["a", "b"],
        "metadata": {"ls_model_name": "gpt-x", "thread_id": "t-1", "deep": {"n": 1}}, "thread_id": "t-9", "mark": None,
        "feedback_scores": None,
    }  # fmt: skip


def test_a_v1_run_has_the_same_columns(database: Database, loaded: RunFolder) -> None:
    found = facts(database, 7)
    assert (found["run_type"], found["status"], found["parent_run_id"]) == ("llm", "success", UUID(run_id(5)))
    assert found["end_time"] == datetime(2026, 1, 31, 12, 0, 3, 250000, tzinfo=UTC)
    assert (found["total_cost"], found["model"], found["thread_id"]) == (Decimal("0.0000124"), "claude-y", "t-2")
    assert (found["tags"], found["error"]) == ([], None)


def test_columns_from_files_equal_those_of_the_view(database: Database, loaded: RunFolder) -> None:
    for file in read_folder(loaded.path, DAY):
        assert isinstance(file, RunFile)
        from_file = run_columns(PROJECT, DAY, file.header, file.document)
        from_row = facts(database, UUID(file.header.run_id).int & 0xFFFF)
        assert dict(zip(COLUMNS, astuple(from_file), strict=True)) == from_row


def test_invalid_values_are_null_and_do_not_fail_the_load(database: Database, loaded: RunFolder) -> None:
    assert facts(database, 8)["status"] == "error"
    assert (facts(database, 9)["status"], facts(database, 9)["total_tokens"]) == ("pending", None)
    assert (facts(database, 10)["parent_run_id"], facts(database, 10)["total_tokens"]) == (None, None)
    assert (facts(database, 11)["total_tokens"], facts(database, 11)["tags"]) == (17, ["x", None, "3"])
    assert facts(database, 11)["mark"] == ["nul"]


def test_a_trace_over_several_days_is_one_row(database: Database, tmp_path: Path) -> None:
    late = RunFolder(tmp_path / "late")
    late.write(0, run_type="chain", total_tokens=30, total_cost=0.3, start_time="2026-01-31T23:59:58Z")
    late.write(1, total_tokens=10, total_cost=0.1, error="x", status="ERROR")
    early = RunFolder(tmp_path / "early", DAY + timedelta(days=1))
    early.write(
        2, total_tokens=20, total_cost="0.2", start_time="2026-02-01T00:00:01Z", end_time="2026-02-01T00:00:08Z"
    )
    load_day(database, PROJECT, DAY, late.path)
    load_day(database, PROJECT, early.day, early.path)

    columns, rows = Runs(database).query("SELECT * FROM trace_facts")

    [row] = rows
    found = dict(zip(columns, row, strict=True))
    assert (found["run_date"], found["trace_id"], found["root_run_id"]) == (DAY, UUID(run_id(0)), UUID(run_id(0)))
    assert (found["runs"], found["errors"], found["total_tokens"]) == (3, 1, 30)
    assert (found["total_cost"], found["root_name"]) == (Decimal("0.3"), "run 0")


def test_a_trace_without_its_root_is_also_a_row(database: Database, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "day")
    folder.write(1)
    folder.write(2)
    load_day(database, PROJECT, DAY, folder.path)

    _, rows = Runs(database).query("SELECT trace_id::text, root_run_id, runs FROM trace_facts")
    assert rows == [(run_id(0), None, 2)]


def test_a_day_is_aggregated(database: Database, loaded: RunFolder) -> None:
    _, rows = Runs(database).query("SELECT project, run_date, runs, traces, errors, pending FROM daily_facts")
    assert rows == [(PROJECT, DAY, 12, 3, 2, 1)]


def test_ids_are_listed(database: Database, loaded: RunFolder) -> None:
    runs = Runs(database)
    assert runs.get_run_ids(PROJECT, DAY) == [run_id(n) for n in range(12)]
    assert runs.get_trace_ids(PROJECT, date(2026, 1, 1), date(2026, 12, 31)) == [run_id(n) for n in (0, 4, 8)]
    assert runs.get_run_ids("other", DAY) == []


def test_get_run_returns_the_run_as_sent(database: Database, loaded: RunFolder) -> None:
    assert Runs(database).get_run(run_id(3)) == loaded.run(3)
    assert Runs(database).get_run(UUID(run_id(99))) is None
    with pytest.raises(UsageError, match="ids of runs and traces are UUIDs"):
        Runs(database).get_run("3")


def test_a_trace_is_a_tree(database: Database, loaded: RunFolder) -> None:
    def shape(nodes: list[RunTree]) -> dict[str, Any]:
        return {node.run_id: shape(node.children) for node in nodes}

    runs = Runs(database)
    assert shape(runs.get_runs_for_trace(trace_id(5))) == {run_id(4): {run_id(5): {run_id(6): {}, run_id(7): {}}}}
    with database.connect() as connection:
        connection.execute("DELETE FROM runs WHERE run_id = %s", (run_id(4),))
    assert shape(runs.get_runs_for_trace(trace_id(5))) == {run_id(5): {run_id(6): {}, run_id(7): {}}}


def test_a_query_is_read_only(database: Database, loaded: RunFolder) -> None:
    runs = Runs(database)
    assert runs.query("SELECT count(*) AS n FROM runs WHERE name LIKE 'run %'") == (["n"], [(8,)])
    for statement in ("DELETE FROM runs", "SELECT 1; COMMIT; DELETE FROM runs", "COMMIT; DELETE FROM runs"):
        with pytest.raises(DatabaseError):
            runs.query(statement)
    with pytest.raises(DatabaseError, match='relation "nothing" does not exist'):
        runs.query("SELECT * FROM nothing")
    assert len(runs.get_run_ids(PROJECT, DAY)) == 12


def test_a_dataframe_is_the_same_from_rows_folder_and_zip(
    database: Database, loaded: RunFolder, tmp_path: Path
) -> None:
    zipped = Path(shutil.make_archive(str(tmp_path / "day"), "zip", loaded.path))

    frame = Runs(database).load_runs(PROJECT, DAY)

    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 12
    assert str(frame["start_time"].dtype).endswith("UTC]")
    assert frame["total_tokens"].sum() == sum(range(6)) + 42 + 7 + 8 + 17
    for source in (loaded.path, zipped):
        assert_frame_equal(load_runs_from_files(PROJECT, [source]), frame)
    assert Runs(database).load_runs("other", DAY).empty
    with pytest.raises(UsageError, match="does not exist"):
        load_runs_from_files(PROJECT, [tmp_path / "nothing.zip"])


def test_csv_and_jsonl_contain_every_run(database: Database, loaded: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert export_facts(database, PROJECT, DAY, DAY, target, "csv", contents=True).rows == 12
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run_id"] for row in rows] == [run_id(n) for n in range(12)]
    assert json.loads(rows[2]["inputs"]) == loaded.run(2)["inputs"]

    done = export_facts(database, PROJECT, DAY, DAY, target, "jsonl")
    lines = target.read_bytes().splitlines()
    assert (done.rows, len(lines), done.bytes) == (12, 12, target.stat().st_size)
    assert json.loads(lines[3]) == loaded.run(3)


def test_parquet_contains_every_run_with_types(database: Database, loaded: RunFolder, tmp_path: Path) -> None:
    done = export_facts(database, PROJECT, DAY, DAY, tmp_path / "out.parquet", "parquet", contents=True)

    table = parquet.read_table(done.path)
    assert (done.rows, table.num_rows) == (12, 12)
    assert table.column("tags")[6].as_py() == ["a", "b"]
    assert table.column("total_tokens")[6].as_py() == 42
    assert json.loads(table.column("outputs")[2].as_py()) == loaded.run(2)["outputs"]


def test_two_exports_to_one_path_at_once_both_write_all(
    database: Database, loaded: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, both, copy = tmp_path / "out", threading.Barrier(2, timeout=30), export._copy

    def copy_together(*arguments: Any) -> int:
        both.wait()  # both have opened their file
        try:
            return copy(*arguments)
        finally:
            both.wait()

    monkeypatch.setattr(export, "_copy", copy_together)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: export_facts(database, PROJECT, DAY, DAY, target, "jsonl"), range(2)))

    assert [made.rows for made in done] == [12, 12]
    assert target.read_bytes().count(b"\n") == 12
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out"]


def test_a_damaged_zip_is_one_clear_error(loaded: RunFolder, tmp_path: Path) -> None:
    damaged = Path(shutil.make_archive(str(tmp_path / "day"), "zip", loaded.path))
    with zipfile.ZipFile(damaged) as archive:
        info = next(info for info in archive.infolist() if info.compress_size)
    content = bytearray(damaged.read_bytes())
    content[info.header_offset + 30 + len(info.filename)] |= 0b110  # the deflate block's type that does not exist
    damaged.write_bytes(content)

    with pytest.raises(CorruptArchiveError, match=r"cannot be read.*Restore it"):
        load_runs_from_files(PROJECT, [damaged])


def test_a_failed_export_leaves_no_file(database: Database, loaded: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot write"):
        export_facts(database, PROJECT, DAY, DAY, tmp_path / "missing" / "out.csv", "csv")
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match=r"cannot write .*: Not a directory"):
        export_facts(database, PROJECT, DAY, DAY, tmp_path / "file" / "out.csv", "csv")
    with pytest.raises(UsageError, match="there is no format xml"):
        export_facts(database, PROJECT, DAY, DAY, tmp_path / "out", "xml")  # ty: ignore
    with database.connect() as connection:
        connection.execute("DROP VIEW run_facts")
    with pytest.raises(DatabaseError):
        export_facts(database, PROJECT, DAY, DAY, tmp_path / "out", "csv")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file"}
