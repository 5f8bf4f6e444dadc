"""Publication and locks: one writer; readers see the old or the new content."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from day_fixtures import day_paths, refuse_directories

from lse_archive.errors import ArchiveConflictError, ArchiveError, DayLockedError
from lse_archive.files import file_lock, publish_file
from lse_archive.folder.locks import day_lock
from lse_archive.folder.opened import open_folder
from lse_archive.folder.publish import publish_folder, recover
from lse_archive.layout import DayPaths


def staged(paths: DayPaths, content: str) -> Path:
    folder = paths.staging / "runs"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(content)
    return folder


def test_publication_replaces_a_folder(tmp_path):
    paths = day_paths(tmp_path)
    publish_folder(paths, staged(paths, "old"))
    publish_folder(paths, staged(paths, "new"))
    assert (paths.folder / "a.json").read_text() == "new"
    assert not paths.retired.exists()
    assert not (paths.staging / "runs").exists()


def test_publication_keeps_hidden_files_and_refuses_a_hidden_folder_by_its_name(tmp_path):
    paths = day_paths(tmp_path)
    publish_folder(paths, staged(paths, "old"))
    (paths.folder / ".annotations.json").write_text("[1]")
    (paths.folder / ".DS_Store").write_text("of a desktop")
    publish_folder(paths, staged(paths, "new"))
    assert (paths.folder / ".annotations.json").read_text() == "[1]"
    assert not (paths.folder / ".DS_Store").exists()
    (paths.folder / ".notes").mkdir()
    before = sorted(paths.folder.iterdir())
    with pytest.raises(ArchiveConflictError, match=r"it holds '\.notes'"):
        publish_folder(paths, staged(paths, "newer"))
    assert sorted(paths.folder.iterdir()) == before


def test_a_failed_move_restores_the_old_folder(tmp_path):
    paths = day_paths(tmp_path)
    publish_folder(paths, staged(paths, "old"))
    with pytest.raises(FileNotFoundError):
        publish_folder(paths, paths.staging / "nothing")
    assert (paths.folder / "a.json").read_text() == "old"
    assert not paths.retired.exists()


def test_the_next_lock_repairs_an_interrupted_publication(tmp_path):
    paths = day_paths(tmp_path)
    publish_folder(paths, staged(paths, "old"))
    paths.folder.rename(paths.retired)
    with day_lock(paths):
        assert (paths.folder / "a.json").read_text() == "old"
        assert not paths.retired.exists()


def test_recovery_removes_the_replaced_folder(tmp_path):
    paths = day_paths(tmp_path)
    publish_folder(paths, staged(paths, "new"))
    paths.retired.mkdir()
    recover(paths)
    assert (paths.folder / "a.json").read_text() == "new"
    assert not paths.retired.exists()
    recover(paths)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "deep" / "x.zip"
    with publish_file(target) as file:
        file.write(b"old")
        assert not target.exists()
    with pytest.raises(ValueError, match="closed file"), publish_file(target) as file:
        file.close()
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["x.zip"]


def test_two_writers_of_one_file_in_a_process_do_not_mix(tmp_path):
    target = tmp_path / "x.json"
    with publish_file(target) as one, publish_file(target) as other:
        one.write(b"one")
        other.write(b"other")
    assert target.read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_has_its_mode_from_the_beginning_whatever_the_umask(tmp_path, mode):
    before = os.umask(0o077 if mode == 0o644 else 0)
    try:
        with publish_file(tmp_path / "x", mode=mode) as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_a_second_writer_waits_and_learns_the_holder(tmp_path, monkeypatch):
    paths = day_paths(tmp_path)
    holders: list[str] = []
    waiting, entered = threading.Event(), threading.Event()

    def second() -> None:
        def on_wait(holder: str) -> None:
            holders.append(holder)
            waiting.set()

        with day_lock(paths, on_wait=on_wait):
            entered.set()

    with day_lock(paths):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
        assert not entered.is_set()
        monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
        with pytest.raises(DayLockedError, match="is being written"), day_lock(paths):
            pass
    thread.join(30)
    assert entered.is_set()
    assert holders == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_the_lock_is_released_when_its_process_exits(tmp_path, monkeypatch):
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
    code = (
        "import sys\nfrom datetime import date\nfrom pathlib import Path\n"
        "from lse_archive.layout import Layout\nfrom lse_archive.folder.locks import day_lock\n"
        "root = Path(sys.argv[1])\n"
        "with day_lock(Layout(root / 'data', root / 'archives').day('chat', date(2026, 1, 2))):\n"
        "    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        held = pytest.raises(DayLockedError, match=f"process {process.pid} on")
        with held, day_lock(day_paths(tmp_path)):
            pass
        process.kill()
        process.wait()
        with day_lock(day_paths(tmp_path)):
            pass


def test_locks_of_days_and_projects_are_independent(tmp_path, monkeypatch):
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
    with day_lock(day_paths(tmp_path)), day_lock(day_paths(tmp_path, "other")):
        pass


def test_the_wait_for_the_lock_of_a_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
    target = tmp_path / "projects.toml"
    held = pytest.raises(ArchiveError, match=r"projects.toml cannot be changed: another process holds .*\.lock")
    with file_lock(target), held, file_lock(target):
        pass


def test_a_directory_is_listed_once_for_many_locks_and_again_after_a_displacement(tmp_path, monkeypatch):
    paths = day_paths(tmp_path)
    paths.archive_dir.mkdir()
    listed: list[Path] = []
    listdir, scandir = os.listdir, os.scandir
    monkeypatch.setattr(os, "listdir", lambda path: [listed.append(path), listdir(path)][1])
    monkeypatch.setattr(os, "scandir", lambda path: [listed.append(path), scandir(path)][1])
    for _ in range(3):
        with day_lock(paths):
            pass
    assert sorted(listed) == sorted([paths.archive_dir, paths.lock.parent])
    listed.clear()
    for content in ("old", "new"):
        publish_folder(paths, staged(paths, content))
    with day_lock(paths):
        pass
    assert listed.count(paths.lock.parent) == 1
    assert listed.count(paths.archive_dir) == 0


def test_a_reader_sleeps_while_another_process_has_locked_the_folder(tmp_path, monkeypatch, caplog):
    paths = day_paths(tmp_path)
    publish_folder(paths, staged(paths, "old"))
    descriptor = os.open(paths.folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    slept: list[float] = []

    def release(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    monkeypatch.setattr("lse_archive.cancellation.cancellable_sleep", release)
    with open_folder(paths.folder) as folder:
        assert folder.read("a.json") == b"old"
    assert len(slept) == 2
    assert [record.message for record in caplog.records] == [
        f"waiting for {paths.folder}: another process has locked it"
    ]
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
    with pytest.raises(DayLockedError, match="another process has locked it"), open_folder(paths.folder):
        pass
    os.close(descriptor)


# ---- links, and what a file system refuses ---------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> DayPaths:
    """A day whose folder is a link to a folder elsewhere."""
    paths, elsewhere = day_paths(tmp_path), tmp_path / "other disk" / "2026-01-02"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.json").write_text("old")
    paths.folder.parent.mkdir(parents=True)
    paths.folder.symlink_to(elsewhere)
    return paths


@pytest.mark.parametrize("exchange", [True, False])
def test_a_link_to_a_day_is_replaced_by_a_folder_and_its_target_stays(
    linked: DayPaths, exchange: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = linked.folder.resolve()
    if not exchange:
        monkeypatch.setattr("lse_archive.folder.publish._exchange", lambda _one, _other: False)
    for content in ("new", "newer"):
        with day_lock(linked):
            publish_folder(linked, staged(linked, content))
    assert (linked.folder / "a.json").read_text() == "newer"
    assert not linked.folder.is_symlink()
    assert (target / "a.json").read_text() == "old"
    assert f"its former files are still in {target}" in caplog.text
    assert [path.name for path in linked.lock.parent.iterdir() if "old" in path.name] == []


def test_a_link_that_a_killed_publication_displaced_is_not_written_through(linked: DayPaths) -> None:
    target = linked.folder.resolve()
    linked.staging.mkdir(parents=True)
    linked.folder.rename(linked.staging / "runs")
    with day_lock(linked):
        assert not (linked.staging / "runs").exists()
    assert (target / "a.json").read_text() == "old"


def test_a_link_to_nothing_is_refused_before_anything_is_written(linked: DayPaths) -> None:
    linked.folder.resolve().rename(linked.folder.resolve().with_name("unmounted"))
    with pytest.raises(ArchiveError, match=r"is a link to .*there is no folder.*Mount that disk"), day_lock(linked):
        pass


def test_a_directory_that_cannot_be_flushed_is_a_warning_after_the_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_directories(monkeypatch)
    paths = day_paths(tmp_path)
    for content in ("old", "new"):
        publish_folder(paths, staged(paths, content))
    with publish_file(paths.folder / "b.json") as file:
        file.write(b"b")
    assert (paths.folder / "a.json").read_text() == "new"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # once for each directory
    assert "cannot be flushed to the disk (Invalid argument)" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_error_that_names_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    paths = day_paths(tmp_path)
    why = rf"{paths.lock} cannot be locked: its file system does not lock files \({os.strerror(code)}\)"
    with pytest.raises(ArchiveError, match=why), day_lock(paths):
        pass


def test_a_full_disk_does_not_prevent_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with day_lock(day_paths(tmp_path)):
        pass
