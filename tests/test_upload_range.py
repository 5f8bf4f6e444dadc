"""Uploads of a range go several at once; what must be asked is asked, and Ctrl-C ends all of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from house_fixtures import DAY, PROJECT, House
from test_cli_prompts import terminal

from lse_demo.faults import Fault, on

_LSE = Path(sys.executable).with_name("lse")
_UPLOAD = on("PUT", "/upload/")
_DAYS = [DAY - timedelta(days=back) for back in range(4, -1, -1)]
_RANGE = ["--project", PROJECT, "--start-date", str(_DAYS[0]), "--end-date", str(_DAYS[-1])]


@pytest.fixture
def zipped(house: House) -> House:
    """Five days with their archives."""
    for day in _DAYS:
        house.fill(3, day=day)
        for command in ("fetch", "zip"):
            assert house.archive(command, day=day).code == 0
    return house


def archived(house: House) -> list[bool]:
    return [len(house.drive.store.named(house.paths(day=day).zip.name)) == 1 for day in _DAYS]


def test_three_days_are_on_their_way_at_once(zipped: House) -> None:
    together = threading.Barrier(3)
    zipped.drive.faults.add(Fault("call", _UPLOAD, times=3, action=lambda: together.wait(60)))
    ended = zipped.lse("archive", "upload", *_RANGE, "--json")
    assert ended.code == 0
    assert not together.broken
    assert [(entry["date"], entry["action"]) for entry in ended.json] == [(str(day), "created") for day in _DAYS]
    assert archived(zipped) == [True] * 5
    with zipped.instance() as instance:
        assert len(instance.get_runs()) == 3 * len(_DAYS)


def test_the_one_that_differs_is_asked_for_and_the_others_are_not_held_up(zipped: House) -> None:
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


def test_what_is_set_up_wrong_is_said_once(zipped: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", "not a link")
    ended = zipped.lse("archive", "upload", *_RANGE, "--json")
    assert ended.code == 1
    assert [entry["error"]["what"] for entry in ended.json] == [ended.json[0]["error"]["what"]] * 5
    assert 1 <= ended.err.count("GOOGLE_DRIVE_FOLDER_URL is not a Drive folder") <= 3


def test_an_interrupt_ends_them_all(zipped: House) -> None:
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
