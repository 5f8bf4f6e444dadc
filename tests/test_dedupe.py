"""`lse drive dedupe`: of two files of one name the one that holds every run stays, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import Archive
from day_fixtures import DAY
from googleapiclient.http import MediaFileUpload
from house_fixtures import House

from lse_archive.layout import DayPaths
from lse_archive.zips import zip_day
from lse_resources.destinations import open_destination
from lse_resources.settings import Settings

PROJECT = "other"


@pytest.fixture
def archive(house: House) -> Iterator[Archive]:
    with open_destination(Settings.load()) as destination:
        yield Archive(house.directory, destination)


@pytest.fixture
def put_again(archive: Archive, house: House) -> Callable[..., str]:
    """Puts a second file of the name of the day's zip, as two installations can."""

    def put(path: Path) -> str:
        name = archive.paths(DAY, PROJECT).zip.name
        parents = house.drive.store.named(name)[0]["parents"]
        body = {"name": name, "parents": parents, "mimeType": "application/zip"}
        api: Any = archive.destination._service.api  # ty: ignore[missing-attribute]
        return api.files().create(body=body, media_body=MediaFileUpload(str(path))).execute()["id"]

    return put


def rezip(archive: Archive, runs: int) -> DayPaths:
    paths = archive.write(DAY, PROJECT, runs)
    for name in ("_summary.json", "_sha256sums.txt"):
        (paths.folder / name).unlink(missing_ok=True)
    zip_day(paths)
    return paths


def names(house: House, paths: DayPaths) -> set[str]:
    return {doc["id"] for doc in house.drive.store.named(paths.zip.name)}


def test_without_duplicates_there_is_nothing_to_do(house: House, archive: Archive) -> None:
    archive.add(DAY, PROJECT)
    ended = house.lse("drive", "dedupe")
    assert (ended.code, ended.out) == (0, "no day has two files\n")


def test_of_equal_files_the_oldest_stays(house: House, archive: Archive, put_again: Callable[..., str]) -> None:
    paths = archive.add(DAY, PROJECT)
    [first] = names(house, paths)
    second = put_again(paths.zip)
    shown = house.lse("drive", "dedupe", "--dry-run", "--json")
    assert (shown.code, shown.entry["action"], shown.entry["kept"]) == (3, "would resolve", first)
    assert house.archive("upload", project=PROJECT, day=DAY).code == 1
    refused = house.lse("drive", "dedupe")
    assert (refused.code, names(house, paths)) == (1, {first, second})
    done = house.lse("drive", "dedupe", "--force", "--project", PROJECT, "--json")
    assert (done.code, done.entry["trashed"], names(house, paths)) == (0, [second], {first})
    assert house.archive("upload", project=PROJECT, day=DAY).code == 0


def test_the_one_with_all_runs_stays(house: House, archive: Archive, put_again: Callable[..., str]) -> None:
    paths = archive.add(DAY, PROJECT, runs=3)
    more = put_again(rezip(archive, 5).zip)
    (house.directory / "junk").write_bytes(b"not a zip")
    junk = put_again(house.directory / "junk")
    done = house.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["kept"], names(house, paths)) == (0, more, {more})
    assert junk in done.entry["trashed"]
    assert "1 cannot be read" in done.entry["why"]


def test_where_none_has_all_runs_both_stay(house: House, archive: Archive, put_again: Callable[..., str]) -> None:
    paths = archive.add(DAY, PROJECT, runs=3)
    for path in paths.folder.iterdir():
        path.unlink()
    paths.zip.unlink()
    archive.write(DAY, PROJECT, runs=5)
    for path in sorted(paths.folder.glob("*.json"))[:2]:
        path.unlink()
    zip_day(paths)
    put_again(paths.zip)
    done = house.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["action"], len(names(house, paths))) == (3, "unresolved", 2)


def test_folders_of_one_name_are_told(house: House, archive: Archive) -> None:
    archive.add(DAY, PROJECT)
    folder = house.environment["GOOGLE_DRIVE_FOLDER_URL"]
    house.drive.store.add_folder(PROJECT, "ada@example.com", parent=folder)
    ended = house.lse("drive", "dedupe")
    assert (ended.code, "several folders named 'other'" in ended.err) == (3, True)
