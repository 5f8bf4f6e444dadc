"""SIGKILL at many moments of upload, restore and prune: the next run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import PROJECT, Archive, left_over, snapshot
from day_fixtures import fill, run

from lse_archive.days import day_window
from lse_archive.layout import DayPaths
from lse_archive.pruned import is_pruned
from lse_archive.zips import zip_day
from lse_demo.drive_server import DriveServer
from lse_resources.drive_archive import upload_day
from lse_resources.drive_settings import DriveSettings
from lse_resources.postgres import Database
from lse_resources.runs_table import load_day

MOMENTS = 20
FIRST = date(2026, 1, 1)
HERE = Path(__file__).parent

Step = Callable[..., dict[str, Any]]


@pytest.fixture
def step(drive_archive: Archive, drive_settings: DriveSettings) -> Iterator[Step]:
    """Runs a step of a day in a process of its own; `kill_at` is the event at which it dies."""
    layout, settings = drive_archive.layout, drive_settings
    drive = {
        "folder": settings.folder_url,
        "credentials": str(settings.credentials_path),
        "token": str(settings.token_path),
        "url": settings.api_root,
    }
    with subprocess.Popen(
        [sys.executable, HERE / "kill_zygote.py"],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run_step(name: str, paths: DayPaths, **more: Any) -> dict[str, Any]:
            order = {"step": name, "project": paths.project, "day": str(paths.day), "drive": drive, **more}
            order |= {"data": str(layout.data_dir), "archives": str(layout.archive_dir)}
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run_step
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def day(archive: Archive, number: int) -> DayPaths:
    """A zipped day of a few runs, one of them too long for one chunk or range."""
    paths = archive.paths(FIRST + timedelta(days=number))
    start, ids = day_window(paths.day).start, 1000 * (number + 1)
    filler = random.Random(number).randbytes(1_500_000).hex()
    fill(paths.folder, run(ids, start, filler=filler), *(run(ids + n, start + n) for n in range(1, 6)))
    zip_day(paths)
    return paths


def moments(events: int) -> list[int]:
    """The events at which the process dies: the first, one near the end, and random ones between.

    The very last may not come, because a token is refreshed in one process and not in the next.
    """
    last = events - 8
    return sorted({1, last, *random.Random(events).sample(range(2, last), MOMENTS - 2)})


def whole(step: Step, name: str, paths: DayPaths, **more: Any) -> int:
    """How many events an undisturbed step has."""
    answer = step(name, paths, **more)
    assert not answer["failed"]
    assert not answer["killed"]
    return answer["events"]


def test_upload(drive_archive: Archive, drive_server: DriveServer, step: Step) -> None:
    events = whole(step, "upload", day(drive_archive, 0))
    for number, moment in enumerate(moments(events), 1):
        paths = day(drive_archive, number)
        before = snapshot(drive_archive.layout.data_dir)
        content = paths.zip.read_bytes()
        assert step("upload", paths, kill_at=moment)["killed"], moment
        found = drive_server.store.named(paths.zip.name)
        assert all(drive_server.store.content(doc).read_bytes() == content for doc in found), moment
        whole(step, "upload", paths)
        [doc] = drive_server.store.named(paths.zip.name)
        assert drive_server.store.content(doc).read_bytes() == content
        assert snapshot(drive_archive.layout.data_dir) == before
        assert left_over(drive_archive) == []


@pytest.mark.parametrize("here", ["nothing", "damaged"])
def test_restore(drive_archive: Archive, step: Step, here: str) -> None:
    def lose(paths: DayPaths) -> None:
        paths.zip.unlink()
        if here == "nothing":
            shutil.rmtree(paths.folder)
        else:
            next(paths.folder.glob("0*.json")).write_bytes(b"{")

    first = day(drive_archive, 0)
    upload_day(drive_archive.destination, first)
    lose(first)
    events = whole(step, "restore", first)
    paths = day(drive_archive, 1)
    upload_day(drive_archive.destination, paths)
    good = snapshot(paths.folder)
    for moment in moments(events):
        lose(paths)
        bad = snapshot(paths.folder)
        assert step("restore", paths, kill_at=moment)["killed"], moment
        if paths.folder.exists():
            assert snapshot(paths.folder) in (good, bad), moment
        else:
            assert here == "nothing" or paths.retired.exists()
        whole(step, "restore", paths)
        assert snapshot(paths.folder) == good
        assert left_over(drive_archive) == []


def test_prune(drive_archive: Archive, database: Database, step: Step) -> None:
    def ready(number: int) -> DayPaths:
        paths = day(drive_archive, number)
        upload_day(drive_archive.destination, paths)
        load_day(database, PROJECT, paths.day, paths.folder)
        return paths

    more = {"database": database.url}
    events = whole(step, "prune", ready(0), **more)
    paths = ready(1)
    good, archived = snapshot(paths.folder), paths.zip.read_bytes()
    for moment in moments(events):
        assert step("prune", paths, kill_at=moment, **more)["killed"], moment
        assert paths.zip.read_bytes() == archived
        assert is_pruned(paths) or snapshot(paths.folder) == good, moment
        whole(step, "prune", paths, **more)
        assert is_pruned(paths)
        assert left_over(drive_archive) == []
        whole(step, "restore", paths)
        assert snapshot(paths.folder) == good
        assert left_over(drive_archive) == []
