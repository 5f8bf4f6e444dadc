"""Interrupted uploads and downloads are continued."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drive_rig import CONTENT, UNIT, UPLOAD, assert_stored, downloads_intact, media

from lse_archive.errors import ArchiveConflictError, CorruptArchiveError, DestinationError
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER, DriveServer
from lse_resources.destinations.google_drive.client import DriveFile, DriveSettings, GoogleDrive

pytestmark = pytest.mark.slow


def interrupt(server: DriveServer, send: Callable[..., DriveFile], **changes: Any) -> None:
    server.faults.add(Fault("status", UPLOAD, after=1))
    with pytest.raises(DestinationError):
        send(**changes)
    server.faults.clear()


def lose_last_answer(server: DriveServer, send: Callable[..., DriveFile], path: Path) -> DriveFile:
    """Uploads the whole file, but loses the last answer."""
    path.write_bytes(CONTENT[:UNIT])
    server.faults.add(Fault("lose_answer", UPLOAD, times=1))
    server.faults.add(Fault("status", UPLOAD))
    with pytest.raises(DestinationError):
        send()
    server.faults.clear()
    return assert_stored(server, CONTENT[:UNIT])


def test_the_next_call_continues_the_upload(server: DriveServer, send: Callable[..., DriveFile], path: Path) -> None:
    interrupt(server, send)
    session_file = path.with_name("day.zip.upload")
    assert session_file.stat().st_mode & 0o777 == 0o600
    seen: list[int] = []
    send(progress=seen.append)
    assert_stored(server)
    assert seen[0] == 4 * UNIT  # not from the start


@pytest.mark.parametrize("trouble", ["expired", "damaged", "foreign", "other content"])
def test_an_unusable_session_file_is_ignored(
    server: DriveServer, send: Callable[..., DriveFile], path: Path, trouble: str
) -> None:
    interrupt(server, send)
    session_file, content = path.with_name("day.zip.upload"), CONTENT
    if trouble == "expired":
        server.uploads.expire()
    elif trouble == "damaged":
        session_file.write_text("{")
    elif trouble == "foreign":
        session_file.write_text(session_file.read_text().replace(server.url, "http://127.0.0.1:9"))
    else:
        content = b"other" * UNIT
        path.write_bytes(content)
    send()
    assert_stored(server, content)


def test_a_lost_last_answer_makes_one_file(server: DriveServer, send: Callable[..., DriveFile], path: Path) -> None:
    created = lose_last_answer(server, send, path)
    server.uploads.expire()
    assert send().id == created.id
    assert_stored(server, CONTENT[:UNIT])


def test_a_file_of_another_host_is_a_conflict_for_an_interrupted_upload(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], settings: DriveSettings, path: Path
) -> None:
    interrupt(server, send)
    drive.upload(path, "day.zip", settings.folder, {})
    with pytest.raises(ArchiveConflictError):
        send()
    assert_stored(server)


def change(drive: GoogleDrive, file_id: str, body: dict[str, Any], **moves: str) -> None:
    """Changes a file, as a user in the browser."""
    drive._service.api.files().update(fileId=file_id, body=body, **moves).execute()


def test_a_session_of_another_folder_is_not_continued(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    interrupt(server, send)
    elsewhere = server.store.add_folder("Elsewhere", USER)
    drive.upload(path, "day.zip", elsewhere, {}, session_file=path.with_name("day.zip.upload"))
    [doc] = server.store.named("day.zip")
    assert doc["parents"] == [elsewhere]


@pytest.mark.parametrize("gone", ["trashed", "moved", "deleted"])
@pytest.mark.parametrize("expired", [False, True])
def test_a_finished_file_that_was_removed_is_sent_again(
    server: DriveServer,
    drive: GoogleDrive,
    send: Callable[..., DriveFile],
    settings: DriveSettings,
    path: Path,
    gone: str,
    expired: bool,
) -> None:
    created = lose_last_answer(server, send, path)
    if gone == "trashed":
        change(drive, created.id, {"trashed": True})
    elif gone == "deleted":
        drive._service.api.files().delete(fileId=created.id).execute()
    else:
        elsewhere = server.store.add_folder("Elsewhere", USER)
        change(drive, created.id, {}, addParents=elsewhere, removeParents=settings.folder)
    if expired:
        server.uploads.expire()
    sent = send()
    assert sent.id != created.id
    assert [file.id for file in drive.find_file(settings.folder, "day.zip")] == [sent.id]


def test_a_folder_trashed_during_an_upload_is_an_error(server: DriveServer, drive: GoogleDrive, path: Path) -> None:
    folder = drive.ensure_project_folder("P")
    with pytest.raises(ArchiveConflictError, match="is not in its folder on Drive"):
        drive.upload(path, "day.zip", folder, {}, progress=lambda _: change(drive, folder, {"trashed": True}))
    folder = drive.ensure_project_folder("P")
    drive.upload(path, "day.zip", folder, {})
    assert len(drive.find_file(folder, "day.zip")) == 1


@pytest.mark.parametrize("size", [UNIT, len(CONTENT)])
def test_a_concurrent_upload_of_another_host_is_not_replaced(
    server: DriveServer,
    drive: GoogleDrive,
    send: Callable[..., DriveFile],
    settings: DriveSettings,
    path: Path,
    size: int,
) -> None:
    content = CONTENT[:size]
    path.write_bytes(content)
    other = path.with_name("other.zip")
    other.write_bytes(b"more runs")
    first = drive.upload(other, "day.zip", settings.folder, {})
    other.write_bytes(b"still more runs")

    def upload_elsewhere() -> None:
        if drive.prove(first).revision == first.revision:
            drive.upload(other, "day.zip", settings.folder, {}, existing=first)

    # At the start of the session: a short file is then sent in one request.
    server.faults.add(Fault("call", on("PATCH", "/upload/"), times=1, action=upload_elsewhere))
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        send(existing=first)
    assert_stored(server, b"still more runs")
    assert len(server.store.revisions(first.id)) == 2
    assert not path.with_name("day.zip.upload").exists()
    send(existing=drive.prove(first))
    assert_stored(server, content)


def test_a_replacement_with_a_lost_last_answer_is_recognized(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    path.write_bytes(b"old")
    first = send()
    path.write_bytes(CONTENT[:UNIT])
    server.faults.add(Fault("lose_answer", UPLOAD, times=1))
    assert send(existing=first).id == first.id
    assert_stored(server, CONTENT[:UNIT])
    assert len(server.store.revisions(first.id)) == 2


KILLED = """
import sys
from pathlib import Path
from lse_resources.destinations.google_drive.client import DriveSettings, GoogleDrive
root, folder, home = sys.argv[1], sys.argv[2], Path(sys.argv[3])
settings = DriveSettings(folder, "oauth2", home / "user.json", home / "token.json", root)
with GoogleDrive(settings) as drive:
    path, keep = home / "day.zip", home / "day.zip.upload"
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    found = drive.find_file(folder, "day.zip")
    drive.upload(path, "day.zip", folder, {}, existing=found[0] if found else None, session_file=keep)
"""


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("moment", range(10))
def test_a_killed_upload_is_completed_by_the_next_one(
    server: DriveServer,
    settings: DriveSettings,
    send: Callable[..., DriveFile],
    path: Path,
    moment: int,
    replacing: bool,
) -> None:
    if replacing:
        path.write_bytes(b"old")
        send()
        path.write_bytes(CONTENT)
    child: list[subprocess.Popen[str]] = []

    def kill() -> None:
        child[0].kill()
        child[0].wait(10)

    def retry() -> DriveFile:
        found = server.store.named("day.zip")
        return send(existing=DriveFile.of(found[0]) if found else None)

    command = [sys.executable, "-c", KILLED, server.url, settings.folder, str(path.parent)]
    # The server kills its client at the n-th request, and executes the request or not.
    api = on(path="/drive/v3/")
    if moment % 2:
        server.faults.add(Fault("call", api, times=1, after=moment // 2, action=kill))
    else:
        cut = Fault("cut_before", api, times=1, after=moment // 2)
        server.faults.add(Fault("call", api, times=1, after=moment // 2, action=kill)).add(cut)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4]) as process:
        child.append(process)
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    server.faults.clear()
    for doc in server.store.named("day.zip"):  # any existing file is complete
        assert server.store.content(doc).read_bytes() in (CONTENT, b"old")
    try:
        retry()
    except ArchiveConflictError:  # the server finished the file after its client was killed
        retry()
    assert_stored(server)


# Downloads


def test_cut_downloads_continue(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    for number in range(20):
        server.faults.add(Fault("truncate", media, times=1, at=UNIT * (number % 4)))
    for kind in ("cut_body", "cut_before", "status", "lose_answer"):
        server.faults.add(Fault(kind, media, times=2))
    assert downloads_intact(drive, file, path.with_name("back"))
    assert server.faults.struck("truncate") >= 5


def test_damaged_downloads_are_retried(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    server.faults.add(Fault("corrupt", media, times=2))
    assert downloads_intact(drive, file, path.with_name("back"))
    server.faults.add(Fault("corrupt", media))
    target = path.with_name("never")
    target.write_bytes(b"what was there")
    with pytest.raises(CorruptArchiveError, match="do not match"):
        drive.download(file, target)
    assert target.read_bytes() == b"what was there"
    assert list(path.parent.glob("*.part")) == []


def test_the_next_call_continues_an_interrupted_download(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    server.faults.add(Fault("truncate", media, times=1, at=3 * UNIT))
    server.faults.add(Fault("status", media))
    target, seen = path.with_name("back"), []
    with pytest.raises(DestinationError, match=r"cannot download day\.zip"):
        drive.download(file, target)
    assert not target.exists()
    server.faults.clear()
    drive.download(file, target, progress=seen.append)
    assert seen[0] == 3 * UNIT
    assert hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256


def test_a_deleted_file_is_a_conflict(
    drive: GoogleDrive, server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    drive._service.api.files().delete(fileId=file.id).execute()
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        drive.download(file, path.with_name("back"))
