"""Processes remembered and ended: real children, recycled ids, groups, and those that will not go."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lse_resources.processes import Registry, describe, is_alive, terminate

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
# Notices SIGTERM, and needs a moment to end.
TIDY = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    open(sys.argv[1], "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, end)
print(1, flush=True)
signal.pause()
"""
# A leader that ends at SIGTERM at once and leaves a child behind that does not.
LEADER = """
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python code that says a line when it is ready; killed and collected in the end."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str, leads: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=leads)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def sleeper(start: Callable[..., subprocess.Popen[str]], *, leads: bool = True) -> subprocess.Popen[str]:
    process = start("import signal; print(1, flush=True); signal.pause()", leads=leads)
    first_line(process)
    return process


def test_a_registered_process_is_found_by_another_registry(tmp_path: Path, start) -> None:
    process = sleeper(start)
    record = Registry(tmp_path / "run").add("daemon", process.pid)
    assert Registry(tmp_path / "run").get("daemon") == record
    assert Registry(tmp_path / "run").alive() == {"daemon": record}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["daemon.json"]


def test_an_ended_process_is_remembered_but_not_alive(tmp_path: Path, start) -> None:
    registry = Registry(tmp_path)
    process = sleeper(start)
    record = registry.add("daemon", process.pid)
    process.kill()
    process.wait()
    assert registry.get("daemon") == record
    assert registry.alive() == {}
    assert not is_alive(record)
    registry.remove("daemon")
    registry.remove("daemon")
    assert registry.get("daemon") is None


def test_a_zombie_has_ended(start) -> None:
    process = sleeper(start)
    record = describe(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(record)
    with pytest.raises(ProcessLookupError):
        describe(process.pid)


def test_an_id_given_to_another_process_is_not_signalled(start) -> None:
    process = sleeper(start)
    record = describe(process.pid)
    for change in ({"started": "1"}, {"boot": "another"}, {"host": "another"}):
        other = dataclasses.replace(record, **change)
        assert not is_alive(other)
        assert not terminate(other)
    assert process.poll() is None
    assert is_alive(record)


def test_terminate_ends_a_process_that_listens(start) -> None:
    process = sleeper(start)
    record = describe(process.pid)
    assert terminate(record, timeout=60)
    assert process.wait() == -15
    assert not terminate(record)


def test_terminate_kills_a_process_that_does_not_listen(start) -> None:
    process = start(STUBBORN)
    first_line(process)
    assert terminate(describe(process.pid), timeout=0.1)
    assert process.wait() == -9


def test_terminate_kills_what_is_left_of_the_group(start) -> None:
    leader = start(LEADER, STUBBORN)
    child = describe(int(first_line(leader)))
    assert terminate(describe(leader.pid), timeout=0.5)
    assert not is_alive(child)


def test_terminate_lets_the_whole_group_end_in_peace(tmp_path: Path, start) -> None:
    leader = start(LEADER, TIDY, str(tmp_path / "done"))
    child = describe(int(first_line(leader)))
    assert terminate(describe(leader.pid), timeout=60)
    assert (tmp_path / "done").exists()
    assert not is_alive(child)


def test_terminate_leaves_the_group_of_one_that_does_not_lead(start) -> None:
    bystander, process = sleeper(start, leads=False), sleeper(start, leads=False)
    assert terminate(describe(process.pid), timeout=60)
    assert bystander.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_record_is_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.json").write_text(text)
    assert Registry(tmp_path).get("daemon") is None
    assert Registry(tmp_path).alive() == {}


def test_a_registry_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert Registry(tmp_path / "run").alive() == {}


def test_commands_with_parentheses_and_spaces_are_read_right(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "600"]) as process:
        record = describe(process.pid)
        assert is_alive(record)
        assert terminate(record, timeout=60)
