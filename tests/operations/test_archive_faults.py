"""Upload and restore of days with faults: equal bytes or a clear error, and no loss."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from archive_fixtures import PROJECT, Archive, leftovers, snapshot

from lse_archive.errors import ArchiveError, DestinationError
from lse_archive.layout import DayPaths
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER, DriveServer, rate_limit
from lse_operations.restore.copies import copies
from lse_operations.upload import upload_day

pytestmark = pytest.mark.slow

UPLOAD = on("PUT", "/upload/")


def media(request: Any) -> bool:
    return request.query.get("alt") == "media"


def api(request: Any) -> bool:
    return request.path != "/token"


def cut_uploads(server: DriveServer) -> None:
    moments = random.Random(1)
    for number in range(20):
        server.faults.add(Fault("cut_request", UPLOAD, times=1, after=number, at=moments.randrange(1 << 20)))


MATRIX: dict[str, Callable[[DriveServer], Any]] = {
    "a connection cut at 20 random bytes": cut_uploads,
    "403, 429 and 5xx at 20 %": lambda server: (
        server.faults.add(rate_limit(match=api, rate=0.07)),
        server.faults.add(rate_limit(429, "rateLimitExceeded", match=api, rate=0.07)),
        server.faults.add(Fault("status", api, status=502, rate=0.07)),
    ),
    "session expired halfway": lambda server: server.faults.add(
        Fault("call", UPLOAD, times=1, after=1, action=server.uploads.expire)
    ),
    "stored bytes corrupted": lambda server: server.faults.add(Fault("corrupt_stored", UPLOAD, times=1, after=1)),
    "download bytes corrupted": lambda server: server.faults.add(Fault("corrupt", media, times=2)),
    "truncated download": lambda server: server.faults.add(Fault("truncate", media, times=3)),
    "download cut": lambda server: server.faults.add(Fault("cut_body", media, times=3)),
    "listing in small pages": lambda server: setattr(server, "page_cap", 1),
    "a search that lags": lambda server: setattr(server.store, "list_lag", 3),
    "creates whose answers come too late": lambda server: server.faults.add(
        Fault("lose_answer", on("POST", "/drive/v3/files"), times=3)
    ),
    "token expired": lambda server: server.faults.add(
        Fault("call", api, after=3, rate=0.3, times=4, action=server.accounts.expire_tokens)
    ),
}


@pytest.fixture
def day(drive_archive: Archive) -> DayPaths:
    """A zipped day of 10 MB."""
    paths = drive_archive.write(runs=3, filler=random.Random(1).randbytes(3_400_000).hex())
    zip_day(paths)
    return paths


@pytest.mark.parametrize("name", [*MATRIX, "all together"])
def test_a_day_is_uploaded_and_restored_unchanged(
    drive_archive: Archive, drive_server: DriveServer, day: DayPaths, name: str
) -> None:
    before = snapshot(drive_archive.layout.data_dir), snapshot(drive_archive.layout.archive_dir)
    for number in range(3):  # so that a listing has pages
        drive_archive.add(project=f"other {number}", runs=1)
    for fault in MATRIX.values() if name == "all together" else [MATRIX[name]]:
        fault(drive_server)
    upload_day(drive_archive.destination, day)
    assert upload_day(drive_archive.destination, day).action == "unchanged"
    [doc] = drive_server.store.named(day.zip.name)
    assert drive_server.store.content(doc).read_bytes() == day.zip.read_bytes()
    drive_archive.delete_local()
    assert drive_archive.restore().action == "restored"
    assert (snapshot(drive_archive.layout.data_dir), snapshot(drive_archive.layout.archive_dir)) == before
    assert leftovers(drive_archive) == []
    assert drive_server.faults.struck() or name in ("listing in small pages", "a search that lags")


@pytest.mark.parametrize("trouble", ["quota exceeded", "no rights", "revoked", "always corrupt", "always down"])
def test_a_permanent_fault_is_a_clear_error_and_leaves_no_wrong_file(
    drive_archive: Archive, drive_server: DriveServer, day: DayPaths, trouble: str
) -> None:
    if trouble == "quota exceeded":
        drive_server.accounts.set_limit(USER, 1000)
    elif trouble == "no rights":
        drive_server.faults.add(
            rate_limit(403, "insufficientFilePermissions", match=lambda request: request.method != "GET")
        )
    elif trouble == "revoked":
        drive_server.accounts.revoke(USER)
    else:
        kind = "corrupt_stored" if trouble == "always corrupt" else "status"
        drive_server.faults.add(Fault(kind, UPLOAD))
    before = snapshot(drive_archive.layout.data_dir), snapshot(drive_archive.layout.archive_dir)
    with pytest.raises(ArchiveError) as refusal:
        upload_day(drive_archive.destination, day)
    assert refusal.value.hint or refusal.value.why
    assert "\n" not in str(refusal.value)
    assert drive_server.store.named(day.zip.name) == []
    assert (snapshot(drive_archive.layout.data_dir), snapshot(drive_archive.layout.archive_dir)) == before


@pytest.mark.parametrize("kind", ["corrupt", "status"])
def test_a_restore_of_wrong_content_is_refused(
    drive_archive: Archive, drive_server: DriveServer, day: DayPaths, kind: str
) -> None:
    upload_day(drive_archive.destination, day)
    next(day.folder.glob("0*.json")).write_bytes(b"{}")
    day.zip.unlink()
    before = snapshot(drive_archive.directory / "data")
    drive_server.faults.add(Fault(kind, media))
    with pytest.raises(ArchiveError):
        drive_archive.restore()
    assert snapshot(drive_archive.directory / "data") == before
    assert not day.zip.exists()


def test_a_damaged_copy_is_not_restored(drive_archive: Archive, drive_server: DriveServer, day: DayPaths) -> None:
    """A stored byte changes: Drive's checksum is the old one, so the download never matches it."""
    upload_day(drive_archive.destination, day)
    [doc] = drive_server.store.named(day.zip.name)
    content = drive_server.store.content(doc)
    content.write_bytes(content.read_bytes()[:-1] + b"?")
    drive_archive.delete_local()
    with pytest.raises(ArchiveError, match="do not match"):
        drive_archive.restore()
    assert not day.folder.exists()
    assert not day.zip.exists()


def test_an_unlistable_project_folder_is_an_error(drive_archive: Archive, drive_server: DriveServer) -> None:
    drive_server.faults.add(Fault("invalid_json", on("GET", "/drive/v3/files")))
    with pytest.raises(DestinationError):
        copies(drive_archive.destination, PROJECT)
