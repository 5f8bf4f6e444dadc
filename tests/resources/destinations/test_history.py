"""What a destination keeps beside the current zip: it is listed, read and erased, and what is left is named."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
from archive_fixtures import PROJECT, Archive
from day_fixtures import DAY
from s3_fixtures import FaultProxy, bucket_of

from lse_archive.errors import ArchiveConflictError, DestinationError, NoKeyError
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_demo.google_drive.accounts import DRIVE_SCOPE
from lse_demo.google_drive.server import USER, DriveServer, google_error, rate_limit
from lse_demo.google_drive.store import DriveStore
from lse_operations.upload import find_copies, upload_day
from lse_resources.destinations.encryption import EncryptedDestination, Keys
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.client import DriveSettings, GoogleDrive, Retries
from lse_resources.destinations.history import History
from lse_resources.destinations.object_store import ObjectStore

pytestmark = pytest.mark.slow

age: Any = pyrage
MARKER = "Marker-of-Ada-7c1e"
FOLDER = project_folder(PROJECT)
UNTIL = datetime(2099, 5, 1, tzinfo=UTC)


def upload(archive: Archive, runs: int, **fields: Any) -> StoredFile:
    """Uploads a new content of the day; returns the file."""
    paths = archive.write(runs=runs, **fields)
    for name in (SUMMARY, SUMS):
        (paths.folder / name).unlink(missing_ok=True)
    zip_day(paths)
    upload_day(archive.destination, paths, allow_shrink=True)
    [file] = find_copies(archive.destination, paths)
    return file


def history(archive: Archive, keep: StoredFile | None) -> History:
    return archive.destination.history(FOLDER, archive.paths().zip.name, keep)


def erase(archive: Archive, keep: StoredFile | None) -> Any:
    return archive.destination.erase_history(FOLDER, archive.paths().zip.name, keep)


def marked(archive: Archive, keep: StoredFile | None, directory: Path) -> list[str]:
    """The kinds of what is kept and has the marker in one of its files."""
    found, target = [], directory / "earlier.zip"
    for copy in history(archive, keep).copies:
        if not copy.has_content:
            continue
        archive.destination.download_earlier(copy, target)
        assert target.stat().st_size == copy.size or isinstance(archive.destination, EncryptedDestination)
        with zipfile.ZipFile(target) as opened:
            if any(MARKER.encode() in opened.read(name) for name in opened.namelist()):
                found.append(copy.kind)
    return sorted(found)


@pytest.fixture(params=["drive", "drive, encrypted", "s3", "s3, encrypted"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    kind, _, encrypted = request.param.partition(", ")
    archive = request.getfixturevalue("drive_archive" if kind == "drive" else "versioned")
    if encrypted:
        identity = age.x25519.Identity.generate()
        keys = Keys((identity.to_public(),), (identity,))
        upload(archive, 2, name=MARKER)  # before there was a key
        archive.destination = EncryptedDestination(archive.destination, keys, tmp_path)
    return archive


def test_all_earlier_contents_are_found_read_and_erased(archive: Archive, tmp_path: Path) -> None:
    upload(archive, 3, name=MARKER)
    upload(archive, 4, name=f"{MARKER} again")
    other = archive.add(DAY + timedelta(days=1), name=MARKER)
    keep = upload(archive, 4, name="other")
    before = archive.paths().zip.read_bytes()
    found = marked(archive, keep, tmp_path)
    assert len(found) >= 2

    done = erase(archive, keep)

    assert done.left == ()
    assert sum(done.erased.values()) >= len(found)
    assert history(archive, keep) == History()
    assert erase(archive, keep).erased == {}
    archive.destination.download(keep, tmp_path / "kept.zip")
    assert (tmp_path / "kept.zip").read_bytes() == before
    [kept] = find_copies(archive.destination, other)  # another day
    assert archive.destination.read(kept.id) is not None

    # A copy that was pruned: nothing stays under the name.
    archive.destination.trash(keep)
    assert marked(archive, None, tmp_path) == []
    assert sum(erase(archive, None).erased.values()) >= 1
    assert history(archive, None) == History()
    assert find_copies(archive.destination, archive.paths()) == []


@pytest.mark.parametrize("archive", ["drive", "s3"], indirect=True)
def test_a_content_that_another_host_uploaded_is_not_erased(archive: Archive) -> None:
    upload(archive, 2, name=MARKER)
    keep = upload(archive, 3)
    upload(archive, 4)
    with pytest.raises(ArchiveConflictError, match=r"changed on .*Run the command again"):
        erase(archive, keep)
    [now] = find_copies(archive.destination, archive.paths())
    assert sum(copy.has_content for copy in history(archive, now).copies if copy.id == now.id) == 2


def test_an_encrypted_history_needs_the_key(drive_archive: Archive, tmp_path: Path) -> None:
    drive, drive_archive.destination = (
        drive_archive.destination,
        EncryptedDestination(drive_archive.destination, Keys(passphrase="x"), tmp_path),
    )
    upload(drive_archive, 2)
    keep = upload(drive_archive, 3)
    for keys, why in ((None, "no key is set"), (Keys(passphrase="y"), "does not decrypt it")):
        drive_archive.destination = EncryptedDestination(drive, keys, tmp_path)
        [copy] = history(drive_archive, keep).copies
        with pytest.raises(NoKeyError, match=why):
            drive_archive.destination.download_earlier(copy, tmp_path / "earlier.zip")
    # An unencrypted copy of an older state must not make the encrypted one part of the history.
    plain = drive.upload(drive_archive.paths().zip, drive_archive.paths().zip.name, keep.folder, {})
    with pytest.raises(ArchiveConflictError, match="is encrypted on Drive, and unencrypted too"):
        erase(drive_archive, plain)


def blobs(server: DriveServer) -> int:
    return len(list(server.store.blobs.iterdir()))


def copy_by_hand(store: DriveStore, file: StoredFile, folder: str) -> str:
    """Copies a file as a user can in the browser; returns its id."""
    access = store.accounts.authenticate(f"Bearer {store.accounts._issue(USER, (DRIVE_SCOPE,), 'x')['access_token']}")
    assert access is not None
    content = store.incoming / "copy"
    content.write_bytes(store.content(store.doc(file.id)).read_bytes())
    body = {"name": file.name, "parents": [folder]}
    return store.create(access, body, content, "application/zip", all_drives=True)["id"]


def put(store: DriveStore, identity: str, **fields: Any) -> None:
    store._put({**store.doc(identity), **fields})


def test_files_in_the_trash_go_and_others_stay(drive_archive: Archive, drive_server: DriveServer) -> None:
    store = drive_server.store
    upload(drive_archive, 2, name=MARKER)
    keep = upload(drive_archive, 3)
    root = store.doc(keep.folder)["parents"][0]
    old_folder = store.add_folder(FOLDER, USER, parent=root)
    elsewhere = store.add_folder("My own", USER)
    trashed, in_trashed_folder, by_hand, live = (
        copy_by_hand(store, keep, folder) for folder in (keep.folder, old_folder, elsewhere, keep.folder)
    )
    put(store, trashed, trashed=True)
    put(store, old_folder, trashed=True)
    put(store, by_hand, trashed=True)

    done = erase(drive_archive, keep)

    assert done.erased == {"revision": 1, "trashed file": 2}
    [left] = done.left
    assert (left.what, left.why) == (f"another file {keep.name} ({live})", "it is not in the trash")
    assert "lse drive dedupe" in left.hint
    assert store.doc(by_hand)  # it was not in the archive
    for gone in (trashed, in_trashed_folder):
        assert gone not in {doc["id"] for doc in store._docs()}
    assert blobs(drive_server) == 3


def test_many_revisions_and_a_lagging_search(lagging_archive: Archive, drive_server: DriveServer) -> None:
    drive_server.page_cap = 2
    for runs in range(1, 7):
        keep = upload(lagging_archive, runs)
    drive_server.store.settle()
    trashed = copy_by_hand(drive_server.store, keep, keep.folder)
    drive_server.store.settle()
    put(drive_server.store, trashed, trashed=True)  # the search does not find that yet
    assert erase(lagging_archive, keep).erased == {"revision": 5, "trashed file": 1}
    assert blobs(drive_server) == 1


def test_what_drive_refuses_is_named_with_its_end(
    drive_settings: DriveSettings, drive_server: DriveServer, tmp_path: Path
) -> None:
    store = drive_server.store
    settings = DriveSettings(
        store.add_drive("Team", {USER: "writer"}),
        "oauth2",
        drive_settings.credentials_path,
        tmp_path / "t",
        drive_server.url,
    )
    with GoogleDrive(settings, retries=Retries(sleep=lambda _: None)) as drive:
        archive = Archive(tmp_path, drive)
        upload(archive, 2, name=MARKER)
        keep = upload(archive, 3)
        trashed = copy_by_hand(store, keep, keep.folder)
        put(store, trashed, trashed=True, trashedTime="2026-03-01T10:00:00.000Z")
        pinned = Fault(
            "status", on("DELETE", "/revisions/"), status=403, body=google_error(403, "cannotDelete", "It is pinned.")
        )
        drive_server.faults.add(pinned)

        done = erase(archive, keep)

        assert done.erased == {}
        revision, file = done.left
        assert revision.what.startswith("the revision ")
        assert revision.why == "Drive answered 403 cannotDelete, It is pinned"
        assert "Manage versions" in revision.hint
        assert revision.until > keep.modified
        assert file.what == f"{keep.name} ({trashed})"
        assert "insufficientFilePermissions" in file.why
        assert "a manager can delete it" in file.hint
        assert file.until.startswith("2026-03-31T10:00:00")
        put(store, store.doc(keep.folder)["parents"][0], _roles={USER: "organizer"})
        drive_server.faults.clear()
        assert erase(archive, keep).erased == {"revision": 1, "trashed file": 1}


@pytest.mark.parametrize("archive", ["drive", "s3"], indirect=True)
def test_failures_in_the_middle_are_repeated_and_an_aborted_erasure_goes_on(
    archive: Archive, request: pytest.FixtureRequest
) -> None:
    on_drive = request.node.callspec.params["archive"] == "drive"
    faults = request.getfixturevalue("drive_server" if on_drive else "s3_proxy").faults
    for runs in range(1, 5):
        keep = upload(archive, runs, name=MARKER)
    total = len(history(archive, keep).copies)
    delete = on("DELETE")
    faults.add(Fault("lose_answer", delete, times=1)).add(Fault("status", delete, times=1, status=503))
    faults.add(Fault("status", delete, times=1, status=429) if not on_drive else rate_limit(match=delete, times=1))
    faults.add(Fault("status", delete, after=2, status=503))
    with pytest.raises(DestinationError, match="cannot delete"):
        erase(archive, keep)
    assert faults.struck() > 4
    faults.clear()
    left = len(history(archive, keep).copies)
    assert 0 < left < total
    assert sum(erase(archive, keep).erased.values()) == left
    assert history(archive, keep) == History()


def test_the_session_of_another_content_is_ended(drive_archive: Archive, drive_server: DriveServer) -> None:
    drive, path = drive_archive.destination, drive_archive.directory / "day.zip"
    folder, session = drive.ensure_project_folder(FOLDER), drive_archive.directory / "session"
    path.write_bytes(bytes(3 << 20))
    refusal = google_error(403, "x", "No.")
    drive_server.faults.add(Fault("status", on("PUT", "/upload/"), after=1, status=403, body=refusal))
    with pytest.raises(DestinationError):
        drive.upload(path, "day.zip", folder, {}, session_file=session)
    assert len(list(drive_server.store.incoming.iterdir())) == 1
    drive_server.faults.clear()
    path.write_bytes(b"new")
    drive.upload(path, "day.zip", folder, {}, session_file=session)
    assert list(drive_server.store.incoming.iterdir()) == []


Client = Any


def test_locks_of_a_bucket_are_named_with_their_end(versioned: Archive, client: Client, tmp_path: Path) -> None:
    upload(versioned, 1, name=MARKER)
    upload(versioned, 2, name=MARKER)
    keep = upload(versioned, 3)
    versioned.destination.trash(keep)  # a delete marker, which hides the locked versions
    key = f"the archive/{keep.id}"
    versions = client.list_object_versions(Bucket=bucket_of(versioned), Prefix=key)["Versions"]
    _, held, retained = ({"Bucket": bucket_of(versioned), "Key": key, "VersionId": v["VersionId"]} for v in versions)
    client.put_object_retention(**retained, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": UNTIL})
    client.put_object_legal_hold(**held, LegalHold={"Status": "ON"})

    done = erase(versioned, None)

    assert {(left.why, left.until[:10]) for left in done.left} == {
        ("the store retains it (object lock, GOVERNANCE)", "2099-05-01"),
        ("it has a legal hold", ""),
    }
    assert done.erased["version"] == 1
    kept = [copy for copy in history(versioned, None).copies if copy.id == keep.id]
    # Without its delete marker, a locked version would become the current zip.
    assert sorted(copy.kind for copy in kept) == ["delete marker", "version", "version"]
    assert find_copies(versioned.destination, versioned.paths()) == []
    assert marked(versioned, None, tmp_path) == ["version", "version"]
    client.put_object_legal_hold(**held, LegalHold={"Status": "OFF"})
    client.delete_object(**retained, BypassGovernanceRetention=True)
    assert erase(versioned, None).left == ()
    assert history(versioned, None) == History()


def test_pieces_of_uploads_go_too(versioned: Archive, client: Client) -> None:
    upload(versioned, 1, name=MARKER)
    keep = upload(versioned, 2)
    folder, name, bucket = keep.folder, keep.name, bucket_of(versioned)
    hidden = f"the archive/{folder}/.{name}.0123456789ab"
    others = [f"the archive/{folder}/.{name}.txt", f"the archive/{folder}/{name}.mine", f"the archive/{folder}2/{name}"]
    for key in (hidden, *others):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    for key in (hidden, f"the archive/{keep.id}"):
        client.create_multipart_upload(Bucket=bucket, Key=key)

    done = erase(versioned, keep)

    assert done.left == ()
    assert done.erased["unfinished upload"] == 2
    assert done.erased["hidden object"] >= 3
    assert history(versioned, keep) == History()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    found = client.list_object_versions(Bucket=bucket)
    assert {entry["Key"] for entry in found["Versions"]} == {f"the archive/{keep.id}", *others}
    assert "DeleteMarkers" not in found


def test_a_key_without_rights_and_a_store_without_versions_are_named(versioned: Archive, s3_proxy: FaultProxy) -> None:
    upload(versioned, 1)
    keep = upload(versioned, 2)

    def answer(code: str) -> bytes:
        return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    versions: Callable[[Any], bool] = lambda request: "versions" in request.query  # noqa: E731
    s3_proxy.faults.add(Fault("status", on("DELETE"), status=403, body=answer("AccessDenied")))
    left = erase(versioned, keep).left
    assert left[0].why.endswith("answered AccessDenied")
    assert "s3:DeleteObjectVersion" in left[0].hint
    s3_proxy.faults.clear()
    s3_proxy.faults.add(Fault("status", versions, times=1, status=403, body=answer("AccessDenied")))
    with pytest.raises(DestinationError, match=r"cannot list older versions .* s3:ListBucketVersions"):
        erase(versioned, keep)
    s3_proxy.faults.add(Fault("status", versions, status=501, body=answer("NotImplemented")))
    [unknown] = erase(versioned, keep).left
    assert (unknown.certain, unknown.what) == (False, f"older versions of {keep.name}")
    s3_proxy.faults.clear()
    assert "secret" not in f"{left}{unknown}"


def test_a_bucket_without_versions_has_no_history(store: ObjectStore, client: Client, tmp_path: Path) -> None:
    archive = Archive(tmp_path, store)
    upload(archive, 1, name=MARKER)
    keep = upload(archive, 2)
    assert history(archive, keep) == History()
    hidden = f"the archive/{keep.folder}/.{keep.name}.0123456789ab"
    client.put_object(Bucket=bucket_of(archive), Key=hidden, Body=b"of a killed upload")
    assert erase(archive, keep).erased == {"hidden object": 1}
    assert history(archive, keep) == History()
    assert find_copies(store, archive.paths()) == [keep]


@pytest.mark.parametrize(("url", "tool"), [("gs://b/x", "gcloud"), ("az://b/x", "az storage")])
def test_stores_of_another_kind_name_what_they_may_keep(url: str, tool: str) -> None:
    config = {"skip_signature": "true"} | ({"account_name": "a"} if url.startswith("az") else {})
    done = ObjectStore(url, config).erase_history(FOLDER, "day.zip", None)
    [left] = done.left
    assert (done.erased, left.certain) == ({}, False)
    assert tool in left.what
