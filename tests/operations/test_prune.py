"""Prune: files are deleted only after their copies were checked, and the pruned day is still listed."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from archive_fixtures import PROJECT, Archive, leftovers, snapshot
from day_fixtures import DAY, run_id
from drive_rig import media
from home_fixtures import DAY as HOME_DAY
from home_fixtures import PROJECT as HOME_PROJECT
from home_fixtures import Installation

from lse_archive.errors import CorruptArchiveError, DestinationError, PrunedDayError, RefusedArchiveError, ShrinkError
from lse_archive.files import file_sha256
from lse_archive.folder.contents import ensure_manifest, is_as_recorded
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import content_hash, content_sums, read_summary, read_sums, write_manifest
from lse_archive.folder.opened import open_folder
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.state import read_state, update_state
from lse_archive.names import project_folder
from lse_archive.results import PruneResult
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault
from lse_demo.google_drive.server import DriveServer
from lse_operations.checks import CHECKS, check_archive, check_copy, check_files, compare_rows
from lse_operations.prune import prune_copy, prune_day
from lse_operations.restore.restore import restore_pruned
from lse_operations.upload import find_copies, find_copy_difference, upload_day
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(drive_archive: Archive, database: Database) -> Archive:
    paths = drive_archive.add()
    load_day(database, PROJECT, DAY, paths.folder)
    return drive_archive


@pytest.fixture
def prune(archive: Archive, database: Database) -> Callable[..., PruneResult]:
    def prune(what: Any = "files", **options: Any) -> PruneResult:
        return prune_day(archive.destination, database, archive.paths(), what, **options)

    return prune


def test_a_pruned_day_is_reported_and_restored_byte_for_byte(
    archive: Archive, prune: Callable[..., PruneResult], database: Database
) -> None:
    paths = archive.paths()
    before = snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)
    size = sum(path.stat().st_size for path in paths.folder.iterdir())
    assert (prune(dry_run=True).action, is_pruned(paths)) == ("would prune", False)
    assert snapshot(archive.layout.data_dir) == before[0]
    result = prune()
    assert (result.action, result.freed) == ("pruned", size)
    assert not paths.folder.exists()
    assert is_pruned(paths)
    assert list(archive.layout.pruned_days(PROJECT)) == [DAY]
    assert prune("zips").action == "pruned"
    assert not paths.zip.exists()
    summary = read_summary(paths.pruned)
    assert summary is not None
    assert summary.runs == 5
    for check in (check_files(paths), check_archive(paths), check_copy(paths, archive.destination)):
        assert check.verdict == "agrees", check
    assert prune().why == "its files are not here"
    result = restore_pruned(archive.destination, paths)
    assert result is not None
    assert result.action == "restored"
    assert (snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)) == before
    assert not is_pruned(paths)
    assert restore_pruned(archive.destination, paths) is None
    assert leftovers(archive) == []


def test_a_day_that_is_a_link_is_kept_because_nothing_would_be_freed(
    archive: Archive, prune: Callable[..., PruneResult], tmp_path: Path
) -> None:
    paths, target = archive.paths(), tmp_path / "other disk"
    paths.folder.rename(target)
    paths.folder.symlink_to(target)
    result = prune()
    assert (result.action, result.freed) == ("kept", 0)
    assert f"move {target} to {paths.folder}" in result.why
    assert check_files(paths).verdict == "agrees"


def test_files_that_are_still_read_count_as_freed_when_they_are_deleted(
    archive: Archive, prune: Callable[..., PruneResult]
) -> None:
    paths = archive.paths()
    with open_folder(paths.folder) as folder:
        result = prune()
        assert (result.action, result.freed) == ("pruned", 0)
        assert "cannot be deleted yet" in result.why
        assert is_as_recorded(folder)
    with day_lock(paths):
        assert leftovers(archive) == []


def damage_file(archive: Archive, database: Database, server: DriveServer) -> None:
    next(archive.paths().folder.glob("0*.json")).write_bytes(b"{}")


def damage_zip(archive: Archive, database: Database, server: DriveServer) -> None:
    archive.paths().zip.write_bytes(b"PK")


def damage_drive(archive: Archive, database: Database, server: DriveServer) -> None:
    [doc] = server.store.named(archive.paths().zip.name)
    server.store._put(doc | {"sha256Checksum": "0" * 64})


def trash_copy(archive: Archive, database: Database, server: DriveServer) -> None:
    [doc] = server.store.named(archive.paths().zip.name)
    server.store._put(doc | {"trashed": True})


def damage_row(archive: Archive, database: Database, server: DriveServer) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE runs SET data = '{}'")


def lose_row(archive: Archive, database: Database, server: DriveServer) -> None:
    with database.connect() as connection:
        connection.execute("DELETE FROM runs WHERE run_id = %s", (run_id(3),))


def add_run(archive: Archive, database: Database, server: DriveServer) -> None:
    """Makes the local day newer than its copy."""
    paths = archive.write(runs=6)
    for name in ("_summary.json", "_sha256sums.txt"):
        (paths.folder / name).unlink()
    zip_day(paths)
    load_day(database, PROJECT, DAY, paths.folder)


@pytest.mark.parametrize("damage", [damage_file, damage_zip, damage_drive, trash_copy, damage_row, lose_row, add_run])
@pytest.mark.parametrize("what", ["files", "zips"])
def test_an_unproven_day_is_not_pruned(
    archive: Archive,
    database: Database,
    prune: Callable[..., PruneResult],
    drive_server: DriveServer,
    damage: Callable[..., None],
    what: str,
) -> None:
    damage(archive, database, drive_server)
    before = snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)
    result = prune(what)
    assert result.action == "kept"
    assert result.why
    assert (snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)) == before


def test_a_changed_copy_of_a_pruned_day_is_reported(
    archive: Archive, prune: Callable[..., PruneResult], drive_server: DriveServer
) -> None:
    prune()
    prune("zips")
    paths = archive.paths()
    assert find_copy_difference(archive.destination, paths) is None
    damage_drive(archive, None, drive_server)  # ty: ignore[invalid-argument-type]
    assert check_copy(paths, archive.destination).verdict == "differs"


def test_zip_refuses_a_pruned_day(archive: Archive, prune: Callable[..., PruneResult]) -> None:
    prune()
    paths = archive.paths()
    whole = paths.zip.read_bytes()
    with pytest.raises(PrunedDayError, match="Restore the day first"):
        zip_day(paths)
    assert paths.zip.read_bytes() == whole


def replace_by_fewer(archive: Archive, runs: int) -> None:
    """Replaces the copy by one with fewer runs."""
    other = Archive(archive.directory / "other", archive.destination)
    zip_day(other.write(runs=runs))
    upload_day(other.destination, other.paths(), allow_shrink=True)


@pytest.mark.parametrize("runs_csv", [None, b"x", b"", b"all but the last line"])
def test_a_pruned_day_is_not_restored_with_fewer_runs(
    archive: Archive, prune: Callable[..., PruneResult], runs_csv: bytes | None
) -> None:
    prune()
    prune("zips")
    paths = archive.paths()
    replace_by_fewer(archive, 3)
    says = "whose files were pruned, holds 2 runs that the copy does not"
    if runs_csv is not None:
        lines = (paths.pruned / "runs.csv").read_bytes().splitlines(keepends=True)
        (paths.pruned / "runs.csv").write_bytes(b"".join(lines[:-1]) if b"last" in runs_csv else runs_csv)
        says = "the list of runs of shop / EMEA 2026-01-02 is damaged"
    before = snapshot(paths.pruned)
    with pytest.raises(ShrinkError, match=says):
        restore_pruned(archive.destination, paths)
    assert is_pruned(paths)
    assert snapshot(paths.pruned) == before
    assert not paths.zip.exists()
    assert archive.restore(allow_shrink=True).runs == 3
    assert not is_pruned(paths)


def test_a_pruned_day_with_a_damaged_list_is_restored_unchanged(
    archive: Archive, prune: Callable[..., PruneResult]
) -> None:
    before = snapshot(archive.layout.data_dir)
    prune()
    (archive.paths().pruned / "runs.csv").write_text("x")
    assert restore_pruned(archive.destination, archive.paths()) is not None
    assert snapshot(archive.layout.data_dir) == before


def test_rows_of_a_pruned_day_are_compared_with_its_lists(
    archive: Archive, prune: Callable[..., PruneResult], database: Database
) -> None:
    prune()
    pruned = archive.paths().pruned
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO feedback (id, project, run_date, data) VALUES (gen_random_uuid(), %s, %s, '{}')",
            (PROJECT, DAY),
        )
    result = compare_rows(database, archive.paths())
    assert [(one.table, one.what) for one in result.inconsistent_records] == [("feedback", "missing in the files")]
    for kind in ("runs", "feedback", "attachments"):
        listed = pruned / f"{kind}.csv"
        content = listed.read_bytes()
        for damaged in (b"0,0", content + content or b"0196aaaa-0000-7000-8000-000000000001,00"):
            listed.write_bytes(damaged)
            with pytest.raises(CorruptArchiveError, match=f"the list of {kind} of"):
                compare_rows(database, archive.paths())
        listed.write_bytes(content)
    record = msgspec.json.decode((pruned / "pruned.json").read_bytes())
    for kind in ("feedback", "attachments"):
        del record[f"{kind}_sha256"]
        (pruned / f"{kind}.csv").unlink()
    (pruned / "pruned.json").write_bytes(msgspec.json.encode(record))
    assert compare_rows(database, archive.paths()).is_consistent


def test_lse_verifies_restores_and_fetches_a_pruned_day(installation: Installation) -> None:
    installation.fill(6)
    assert installation.archive("full-sweep").code == 0
    before = snapshot(installation.paths().folder)
    asked = installation.lse("archive", "prune", "--project", HOME_PROJECT, "--older-than", "1d")
    assert asked.code == 1
    assert "--force" in asked.err
    pruned = installation.lse("archive", "prune", "--project", HOME_PROJECT, "--older-than", "1d", "--force", "--json")
    assert (pruned.code, [entry["action"] for entry in pruned.json]) == (0, ["pruned"])
    assert not installation.paths().folder.exists()
    verified = installation.archive("verify", "--json")
    assert verified.code == 0, verified.err
    assert {check["name"]: check["verdict"] for check in verified.entry["checks"]} == dict.fromkeys(CHECKS, "agrees")
    listed = installation.paths().pruned / "feedback.csv"
    listed.write_bytes(b"0,0\n")
    installation.sql("UPDATE runs SET data = '{}' WHERE run_id = (SELECT min(run_id::text) FROM runs)::uuid")
    damaged = installation.archive("verify", "--json").entry["checks"][-1]
    assert (damaged["name"], damaged["verdict"]) == ("runs_match_files", "differs")
    assert damaged["says"].startswith("the list of feedback of")
    listed.write_bytes(b"")
    differing = installation.archive("verify")
    assert differing.code == 3
    assert "Restore the files that were pruned" in differing.out + differing.err
    # LangSmith has fewer runs now: the day is restored first and keeps all runs.
    installation.store.delete([installation.store.runs(HOME_PROJECT)[0].id])
    assert installation.archive("fetch", "--force").code in (0, 3)
    after = snapshot(installation.paths().folder)
    assert {name: after[name] for name in before} == before


def test_prune_requires_an_age(installation: Installation) -> None:
    for age in ("", "x", "0", "-1", "90w"):
        ended = installation.lse("archive", "prune", "--older-than", age, "--project", "x")
        assert ended.code == 2
        assert "number of days" in ended.err
    assert installation.lse("archive", "prune").code == 2
    ended = installation.lse("archive", "prune", "--older-than", "90d", "--project", "x")
    assert (ended.code, "no day older than 90 days has files to delete" in ended.out) == (0, True)


def test_the_copy_is_pruned_only_if_the_day_is_local(
    archive: Archive, prune: Callable[..., PruneResult], drive_server: DriveServer, database: Database
) -> None:
    paths = archive.paths()
    prune()
    assert "the last copy" in prune_copy(archive.destination, paths).why
    restore_pruned(archive.destination, paths)
    add_run(archive, database, drive_server)
    assert "holds something else" in prune_copy(archive.destination, paths).why
    upload_day(archive.destination, paths)
    assert prune_copy(archive.destination, paths, dry_run=True).action == "would prune"
    drive_server.faults.add(Fault("status", lambda request: request.method == "PATCH", status=403))
    with pytest.raises(DestinationError):
        prune_copy(archive.destination, paths)
    drive_server.faults.clear()
    assert read_state(paths).copy_pruned_at is None  # a later loss is not recorded as pruned
    assert prune_copy(archive.destination, paths).action == "pruned"
    assert drive_server.store.named(paths.zip.name) == []
    assert check_copy(paths, archive.destination).verdict == "agrees"
    assert prune().action == "kept"  # the local day is now the last copy
    upload_day(archive.destination, paths)
    assert prune().action == "pruned"


def test_a_day_with_an_unreadable_file_is_not_pruned(archive: Archive, prune: Callable[..., PruneResult]) -> None:
    paths = archive.paths()
    (paths.folder / "dangling.json").symlink_to("nowhere")
    for what in ("files", "zips"):
        assert prune(what).action == "kept"
    [found] = check_files(paths).differences
    assert (found.item, found.what) == ("dangling.json", "cannot be read")


def test_lse_drive_prune(installation: Installation) -> None:
    installation.fill(3)
    assert installation.archive("full-sweep").code == 0
    options = ("drive", "prune", "--older-than", "1d", "--project", HOME_PROJECT)
    assert installation.lse(*options, "--dry-run", "--json").entry["action"] == "would prune"
    assert installation.lse(*options).code == 1
    assert installation.lse(*options, "--force", "--json").entry["action"] == "pruned"
    assert installation.archive("verify").code == 0


def test_a_copy_that_drive_does_not_delete_does_not_stop_other_days(installation: Installation) -> None:
    days = [HOME_DAY - timedelta(days=1), HOME_DAY]
    for day in days:
        installation.fill(2, day=day)
        assert installation.archive("full-sweep", day=day).code == 0
    installation.drive.faults.add(Fault("status", lambda request: request.method == "PATCH", status=403, times=1))
    ended = installation.lse(*("drive", "prune", "--older-than", "1d", "--project", HOME_PROJECT, "--force", "--json"))
    assert ended.code == 1
    assert [(entry["date"], entry.get("action", "failed")) for entry in ended.json] == [
        (str(days[0]), "failed"),
        (str(days[1]), "pruned"),
    ]


def test_the_next_upload_writes_a_missing_label(
    archive: Archive, prune: Callable[..., PruneResult], drive_server: DriveServer, database: Database
) -> None:
    paths = archive.paths()
    add_run(archive, database, drive_server)

    def labels(request: Any) -> bool:
        return request.method == "PATCH" and request.path.startswith("/drive/")

    drive_server.faults.add(Fault("status", labels, status=403))
    with pytest.raises(DestinationError):
        upload_day(archive.destination, paths)
    drive_server.faults.clear()
    kept = prune("zips")
    assert (kept.action, paths.zip.exists()) == ("kept", True)
    assert "lse archive upload" in kept.why
    seen = len(drive_server.requests)
    assert upload_day(archive.destination, paths).action == "unchanged"
    assert not [request for request in drive_server.requests[seen:] if request.path.startswith("/upload/")]
    assert prune("zips").action == "pruned"
    assert check_copy(paths, archive.destination).verdict == "agrees"


@pytest.mark.parametrize(
    ("what", "zip_is_local", "why"),
    [
        ("files", True, "the archive differs"),
        ("zips", True, "the archive differs"),
        ("files", False, "its copy cannot be restored: its runs have .* bytes, by its summary 7"),
    ],
)
def test_a_day_whose_copy_restore_refuses_is_not_pruned(
    archive: Archive, prune: Callable[..., PruneResult], what: str, *, zip_is_local: bool, why: str
) -> None:
    """The copy, its properties and the local files agree with each other, as an older version uploaded them."""
    paths = archive.paths()
    summary = msgspec.structs.replace(ensure_manifest(paths), bytes=7)
    sums = content_sums(read_sums(paths.folder) or {})
    write_manifest(paths.folder, summary, sums)
    with zipfile.ZipFile(paths.zip, "w") as refused:
        for path in sorted(paths.folder.iterdir()):
            refused.write(path, path.name)
    [existing] = find_copies(archive.destination, paths)
    properties = {"content": content_hash(sums), "sha256": file_sha256(paths.zip)[1]}
    folder = archive.destination.ensure_project_folder(project_folder(PROJECT))
    archive.destination.upload(paths.zip, paths.zip.name, folder, properties, existing=existing)
    if not zip_is_local:
        paths.zip.unlink()
        update_state(paths, zip_pruned_at="2026-02-01T00:00:00Z")
    with pytest.raises(RefusedArchiveError, match="by its summary 7"):
        archive.restore(verify_only=True)
    kept = prune(what)
    assert kept.action == "kept"
    assert re.search(why, kept.why)
    assert paths.folder.is_dir()


def test_a_day_whose_summary_was_written_again_is_pruned_and_restored(
    archive: Archive, prune: Callable[..., PruneResult]
) -> None:
    paths = archive.paths()
    summary = msgspec.structs.replace(ensure_manifest(paths), langsmith_count=5)
    write_manifest(paths.folder, summary, content_sums(read_sums(paths.folder) or {}))
    zip_day(paths)
    assert upload_day(archive.destination, paths).action == "unchanged"
    assert prune().action == "pruned"
    assert archive.restore().action == "restored"


def test_a_copy_is_downloaded_for_its_proof_only_where_no_local_zip_has_its_bytes(
    archive: Archive, prune: Callable[..., PruneResult], drive_server: DriveServer
) -> None:
    drive_server.faults.add(Fault("status", media, status=403))
    assert prune("zips").action == "pruned"
    with pytest.raises(DestinationError):
        prune("files")
    drive_server.faults.clear()
    assert prune("files").action == "pruned"
    assert leftovers(archive) == []
    assert archive.restore().action == "restored"


def test_a_day_with_hidden_files_is_not_pruned(archive: Archive, prune: Callable[..., PruneResult]) -> None:
    (archive.paths().folder / ".notes.json").write_bytes(b"{}")
    (archive.paths().folder / ".DS_Store").touch()
    kept = prune()
    assert (kept.action, ".notes.json" in kept.why, ".DS_Store" in kept.why) == ("kept", True, False)
    (archive.paths().folder / ".notes.json").unlink()
    assert prune().action == "pruned"
