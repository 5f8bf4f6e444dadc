"""`lse drive dedupe`: of two files of the same name, the one with all runs is kept, or both."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
from archive_fixtures import Archive
from day_fixtures import DAY
from googleapiclient.http import MediaFileUpload
from home_fixtures import Installation

from lse_archive.errors import ArchiveConflictError, DayLockedError
from lse_archive.folder.locks import day_lock
from lse_archive.layout import DayPaths
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_operations.dedupe import decide, duplicates, remove
from lse_operations.upload import find_copies, find_copy_difference, upload_day
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.open_destination import open_destination
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

PROJECT = "other"
age: Any = pyrage


@pytest.fixture
def archive(installation: Installation) -> Iterator[Archive]:
    with open_destination(Settings.load()) as destination:
        yield Archive(installation.directory, destination)


@pytest.fixture
def put_duplicate(archive: Archive, installation: Installation) -> Callable[..., str]:
    """Uploads a second file under the name of a day's zip, as two installations can, or under another name."""

    def put(path: Path, name: str = "", *, day: date = DAY, label: dict[str, str] | None = None) -> str:
        there = archive.paths(day, PROJECT).zip.name
        [parent] = {doc["parents"][0] for end in ("", ".age") for doc in installation.drive.store.named(there + end)}
        body = {"name": name or there, "parents": [parent], "appProperties": label or {}}
        api: Any = archive.destination._inner._service.api  # ty: ignore[missing-attribute]
        return api.files().create(body=body, media_body=MediaFileUpload(str(path), "application/zip")).execute()["id"]

    return put


def rezip(archive: Archive, runs: int, day: date = DAY) -> DayPaths:
    paths = archive.write(day, PROJECT, runs)
    for name in ("_summary.json", "_sha256sums.txt"):
        (paths.folder / name).unlink(missing_ok=True)
    zip_day(paths)
    return paths


def names(installation: Installation, paths: DayPaths) -> set[str]:
    return {doc["id"] for doc in installation.drive.store.named(paths.zip.name)}


def test_without_duplicates_there_is_nothing_to_do(installation: Installation, archive: Archive) -> None:
    archive.add(DAY, PROJECT)
    ended = installation.lse("drive", "dedupe")
    assert (ended.code, ended.out) == (0, "no day has two files\n")


def test_the_oldest_of_equal_files_is_kept(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT)
    [first] = names(installation, paths)
    second = put_duplicate(paths.zip)
    shown = installation.lse("drive", "dedupe", "--dry-run", "--json")
    assert (shown.code, shown.entry["action"], shown.entry["kept"]) == (3, "would resolve", first)
    assert installation.archive("upload", project=PROJECT, day=DAY).code == 1
    refused = installation.lse("drive", "dedupe")
    assert (refused.code, names(installation, paths)) == (1, {first, second})
    done = installation.lse("drive", "dedupe", "--force", "--project", PROJECT, "--json")
    assert (done.code, done.entry["trashed"], names(installation, paths)) == (0, [second], {first})
    assert installation.archive("upload", project=PROJECT, day=DAY).code == 0


def test_the_file_with_all_runs_is_kept(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT, runs=3)
    more = put_duplicate(rezip(archive, 5).zip)
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["kept"], names(installation, paths)) == (0, more, {more})


@pytest.mark.parametrize("kind", ["no zip", "damaged", "private", "other notes", "pending"])
def test_a_file_that_cannot_be_compared_is_not_removed(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str], kind: str
) -> None:
    paths = archive.write(DAY, PROJECT, runs=3, end_time="2026-01-02T00:00:05Z")
    if kind == "other notes":
        (paths.folder / "notes.txt").write_text("one")
    zip_day(paths)
    upload_day(archive.destination, paths)
    other = installation.directory / "other.zip"
    if kind == "no zip":
        other.write_bytes(b"no zip")
    elif kind == "damaged":
        content = bytearray(paths.zip.read_bytes())
        content[60] ^= 1
        other.write_bytes(content)
    elif kind == "private":
        with zipfile.ZipFile(other, "w") as archived:
            archived.writestr("report.pdf", b"%PDF")
    elif kind == "other notes":
        with zipfile.ZipFile(other, "w") as archived:
            for path in paths.folder.glob("0*.json"):
                archived.write(path, path.name)
            archived.writestr("notes.txt", "two")
    else:
        for path in paths.folder.iterdir():
            path.unlink()
        paths.zip.unlink()
        rezip(archive, 4)
        other = paths.zip
    put_duplicate(other)
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["action"], done.entry["trashed"]) == (3, "unresolved", [])
    assert len(names(installation, paths)) == 2


def test_files_of_other_names_are_not_duplicates(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT)
    archive.add(DAY + timedelta(days=1), PROJECT)
    empty = installation.directory / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    for name in ("traces", "screenshots"):
        put_duplicate(empty, f"{name}_{DAY}.zip")
    assert (
        installation.lse("drive", "dedupe", "--force", "--json").json == []
    )  # they do not count beside a file of the expected name
    archive.destination.trash(find_copies(archive.destination, paths)[0])
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["action"], "names differ" in done.entry["why"]) == (3, "unresolved", True)
    assert (
        len(
            [
                file
                for folder in archive.destination.find_project_folders(PROJECT)
                for file in archive.destination.list_files(folder)
            ]
        )
        == 3
    )


def test_the_kept_file_is_proven_before_another_is_removed(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT)
    second = put_duplicate(paths.zip)
    [copy] = duplicates(archive.destination, PROJECT)
    decision = decide(archive.destination, copy, archive.layout.archive_dir)
    assert decision.keep is not None
    assert [file.id for file in decision.trash] == [second]
    archive.destination.trash(decision.keep)  # while the question is open
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        remove(archive.destination, paths, decision.trash[0], keep=decision.keep)
    assert names(installation, paths) == {second}


def test_a_file_changed_after_the_question_is_not_removed(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT)
    second = put_duplicate(paths.zip)
    [copy] = duplicates(archive.destination, PROJECT)
    decision = decide(archive.destination, copy, archive.layout.archive_dir)
    assert decision.keep is not None
    more = MediaFileUpload(str(rezip(archive, 9).zip), "application/zip")
    archive.destination._inner._service.api.files().update(fileId=second, media_body=more).execute()  # ty: ignore[missing-attribute]
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        remove(archive.destination, paths, decision.trash[0], keep=decision.keep)
    assert len(names(installation, paths)) == 2


def test_nothing_is_removed_while_another_process_writes_the_day(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT)
    put_duplicate(paths.zip)
    [copy] = duplicates(archive.destination, PROJECT)
    decision = decide(archive.destination, copy, archive.layout.archive_dir)
    assert decision.keep is not None

    def raise_locked(_: str) -> None:
        raise DayLockedError("told")

    with day_lock(paths), pytest.raises(DayLockedError, match="told"):
        remove(archive.destination, paths, decision.trash[0], keep=decision.keep, on_wait=raise_locked)
    assert len(names(installation, paths)) == 2


@pytest.mark.parametrize("refused", ["download", "trash"])
def test_a_refused_request_does_not_stop_the_other_days(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str], refused: str
) -> None:
    days = [DAY, DAY + timedelta(days=1)]
    for day in days:
        paths = archive.add(day, PROJECT)
        put_duplicate(rezip(archive, 6, day).zip, day=day)
        assert len(names(installation, paths)) == 2
    file = installation.drive.store.named(archive.paths(DAY, PROJECT).zip.name)[0]["id"]

    def is_refused(request: Any) -> bool:
        kind = "download" if request.query.get("alt") == "media" else "trash" if b"trashed" in request.body else ""
        return kind == refused and file in request.path

    installation.drive.faults.add(Fault("status", is_refused, status=403))
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, [entry["action"] for entry in done.json]) == (3, ["unresolved", "resolved"])
    assert [len(names(installation, archive.paths(day, PROJECT))) for day in days] == [2, 1]
    assert "403" in done.json[0]["why"]


def test_encrypted_duplicates_are_found(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = installation.directory / "key.txt"
    key.write_text(str(age.x25519.Identity.generate()))
    monkeypatch.setenv("LSE_AGE_IDENTITY_FILE", str(key))
    with open_destination(Settings.load()) as encrypting:
        paths = Archive(installation.directory, encrypting).add(DAY, PROJECT, runs=3)
        name = f"{paths.zip.name}.age"
        [first] = installation.drive.store.named(name)
        stored = installation.directory / "stored"
        stored.write_bytes(installation.drive.store.content(first).read_bytes())
        second = put_duplicate(stored, name)  # without the label of the first file
        assert installation.archive("upload", project=PROJECT, day=DAY).code == 1
        done = installation.lse("drive", "dedupe", "--force", "--json")
        assert (done.code, len(done.entry["trashed"])) == (0, 1)
        assert {first["id"], second} == {done.entry["kept"], *done.entry["trashed"]}
        assert installation.archive("upload", "--force", project=PROJECT, day=DAY).code == 0


def test_encrypted_duplicates_that_the_key_does_not_open_are_kept(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, stored = installation.directory / "key.txt", installation.directory / "stored"
    key.write_text(str(age.x25519.Identity.generate()))
    monkeypatch.setenv("LSE_AGE_IDENTITY_FILE", str(key))
    with open_destination(Settings.load()) as encrypting:
        name = f"{Archive(installation.directory, encrypting).add(DAY, PROJECT).zip.name}.age"
    [first] = installation.drive.store.named(name)
    stored.write_bytes(installation.drive.store.content(first).read_bytes())
    [label] = first["_app_properties"].values()
    put_duplicate(stored, name, label=label)
    key.write_text(str(age.x25519.Identity.generate()))
    done = installation.lse("drive", "dedupe", "--force", "--json")  # their labels are equal
    assert (done.code, done.entry["action"], done.entry["trashed"]) == (3, "unresolved", [])
    for doc in installation.drive.store.named(name):
        archive.destination._inner._service.api.files().delete(fileId=doc["id"]).execute()  # ty: ignore[missing-attribute]
    archive.add(DAY + timedelta(days=1), PROJECT)
    for _ in range(2):  # same length, and no checksum of their content
        stored.write_bytes(age.encrypt(b"x", [age.x25519.Identity.generate().to_public()]))
        put_duplicate(stored, name, day=DAY + timedelta(days=1))
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["action"], len(installation.drive.store.named(name))) == (3, "unresolved", 2)
    assert "cannot be read" in done.entry["why"]


def test_both_files_are_kept_if_neither_has_all_runs(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT, runs=3)
    for path in paths.folder.iterdir():
        path.unlink()
    paths.zip.unlink()
    archive.write(DAY, PROJECT, runs=5)
    for path in sorted(paths.folder.glob("*.json"))[:2]:
        path.unlink()
    zip_day(paths)
    put_duplicate(paths.zip)
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["action"], len(names(installation, paths))) == (3, "unresolved", 2)


# ---- folders of the same name ----------------------------------------------------------------------------------------


@pytest.fixture
def two_folders(installation: Installation, archive: Archive, tmp_path: Path) -> list[DayPaths]:
    """A day in each of two folders: two hosts, whose searches did not find the folder of the other, made them."""
    installation.drive.store.list_lag = 1000
    days = [archive.write(DAY + timedelta(days=number), PROJECT) for number in range(2)]
    for paths, host in zip(days, "ab", strict=True):
        zip_day(paths)
        settings = replace(Settings.load().drive, folders_path=tmp_path / host)
        with GoogleDrive(settings) as drive:
            upload_day(drive, paths)
    installation.drive.store.list_lag = 0
    installation.drive.store.settle()
    assert len(installation.drive.store.named(PROJECT)) == 2
    return days


def make_older(installation: Installation) -> None:
    """Lets the folders be older than any lag of Drive's search."""
    store = installation.drive.store
    for number, doc in enumerate(store.named(PROJECT)):
        store._put({**doc, "createdTime": f"2026-01-0{number + 1}T00:00:00.000Z"})


def test_folders_that_two_hosts_made_are_merged(
    installation: Installation, archive: Archive, two_folders: list[DayPaths]
) -> None:
    shown = installation.lse("doctor")
    assert "2 folders named 'other'; they are read as one" in shown.out
    assert "lse drive dedupe merges them" in shown.out
    make_older(installation)
    first, second = installation.drive.store.named(PROJECT)
    would = installation.lse("drive", "dedupe", "--dry-run", "--json")
    assert (would.code, would.entry["action"], would.entry["kept"]) == (3, "would merge", first["id"])
    merged = installation.lse("drive", "dedupe", "--json")
    assert (merged.code, merged.entry["action"], merged.entry["merged"]) == (0, "merged", [second["id"]])
    assert [doc["id"] for doc in installation.drive.store.named(PROJECT)] == [first["id"]]
    for paths in two_folders:
        assert find_copy_difference(archive.destination, paths) is None
        assert upload_day(archive.destination, paths).action == "unchanged"
    assert installation.lse("drive", "dedupe").code == 0
    assert "folders named" not in installation.lse("doctor").out


def test_a_day_in_both_folders_is_kept_once(
    installation: Installation, archive: Archive, two_folders: list[DayPaths], tmp_path: Path
) -> None:
    make_older(installation)
    paths = two_folders[1]
    with GoogleDrive(Settings.load().drive) as drive:
        drive.upload(paths.zip, paths.zip.name, drive.find_project_folders(PROJECT)[0], {})
    assert len(names(installation, paths)) == 2
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, [entry["action"] for entry in done.json]) == (0, ["resolved", "merged"])
    assert len(names(installation, paths)) == 1
    assert find_copy_difference(archive.destination, paths) is None


@pytest.mark.usefixtures("two_folders")
def test_a_new_empty_folder_is_kept_while_a_search_may_not_find_the_other(installation: Installation) -> None:
    _, second = installation.drive.store.named(PROJECT)
    merged = installation.lse("drive", "dedupe", "--json")
    assert (merged.code, merged.entry["action"], merged.entry["merged"]) == (3, "unresolved", [])
    assert "made within the last two hours" in merged.entry["why"]
    assert not any(second["id"] in doc.get("parents", ()) for doc in installation.drive.store._docs())


def test_a_folder_into_which_a_file_was_uploaded_within_the_lag_is_kept(
    installation: Installation, archive: Archive, two_folders: list[DayPaths], tmp_path: Path
) -> None:
    """Its last file is not listed yet, although a search finds both folders."""
    store, paths = installation.drive.store, two_folders[0]
    first, second = store.named(PROJECT)
    for doc, minutes in ((first, 62), (second, 61)):
        store._put({**doc, "createdTime": f"{datetime.now(UTC) - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%S}.000Z"})
    store.list_lag = 1000
    with GoogleDrive(Settings.load().drive) as drive:
        late = drive.upload(paths.zip, "late.zip", second["id"], {})
    merged = installation.lse("drive", "dedupe", "--json")
    assert (merged.code, merged.entry["action"]) == (3, "unresolved")
    with GoogleDrive(Settings.load().drive) as drive:
        assert drive.read(late.id)
        assert drive.read(second["id"])


def test_a_folder_that_lse_did_not_make_is_merged_after_a_question(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    """Also a folder of an older version, which has no property."""
    archive.add(DAY, PROJECT)
    root = installation.environment["GOOGLE_DRIVE_FOLDER_URL"]
    other = installation.drive.store.add_folder(PROJECT, "ada@example.com", parent=root)
    make_older(installation)
    paths = archive.add(DAY + timedelta(days=1), PROJECT)
    installation.drive.store.move(paths.zip.name, other)
    asked = installation.lse("drive", "dedupe")
    assert (asked.code, "not made by LSE" in asked.out) == (3, True)
    assert len(installation.drive.store.named(PROJECT)) == 2
    assert installation.lse("drive", "dedupe", "--project", "another").code == 0
    done = installation.lse("drive", "dedupe", "--force", "--json")
    assert (done.code, done.entry["action"], done.entry["merged"]) == (0, "merged", [other])
    assert find_copy_difference(archive.destination, paths) is None


@pytest.mark.usefixtures("two_folders")
def test_a_refused_move_is_reported(installation: Installation) -> None:
    make_older(installation)
    moves = on("PATCH")
    installation.drive.faults.add(
        Fault("status", lambda request: moves(request) and "addParents" in request.query, status=403)
    )
    done = installation.lse("drive", "dedupe", "--json")
    assert (done.code, done.entry["action"], "403" in done.entry["why"]) == (3, "unresolved", True)
    assert len(installation.drive.store.named(PROJECT)) == 2


def test_what_was_just_removed_is_no_duplicate(
    installation: Installation, archive: Archive, put_duplicate: Callable[..., str]
) -> None:
    paths = archive.add(DAY, PROJECT)
    put_duplicate(paths.zip)
    installation.drive.store.list_lag = 1000
    assert installation.lse("drive", "dedupe", "--force").code == 0
    ended = installation.lse("drive", "dedupe")
    assert (ended.code, ended.out) == (0, "no day has two files\n")
    assert upload_day(archive.destination, paths).action == "unchanged"
