"""SIGKILL at many events of upload, restore and prune: the next call completes the step."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
from archive_fixtures import PROJECT, Archive, leftovers, snapshot
from day_fixtures import fill, run

from lse_archive.days import day_window
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.publish import SCRATCH
from lse_archive.layout import DayPaths
from lse_archive.zips.day import zip_day
from lse_operations.upload import find_copies, upload_day
from lse_resources.destinations.encryption import EncryptedDestination, read_keys
from lse_resources.destinations.google_drive.settings import DriveSettings
from lse_resources.destinations.object_store import ObjectStore
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

pytestmark = pytest.mark.slow

KILL_POINTS = {"drive": 20, "lagging drive": 10, "s3": 10, "s3, encrypted": 6}
FIRST = date(2026, 1, 1)
REPOSITORY = Path(__file__).parents[2]
age: Any = pyrage

Step = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """An archive with its destination, and the request that opens both in another process."""

    archive: Archive
    order: dict[str, Any]
    kill_points: int


@pytest.fixture(params=KILL_POINTS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind, _, encrypted = request.param.partition(", ")
    archive, order = request.getfixturevalue(f"{kind.removeprefix('lagging ')}_place")
    if kind == "lagging drive":
        request.getfixturevalue("lagging_archive")
    if encrypted:
        key = tmp_path / "key.txt"
        key.write_text(f"{age.x25519.Identity.generate()}\n")
        keys = read_keys(None, key, None)
        assert keys is not None
        archive.destination = EncryptedDestination(archive.destination, keys, archive.layout.archive_dir)
    layout = archive.layout
    order = {"destination": order, "key": str(key) if encrypted else None}
    order |= {"data": str(layout.data_dir), "archives": str(layout.archive_dir)}
    return Place(archive, order, KILL_POINTS[request.param])


@pytest.fixture
def drive_place(drive_archive: Archive, drive_settings: DriveSettings) -> tuple[Archive, dict[str, Any]]:
    return drive_archive, {
        "folder": drive_settings.folder_url,
        "credentials": str(drive_settings.credentials_path),
        "token": str(drive_settings.token_path),
        "url": drive_settings.api_root,
    }


@pytest.fixture
def s3_place(store: ObjectStore, moto_url: str, tmp_path: Path) -> tuple[Archive, dict[str, Any]]:
    config = {"endpoint": moto_url, "access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    return Archive(tmp_path, store), {"bucket": f"{store.place}/the archive", "config": config}


@pytest.fixture
def step(place: Place) -> Iterator[Step]:
    """Runs a step of a day in a separate process, which is killed at event `kill_at`."""
    with subprocess.Popen(
        [sys.executable, REPOSITORY / "tests" / "fixtures" / "fork_server.py"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run_step(name: str, paths: DayPaths, **more: Any) -> dict[str, Any]:
            order = {"step": name, "project": paths.project, "day": str(paths.day), **place.order, **more}
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


def kill_points(place: Place, events: int) -> list[int]:
    """Returns the events at which the process is killed: the first, one near the end, and random ones between.

    Not the very last: token refreshes differ between processes, and so does the number of events.
    """
    last = events - 16
    return sorted({1, last, *random.Random(events).sample(range(2, last), place.kill_points - 2)})


def count_events(step: Step, name: str, paths: DayPaths, **more: Any) -> int:
    """Runs a step without a kill; returns the number of its events."""
    answer = step(name, paths, **more)
    assert not answer["failed"]
    assert not answer["killed"]
    return answer["events"]


def stored(archive: Archive, paths: DayPaths) -> list[bytes]:
    """Returns the zips under the day's name at the destination."""
    found = []
    for file in find_copies(archive.destination, paths):
        archive.destination.download(file, archive.directory / "copy")
        found.append((archive.directory / "copy").read_bytes())
    return found


def unexpected_files(archive: Archive) -> list[str]:
    """Returns files that no later step removes; encrypted copies are removed after a day."""
    return [name for name in leftovers(archive) if SCRATCH not in name]


def test_upload(place: Place, step: Step) -> None:
    archive = place.archive
    count_events(step, "upload", day(archive, 0))  # creates the project's folder
    events = count_events(step, "upload", day(archive, 1))
    for number, kill_point in enumerate(kill_points(place, events), 2):
        paths = day(archive, number)
        before = snapshot(archive.layout.data_dir)
        content = paths.zip.read_bytes()
        assert step("upload", paths, kill_at=kill_point)["killed"], kill_point
        assert stored(archive, paths) in ([], [content]), kill_point
        count_events(step, "upload", paths)
        assert stored(archive, paths) == [content]
        assert paths.zip.read_bytes() == content
        assert snapshot(archive.layout.data_dir) == before
        assert unexpected_files(archive) == []


@pytest.mark.parametrize("here", ["nothing", "damaged"])
def test_restore(place: Place, step: Step, here: str) -> None:
    archive = place.archive

    def delete_day(paths: DayPaths) -> None:
        paths.zip.unlink()
        if here == "nothing":
            shutil.rmtree(paths.folder)
        else:
            next(paths.folder.glob("0*.json")).write_bytes(b"{")

    first = day(archive, 0)
    upload_day(archive.destination, first)
    delete_day(first)
    events = count_events(step, "restore", first)
    paths = day(archive, 1)
    upload_day(archive.destination, paths)
    good, archived = snapshot(paths.folder), paths.zip.read_bytes()
    for kill_point in kill_points(place, events):
        delete_day(paths)
        bad = snapshot(paths.folder)
        assert step("restore", paths, kill_at=kill_point)["killed"], kill_point
        if paths.folder.exists():
            assert snapshot(paths.folder) in (good, bad), kill_point
        else:
            assert here == "nothing" or paths.retired.exists()
        assert not paths.zip.exists() or paths.zip.read_bytes() == archived, kill_point
        count_events(step, "restore", paths)
        assert snapshot(paths.folder) == good
        assert paths.zip.read_bytes() == archived
        assert unexpected_files(archive) == []


def test_prune(place: Place, database: Database, step: Step) -> None:
    archive = place.archive

    def ready(number: int) -> DayPaths:
        paths = day(archive, number)
        upload_day(archive.destination, paths)
        load_day(database, PROJECT, paths.day, paths.folder)
        return paths

    more = {"database": database.url}
    events = count_events(step, "prune", ready(0), **more)
    paths = ready(1)
    good, archived = snapshot(paths.folder), paths.zip.read_bytes()
    for kill_point in kill_points(place, events):
        assert step("prune", paths, kill_at=kill_point, **more)["killed"], kill_point
        assert paths.zip.read_bytes() == archived
        assert is_pruned(paths) or snapshot(paths.folder) == good, kill_point
        count_events(step, "prune", paths, **more)
        assert is_pruned(paths)
        assert unexpected_files(archive) == []
        count_events(step, "restore", paths)
        assert snapshot(paths.folder) == good
        assert unexpected_files(archive) == []
