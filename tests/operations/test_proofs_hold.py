"""Check results hold only for the checked content."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from day_fixtures import day_paths, fill, run
from home_fixtures import DAY, PROJECT, Installation

from lse_archive.errors import ArchiveError, CorruptArchiveError
from lse_archive.fetch import day as fetch
from lse_archive.fetch.union import _same_run
from lse_archive.folder.contents import ensure_manifest
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.folder.state import read_state
from lse_archive.layout import DayPaths
from lse_archive.zips import writer as zip_writer
from lse_archive.zips.day import zip_day, zip_sums
from lse_operations import steps
from lse_operations.checks import check_archive, check_files
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def paths(tmp_path: Path) -> DayPaths:
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1), run(2), run(3))
    zip_day(paths)
    return paths


def verdicts(installation: Installation) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in installation.archive("verify", "--json").entry["checks"]}


def more_runs(installation: Installation, runs: int = 4) -> None:
    installation.store.generate(PROJECT, DAY, runs=runs, mean_bytes=3000, seed=1)


# ---- the count ------------------------------------------------------------------------------------------------------


def test_a_restored_older_copy_is_unproven(installation: Installation) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    more_runs(installation)
    for command in ("fetch", "zip"):
        assert installation.archive(command, "--force").code == 0
    paths = installation.paths()
    shutil.rmtree(paths.folder)
    paths.zip.unlink()
    assert installation.archive("restore", "--force").code == 0
    assert json.loads((paths.folder / SUMMARY).read_text())["runs"] == 5
    assert verdicts(installation)["langsmith_count"] == "unproven"


def test_a_fetch_that_fails_after_publication_proves_nothing(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    assert read_state(installation.paths()).verified_at

    def fail_after_publication(_: object) -> None:
        raise KeyboardInterrupt

    more_runs(installation)
    with monkeypatch.context() as patch:
        patch.setattr(fetch.Staging, "discard", fail_after_publication)
        assert installation.archive("fetch", "--force").code == 130
    assert json.loads((installation.paths().folder / SUMMARY).read_text())["runs"] == 9
    assert read_state(installation.paths()).verified_at is None
    assert verdicts(installation)["langsmith_count"] == "unproven"


# ---- the mark of a verified day -------------------------------------------------------------------------------------


def test_a_changed_day_is_no_longer_verified(installation: Installation) -> None:
    add_project(Settings.load().projects_file, ProjectConfig(PROJECT, DAY))
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    span = ["--start-date", str(DAY), "--end-date", str(DAY), "--json"]
    assert installation.lse("status", *span).entry["verified"]
    assert installation.archive("fetch", "--force").code == 0
    assert installation.lse("status", *span).entry["verified"]  # nothing has changed
    more_runs(installation)
    assert installation.archive("fetch", "--force").code == 0
    assert not installation.lse("status", *span).entry["verified"]


def test_a_day_changed_during_verification_is_not_marked_as_verified(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    real = steps.check_steps

    def fetch_after_checks(*arguments: object):
        yield from real(*arguments)  # ty: ignore[invalid-argument-type]
        more_runs(installation)
        assert (
            installation.script("archive", "fetch", "--force", "--project", PROJECT, "--date", str(DAY)).returncode == 0
        )

    monkeypatch.setattr(steps, "check_steps", fetch_after_checks)
    assert installation.archive("verify").code == 0
    state = read_state(installation.paths())
    assert (state.verified_at, state.langsmith_count) == (None, 9)


# ---- folders and zips without checksums ------------------------------------------------------------------------------


def test_no_checksums_are_made_for_a_folder_with_changed_files(paths: DayPaths) -> None:
    before = paths.zip.read_bytes()
    (paths.folder / SUMS).unlink()
    assert ensure_manifest(paths).runs == 3  # same files: the checksums are written again
    (paths.folder / SUMS).unlink()
    fill(paths.folder, run(1, name="changed"))
    with pytest.raises(CorruptArchiveError, match="is missing, and other files"):
        zip_day(paths)
    assert paths.zip.read_bytes() == before
    assert check_files(paths).verdict == "unproven"


def test_a_fetch_rewrites_a_changed_summary(installation: Installation) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    summary = installation.paths().folder / SUMMARY
    summary.write_text(summary.read_text().replace('"runs": 5', '"runs": 6'))
    assert verdicts(installation)["run_files_intact"] == "differs"
    assert installation.archive("fetch", "--force").code == 0
    assert json.loads(summary.read_text())["runs"] == 5
    assert installation.archive("full-sweep", "--force").code == 0


def test_the_checksums_within_a_zip_are_those_of_the_day(paths: DayPaths, tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(paths.zip) as archive, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as written:
        for info in archive.infolist():
            written.writestr(info.filename, b"" if info.filename == SUMS else archive.read(info))
    paths.zip.write_bytes(other.read_bytes())
    assert check_archive(paths).verdict == "differs"
    assert zip_day(paths).written
    assert len(zip_sums(paths.zip)) == 4


def test_short_reads_give_a_complete_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = day_paths(tmp_path)
    fill(paths.folder, *(run(number) for number in range(1, 40)))
    read = os.read
    monkeypatch.setattr(zip_writer.os, "read", lambda descriptor, size: read(descriptor, min(size, 100)))
    assert zip_day(paths).written
    monkeypatch.undo()
    assert check_archive(paths).verdict == "agrees"


@pytest.mark.parametrize("damage", ["head", "tail", "encrypted"])
def test_a_damaged_zip_is_reported_as_a_difference(installation: Installation, damage: str) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    archive = installation.paths().zip
    content = bytearray(archive.read_bytes())
    if damage == "head":
        content = content[1000:]
    elif damage == "tail":
        content = content[:-40]
    else:
        content[content.index(b"PK\x01\x02") + 8] ^= 1
    archive.write_bytes(content)
    ended = installation.archive("verify", "--json")
    assert ended.code == 3
    found = {check["name"]: check["verdict"] for check in ended.entry["checks"]}
    assert found["zip_matches_files"] == "differs"
    assert found["runs_match_files"] == "agrees"
    assert installation.archive("zip").code == 0
    assert archive.with_name(f"{archive.name}.damaged").exists()
    assert installation.archive("verify").code == 0


def test_a_zip_in_another_directory_does_not_replace_the_pruned_one(installation: Installation, tmp_path: Path) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    words = ["--project", PROJECT, "--older-than", "1d", "--what", "zips", "--force"]
    assert installation.lse("archive", "prune", *words).code == 0
    assert not installation.paths().zip.exists()
    assert installation.archive("zip", "--output-dir", str(tmp_path)).code == 0
    assert verdicts(installation)["zip_matches_files"] == "agrees"


def test_a_file_added_after_the_fetch_is_named_by_zip_and_added_by_the_next_fetch(installation: Installation) -> None:
    installation.fill(2)
    assert installation.archive("full-sweep").code == 0
    (installation.paths().folder / "late.json").write_bytes(b"{}")
    ended = installation.archive("zip", "--json")
    assert (ended.code, ended.entry["left_out"]) == (3, ["late.json"])
    assert "1 left out: late.json (not in the day's checksums: lse archive fetch" in installation.archive("zip").out
    assert installation.archive("fetch", "--force").code == 0
    ended = installation.archive("zip", "--json")
    assert (ended.code, ended.entry["left_out"], ended.entry["written"]) == (0, [], True)


def test_the_zip_shrinks_only_with_allow_shrink(installation: Installation) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    installation.store.delete(list(installation.rows())[:2])
    assert installation.archive("fetch", "--allow-shrink", "--force").code == 0
    refused = installation.archive("zip")
    assert refused.code == 1
    assert "--allow-shrink" in refused.err
    assert installation.archive("zip", "--allow-shrink").code == 0


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1))
    Path(os.fsdecode(os.fsencode(paths.folder) + b"/\xff.txt")).touch()
    with pytest.raises(ArchiveError, match="is not UTF-8"):
        zip_day(paths)
    assert not paths.zip.exists()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"n": 1}', b'{"n": "1"}', False),
        (b'{"n": 1}', b'{"n":1}', True),
        (b'{"n": 1.0}', b'{"n": 1}', False),
        (b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}', True),
        (b"[" * 1500 + b"]" * 1500, b"[" * 1500 + b"]" * 1500, True),
        (b'"' + b"1" * 5000 + b'"', b"1" * 5000, False),
    ],
)
def test_a_run_is_the_same_if_its_lasting_values_are(tmp_path: Path, one: bytes, other: bytes, same: bool) -> None:
    head = b'{"id": "01970000-0000-7000-8000-000000000001", "start_time": "2026-01-31T12:00:00Z", "share_url": '
    staged = tmp_path / "staged"
    staged.write_bytes(head + b'"new", "outputs": ' + other + b"}")
    assert _same_run(head + b'"old", "outputs": ' + one + b"}", staged) == same


def test_a_damaged_run_file_replaces_no_row(installation: Installation) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    before = installation.rows()
    damaged = sorted(installation.paths().folder.glob("0*.json"))[2]
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b'"name"', b'"mane"'))
    for options in (("verify", "--fix"), ("to-db", "--overwrite")):
        ended = installation.archive(*options)
        assert ended.code != 0
        assert damaged.name in ended.out + ended.err
        assert installation.rows() == before
    assert "Restore the day" in installation.archive("verify").out
    damaged.write_bytes(content)
    assert installation.archive("verify").code == 0


def test_a_load_without_a_damaged_file_is_recorded(installation: Installation) -> None:
    installation.fill(5)
    assert installation.archive("fetch").code == 0
    damaged = min(installation.paths().folder.glob("0*.json"))
    damaged.write_bytes(damaged.read_bytes().replace(b'"name"', b'"mane"'))
    assert installation.archive("to-db").code == 1
    with installation.database.connect() as connection:
        noted = connection.execute("SELECT rows, loaded_at IS NOT NULL FROM days").fetchall()
    assert (len(installation.rows()), noted) == (4, [(4, True)])


def test_a_run_that_was_not_loaded_is_a_difference(installation: Installation) -> None:
    installation.fill(5)
    assert installation.archive("full-sweep").code == 0
    installation.sql("UPDATE runs SET project = 'another' WHERE run_id = %s", min(installation.rows()))
    for command in (("to-db",), ("to-db", "--dry-run"), ("restore", "--to-db")):
        ended = installation.archive(*command)
        assert (ended.code, "is filed under another" in ended.err) == (3, True), command
    assert len(installation.rows()) == 4


def test_a_load_without_rows_is_a_failure(installation: Installation) -> None:
    installation.fill(3)
    assert installation.archive("full-sweep").code == 0
    copied = installation.paths("misspelled").folder
    shutil.copytree(installation.paths().folder, copied)
    refused = installation.archive("to-db", project="misspelled")
    assert (refused.code, f"belongs to the project '{PROJECT}', not to 'misspelled'" in refused.err) == (1, True)
    for manifest in copied.glob("_*"):  # without it, as an older tool's
        manifest.unlink()
    ended = installation.archive("to-db", project="misspelled")
    assert ended.code == 1
    assert f"misspelled {DAY} could not be loaded: 3 runs, all rejected" in ended.err
    assert "is filed under" in ended.err
    assert installation.rows("misspelled") == {}
