"""Publication and locks: one writer; readers see the old or the new content."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from day_fixtures import day_paths

from lse_archive.errors import DayLockedError
from lse_archive.files import publish_file
from lse_archive.folder.locks import day_lock
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


def test_a_second_writer_waits_and_learns_the_holder(tmp_path):
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
        with pytest.raises(DayLockedError, match="is being written"), day_lock(paths, wait_seconds=0):
            pass
    thread.join(30)
    assert entered.is_set()
    assert holders == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_the_lock_is_released_when_its_process_exits(tmp_path):
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
        with held, day_lock(day_paths(tmp_path), wait_seconds=0):
            pass
        process.kill()
        process.wait()
        with day_lock(day_paths(tmp_path), wait_seconds=0):
            pass


def test_locks_of_days_and_projects_are_independent(tmp_path):
    with day_lock(day_paths(tmp_path)), day_lock(day_paths(tmp_path, "other"), wait_seconds=0):
        pass
