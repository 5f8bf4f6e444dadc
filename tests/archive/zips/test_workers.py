"""Work shared by processes: same results, order and errors; the workers exit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from home_fixtures import Installation

from lse_archive.errors import ArchiveError
from lse_archive.zips import workers as processes
from lse_archive.zips.workers import in_processes
from lse_archive.zips.writer import write_zip

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _use_processes_for_few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_HERE", 3)


def double_with_pid(number: int) -> tuple[int, int]:
    """Returns twice the number, and the process id."""
    return number * 2, os.getpid()


def open_file(name: str) -> int:
    """Returns a file descriptor."""
    print("opening", name)  # noqa: T201  # not a result
    return os.open(name, os.O_RDONLY)


def kill_at_seven(number: int) -> int:
    """Kills its process at number 7, as the kernel's out-of-memory killer does."""
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def read(file: tuple[int, str]) -> bytes:
    """A file's content."""
    directory, name = file
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1000])
def test_results_come_in_order(count: int) -> None:
    results = list(in_processes(double_with_pid, range(count)))
    assert [result for result, _ in results] == [number * 2 for number in range(count)]
    assert {worker for _, worker in results[:3]} <= {os.getpid()}
    assert len({worker for _, worker in results[3:]} - {os.getpid()}) == min(2, max(0, count - 3))


def test_an_error_of_a_worker_is_raised_unchanged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as error:
        list(in_processes(open_file, ["/dev/null"] * 10 + [missing]))
    assert error.value.filename == missing
    assert "opening /dev/null" in capfd.readouterr().err


def test_open_directories_are_shared(tmp_path: Path) -> None:
    names = [f"{number}.json" for number in range(20)]
    for name in names:
        (tmp_path / name).write_text(name)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        contents = list(in_processes(read, [(directory, name) for name in names], [directory]))
    finally:
        os.close(directory)
    assert contents == [name.encode() for name in names]


def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(ArchiveError, match=r"exit code -9.*memory"):
        list(in_processes(kill_at_seven, range(20)))


def test_workers_exit_when_the_results_are_closed() -> None:
    with contextlib.closing(in_processes(double_with_pid, range(200_000))) as results:
        workers = {next(results)[1] for _ in range(10)} - {os.getpid()}
    assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_the_workers_of_a_killed_process_exit(tmp_path: Path) -> None:
    """The workers inherit a pipe that this test reads; it closes when the last worker has exited."""
    script = """
import sys
from lse_archive.zips.workers import in_processes
from test_workers import double_with_pid
results = in_processes(double_with_pid, range(400_000), [int(sys.argv[1])])
for _ in range(3_000):
    next(results)
print("working", flush=True)
sys.stdin.read()
"""
    ours, theirs = os.pipe()
    command = [sys.executable, "-c", script, str(theirs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[theirs], env=environment
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        process.kill()
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() == b""


def test_workers_write_the_same_zip_as_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    names = [f"{number:03}.json" for number in range(100)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(b'{"number": %d}' % number * number)
    os.truncate(folder / names[-1], 17 << 20)  # too long to be kept in memory
    written = set()
    for here in (0, 50, 1000):
        monkeypatch.setattr(processes, "_HERE", here)
        with (tmp_path / "day.zip").open("wb") as file:
            digests = dict(write_zip(file, folder, names))
        written.add((tmp_path / "day.zip").read_bytes())
    assert len(written) == 1
    with zipfile.ZipFile(tmp_path / "day.zip") as archive:
        assert digests == {name: hashlib.sha256(archive.read(name)).digest() for name in names}
    assert digests == {name: hashlib.sha256((folder / name).read_bytes()).digest() for name in names}


def test_workers_zip_and_verify_a_day(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(30)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **named: started.append(given) or popen(*given, **named))
    assert installation.archive("full-sweep").code == 0
    assert len([command for command, *_ in started if "lse_archive.zips.workers" in command]) == 2
