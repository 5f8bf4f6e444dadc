"""Concurrent uploads of a range: questions are asked, and Ctrl-C ends all uploads."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from home_fixtures import DAY, PROJECT, Installation
from platform_fixtures import wait_until
from test_cli_prompts import terminal

from lse_demo.faults import Fault, on

pytestmark = pytest.mark.slow

_LSE = Path(sys.executable).with_name("lse")
_UPLOAD = on("PUT", "/upload/")
_DAYS = [DAY - timedelta(days=back) for back in range(4, -1, -1)]
_RANGE = ["--project", PROJECT, "--start-date", str(_DAYS[0]), "--end-date", str(_DAYS[-1])]


@dataclass
class Gates:
    """Events that hold uploads: `arrived` counts those at the first gate."""

    arrived: threading.Semaphore
    first: threading.Event
    second: threading.Event

    def wait_for_uploads(self, number: int) -> None:
        for _ in range(number):
            assert self.arrived.acquire(timeout=60)


@pytest.fixture
def zipped(installation: Installation) -> Installation:
    """Five days with their archives."""
    for day in _DAYS:
        installation.fill(3, day=day)
        for command in ("fetch", "zip"):
            assert installation.archive(command, day=day).code == 0
    return installation


def archived(installation: Installation) -> list[bool]:
    return [len(installation.drive.store.named(installation.paths(day=day).zip.name)) == 1 for day in _DAYS]


def test_three_days_are_uploaded_at_once(zipped: Installation) -> None:
    together = threading.Barrier(3)
    zipped.drive.faults.add(Fault("call", _UPLOAD, times=3, action=lambda: together.wait(60)))
    ended = zipped.lse("archive", "upload", *_RANGE, "--json")
    assert ended.code == 0
    assert not together.broken
    assert [(entry["date"], entry["action"]) for entry in ended.json] == [(str(day), "created") for day in _DAYS]
    assert archived(zipped) == [True] * 5
    with zipped.instance() as instance:
        assert len(instance.get_runs()) == 3 * len(_DAYS)


def test_a_question_about_one_day_does_not_delay_the_others(zipped: Installation) -> None:
    assert zipped.archive("upload", day=_DAYS[1]).code == 0
    zipped.store.generate(PROJECT, _DAYS[1], runs=4, mean_bytes=3000, seed=1)
    for command in ("fetch", "zip"):
        assert zipped.archive(command, "--force", day=_DAYS[1]).code == 0
    unasked = zipped.lse("archive", "upload", *_RANGE)
    assert unasked.code == 1
    assert unasked.out.count("✓ upload") == 4
    assert "has other content" in unasked.err
    assert archived(zipped) == [True] * 5

    with terminal(zipped, "archive", "upload", *_RANGE) as shown:
        shown.until("on Drive has other content")
        shown.until("[y/N]: ")
        shown.type("y\n")
        assert shown.end() == 0
    assert shown.screen.count("[y/N]") == 1
    [after] = zipped.drive.store.named(zipped.paths(day=_DAYS[1]).zip.name)
    assert zipped.drive.store.content(after).read_bytes() == zipped.paths(day=_DAYS[1]).zip.read_bytes()


@pytest.fixture
def gates(zipped: Installation) -> Iterator[Gates]:
    """The first three uploads wait for each other and the first gate, the others for the second gate."""
    found = Gates(threading.Semaphore(0), threading.Event(), threading.Event())

    def hold() -> None:
        found.arrived.release()
        found.first.wait(60)

    zipped.drive.faults.add(Fault("call", _UPLOAD, times=3, action=hold))
    zipped.drive.faults.add(Fault("call", _UPLOAD, after=3, action=lambda: found.second.wait(60)))
    yield found
    found.first.set()
    found.second.set()


def test_results_stay_on_the_screen_above_the_bars(zipped: Installation, gates: Gates) -> None:
    with terminal(zipped, "archive", "upload", *_RANGE) as shown:
        gates.wait_for_uploads(3)
        shown.until("━")
        gates.first.set()
        for _ in range(3):
            shown.until("✓ upload")
        shown.until("━")
        gates.second.set()
        assert shown.end() == 0
    rows = [row.partition("  created: ")[0] for row in shown.rows() if row]
    assert rows == [line for day in _DAYS for line in (f"{PROJECT} {day}", "  ✓ upload")]


def test_a_question_stays_on_the_screen_above_the_bars(zipped: Installation, gates: Gates) -> None:
    """The oldest day differs; the next two show their bars before the question."""
    gates.first.set()
    assert zipped.archive("upload", day=_DAYS[0]).code == 0
    zipped.store.generate(PROJECT, _DAYS[0], runs=4, mean_bytes=3000, seed=1)
    for command in ("fetch", "zip"):
        assert zipped.archive(command, "--force", day=_DAYS[0]).code == 0
    gates.wait_for_uploads(1)
    gates.first.clear()
    name = zipped.paths(day=_DAYS[0]).zip.name
    zipped.drive.faults.add(
        Fault("call", lambda asked: name in asked.query.get("q", ""), times=1, action=lambda: gates.wait_for_uploads(2))
    )
    with terminal(zipped, "archive", "upload", *_RANGE) as shown:
        shown.until("[y/N]: ")
        shown.type("y\n")
        shown.until("━")
        gates.first.set()
        gates.second.set()
        assert shown.end() == 0
    rows = [row for row in shown.rows() if row]
    assert rows[0] == f"{PROJECT} {_DAYS[0]}"
    assert rows[1].startswith(f"  {name} on Drive has other content")
    assert rows[1].endswith("[y/N]: y")
    assert rows[2].startswith(f"  ✓ upload  replaced: {name}")
    assert len(rows) == 11


def test_results_in_a_pipe_leave_the_bars_to_the_terminal(zipped: Installation, gates: Gates) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as pipe, terminal(zipped, "archive", "upload", *_RANGE, stdout=writer) as shown:
        os.close(writer)
        gates.wait_for_uploads(3)
        shown.until("━")
        gates.first.set()
        gates.second.set()
        assert shown.end() == 0
        assert pipe.read().count("✓ upload") == 5
    assert "✓" not in shown.screen
    assert set(shown.rows()) == {""}


def test_a_wrong_setting_is_reported_once(zipped: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", "not a link")
    ended = zipped.lse("archive", "upload", *_RANGE, "--json")
    assert ended.code == 1
    assert [entry["error"]["what"] for entry in ended.json] == [ended.json[0]["error"]["what"]] * 5
    assert 1 <= ended.err.count("GOOGLE_DRIVE_FOLDER_URL is not a Drive folder") <= 3


def test_an_interrupt_ends_all_uploads(zipped: Installation) -> None:
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        arrived.release()
        go_on.wait(60)

    zipped.drive.faults.add(Fault("call", _UPLOAD, action=hold))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [_LSE, "archive", "upload", *_RANGE], cwd=zipped.directory, stdout=pipe, stderr=pipe
    ) as process:
        try:
            for _ in range(3):
                assert arrived.acquire(timeout=60)
            process.send_signal(signal.SIGINT)
            status = Path(f"/proc/{process.pid}/status")
            wait_until(lambda: "ShdPnd:\t0000000000000000\n" in status.read_text(), 60, "SIGINT was not delivered")
            go_on.set()
            _, err = process.communicate(timeout=60)
        finally:
            go_on.set()
            process.kill()
    assert process.returncode == 130
    assert b"lse: interrupted" in err
    assert b"Traceback" not in err
    assert sum(archived(zipped)) <= 3
    assert zipped.lse("archive", "upload", *_RANGE).code == 0
    assert archived(zipped) == [True] * 5


def test_an_interrupt_ends_uploads_that_wait_for_drive(zipped: Installation) -> None:
    arrived = threading.Semaphore(0)
    zipped.drive.faults.add(Fault("call", _UPLOAD, action=arrived.release))
    zipped.drive.faults.add(Fault("status", _UPLOAD, status=503, headers={"Retry-After": "300"}))
    command = [_LSE, "archive", "upload", *_RANGE]
    with subprocess.Popen(command, cwd=zipped.directory, stderr=subprocess.PIPE) as process:
        try:
            for _ in range(3):
                assert arrived.acquire(timeout=60)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"lse: interrupted" in err
    zipped.drive.faults.clear()
    assert zipped.lse("archive", "upload", *_RANGE).code == 0
    assert archived(zipped) == [True] * 5


def test_an_interrupt_ends_an_upload_that_waits_for_another_process(zipped: Installation) -> None:
    command = [_LSE, "archive", "upload", *_RANGE]
    with zipped.paths(day=_DAYS[1]).lock.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen(command, cwd=zipped.directory, stderr=subprocess.PIPE) as process:
            try:
                assert process.stderr
                assert process.stderr.readline() == b"  waiting: another process writes this day\n"
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == 130
    assert b"lse: interrupted" in err
