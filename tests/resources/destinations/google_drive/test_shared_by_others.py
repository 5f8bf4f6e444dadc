"""What others did to the archive's folder: shortcuts, links with a resource key, and files flagged as malware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from archive_fixtures import PROJECT, Archive, snapshot
from day_fixtures import DAY
from drive_rig import FakeSleep

from lse_archive.errors import DestinationError
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_demo.google_drive.server import USER, DriveServer
from lse_operations.checks import check_copy
from lse_operations.dedupe import duplicates, remove
from lse_operations.prune import prune_copy
from lse_operations.restore.copies import archived_projects, copies
from lse_operations.upload import upload_day
from lse_resources.destinations.google_drive.client import DriveSettings, GoogleDrive

OTHER = "grace@example.com"
FOLDER = project_folder(PROJECT)


@pytest.fixture
def archive(drive_archive: Archive) -> Archive:
    return drive_archive


@pytest.fixture
def client(drive_settings: DriveSettings) -> Callable[..., GoogleDrive]:
    """Makes a client whose settings differ from those of the archive."""

    def make(**changes: object) -> GoogleDrive:
        return GoogleDrive(replace(drive_settings, **changes), retries=FakeSleep().retries())

    return make


def files(server: DriveServer) -> dict[str, tuple[str, str, bool]]:
    """Name, revision and trash of every file on Drive that has content, by id."""
    found = server.store._docs()
    return {doc["id"]: (doc["name"], doc.get("headRevisionId", ""), doc["trashed"]) for doc in found}


def restored(archive: Archive) -> dict[str, bytes]:
    before = snapshot(archive.layout.data_dir)
    archive.delete_local()
    assert archive.restore().action == "restored"
    assert snapshot(archive.layout.data_dir) == before
    return before


@pytest.fixture
def linked_zip(archive: Archive, drive_server: DriveServer) -> Archive:
    """An archive whose day lies in another folder, with a shortcut to it in its own."""
    paths = archive.add()
    [doc] = drive_server.store.named(paths.zip.name)
    elsewhere = drive_server.store.add_folder("elsewhere", USER)
    drive_server.store._put({**doc, "name": "renamed.zip", "parents": [elsewhere]})
    drive_server.store.add_shortcut(paths.zip.name, USER, doc["id"], parent=doc["parents"][0])
    return archive


def test_a_restore_follows_the_shortcut_to_a_zip(linked_zip: Archive) -> None:
    restored(linked_zip)


def test_nothing_is_written_over_the_target_of_a_shortcut(linked_zip: Archive, drive_server: DriveServer) -> None:
    before = files(drive_server)
    paths = linked_zip.write(runs=7)
    for manifest in paths.folder.glob("_*"):
        manifest.unlink()
    zip_day(paths)
    for allow_shrink in (False, True):
        with pytest.raises(DestinationError, match=rf"{paths.zip.name} on Drive is a shortcut.*put the file"):
            upload_day(linked_zip.destination, paths, allow_shrink=allow_shrink)
    [copy] = copies(linked_zip.destination, PROJECT)
    with pytest.raises(DestinationError, match="is a shortcut"):
        linked_zip.destination.upload(
            paths.zip, paths.zip.name, "any", {}, existing=linked_zip.destination.prove(copy.file)
        )
    with pytest.raises(DestinationError, match="is a shortcut"):
        linked_zip.destination.trash(copy.file)
    with pytest.raises(DestinationError, match="is a shortcut"):
        remove(linked_zip.destination, paths, copy.file, keep=copy.file)
    assert files(drive_server) == before


def test_no_check_and_no_pruning_relies_on_a_shortcut(linked_zip: Archive, drive_server: DriveServer) -> None:
    before = files(drive_server)
    found = check_copy(linked_zip.paths(), linked_zip.destination)
    assert (found.verdict, "is a shortcut" in found.says) == ("unknown", True)
    with pytest.raises(DestinationError, match="is a shortcut"):
        prune_copy(linked_zip.destination, linked_zip.paths())
    assert files(drive_server) == before


@pytest.mark.parametrize("target", ["1gone-gone-gone", "document"])
def test_what_has_no_content_is_a_clear_error(archive: Archive, drive_server: DriveServer, target: str) -> None:
    paths = archive.add()
    [doc] = drive_server.store.named(paths.zip.name)
    if target == "document":
        drive = archive.destination
        assert isinstance(drive, GoogleDrive)
        body = {"name": paths.zip.name, "parents": doc["parents"], "mimeType": "application/vnd.google-apps.document"}
        drive._service.api.files().create(body=body).execute()
    else:
        drive_server.store.add_shortcut(paths.zip.name, USER, target, parent=doc["parents"][0])
    drive_server.store._put({**doc, "trashed": True})
    archive.delete_local()
    with pytest.raises(DestinationError, match=r"cannot download .*it has no content.*Put the zip itself"):
        archive.restore()
    archive.write()
    zip_day(paths)
    before = files(drive_server)
    with pytest.raises(DestinationError, match=r"it has no content|is a shortcut"):
        upload_day(archive.destination, paths, allow_shrink=True)
    assert files(drive_server) == before


@pytest.fixture
def linked_folder(archive: Archive, drive_server: DriveServer) -> Archive:
    """An archive whose project's folder lies elsewhere, with a shortcut to it."""
    archive.add()
    [doc] = drive_server.store.named(FOLDER)
    drive_server.store._put({**doc, "name": "elsewhere", "parents": [drive_server.store.root(USER)]})
    drive_server.store.add_shortcut(FOLDER, USER, doc["id"], parent=doc["parents"][0])
    return archive


def test_a_restore_follows_the_shortcut_to_a_folder(linked_folder: Archive, client: Callable[..., GoogleDrive]) -> None:
    with client() as drive:
        linked_folder.destination = drive
        assert list(archived_projects(drive, [])) == [PROJECT]
        restored(linked_folder)


def test_no_day_is_uploaded_through_a_shortcut(linked_folder: Archive, drive_server: DriveServer) -> None:
    other = linked_folder.write(DAY.replace(day=3))
    zip_day(other)
    before = files(drive_server)
    with pytest.raises(DestinationError, match="is a shortcut"):
        upload_day(linked_folder.destination, other)
    assert files(drive_server) == before


def test_a_folder_is_read_before_a_shortcut_of_its_name(
    archive: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    archive.add()
    decoy = drive_server.store.add_folder("decoy", USER)
    drive_server.store.add_shortcut(FOLDER, USER, decoy, parent=drive_settings.folder)
    assert decoy not in archive.destination.find_project_folders(FOLDER)
    restored(archive)


def test_no_check_and_no_pruning_relies_on_a_folder_behind_a_shortcut(
    linked_folder: Archive, drive_server: DriveServer
) -> None:
    before = files(drive_server)
    found = check_copy(linked_folder.paths(), linked_folder.destination)
    assert (found.verdict, "is a shortcut" in found.says) == ("unknown", True)
    with pytest.raises(DestinationError, match="is a shortcut"):
        prune_copy(linked_folder.destination, linked_folder.paths())
    with pytest.raises(DestinationError, match="is a shortcut"):
        upload_day(linked_folder.destination, linked_folder.paths())
    assert files(drive_server) == before


def test_two_shortcuts_to_one_folder_are_one(
    linked_folder: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    """Else each day would be there twice, and a removal of the second would be that of the only copy."""
    [doc] = drive_server.store.named("elsewhere")
    drive_server.store.add_shortcut(FOLDER, USER, doc["id"], parent=drive_settings.folder)
    assert linked_folder.destination.find_project_folders(FOLDER) == [doc["id"]]
    assert duplicates(linked_folder.destination, PROJECT) == []
    restored(linked_folder)


def test_nothing_is_removed_behind_the_shortcut_to_a_folder(linked_folder: Archive, drive_server: DriveServer) -> None:
    [copy] = copies(linked_folder.destination, PROJECT)
    before = files(drive_server)
    with pytest.raises(DestinationError, match="is a shortcut"):
        linked_folder.destination.trash(copy.file)
    assert files(drive_server) == before


def test_a_shortcut_beside_its_own_file_changes_nothing(archive: Archive, drive_server: DriveServer) -> None:
    paths = archive.add()
    [doc] = drive_server.store.named(paths.zip.name)
    drive_server.store.add_shortcut(f"Shortcut to {paths.zip.name}", USER, doc["id"], parent=doc["parents"][0])
    [copy] = copies(archive.destination, PROJECT)
    assert [file.id for file in copy.files] == [doc["id"]]
    paths = archive.write(runs=7)
    for manifest in paths.folder.glob("_*"):
        manifest.unlink()
    zip_day(paths)
    assert upload_day(archive.destination, paths, allow_shrink=True).file_id == doc["id"]
    assert len(drive_server.store.named(paths.zip.name)) == 1


def test_a_shortcut_to_a_projects_folder_does_not_end_its_uploads(
    archive: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    archive.add()
    [doc] = drive_server.store.named(FOLDER)
    drive_server.store.add_shortcut(f"Shortcut to {FOLDER}", USER, doc["id"], parent=drive_settings.folder)
    for project in archived_projects(archive.destination, []):
        assert copies(archive.destination, project)
    other = archive.write(DAY.replace(day=3))
    zip_day(other)
    assert upload_day(archive.destination, other).action == "created"


def test_shortcuts_are_not_merged(
    linked_folder: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    second = drive_server.store.add_folder("second", USER)
    drive_server.store.add_shortcut(FOLDER, USER, second, parent=drive_settings.folder)
    drive = linked_folder.destination
    assert isinstance(drive, GoogleDrive)
    assert drive.duplicate_folders() == {}
    assert len(drive.find_project_folders(FOLDER)) == 2


def test_a_merge_leaves_no_file_behind(
    archive: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    """Also not one to which a shortcut in the other folder leads."""
    paths, store = archive.add(), drive_server.store
    [doc] = store.named(paths.zip.name)
    [second] = store.named(FOLDER)
    first = store.add_folder(FOLDER, USER, parent=drive_settings.folder)
    for number, folder in enumerate((first, second["id"]), 1):
        [found] = [one for one in store.named(FOLDER) if one["id"] == folder]
        store._put({**found, "createdTime": f"2026-01-0{number}T00:00:00.000Z"})
    store.add_shortcut(f"Shortcut to {paths.zip.name}", USER, doc["id"], parent=first)
    [copy] = copies(archive.destination, PROJECT)
    assert [file.id for file in copy.files] == [doc["id"]]
    drive = archive.destination
    assert isinstance(drive, GoogleDrive)
    keep, other = drive.duplicate_folders()[FOLDER]
    assert (keep.id, drive.merge_folder(other, keep)) == (first, True)
    assert next(one["parents"] for one in store._docs() if one["id"] == doc["id"]) == [first]


def test_a_shortcut_to_a_folder_out_of_reach_is_an_error_and_no_empty_archive(
    linked_folder: Archive, drive_server: DriveServer
) -> None:
    [doc] = drive_server.store.named("elsewhere")
    drive_server.store._put({**doc, "_owner": OTHER, "parents": [drive_server.store.root(OTHER)]})
    with pytest.raises(DestinationError, match=rf"follow the shortcut {FOLDER} on Drive.*404.*shared"):
        linked_folder.destination.find_project_folders(FOLDER)


@pytest.mark.parametrize("kind", ["shortcut", "file", "trash", "nothing"])
def test_a_wrong_folder_is_an_error_and_no_empty_archive(
    archive: Archive,
    drive_server: DriveServer,
    drive_settings: DriveSettings,
    client: Callable[..., GoogleDrive],
    kind: str,
) -> None:
    paths = archive.add()
    store = drive_server.store
    if kind == "shortcut":
        url, match = (
            store.add_shortcut("short", USER, drive_settings.folder),
            f"'short' is a shortcut.*{drive_settings.folder}",
        )
    elif kind == "file":
        url, match = store.named(paths.zip.name)[0]["id"], "is not a folder"
    elif kind == "trash":
        url, match = drive_settings.folder, "is in the trash"
        store._put({**store.doc(url), "trashed": True})
    else:
        url, match = "1nothing-nothing-nothing", "404"
    with client(folder_url=url) as drive:
        for call in (drive.check_folder, drive.project_folders, lambda: drive.find_project_folders(FOLDER)):
            with pytest.raises(DestinationError, match=match):
                call()


def test_a_folder_that_is_shared_by_a_link_is_used_with_the_links_key(
    archive: Archive, drive_server: DriveServer, client: Callable[..., GoogleDrive]
) -> None:
    store = drive_server.store
    folder = store.add_folder("Shared", OTHER)
    drive_server.accounts.add_user(OTHER)
    key = store.share_link(folder, "writer")
    link = f"https://drive.google.com/drive/folders/{folder}"
    for url in (link, f"{link}?resourcekey=0-wrong"):
        with client(folder_url=url) as drive, pytest.raises(DestinationError, match="404"):
            drive.check_folder()
    with client(folder_url=f"{link}?usp=sharing&resourcekey={key}") as drive:
        assert drive.check_folder().name == "Shared"
        archive.destination = drive
        archive.add()
        restored(archive)


def test_the_key_of_a_shortcuts_target_is_used(
    linked_folder: Archive, drive_server: DriveServer, drive_settings: DriveSettings
) -> None:
    store = drive_server.store
    [doc], [short] = store.named("elsewhere"), store.named(FOLDER)
    store._put({**doc, "_owner": OTHER, "parents": [store.root(OTHER)]})
    store.share_link(doc["id"], "reader")
    store._put({**short, "trashed": True})
    store.add_shortcut(FOLDER, USER, doc["id"], parent=drive_settings.folder)
    restored(linked_folder)


def test_a_flagged_file_is_downloaded_only_after_an_acknowledgement(
    archive: Archive, drive_server: DriveServer, client: Callable[..., GoogleDrive]
) -> None:
    paths = archive.add()
    [doc] = drive_server.store.named(paths.zip.name)
    drive_server.store.flag_abuse(doc["id"])
    before = snapshot(archive.layout.data_dir)
    archive.delete_local()
    refusal = r"cannotDownloadAbusiveFile.*GOOGLE_DRIVE_ACKNOWLEDGE_ABUSE=true.*in the browser.*lse archive import"
    with pytest.raises(DestinationError, match=refusal):
        archive.restore()
    with client(acknowledge_abuse=True) as drive:
        archive.destination = drive
        assert archive.restore().action == "restored"
        assert snapshot(archive.layout.data_dir) == before
        archive.delete_local()
        drive_server.store._put({**drive_server.store.doc(doc["id"]), "_owner": OTHER, "_roles": {USER: "writer"}})
        with pytest.raises(DestinationError, match="and this account owns it"):
            archive.restore()
