"""SIGKILL at many events of upload, restore, prune and forget: the next call completes the step."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
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
from lse_archive.folder.contents import ensure_manifest
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.folder.pruned import day_content, is_pruned
from lse_archive.folder.publish import SCRATCH
from lse_archive.folder.state import read_state, update_state
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.runs.feedback import FEEDBACK
from lse_archive.zips.day import zip_day
from lse_operations.forget.journal import Journal
from lse_operations.prune import prune_day
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


@pytest.mark.parametrize("place", ["drive"], indirect=True)
def test_forget(place: Place, database: Database, step: Step) -> None:
    """Every second day is pruned before, and pruned again afterwards."""
    archive = place.archive

    def ready(number: int) -> DayPaths:
        paths = day(archive, number)
        ids = ids_of(paths)
        lines = [json.dumps({"id": run_id, "run_id": run_id, "comment": run_id}) for run_id in ids]
        (paths.folder / FEEDBACK).write_text("\n".join(lines) + "\n")
        for name in (SUMMARY, SUMS):
            (paths.folder / name).unlink()
        summary = ensure_manifest(paths)
        zip_day(paths)
        update_state(paths, count_check="equal", proven_content=summary.content_sha256)
        upload_day(archive.destination, paths)
        load_day(database, PROJECT, paths.day, paths.folder)
        if number % 2:
            assert prune_day(archive.destination, database, paths, "files").action == "pruned"
        return paths

    def ids_of(paths: DayPaths) -> list[str]:
        return sorted(path.name.partition("_")[0] for path in paths.folder.glob("[0-9a-f]*.json"))

    def places() -> Iterator[bytes]:
        for path in archive.directory.rglob("*"):
            if path.is_file() and path.suffix != ".lock":
                yield path.name.encode() + path.read_bytes()
                with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as opened:
                    yield from map(opened.read, opened.namelist())

    more: dict[str, Any] = {"database": database.url}
    events, journal = 0, Journal(archive.layout)
    for number, kill_point in enumerate([None, *range(place.kill_points)]):
        paths = ready(number)
        ids = sorted(members(paths.zip))
        before = members(paths.zip)
        more["runs"] = [ids[0], ids[3]]
        if kill_point is None:
            events = count_events(step, "forget", paths, **more)
        else:
            at = kill_points(place, events)[kill_point]
            step("forget", paths, kill_at=at, **more)
            if journal.open_intents() or len(journal.certificates()) == number:
                count_events(step, "forget", paths, **more)
        assert not [place for place in places() if any(run_id.encode() in place for run_id in more["runs"])], kill_point
        assert is_pruned(paths) == bool(number % 2)
        kept = {run_id: content for run_id, content in before.items() if run_id not in more["runs"]}
        assert members(paths.zip) == kept
        assert stored(archive, paths) == [paths.zip.read_bytes()]
        [file] = find_copies(archive.destination, paths)
        assert archive.destination.history(project_folder(PROJECT), paths.zip.name, file).copies == ()
        with database.connect() as connection:
            rows = connection.execute("SELECT run_id::text FROM runs WHERE run_date = %s", (paths.day,)).fetchall()
        assert sorted(run_id for (run_id,) in rows) == sorted(kept)
        state = read_state(paths)
        assert (state.proven_content, state.verdict) == (day_content(paths), "proven")
        assert journal.open_intents() == []
        stay = (".forgotten.txt", "/erasures")
        assert [name for name in unexpected_files(archive) if not name.endswith(stay)] == []
    assert len(journal.certificates()) == place.kill_points + 1


def members(path: Path) -> dict[str, bytes]:
    """Returns the run files of a zip by run id."""
    with zipfile.ZipFile(path) as opened:
        return {name.partition("_")[0]: opened.read(name) for name in opened.namelist() if not name.startswith("_")}
