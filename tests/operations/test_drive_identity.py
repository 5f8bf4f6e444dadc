"""What this installation created on Drive is known by its id: a search that lags makes no second file or folder."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from archive_fixtures import PROJECT, Archive
from day_fixtures import DAY
from drive_rig import FakeSleep
from home_fixtures import DAY as HOME_DAY
from home_fixtures import Installation

from lse_archive.errors import ArchiveConflictError
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.folder.state import update_state
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER, DriveServer, rate_limit
from lse_operations.prune import prune_copy, prune_day
from lse_operations.restore.copies import archived_projects, copies
from lse_operations.restore.restore import restore_pruned
from lse_operations.upload import NO_FILE, find_copies, find_copy_difference, upload_day
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.destinations.google_drive.settings import DriveSettings
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day


@pytest.fixture
def archive(lagging_archive: Archive) -> Archive:
    return lagging_archive


@contextmanager
def other_process(settings: DriveSettings, archive: Archive) -> Generator[Archive]:
    """The same archive with a client of its own."""
    with GoogleDrive(settings, retries=FakeSleep().retries()) as drive:
        yield Archive(archive.directory, drive)


def rezip(paths: DayPaths) -> None:
    for name in (SUMMARY, SUMS):
        (paths.folder / name).unlink()
    zip_day(paths)


def lists(request: Any) -> bool:
    return request.method == "GET" and request.path == "/drive/v3/files"


def uploads(server: DriveServer) -> int:
    return sum(request.path.startswith("/upload/") and request.method == "PUT" for request in server.requests)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_an_unchanged_day_is_not_uploaded_twice(
    archive: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    paths = archive.add()
    sent = uploads(drive_server)
    with other_process(drive_settings, archive) as later:
        for destination in (archive.destination, later.destination):
            assert find_copy_difference(destination, paths) is None
            assert upload_day(destination, paths).action == "unchanged"
    assert uploads(drive_server) == sent
    assert len(drive_server.store.named(paths.zip.name)) == 1


def test_a_replaced_copy_is_compared_as_it_is_now(archive: Archive) -> None:
    paths = archive.add(runs=3)
    rezip(archive.write(runs=5))
    assert upload_day(archive.destination, paths).action == "replaced"
    assert find_copy_difference(archive.destination, paths) is None
    assert upload_day(archive.destination, paths).action == "unchanged"


def test_a_copy_that_is_still_listed_after_its_end_does_not_count(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    archive.settle()
    assert prune_copy(archive.destination, paths).action == "pruned"
    assert find_copies(archive.destination, paths) == []
    assert find_copy_difference(archive.destination, paths) == NO_FILE
    update_state(paths, drive_file_id=None)  # also without its id
    assert find_copies(archive.destination, paths) == []
    assert upload_day(archive.destination, paths).action == "created"


@pytest.mark.parametrize("change", ["trashed", "renamed", "moved", "deleted"])
def test_the_file_of_a_known_id_counts_only_in_its_place(
    archive: Archive, drive_server: DriveServer, change: str
) -> None:
    paths = archive.add()
    archive.settle()
    [file] = find_copies(archive.destination, paths)
    files: Any = archive.destination._service.api.files()  # ty: ignore[missing-attribute]
    if change == "deleted":
        files.delete(fileId=file.id).execute()
    elif change == "moved":
        place = drive_server.store.add_folder("elsewhere", USER)
        files.update(fileId=file.id, addParents=place, removeParents=file.folder, body={}).execute()
    else:
        body = {"trashed": True} if change == "trashed" else {"name": "mine.zip"}
        files.update(fileId=file.id, body=body).execute()
    assert find_copies(archive.destination, paths) == []
    result = upload_day(archive.destination, paths)
    assert (result.action, result.file_id != file.id) == ("created", True)


def test_the_id_of_another_destination_is_no_error(archive: Archive) -> None:
    paths = archive.write()
    zip_day(paths)
    update_state(paths, drive_file_id=f"{project_folder(PROJECT)}/{paths.zip.name}")
    assert upload_day(archive.destination, paths).action == "created"


def test_a_second_file_of_the_name_is_still_a_conflict(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    archive.settle()
    update_state(paths, drive_file_id=None)
    drive_server.faults.add(Fault("status", lists, status=200, body=b'{"files": []}'))
    upload_day(archive.destination, paths)
    drive_server.faults.clear()
    assert len(drive_server.store.named(paths.zip.name)) == 2
    with pytest.raises(ArchiveConflictError, match="2 files"):
        upload_day(archive.destination, paths)
    assert find_copy_difference(archive.destination, paths) == ("one file", "2 files")


def test_a_day_that_is_not_listed_yet_is_pruned_and_restored(archive: Archive, database: Database) -> None:
    paths = archive.add()
    load_day(database, PROJECT, DAY, paths.folder)
    for what in ("files", "zips"):
        assert prune_day(archive.destination, database, paths, what).action == "pruned"
    [copy] = copies(archive.destination, PROJECT, layout=archive.layout)
    assert copy.day == DAY
    assert list(archived_projects(archive.destination, [])) == [PROJECT]
    restored = restore_pruned(archive.destination, paths)
    assert restored is not None
    assert restored.action == "restored"


def test_an_upload_whose_id_was_not_recorded_is_found_before_it_is_listed(
    archive: Archive, drive_server: DriveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between Drive's last answer and the record of the id."""
    paths = archive.write()
    zip_day(paths)
    with monkeypatch.context() as killed:
        killed.setattr("lse_operations.upload.update_state", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            upload_day(archive.destination, paths)
    first = drive_server.store.named(paths.zip.name)
    drive_server.uploads.expire()
    assert upload_day(archive.destination, paths).file_id == first[0]["id"]
    assert len(drive_server.store.named(paths.zip.name)) == 1
    assert not paths.upload_session.exists()


def raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_days_of_a_new_project_use_one_folder(
    archive: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    for number in range(3):
        with other_process(drive_settings, archive) as process:
            process.add(DAY + timedelta(days=number))
    assert len(drive_server.store.named(project_folder(PROJECT))) == 1


def test_two_processes_create_one_folder(
    archive: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    """The second searches for the folder while Drive is still creating it for the first."""
    creating, searched = threading.Event(), threading.Event()

    def create_slowly() -> None:
        creating.set()
        assert searched.wait(60)

    drive_server.faults.add(Fault("call", on("POST", "/drive/v3/files"), times=1, action=create_slowly))
    drive_server.faults.add(Fault("call", lists, action=lambda: creating.is_set() and searched.set()))
    days = [archive.write(DAY + timedelta(days=number)) for number in range(2)]
    for paths in days:
        zip_day(paths)
    with other_process(drive_settings, archive) as second, ThreadPoolExecutor(1) as pool:
        first = pool.submit(upload_day, archive.destination, days[0])
        assert creating.wait(60)
        assert upload_day(second.destination, days[1]).action == "created"
        assert first.result().action == "created"
    assert len(drive_server.store.named(project_folder(PROJECT))) == 1
    assert [find_copy_difference(archive.destination, paths) for paths in days] == [None, None]


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_days_that_drive_refused_are_uploaded_once(installation: Installation) -> None:
    """Drive refuses for some days; then it works, and its search lags behind."""
    days = [HOME_DAY - timedelta(days=back) for back in range(2)]
    refusal = rate_limit(403, "dailyLimitExceeded", match=lambda request: request.path.startswith("/upload/"))
    installation.drive.faults.add(refusal)
    for day in days:
        installation.fill(3, day=day)
        assert installation.archive("full-sweep", day=day).code == 1
    installation.drive.faults.clear()
    installation.drive.store.list_lag = 1_000_000
    for _ in range(2):
        for day in days:
            ended = installation.archive("full-sweep", "--force", "--json", day=day)
            assert ended.code == 0, ended.err
    store = installation.drive.store
    assert [len(store.named(installation.paths(day=day).zip.name)) for day in days] == [1, 1]
    assert installation.uploads() == len(days)
