"""Restore: a day is restored byte for byte or not at all, and local runs are kept."""

from __future__ import annotations

import errno
import os
import random
import time
import zipfile
from datetime import date, timedelta
from pathlib import Path

import pytest
from archive_fixtures import PROJECT, Archive, leftovers, snapshot
from day_fixtures import DAY, fill, run, run_id

from lse_archive.errors import (
    ArchiveConflictError,
    ArchiveError,
    CorruptArchiveError,
    DestinationError,
    RefusedArchiveError,
    ShrinkError,
    UsageError,
)
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.state import now_text, read_state, update_state
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault
from lse_demo.google_drive.server import DriveServer
from lse_operations.checks import check_archive
from lse_operations.restore.copies import archived_projects, copies
from lse_operations.restore.restore import plan
from lse_operations.restore.unpack import holds
from lse_operations.upload import upload_day


@pytest.fixture
def archive(drive_archive: Archive) -> Archive:
    return drive_archive


def put(archive: Archive, path: Path, name: str, project: str = PROJECT) -> None:
    """Uploads a file to Drive as another tool would."""
    archive.destination.upload(path, name, archive.destination.ensure_project_folder(project_folder(project)), {})


def is_download(request: object) -> bool:
    return getattr(request, "query", {}).get("alt") == "media"


def test_days_of_two_projects_are_restored_byte_for_byte(archive: Archive) -> None:
    days = [DAY + timedelta(days=number) for number in range(3)]
    for project in (PROJECT, "other"):
        for number, day in enumerate(days):
            archive.add(day, project, runs=3 + number)
    before = snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)
    archive.delete_local()
    projects = list(archived_projects(archive.destination, []))
    assert projects == sorted([PROJECT, "other"], key=project_folder)
    for project in projects:
        for copy in copies(archive.destination, project):
            assert plan(archive.destination, archive.paths(copy.day, project), copy).action == "would restore"
            assert archive.restore(copy.day, project).action == "restored"
    assert (snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)) == before
    assert leftovers(archive) == []


def test_an_equal_local_day_is_skipped(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    before = paths.folder.stat().st_ino
    drive_server.faults.add(Fault("status", is_download, status=500))
    assert archive.restore().action == "unchanged"
    paths.zip.unlink()
    assert archive.restore().action == "unchanged"
    assert paths.folder.stat().st_ino == before


def test_a_restore_compares_the_local_files_once(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = archive.add()
    compared: list[Path] = []

    def counting(paths: DayPaths, content: str) -> bool:
        compared.append(paths.folder)
        return holds(paths, content)

    monkeypatch.setattr("lse_operations.restore.restore.holds", counting)
    assert archive.restore().action == "unchanged"
    assert compared == [paths.folder]
    next(path for path in paths.folder.iterdir() if not path.name.startswith("_")).unlink()
    assert archive.restore().action == "replaced"
    assert compared == [paths.folder] * 2


def test_an_existing_zip_is_not_downloaded(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    before = snapshot(archive.layout.data_dir)
    for path in paths.folder.iterdir():
        path.unlink()
    paths.folder.rmdir()
    drive_server.faults.add(Fault("status", is_download, status=500))
    result = archive.restore()
    assert (result.action, result.source) == ("restored", "local zip")
    assert snapshot(archive.layout.data_dir) == before


def test_a_damaged_day_is_replaced_after_a_confirmation(archive: Archive) -> None:
    paths = archive.add()
    before = snapshot(archive.directory / "data")
    victim = sorted(paths.folder.glob("0*.json"))[0]
    victim.write_bytes(b"{")
    asked: list[str] = []
    with pytest.raises(ArchiveConflictError, match="differs from the copy on Drive"):
        archive.restore(may_replace=lambda question: bool(asked.append(question)))
    assert len(asked) == 1
    assert victim.read_bytes() == b"{"
    assert archive.restore().action == "replaced"
    assert snapshot(archive.directory / "data") == before


def test_a_replaced_day_keeps_its_hidden_files_and_a_hidden_folder_is_named(archive: Archive) -> None:
    paths = archive.add()
    before = snapshot(archive.layout.data_dir)
    sorted(paths.folder.glob("0*.json"))[0].write_bytes(b"{")
    (paths.folder / ".annotations.json").write_text("[1]")
    (paths.folder / ".notes").mkdir()
    with pytest.raises(ArchiveConflictError, match=r"it holds '\.notes'"):
        archive.restore()
    (paths.folder / ".notes").rmdir()
    assert archive.restore().action == "replaced"
    assert (paths.folder / ".annotations.json").read_text() == "[1]"
    assert snapshot(archive.layout.data_dir) == before


def test_a_failed_restore_removes_the_verified_mark(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = archive.add()
    next(paths.folder.glob("0*.json")).write_bytes(b"{}")
    update_state(paths, verified_at=now_text())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lse_archive.folder.forgetting.publish_day", full)
    with pytest.raises(ArchiveError, match="No space left"):
        archive.restore()
    assert read_state(paths).verified_at is None


def test_runs_that_are_only_local_are_kept(archive: Archive) -> None:
    paths = archive.add(runs=3)
    archive.write(runs=4)
    before = snapshot(archive.layout.data_dir)
    with pytest.raises(ShrinkError, match=f"holds 1 run that the copy does not: for example {run_id(4)}"):
        archive.restore()
    assert snapshot(archive.layout.data_dir) == before
    archive.restore(allow_shrink=True)
    assert len(list(paths.folder.glob("0*.json"))) == 3


def test_a_local_zip_with_more_runs_is_kept(archive: Archive) -> None:
    paths = archive.add(runs=3)
    archive.write(runs=4)
    for name in ("_summary.json", "_sha256sums.txt"):
        (paths.folder / name).unlink()
    zip_day(paths)
    for path in paths.folder.iterdir():
        path.unlink()
    paths.folder.rmdir()
    with pytest.raises(ShrinkError, match=r"\.zip holds 1 run"):
        archive.restore()
    assert not paths.folder.exists()


def test_a_damaged_local_zip_is_set_aside(archive: Archive) -> None:
    paths = archive.add()
    whole = paths.zip.read_bytes()
    archive.delete_local()
    paths.zip.parent.mkdir()
    paths.zip.write_bytes(b"not a zip")
    assert archive.restore().action == "restored"
    assert paths.zip.read_bytes() == whole
    assert paths.zip.with_name(f"{paths.zip.name}.damaged").read_bytes() == b"not a zip"


def test_verify_only_writes_nothing(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    archive.delete_local()
    result = archive.restore(verify_only=True)
    assert (result.action, result.runs) == ("proven", 5)
    assert not paths.folder.exists()
    assert not paths.zip.exists()
    assert leftovers(archive) == []
    [doc] = drive_server.store.named(paths.zip.name)
    content = drive_server.store.content(doc)
    content.write_bytes(content.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArchiveError, match="do not match"):
        archive.restore(verify_only=True)
    assert leftovers(archive) == []


def test_verify_only_reads_the_copy_whatever_the_local_state(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    paths.incoming.write_bytes(paths.zip.read_bytes())
    [copy] = copies(archive.destination, PROJECT)
    for_proof = plan(archive.destination, paths, copy, verify_only=True)
    assert (for_proof.action, for_proof.source) == ("would replace", "Drive")
    assert (archive.restore(verify_only=True).source, paths.zip.is_file()) == ("Drive", True)
    paths.incoming.write_bytes(paths.zip.read_bytes())
    drive_server.faults.add(Fault("status", is_download, status=403))
    with pytest.raises(DestinationError):
        archive.restore(verify_only=True)


def test_a_zip_of_another_project_is_refused(archive: Archive, tmp_path: Path) -> None:
    other = archive.add(project="other")
    put(archive, other.zip, archive.paths().zip.name)
    with pytest.raises(RefusedArchiveError, match="it holds other"):
        archive.restore()
    assert not archive.paths().folder.exists()
    assert leftovers(archive) == []


@pytest.mark.parametrize("folder", ["", "2026-01-02/", "traces_2026-01-02/"])
def test_a_zip_of_an_older_tool(archive: Archive, tmp_path: Path, folder: str) -> None:
    runs = {f"trace-{number}.json": b'{"trace": %s, "x": 1}' % run(number) for number in range(1, 4)}
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        for name, content in {**runs, "broken.json": b"{", "notes.txt": b"hello"}.items():
            old.writestr(folder + name, content)
    put(archive, tmp_path / "old.zip", f"export-of-{DAY}.zip")
    [copy] = copies(archive.destination, PROJECT)
    assert plan(archive.destination, archive.paths(), copy).action == "would restore"
    result = archive.restore()
    assert (result.action, result.runs, result.older) == ("restored", 3, True)
    assert result.unfit_files == ["broken.json", "notes.txt"]
    paths = archive.paths()
    assert {name: (paths.folder / name).read_bytes() for name in runs} == runs
    summary = read_summary(paths.folder)
    assert summary is not None
    assert (summary.project, summary.runs) == (PROJECT, 3)
    assert plan(archive.destination, paths, copy).action == "would compare"
    assert archive.restore().action == "unchanged"
    assert zip_day(paths).written


@pytest.mark.parametrize("folder", ["shop\\", "./", "shop//"])
def test_a_copy_that_another_tool_zipped_again_is_proven_as_ours_is(
    archive: Archive, drive_server: DriveServer, tmp_path: Path, folder: str
) -> None:
    paths = archive.add()
    before = snapshot(archive.layout.data_dir)
    with zipfile.ZipFile(paths.zip) as ours:
        files = {name: ours.read(name) for name in ours.namelist()}
    archive.delete_local()
    for changed in (True, False):
        with zipfile.ZipFile(tmp_path / "again.zip", "w", zipfile.ZIP_DEFLATED) as again:
            for name, content in files.items():
                is_changed = changed and name.startswith(run_id(2))
                again.writestr(folder + name, content.replace(b"00:00:00", b"00:00:01") if is_changed else content)
        for copy in copies(archive.destination, PROJECT):
            archive.destination.trash(copy.file)
        put(archive, tmp_path / "again.zip", paths.zip.name)
        if changed:
            with pytest.raises(CorruptArchiveError, match="differ from its checksums"):
                archive.restore()
            assert not paths.folder.exists()
    result = archive.restore()
    assert (result.action, result.older) == ("restored", False)
    assert snapshot(archive.layout.data_dir) == before
    assert check_archive(paths).verdict == "agrees"
    assert not zip_day(paths).written


def test_the_same_day_twice_is_a_conflict(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    [doc] = drive_server.store.named(paths.zip.name)
    body = {"name": doc["name"], "parents": doc["parents"], "mimeType": "application/zip"}
    drive = archive.destination
    drive._service.api.files().create(body=body).execute()  # ty: ignore[missing-attribute]
    archive.delete_local()
    with pytest.raises(ArchiveConflictError, match="2 files for shop"):
        archive.restore()


def test_a_range_of_days_and_unrelated_files(archive: Archive, tmp_path: Path) -> None:
    for day in (date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)):
        archive.add(day, runs=1)
    (tmp_path / "x").write_bytes(b"x")
    for name in ("notes.txt", "2026-13-01.zip", "x_2026-01-02.zip.part"):
        put(archive, tmp_path / "x", name)
    found = copies(archive.destination, PROJECT, date(2026, 1, 2))
    assert [copy.day for copy in found] == [date(2026, 1, 2), date(2026, 1, 3)]
    assert copies(archive.destination, "no such project") == []


def test_a_project_whose_name_is_too_long_for_a_folder(archive: Archive) -> None:
    project = "long name " * 30
    archive.add(project=project, runs=1)
    with pytest.raises(UsageError, match="--project"):
        list(archived_projects(archive.destination, []))
    assert list(archived_projects(archive.destination, ["x", project])) == [project]
    archive.delete_local()
    assert archive.restore(project=project).action == "restored"


def test_an_interrupted_download_is_continued(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.write(runs=1, text=random.Random(1).randbytes(9_000_000).hex())
    zip_day(paths)
    upload_day(archive.destination, paths)
    before = snapshot(archive.layout.data_dir)
    archive.delete_local()
    drive_server.faults.add(Fault("status", is_download, status=403, after=1))
    with pytest.raises(DestinationError):
        archive.restore()
    assert not paths.folder.exists()
    drive_server.faults.clear()
    seen: list[int] = []
    assert archive.restore(downloading=lambda done, _: seen.append(done)).action == "restored"
    assert seen[0] == 8 << 20  # a complete range was downloaded before
    assert snapshot(archive.layout.data_dir) == before
    assert leftovers(archive) == []


def test_an_unreachable_destination_changes_nothing(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    archive.delete_local()
    drive_server.faults.add(Fault("status", is_download, status=403))
    with pytest.raises(DestinationError):
        archive.restore()
    assert not paths.folder.exists()
    assert not paths.zip.exists()


def test_files_of_a_killed_restore_are_ignored_and_removed(archive: Archive) -> None:
    """Files of a killed restore are not used as a day or as a part of one."""
    paths = archive.add()
    before = snapshot(archive.layout.data_dir)
    archive.delete_local()
    fill(paths.restoring / "x" / str(DAY), run(77))
    paths.zip.parent.mkdir()
    paths.incoming.write_bytes(b"half a zip")
    assert archive.restore().action == "restored"
    assert snapshot(archive.layout.data_dir) == before
    assert leftovers(archive) == []


def test_temporary_files_of_exited_processes_are_removed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = archive.add()
    monkeypatch.setattr("lse_archive.folder.publish._swept", set())  # as in a new process
    for folder, name in ((paths.zip.parent, f".{paths.zip.name}"), (paths.state.parent, f".{paths.state.name}")):
        for age, kind in ((90_000, "old"), (7200, "young")):
            temporary = folder / f"{name}.{kind}.tmp"
            temporary.write_bytes(b"")
            os.utime(temporary, (time.time() - age, time.time() - age))
    for name, age in (("old", 90_000), ("young", 7200)):
        scratch = paths.zip.parent / f".scratch-{name}"
        (scratch / "x").mkdir(parents=True)
        os.utime(scratch, (time.time() - age, time.time() - age))
    archive.restore()
    assert [path.name for path in paths.zip.parent.glob(".scratch-*")] == [".scratch-young"]
    left = [path.name for path in archive.directory.rglob("*.tmp")]
    assert len(left) == 2
    assert all("young" in name for name in left)
