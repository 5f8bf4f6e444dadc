"""How an erasure is selected, refused, interrupted and completed; the places are real."""

from __future__ import annotations

import contextlib
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
from archive_fixtures import PROJECT, Archive
from day_fixtures import DAY, run_id
from s3_fixtures import bucket_of

from lse_archive.errors import ArchiveError, DatabaseError, DestinationError, NoKeyError
from lse_archive.folder.tombstones import read_tombstones
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import DriveServer
from lse_operations.forget.check import replay
from lse_operations.forget.engine import Outcome, begin, complete, plan
from lse_operations.forget.journal import Certificate, Journal
from lse_operations.forget.places import Places
from lse_operations.forget.selection import Selectors, select_runs
from lse_operations.upload import find_copies, upload_day
from lse_resources.destinations.encryption import EncryptedDestination, read_keys
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

UNTIL = datetime(2099, 5, 1, tzinfo=UTC)

pytestmark = pytest.mark.slow


def places_of(archive: Archive, database: Database | None = None) -> Places:
    return Places(archive.layout, lambda: contextlib.nullcontext(archive.destination), True, database)


def begun(places: Places, *runs: str, **selectors: Any) -> str:
    """Plans and begins an erasure; returns its id."""
    wanted = Selectors(runs=frozenset(runs), **selectors)
    return begin(places, plan(places, PROJECT, wanted, progress=lambda *_: None), "").id


def certified(places: Places) -> list[Certificate]:
    outcome = complete(places)
    assert outcome.errors == []
    return outcome.certificates


def holders(archive: Archive, *run_ids: str) -> list[str]:
    """The local files and members of zips, and the copies, that name one of the runs."""
    found = []
    for path in [path for path in archive.directory.rglob("*") if path.is_file() and "drive" not in path.parts]:
        contents = {str(path): path.name.encode() + path.read_bytes()}
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as opened:
            contents |= {f"{path}/{name}": name.encode() + opened.read(name) for name in opened.namelist()}
        found += [name for name, content in contents.items() if any(one.encode() in content for one in run_ids)]
    return found


def test_the_same_runs_are_found_in_every_place(drive_archive: Archive, database: Database) -> None:
    """In rows; in files, in a zip, and in the copy of a pruned day, whose rows are not there or not whole."""
    texts = {"a": "person \u00e9", "b": 4711, "c": True, "d": {"y": 1, "x": [2.5]}}
    for number, key in enumerate(texts):
        days = [DAY + timedelta(days=4 * number + more) for more in range(2)]
        root = f"{number:08x}-0000-4000-8000-000000000001"
        drive_archive.write(days[0], runs=3, trace_id=root, extra={"metadata": {key: texts[key]}})
        drive_archive.write(days[1], runs=2, trace_id=root)  # the trace goes on after midnight
        drive_archive.write(days[1] + timedelta(days=1), runs=2, metadata={key: "another"})
        for day in (*days, days[1] + timedelta(days=1)):
            paths = drive_archive.paths(day)
            zip_day(paths)
            upload_day(drive_archive.destination, paths)
            load_day(database, PROJECT, day, paths.folder)
    pairs = {("a", "person \u00e9"), ("b", "4711"), ("c", "true"), ("d", '{"x": [2.5], "y": 1}')}
    wanted = Selectors(metadata=frozenset(pairs), first=DAY, last=DAY + timedelta(days=30))

    def select(base: Database | None, selectors: Selectors = wanted) -> dict[Any, set[str]]:
        return select_runs(places_of(drive_archive, base), drive_archive.destination, PROJECT, selectors).days

    in_rows = select(database)
    assert sorted(map(len, in_rows.values())) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert select(None) == in_rows
    assert sum(map(len, select(database, replace(wanted, runs_only=True)).values())) == 12
    with database.connect() as connection:  # a day that is partly in the rows is read from its files
        connection.execute("DELETE FROM runs WHERE run_date < %s", (DAY + timedelta(days=1),))
    assert select(database) == in_rows
    for paths in [drive_archive.paths(day) for day in drive_archive.layout.days(PROJECT)]:
        if paths.day.day % 2:
            shutil.rmtree(paths.folder)
        if paths.day.day % 4 == 1:
            paths.zip.unlink()
    assert select(None) == in_rows


def test_a_copy_that_cannot_be_decrypted_refuses_before_anything_is_erased(
    drive_archive: Archive, tmp_path: Path
) -> None:
    key = tmp_path / "key.txt"
    age: Any = pyrage
    key.write_text(f"{age.x25519.Identity.generate()}\n")
    inner, scratch = drive_archive.destination, drive_archive.layout.archive_dir
    drive_archive.destination = EncryptedDestination(inner, read_keys(None, key, None), scratch)
    paths = drive_archive.add()
    places = places_of(drive_archive)
    drive_archive.destination = EncryptedDestination(inner, None, scratch)
    with pytest.raises(NoKeyError):
        begun(places, run_id(1))
    assert not read_tombstones(paths)
    assert holders(drive_archive, run_id(1))
    drive_archive.destination = EncryptedDestination(inner, read_keys(None, key, None), scratch)
    begun(places, run_id(1))
    [certificate] = certified(places)
    assert (certificate.left, holders(drive_archive, run_id(1))) == ([], [])


def test_an_erasure_goes_on_when_its_places_are_back(
    drive_archive: Archive, drive_server: DriveServer, database: Database
) -> None:
    days = [drive_archive.add(DAY + timedelta(days=number)) for number in range(2)]
    for paths in days:
        load_day(database, PROJECT, paths.day, paths.folder)
    erased = [sorted(path.name.partition("_")[0] for path in paths.folder.glob("[0-9a-f]*"))[0] for paths in days]
    places = places_of(drive_archive, database)
    begun(places, *erased)
    drive_server.faults.add(Fault("status", on("", "/drive/v3/"), status=403, body=b"{}"))
    down = replace(places, database=Database("postgresql://127.0.0.1:1/none"))
    for attempt in (down, places):
        outcome = complete(attempt)
        assert outcome.certificates == []
        assert {type(error) for _, error in outcome.errors} <= {DatabaseError, *DestinationError.__subclasses__()}
    drive_server.faults.clear()
    [certificate] = certified(places)
    assert (certificate.selected["runs"], holders(drive_archive, *erased)) == (2, [])
    assert (certificate.erased["rows"], set(certificate.checked.values())) == ({"runs_2026_01": 2}, {0})
    assert certified(places) == []


def test_two_erasures_and_a_writer_of_the_same_day_at_once(drive_archive: Archive, database: Database) -> None:
    paths = drive_archive.add(runs=40)
    load_day(database, PROJECT, DAY, paths.folder)
    places = places_of(drive_archive, database)
    identities = [begun(places, *map(run_id, range(first, first + 5))) for first in (1, 11)]
    outcomes: list[Outcome | Exception] = []

    def work(step: Callable[[], Any]) -> None:
        try:
            outcomes.append(step())
        except ArchiveError as error:  # an upload of a zip that was replaced in the meantime
            outcomes.append(error)

    def write() -> None:
        zip_day(paths)
        upload_day(drive_archive.destination, paths)
        load_day(database, PROJECT, DAY, paths.folder)

    threads = [threading.Thread(target=work, args=(step,)) for step in (lambda: complete(places),) * 2 + (write,) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    certified(places)
    erased = [run_id(number) for first in (1, 11) for number in range(first, first + 5)]
    assert sorted(one.id for one in Journal(drive_archive.layout).certificates()) == sorted(identities)
    assert holders(drive_archive, *erased) == []
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (30,)
    assert len(read_tombstones(paths)) == 10


def test_what_a_bucket_keeps_under_a_lock_is_named_and_erased_by_a_replay(versioned: Archive, client: Any) -> None:
    versioned.add()
    key = f"the archive/{find_copies(versioned.destination, versioned.paths())[0].id}"
    [version] = client.list_object_versions(Bucket=bucket_of(versioned), Prefix=key)["Versions"]
    old = {"Bucket": bucket_of(versioned), "Key": key, "VersionId": version["VersionId"]}
    client.put_object_retention(**old, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": UNTIL})
    places = places_of(versioned)
    begun(places, run_id(1))
    [certificate] = certified(places)
    [line] = certificate.left
    assert "until 2099-05-01" in line
    assert [place for place, entries in certificate.checked.items() if entries] == [
        f"{versioned.destination.place}: version"
    ]
    assert Journal(versioned.layout).open_intents() == []
    assert holders(versioned, run_id(1)) == []

    client.put_object_retention(**old, Retention={}, BypassGovernanceRetention=True)
    assert replay(places, [PROJECT]) == 1
    [again] = certified(places)
    assert (again.left, set(again.checked.values())) == ([], {0})
    assert replay(places, [PROJECT]) == 0
