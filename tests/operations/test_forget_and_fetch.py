"""What is erased stays so: a fetch at the same time, in both orders, and everything that fills a new disk."""

from __future__ import annotations

import contextlib
import shutil
import threading
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from home_fixtures import DAY, PROJECT, Installation, midnight

from lse_archive.fetch.day import fetch_day
from lse_archive.layout import DayPaths
from lse_demo.faults import Fault, on
from lse_operations.forget.engine import begin, complete, plan
from lse_operations.forget.journal import Journal
from lse_operations.forget.selection import Selectors
from lse_operations.upload import find_copies
from lse_platform.forget_places import open_places
from lse_resources.langsmith.client import LangSmith
from lse_resources.open_destination import open_destination
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow


def fetch(paths: DayPaths, _: str, on_wait: Callable[[str], None]) -> None:
    with (
        contextlib.closing(LangSmith(Settings.load().langsmith)) as client,
        contextlib.closing(client.source(PROJECT)) as source,
    ):
        fetch_day(paths, source, on_wait=on_wait)


def forget(_: DayPaths, run_id: str, on_wait: Callable[[str], None]) -> None:
    places = open_places(Settings.load())
    begin(places, plan(places, PROJECT, Selectors(runs=frozenset([run_id])), progress=lambda *_: None), "")
    assert complete(places, on_wait=on_wait).errors == []


def contents(paths: DayPaths) -> list[dict[str, bytes]]:
    """The run files in the folder and in the zip."""
    with zipfile.ZipFile(paths.zip) as archive:
        zipped = {name: archive.read(name) for name in archive.namelist()}
    files = {path.name: path.read_bytes() for path in paths.folder.iterdir()}
    return [{name: found[name] for name in found if not name.startswith("_")} for found in (files, zipped)]


@pytest.mark.parametrize("first", ["fetch", "forget"])
def test_the_second_waits_and_erased_runs_stay_erased(installation: Installation, first: str) -> None:
    erased, *kept = [installation.put(number, midnight() + number) for number in range(20)]
    paths = installation.paths()
    assert installation.archive("full-sweep").code == 0
    before = contents(paths)[0]
    kept.append(installation.put(20, midnight() + 20))  # what the fetch brings

    paused, waits, holders = threading.Event(), threading.Event(), []

    def pause() -> None:
        """Holds the answer, while the first has the day's lock, until the second waits for it."""
        paused.set()
        assert waits.wait(60)

    def on_wait(holder: str) -> None:
        holders.append(holder)
        waits.set()

    if first == "fetch":
        command, second = ("archive", "fetch", "--project", PROJECT, "--date", str(DAY), "--force"), forget
        installation.langsmith.faults.add(Fault("call", on("POST", "/runs/query"), times=1, action=pause))
    else:
        command, second = ("forget", "--project", PROJECT, "--run", erased, "--force"), fetch
        installation.drive.faults.add(Fault("call", on("PUT", "/upload/"), times=1, action=pause))
    ended: list[Any] = []
    process = threading.Thread(target=lambda: ended.append(installation.script(*command)))
    process.start()
    assert paused.wait(60)
    second(paths, erased, on_wait)
    process.join()
    assert [one.returncode for one in ended] == [0], ended
    [holder] = holders
    assert holder.startswith("process ")
    assert len(Journal(Settings.load().layout).certificates()) == 1

    assert installation.archive("full-sweep", "--force").code == 0  # what the fetch brought goes on to all places
    assert installation.lse("forget", "--check", "--project", PROJECT, "--run", erased).code == 0
    assert sorted(installation.rows()) == sorted(kept)
    files, zipped = contents(paths)
    assert files == zipped
    assert sorted(name.partition("_")[0] for name in files) == sorted(kept)
    assert {name: before[name] for name in files if name in before}.items() <= files.items()


def test_the_files_of_a_new_disk_do_not_bring_erased_runs_back(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has the tombstones; a fetch, an import, and a restore of an older copy honor them."""
    erased, *kept = [installation.put(number, midnight() + number) for number in range(5)]
    paths, layout, old = installation.paths(), Settings.load().layout, installation.directory / "old"
    assert installation.archive("full-sweep").code == 0
    shutil.copytree(paths.folder, old)
    shutil.copyfile(paths.zip, old / paths.zip.name)
    assert installation.lse("forget", "--project", PROJECT, "--run", erased, "--force").code == 0
    with open_destination(Settings.load()) as destination:  # as another host may do
        [copy] = find_copies(destination, paths)
        destination.upload(old / paths.zip.name, copy.name, copy.folder, {}, existing=copy)

    def new_disk() -> None:
        shutil.rmtree(layout.data_dir)
        shutil.rmtree(layout.archive_dir, ignore_errors=True)  # only zips make it

    def held() -> list[str]:
        return sorted({path.name.partition("_")[0] for path in paths.folder.glob("[0-9a-f]*")})

    new_disk()
    assert installation.archive("fetch", "--json").entry["forgotten"] == 1
    assert held() == sorted(kept)
    new_disk()
    imported = installation.lse("archive", "import", str(old), "--project", PROJECT, "--force", "--json").entry
    assert (imported["added"], imported["forgotten"], held()) == (4, 1, sorted(kept))
    new_disk()
    assert installation.archive("restore", "--json").entry["forgotten"] == 1
    assert held() == sorted(kept)
    assert not any(name.startswith(erased) for name in contents(paths)[1])
    new_disk()
    monkeypatch.setenv("LSE_DATABASE_URL", "postgresql://127.0.0.1:1/none")  # the files alone do not know
    restored = installation.archive("restore")
    assert (restored.code, held()) == (0, sorted([erased, *kept]))
    assert "erased runs may come back; when the database is there: lse forget --replay" in restored.err
    monkeypatch.setenv("LSE_DATABASE_URL", installation.environment["LSE_DATABASE_URL"])
    assert installation.lse("forget", "--replay", "--project", PROJECT).code == 0
    assert held() == sorted(kept)
