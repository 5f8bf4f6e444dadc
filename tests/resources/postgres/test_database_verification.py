"""Verification: every difference between files and rows is reported, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id, trace_id

from lse_archive.folder.manifest import SUMMARY, Tally
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.results import VerificationResult
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_against, verify_day

pytestmark = pytest.mark.slow

ODD = {
    1: r'"nul \u0000 and \ud800"',
    2: '{"a": 1, "a": 2}',
    3: "-0.0",
    4: "1e131072",
    5: "[" * 2500 + "]" * 2500,
    6: "NaN",
    7: '"\udcff\udcfe"',
}
CHANGES: tuple[LiteralString, ...] = (
    "data = jsonb_set(data, '{inputs,messages,0,content}', '\"changed\"')",
    "data = jsonb_set(data, '{outputs,score}', '0.123456789012345677')",
    "data = data || '{\"added\": null}'",
    "data = data - 'name'",
    "data = NULL",
    "trace_id = gen_random_uuid()",
    "file_sha256 = '\\x00'",
    "file_sha256 = NULL",
    "row_sha256 = '\\x00'",
)


@pytest.fixture
def loaded(database: Database, run_folder: RunFolder) -> RunFolder:
    """Twenty runs in files and rows."""
    load_day(database, PROJECT, DAY, run_folder.fill(20).path)
    return run_folder


def change(database: Database, statement: LiteralString, number: int = 6) -> None:
    with database.connect() as connection:
        assert connection.execute(statement, (run_id(number),)).rowcount == 1


def differences(result: VerificationResult) -> dict[str, Any]:
    """Returns the differences in a result, without totals."""
    lists = (
        "missing_runs_in_db", "missing_runs_in_files", "missing_traces_in_db", "missing_traces_in_files",
        "inconsistent_traces", "broken_files",
    )  # fmt: skip
    found: dict[str, Any] = {name: getattr(result, name) for name in lists}
    found["inconsistent_runs"] = [one.run_id for one in result.inconsistent_runs]
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize("detailed", [False, True])
def test_a_loaded_day_is_consistent(database: Database, loaded: RunFolder, detailed: bool) -> None:
    result = verify_day(database, PROJECT, DAY, loaded.path, detailed=detailed)

    assert result.is_consistent
    assert differences(result) == {}
    assert (result.total_files, result.total_runs_in_files, result.total_runs_in_db) == (20, 20, 20)
    assert (result.total_traces_in_files, result.total_traces_in_db) == (5, 5)


@pytest.mark.parametrize("detailed", [False, True])
@pytest.mark.parametrize("changed", CHANGES)
def test_a_changed_field_is_found(
    database: Database, loaded: RunFolder, changed: LiteralString, detailed: bool
) -> None:
    change(database, f"UPDATE runs SET {changed} WHERE run_id = %s")

    result = verify_day(database, PROJECT, DAY, loaded.path, detailed=detailed)

    assert not result.is_consistent
    found = differences(result)
    assert found.pop("inconsistent_runs") == [run_id(6)]
    assert trace_id(6) in found.pop("inconsistent_traces")
    if changed.startswith("trace_id"):
        assert len(found.pop("missing_traces_in_files")) == 1
    assert found == {}


def test_swapped_traces_are_found(database: Database, loaded: RunFolder) -> None:
    change(database, f"UPDATE runs SET trace_id = '{trace_id(0)}' WHERE run_id = %s")  # ty: ignore

    found = differences(verify_day(database, PROJECT, DAY, loaded.path))

    assert found == {"inconsistent_runs": [run_id(6)], "inconsistent_traces": [trace_id(0), trace_id(4)]}


def test_a_changed_row_with_a_forged_hash_is_found_by_contents(database: Database, loaded: RunFolder) -> None:
    change(database, "UPDATE runs SET data = jsonb_set(data, '{outputs,answer,1}', '0') WHERE run_id = %s")
    forge = "UPDATE runs SET row_sha256 = sha256(convert_to(data::text, 'UTF8')) WHERE run_id = %s"
    change(database, forge)

    assert verify_day(database, PROJECT, DAY, loaded.path).is_consistent
    result = verify_day(database, PROJECT, DAY, loaded.path, detailed=True)
    assert differences(result) == {"inconsistent_runs": [run_id(6)], "inconsistent_traces": [trace_id(4)]}
    assert result.inconsistent_runs[0].paths == ["$.outputs.answer[1]"]


def test_differing_paths_are_reported(database: Database, loaded: RunFolder) -> None:
    change(
        database,
        "UPDATE runs SET data = jsonb_set(data - 'status', '{inputs,messages}', '[{\"role\": 1}, 2]')"
        " || '{\"a b\": 1}' WHERE run_id = %s",
    )

    result = verify_day(database, PROJECT, DAY, loaded.path, detailed=True)

    assert sorted(result.inconsistent_runs[0].paths) == [
        '$."a b"', "$.inputs.messages[0].content", "$.inputs.messages[0].role", "$.inputs.messages[1]", "$.status",
    ]  # fmt: skip


def test_a_deleted_row_is_found(database: Database, loaded: RunFolder) -> None:
    change(database, "DELETE FROM runs WHERE run_id = %s")

    found = differences(verify_day(database, PROJECT, DAY, loaded.path))

    assert found == {"missing_runs_in_db": [run_id(6)], "inconsistent_traces": [trace_id(6)]}


def test_a_whole_trace_without_rows_is_found(database: Database, loaded: RunFolder) -> None:
    with database.connect() as connection:
        connection.execute("DELETE FROM runs WHERE trace_id = %s", (trace_id(8),))

    found = differences(verify_day(database, PROJECT, DAY, loaded.path))

    assert found == {"missing_runs_in_db": [run_id(n) for n in range(8, 12)], "missing_traces_in_db": [trace_id(8)]}


def test_a_row_without_a_file_is_found(database: Database, loaded: RunFolder) -> None:
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO runs (run_id, trace_id, project, run_date, data) VALUES (%s, %s, %s, %s, '{}')",
            (run_id(99), run_id(99), PROJECT, DAY),
        )

    found = differences(verify_day(database, PROJECT, DAY, loaded.path))

    assert found == {"missing_runs_in_files": [run_id(99)], "missing_traces_in_files": [run_id(99)]}


def test_a_row_of_another_project_is_found(database: Database, loaded: RunFolder) -> None:
    change(database, "UPDATE runs SET project = 'q' WHERE run_id = %s")

    result = verify_day(database, PROJECT, DAY, loaded.path)

    assert differences(result) == {"missing_runs_in_db": [run_id(6)], "inconsistent_traces": [trace_id(6)]}
    assert [(one.run_id, one.found) for one in result.filed_elsewhere] == [(run_id(6), f"q {DAY}")]
    other = verify_day(database, "q", DAY, shutil.copytree(loaded.path, loaded.path.parent / "q"))
    assert other.missing_runs_in_db == [run_id(n) for n in range(20) if n != 6]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"question") + 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("detailed", [False, True])
def test_a_flipped_bit_in_a_file_is_found(database: Database, loaded: RunFolder, detailed: bool) -> None:
    flip_a_bit(loaded.write(6))

    found = differences(verify_day(database, PROJECT, DAY, loaded.path, detailed=detailed))

    assert found == {"inconsistent_runs": [run_id(6)], "inconsistent_traces": [trace_id(6)]}


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:-20])],
    ids=["emptied", "truncated"],
)
def test_an_unreadable_file_is_found(database: Database, loaded: RunFolder, damage: Callable[[Path], object]) -> None:
    damage(path := loaded.write(6))

    found = differences(verify_day(database, PROJECT, DAY, loaded.path))

    [broken] = found.pop("broken_files")
    assert broken.startswith(path.name)
    assert found == {"missing_runs_in_files": [run_id(6)], "inconsistent_traces": [trace_id(6)]}


def test_a_removed_file_is_found(database: Database, loaded: RunFolder) -> None:
    loaded.write(6).unlink()

    found = differences(verify_day(database, PROJECT, DAY, loaded.path))

    assert found == {"missing_runs_in_files": [run_id(6)], "inconsistent_traces": [trace_id(6)]}


def publish(folder: RunFolder) -> None:
    invalid = [file.name for file in read_folder(folder.path, DAY) if not isinstance(file, RunFile)]
    summary = Tally(DAY).summary(PROJECT, content_sha256="", invalid=invalid)
    (folder.path / SUMMARY).write_bytes(msgspec.json.encode(summary))


def test_a_file_copied_after_publication_is_found(database: Database, loaded: RunFolder) -> None:
    publish(loaded)
    assert verify_day(database, PROJECT, DAY, loaded.path).is_consistent
    copy = loaded.path / "zzz.json"
    shutil.copy(loaded.write(6), copy)

    result = verify_day(database, PROJECT, DAY, loaded.path)

    assert not result.is_consistent
    assert [line.partition(":")[0] for line in result.broken_files] == ["zzz.json"]
    assert list(differences(result)) == ["broken_files"]


def test_a_file_invalid_before_publication_is_only_reported(database: Database, loaded: RunFolder) -> None:
    (loaded.path / "zzz.json").write_bytes(b"not JSON")
    publish(loaded)

    result = verify_day(database, PROJECT, DAY, loaded.path)

    assert result.is_consistent
    assert len(result.broken_files) == 1


@pytest.mark.parametrize("detailed", [False, True])
def test_a_marked_run_is_consistent(database: Database, run_folder: RunFolder, detailed: bool) -> None:
    run_folder.fill(10)
    for number, text in ODD.items():
        run_folder.write(number, run_folder.with_text(number, text))
    assert load_day(database, PROJECT, DAY, run_folder.path).marked == len(ODD)

    result = verify_day(database, PROJECT, DAY, run_folder.path, detailed=detailed)

    assert result.is_consistent
    assert result.marked_runs == [run_id(number) for number in ODD]


@pytest.mark.parametrize("number", ODD)
@pytest.mark.parametrize("changed", ["mark = NULL", "mark = '{bom}'", "data = data || '{\"odd\": 5}'"])
def test_a_changed_rendering_is_found(
    database: Database, run_folder: RunFolder, number: int, changed: LiteralString
) -> None:
    run_folder.fill(10).write(number, run_folder.with_text(number, ODD[number]))
    load_day(database, PROJECT, DAY, run_folder.path)
    change(database, f"UPDATE runs SET {changed} WHERE run_id = %s", number)

    result = verify_day(database, PROJECT, DAY, run_folder.path, detailed=True)

    assert [one.run_id for one in result.inconsistent_runs] == [run_id(number)]


def damage_everything(database: Database, folder: RunFolder) -> None:
    change(database, "DELETE FROM runs WHERE run_id = %s", 1)
    change(database, "UPDATE runs SET data = '{}' WHERE run_id = %s", 2)
    change(database, "UPDATE runs SET project = 'q' WHERE run_id = %s", 3)
    folder.write(4, name="a newer file")
    folder.write(5).unlink()


def test_fix_missing_loads_missing_runs_only(database: Database, loaded: RunFolder) -> None:
    damage_everything(database, loaded)

    result = verify_day(database, PROJECT, DAY, loaded.path, fix_missing=True)

    assert result.fixed == [run_id(1)]
    assert not result.is_consistent
    assert (result.missing_runs_in_db, result.missing_runs_in_files) == ([run_id(3)], [run_id(5)])
    assert [one.run_id for one in result.inconsistent_runs] == [run_id(2), run_id(4)]


def test_fix_repairs_rows_from_files_and_keeps_extra_rows(database: Database, loaded: RunFolder) -> None:
    damage_everything(database, loaded)

    result = verify_day(database, PROJECT, DAY, loaded.path, fix=True, detailed=True)

    assert result.fixed == [run_id(n) for n in (1, 2, 3, 4)]
    assert differences(result) == {"missing_runs_in_files": [run_id(5)], "inconsistent_traces": [trace_id(5)]}
    with database.connect() as connection:
        repair = "SELECT inserted, replaced, failed FROM loads WHERE kind = 'repair' AND finished_at IS NOT NULL"
        assert connection.execute(repair).fetchall() == [(1, 3, 0)]
        name = connection.execute("SELECT data->>'name' FROM runs WHERE run_id = %s", (run_id(4),)).fetchone()
        assert name == ("a newer file",)


def test_verification_without_fix_writes_nothing(database: Database, loaded: RunFolder) -> None:
    damage_everything(database, loaded)
    with database.connect() as connection:
        before = connection.execute("SELECT pg_current_wal_insert_lsn(), count(*) FROM loads").fetchone()
        verify_day(database, PROJECT, DAY, loaded.path, detailed=True)
        rows = connection.execute("SELECT count(*) FROM loads").fetchone()
    assert before is not None
    assert rows == before[1:]


def test_a_list_of_files_can_be_verified(database: Database, loaded: RunFolder) -> None:
    listing = [(file.header.run_id, None, file.sha256) for file in read_folder(loaded.path, DAY)  # without trace ids
               if isinstance(file, RunFile)]  # fmt: skip
    assert verify_against(database, PROJECT, DAY, listing).is_consistent

    result = verify_against(database, PROJECT, DAY, [*listing[1:], (run_id(50), None, b"x")])

    assert (result.missing_runs_in_files, result.missing_runs_in_db) == ([run_id(0)], [run_id(50)])


def test_an_empty_day_without_rows_is_consistent(database: Database, run_folder: RunFolder) -> None:
    assert verify_day(database, PROJECT, DAY, run_folder.path, detailed=True).is_consistent


def test_a_result_can_be_printed_as_json(database: Database, loaded: RunFolder) -> None:
    damage_everything(database, loaded)
    result = verify_day(database, PROJECT, DAY, loaded.path, detailed=True)

    assert json.loads(msgspec.json.encode(result))["missing_runs_in_db"] == [run_id(1), run_id(3)]
