"""Readers of a day while another process publishes it: each sees one state of the day, to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from day_fixtures import DAY, day_paths, fill, run, run_id

from lse_archive.folder import publish
from lse_archive.folder.contents import ensure_manifest, is_as_recorded
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.opened import open_folder
from lse_archive.folder.publish import publish_folder
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.day import zip_day, zip_summary
from lse_operations.checks import check_files
from lse_operations.restore.unpack import holds
from lse_resources.postgres.analysis.frames import load_runs_from_files
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_day

ROUNDS = 5
RUNS = {"first": 40, "second": 60}
"""The two states of the day: name and size. A run's name is the state; their files have the same names."""


class Publisher:
    """Publishes the two states of a day in turn, in a thread, until it is stopped."""

    def __init__(self, directory: Path) -> None:
        self.paths = day_paths(directory)
        self.states = {}
        for name, runs in RUNS.items():
            state = Layout(directory / name, directory / "archives").day(self.paths.project, DAY)
            fill(state.folder, *(run(number, name=name) for number in range(runs)))
            self.states[name] = state.folder, ensure_manifest(state).content_sha256
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self.published = 0
        self.publish("first")

    def publish(self, name: str) -> None:
        with day_lock(self.paths):
            staged = self.paths.staging / "runs"
            shutil.copytree(self.states[name][0], staged)
            publish_folder(self.paths, staged)
        self.published += 1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident:
            self._thread.join(60)

    def _loop(self) -> None:
        while not self._stop.is_set():
            for name in ("second", "first"):
                self.publish(name)
                self._stop.wait(0.05)  # a writer that waits for the lock asks for it five times a second


@pytest.fixture(params=["exchange", "two renames"])
def publisher(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    if request.param == "two renames":
        monkeypatch.setattr(publish, "_exchange", lambda _one, _other: False)
    publisher = Publisher(tmp_path)
    yield publisher
    publisher.stop()


def load(paths: DayPaths, database: Database) -> int:
    result = load_day(database, paths.project, DAY, paths.folder, overwrite=True)
    assert result.errors == []
    return result.total_runs


def verify(paths: DayPaths, database: Database) -> int:
    result = verify_day(database, paths.project, DAY, paths.folder)
    assert result.broken_files == []
    return result.total_files


def check(paths: DayPaths, _: Database) -> int:
    found = check_files(paths)
    assert found.verdict == "agrees", found
    return int(found.says.split()[0])


def zip_it(paths: DayPaths, _: Database) -> int:
    target = paths.archive_dir / "elsewhere.zip"
    zip_day(paths, target=target, allow_shrink=True)
    with zipfile.ZipFile(target) as archive:
        assert len(archive.namelist()) == zip_summary(target).runs + 2
    return zip_summary(target).runs


def data_frame(paths: DayPaths, _: Database) -> int:
    frame = load_runs_from_files(paths.project, [paths.folder])
    assert frame["name"].nunique() == 1
    return len(frame)


def hashes(paths: DayPaths, _: Database) -> int:
    assert is_as_recorded(paths.folder)
    with open_folder(paths.folder) as folder:
        summary = read_summary(folder)
        assert summary is not None
        assert is_as_recorded(folder)
    holds(paths, summary.content_sha256)
    return summary.runs


@pytest.mark.parametrize("read", [load, verify, check, zip_it, data_frame, hashes])
def test_a_reader_sees_one_state_of_a_day_that_is_published_in_a_loop(
    publisher: Publisher, read: Callable[[DayPaths, Database], int], request: pytest.FixtureRequest
) -> None:
    database = request.getfixturevalue("database") if read in (load, verify) else None
    publisher.start()
    rounds = 0
    while rounds < ROUNDS or publisher.published < ROUNDS:
        assert read(publisher.paths, database) in RUNS.values()  # ty: ignore[invalid-argument-type]
        rounds += 1
    publisher.stop()
    with day_lock(publisher.paths):
        assert not list(publisher.paths.lock.parent.glob("*.old*"))


def test_a_displaced_folder_is_deleted_when_nobody_reads_it(publisher: Publisher) -> None:
    paths = publisher.paths
    files = read_folder(paths.folder, DAY)
    seen = [next(files)]
    publisher.publish("second")
    publisher.publish("first")
    assert len(list(paths.lock.parent.glob("*.old-*"))) == 1
    seen += files
    assert [file.header.run_id for file in seen if isinstance(file, RunFile)] == sorted(
        run_id(number) for number in range(RUNS["first"])
    )
    with day_lock(paths):
        assert not list(paths.lock.parent.glob("*.old*"))


def test_a_reader_between_two_renames_reads_the_old_day(tmp_path: Path) -> None:
    paths = Publisher(tmp_path).paths
    paths.folder.rename(paths.retired)
    assert len(list(read_folder(paths.folder, DAY))) == RUNS["first"]
    with day_lock(paths):
        assert paths.folder.is_dir()


def test_what_a_killed_publisher_exchanged_stays_until_it_is_read(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    paths, staged = publisher.paths, publisher.paths.staging / "runs"
    shutil.copytree(publisher.states["second"][0], staged)
    with open_folder(paths.folder) as folder:
        assert publish._exchange(staged, paths.folder)  # the process is killed here
        with day_lock(paths):
            assert not staged.exists()
        assert len(list(read_folder(folder, DAY))) == RUNS["first"]
    assert len(list(read_folder(paths.folder, DAY))) == RUNS["second"]
    with day_lock(paths):
        assert not list(paths.lock.parent.glob("*.old*"))


def test_a_folder_that_cannot_be_deleted_blocks_no_later_command(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lse_archive.folder.opened.shutil.rmtree", refuse)
    publisher.publish("second")
    assert "cannot be deleted (Permission denied)" in caplog.text
    publisher.publish("first")
    assert is_as_recorded(publisher.paths.folder)
    monkeypatch.undo()
    with day_lock(publisher.paths):
        assert not list(publisher.paths.lock.parent.glob("*.old*"))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a mount of its own")
def test_a_day_on_read_only_media_is_read_and_zipped_elsewhere(tmp_path: Path) -> None:
    paths = Publisher(tmp_path).paths
    shutil.rmtree(paths.lock.parent)
    code = (
        "import sys\nfrom datetime import date\nfrom pathlib import Path\n"
        "from lse_archive.layout import Layout\nfrom lse_archive.zips.day import zip_day\n"
        "from lse_archive.folder.state import update_state\nfrom lse_archive.errors import ArchiveError\n"
        "from lse_archive.folder.contents import is_as_recorded\n"
        "root = Path(sys.argv[1])\npaths = Layout(root / 'data', root / 'archives').day('chat', date(2026, 1, 2))\n"
        "print(is_as_recorded(paths.folder), zip_day(paths, target=root / 'other.zip').written)\n"
        "try:\n    update_state(paths, served_runs=1)\nexcept ArchiveError as error:\n    print(error)\n"
    )
    data = paths.data_dir
    script = f'mount --bind "{data}" "{data}" && mount -o remount,ro,bind "{data}" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "mount" in done.stderr:
        pytest.skip("this host allows no mount")
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "True True"
    assert second.startswith("the state of chat 2026-01-02 cannot be written: Read-only file system: ")
