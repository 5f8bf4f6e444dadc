"""Folders of older tools: run files with other names, wrapped run files, and invalid files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from home_fixtures import Installation, midnight, run_uuid, small_run

from lse_archive.folder.manifest import SUMMARY, SUMS

pytestmark = pytest.mark.slow


@pytest.fixture
def old_folder(installation: Installation) -> Path:
    """Two wrapped runs, two direct ones, and files that are not runs of the day."""
    folder = installation.paths().folder
    folder.mkdir(parents=True)
    runs = [small_run(number, midnight() + number, run_uuid(99), parent=0 if number else None) for number in range(4)]
    for run in runs[:2]:
        wrapped = {"trace": run, "metadata": {"fetched_at": "2025-01-01"}}
        (folder / f"{run['id']}_fetched.json").write_text(json.dumps(wrapped, indent=2))
    (folder / "trace three.json").write_text(json.dumps(runs[2]))
    # The format of v1: no zone, status in lower case.
    old_shape = runs[3] | {"start_time": runs[3]["start_time"].rstrip("Z"), "status": "success", "run_type": "chain"}
    (folder / "RUN-3.json").write_text(json.dumps(old_shape))
    (folder / "half.json").write_text('{"trace": {"id": "')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "another day.json").write_text(json.dumps(small_run(7, midnight() - 1, run_uuid(99))))
    (folder / "notes.txt").write_text("by hand")
    return folder


_INVALID = {"half.json", "list.json", "another day.json"}


def test_zip_to_db_and_verify_work_and_name_invalid_files(installation: Installation, old_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in old_folder.iterdir()}

    zipped = installation.archive("zip", "--json")
    loaded = installation.archive("to-db", "--json")
    verified = installation.archive("verify", "--json")

    assert (zipped.code, loaded.code) == (0, 0), zipped.err + loaded.err
    assert {path.name: path.read_bytes() for path in old_folder.iterdir() if path.name in before} == before
    with zipfile.ZipFile(installation.paths().zip) as archive:
        assert set(archive.namelist()) == {*before, SUMMARY, SUMS}
        assert archive.read("half.json") == before["half.json"]
    result = loaded.entry
    assert (result["total_files"], result["successful_inserts"], result["failed_inserts"]) == (7, 4, 3)
    assert {line.partition(":")[0] for line in result["errors"]} == _INVALID
    assert "started on" in next(line for line in result["errors"] if line.startswith("another day"))

    rows = installation.rows()
    assert set(rows) == {run_uuid(number) for number in range(4)}
    assert rows[run_uuid(0)][-1]["name"] == "run 0"  # the run itself, never the wrapper
    entry = verified.entry
    assert entry["is_consistent"]
    assert {line.partition(":")[0] for line in entry["broken_files"]} == _INVALID
    assert {check["name"]: check["verdict"] for check in entry["checks"]} == {
        "langsmith_count": "unproven",  # not fetched by this installation
        "feedback_complete": "agrees",  # not collected
        "attachments_complete": "agrees",  # not collected
        "run_files_intact": "agrees",
        "zip_matches_files": "agrees",
        "drive_matches_zip": "differs",  # not uploaded yet
        "runs_match_files": "agrees",
    }
    assert verified.code == 3
    assert installation.archive("upload").code == 0
    last = installation.archive("verify")
    assert last.code == 0
    assert "3 files without a run of the day" in last.out


def test_invalid_files_are_printed(installation: Installation, old_folder: Path) -> None:
    loaded = installation.archive("to-db")
    assert "4 inserted, 3 rejected" in loaded.out
    for name in _INVALID:
        assert f"{name}: " in loaded.err


def test_a_dry_run_counts_and_writes_nothing(installation: Installation, old_folder: Path) -> None:
    dry = installation.archive("to-db", "--dry-run", "--json")
    assert (dry.code, dry.entry["dry_run"], dry.entry["successful_inserts"], dry.entry["failed_inserts"]) == (
        0,
        True,
        4,
        3,
    )
    assert installation.rows() == {}
    assert "dry run: 4 inserted" in installation.archive("to-db", "--dry-run").out


def test_a_fetch_over_an_old_folder_keeps_runs_that_are_only_there(
    installation: Installation, old_folder: Path
) -> None:
    installation.put(2, midnight() + 2, name="as LangSmith has it now")
    new = installation.put(50, midnight() + 50)
    before = {path.name: path.read_bytes() for path in old_folder.iterdir()}

    fetched = installation.archive("fetch", "--force", "--json")

    assert fetched.code == 0, fetched.err
    entry = fetched.entry
    assert (entry["runs"], entry["added"], entry["no_longer_served"]) == (5, 1, 3)
    after = {path.name: path.read_bytes() for path in old_folder.iterdir()}
    kept = {name for name, bytes_ in before.items() if after.get(name) == bytes_}
    assert kept >= set(before) - {"trace three.json"}
    assert installation.archive("to-db", "--json").entry["successful_inserts"] == 5
    assert installation.rows()[run_uuid(2)][-1]["name"] == "as LangSmith has it now"
    assert new in installation.rows()


def test_to_db_keeps_rows_of_changed_files_unless_it_may_overwrite(
    installation: Installation, old_folder: Path
) -> None:
    assert installation.archive("to-db").code == 0
    path = old_folder / "trace three.json"
    path.write_text(path.read_text().replace("number 2?", "changed"))

    kept = installation.archive("to-db", "--json").entry
    assert (kept["left"], kept["changed_not_replaced"], kept["replaced"]) == (4, 1, 0)
    assert installation.rows()[run_uuid(2)][-1]["inputs"] == {"question": "number 2?"}
    replaced = installation.archive("to-db", "--overwrite", "--batch-size", "1", "--json").entry
    assert (replaced["left"], replaced["replaced"]) == (3, 1)
    assert installation.rows()[run_uuid(2)][-1]["inputs"] == {"question": "changed"}
