"""The Drive client when things go wrong: in the end equal bytes or a clear failure, never a wrong file under a name."""

import hashlib
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lse_archive.errors import ArchiveConflictError, CorruptArchiveError, DriveError
from lse_demo.drive_server import USER, DriveServer, rate_limit
from lse_demo.faults import Fault, Faults, on
from lse_resources.google_drive import DriveFile, DriveSettings, GoogleDrive, Retries

UNIT = 256 * 1024
CONTENT = random.Random(7).randbytes(9 * UNIT + 12_345)
UPLOAD = on("PUT", "/upload/")


def media(request: Any) -> bool:
    """Downloads."""
    return request.query.get("alt") == "media"


class Waits:
    """Instead of sleeping: what would have been slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DriveServer]:
    with DriveServer(tmp_path / "drive", faults=Faults(seed=3)) as running:
        yield running
        assert running.violations == []


@pytest.fixture
def settings(server: DriveServer, tmp_path: Path) -> DriveSettings:
    server.accounts.write_authorized_user(tmp_path / "user.json", USER, url=server.url)
    folder = server.store.add_folder("Archive", USER)
    return DriveSettings(folder, "oauth2", tmp_path / "user.json", tmp_path / "token.json", server.url)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def drive(settings: DriveSettings, waits: Waits) -> Iterator[GoogleDrive]:
    with GoogleDrive(settings, retries=Retries(sleep=waits, jitter=lambda: 0.5)) as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "day.zip").write_bytes(CONTENT)
    return tmp_path / "day.zip"


@pytest.fixture
def send(drive: GoogleDrive, settings: DriveSettings, path: Path) -> Callable[..., DriveFile]:
    def upload(**changes: Any) -> DriveFile:
        keep: dict[str, Any] = {"session_file": path.with_name("day.zip.upload"), **changes}
        return drive.upload(path, "day.zip", settings.folder, {"day": "x"}, **keep)

    return upload


def proven(server: DriveServer, content: bytes = CONTENT) -> DriveFile:
    """There is exactly one file of the name, and it holds `content`."""
    [doc] = server.store.named("day.zip")
    assert server.store.content(doc).read_bytes() == content
    return DriveFile.of(doc)


def back(drive: GoogleDrive, file: DriveFile, target: Path) -> bool:
    drive.download(file, target)
    return target.read_bytes() == CONTENT and not list(target.parent.glob("*.part"))


# Uploads


def test_connections_cut_at_random_bytes_twenty_times(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    content = random.Random(2).randbytes(40 * UNIT)
    path.write_bytes(content)
    cuts = random.Random(1)
    for number in range(20):  # each chunk is cut; the question how far it got passes
        at, reset = cuts.randrange(4 * UNIT), number % 2 == 0
        server.faults.add(Fault("cut_request", UPLOAD, times=1, after=2 * number, at=at, reset=reset))
    send()
    assert server.faults.struck("cut_request") == 20
    proven(server, content)


@pytest.mark.parametrize(
    "fault",
    [
        rate_limit(times=3),
        rate_limit(403, "rateLimitExceeded", times=3),
        rate_limit(429, "rateLimitExceeded", times=3),
        Fault("status", status=500, times=3),
        Fault("status", status=503, times=3, body=b"<html>busy</html>"),
        Fault("status", status=408, times=3, body=b""),
        Fault("cut_before", times=3),
        Fault("lose_answer", times=3),
        Fault("cut_body", times=3),
        Fault("truncate", on("GET"), times=3),
        Fault("invalid_json", on("GET"), times=3),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
@pytest.mark.parametrize("after", [0, 1, 3, 4, 5])
def test_a_passing_fault_anywhere(
    server: DriveServer, send: Callable[..., DriveFile], fault: Fault, after: int
) -> None:
    facts = {name: getattr(fault, name) for name in ("kind", "match", "times", "status", "headers", "body")}
    api = facts.pop("match")
    server.faults.add(Fault(**facts, match=lambda request: api(request) and request.path != "/token", after=after))
    send()
    proven(server)


def test_a_fifth_of_all_requests_fail(
    server: DriveServer, drive: GoogleDrive, settings: DriveSettings, path: Path
) -> None:
    api = on(path="/drive/v3/")
    for kind in ("status", "cut_before", "lose_answer", "cut_body"):
        server.faults.add(Fault(kind, api, rate=0.03))
    server.faults.add(rate_limit(match=api, rate=0.03)).add(rate_limit(429, match=api, rate=0.03))
    server.faults.add(Fault("cut_request", UPLOAD, rate=0.2, at=UNIT))
    server.faults.add(Fault("corrupt_stored", UPLOAD, rate=0.05))
    server.faults.add(Fault("corrupt", media, rate=0.05))
    server.faults.add(Fault("call", UPLOAD, rate=0.05, action=server.accounts.expire_tokens))
    server.faults.add(Fault("call", UPLOAD, rate=0.03, action=server.uploads.expire))
    server.page_cap = 2
    project = drive.ensure_project_folder("P")
    for number in range(12):
        file = drive.upload(path, f"{number}.zip", project, {})
        assert back(drive, file, path.with_name("back"))
    assert len(drive.list_files(project)) == 12
    assert server.faults.struck() >= 40


def test_waiting_doubles_and_heeds_retry_after(server: DriveServer, drive: GoogleDrive, waits: Waits) -> None:
    api = on("GET", "/drive/v3/files")
    server.faults.add(Fault("status", api, times=3))
    server.faults.add(rate_limit(429, match=api, times=1, headers={"Retry-After": "40"}))
    drive.find_project_folder("P")
    assert waits.seconds == [1.5, 2.5, 4.5, 40.0]


def test_what_does_not_pass_ends_clearly(server: DriveServer, drive: GoogleDrive, waits: Waits) -> None:
    server.faults.add(Fault("status", on("GET", "/drive/v3/files"), status=503))
    with pytest.raises(
        DriveError, match=r"cannot list the Drive folder: Drive answered 503\. Run the command again later"
    ):
        drive.find_project_folder("P")
    assert len(waits.seconds) == 6
    server.faults.clear()
    waits.seconds.clear()
    server.faults.add(rate_limit(403, "dailyLimitExceeded"))
    with pytest.raises(DriveError, match="dailyLimitExceeded"):
        drive.find_project_folder("P")
    assert waits.seconds == []


def test_a_session_that_expires_halfway_begins_anew(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, times=2, after=1, action=server.uploads.expire))
    send()
    proven(server)
    assert len(list(server.store.incoming.iterdir())) == 0


def test_sessions_that_always_expire_end_clearly(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, action=server.uploads.expire))
    with pytest.raises(DriveError, match="lost the upload again and again"):
        send()
    assert server.store.named("day.zip") == []


def test_a_token_that_expires_in_the_middle(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, after=1, times=2, action=server.accounts.expire_tokens))
    send()
    proven(server)


def test_access_revoked_in_the_middle(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, after=1, times=1, action=lambda: server.accounts.revoke(USER)))
    with pytest.raises(DriveError, match=r"cannot upload day\.zip: .*lse drive login"):
        send()
    assert server.store.named("day.zip") == []


def test_bytes_damaged_on_the_way_are_sent_again(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("corrupt_stored", UPLOAD, times=2, after=1))
    send()
    proven(server)


def test_bytes_always_damaged_leave_no_file(server: DriveServer, send: Callable[..., DriveFile], path: Path) -> None:
    server.faults.add(Fault("corrupt_stored", UPLOAD))
    with pytest.raises(CorruptArchiveError, match="other bytes than were sent, 3 times"):
        send()
    assert server.store.named("day.zip") == []
    assert not path.with_name("day.zip.upload").exists()


def test_a_damaged_replacement_leaves_the_old_content(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    old = send()
    path.write_bytes(CONTENT[::-1])
    server.faults.add(Fault("corrupt_stored", UPLOAD))
    with pytest.raises(CorruptArchiveError):
        send(existing=old)
    assert proven(server).revision == old.revision
    server.faults.clear()
    assert send(existing=old).id == old.id
    proven(server, CONTENT[::-1])


def test_a_full_drive_and_a_read_only_folder(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    server.accounts.set_limit(USER, 1000)
    with pytest.raises(DriveError, match=r"storageQuotaExceeded.*Free some space"):
        send()
    server.accounts.add_user("bob@example.com")
    shown = server.store.add_folder("Shown", "bob@example.com", roles={USER: "reader"})
    with pytest.raises(DriveError, match=r"insufficientFilePermissions.*editor"):
        drive.upload(path, "day.zip", shown, {})
    assert server.store.named("day.zip") == []


def test_an_unreachable_drive_is_one_clear_line(settings: DriveSettings, waits: Waits) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        root = f"http://127.0.0.1:{taken.getsockname()[1]}"
        away = DriveSettings(settings.folder_url, "oauth2", settings.credentials_path, settings.token_path, root)
        with GoogleDrive(away, retries=Retries(sleep=waits)) as drive, pytest.raises(DriveError) as caught:
            drive.check_folder()
    assert "cannot use the Drive folder: Google Drive cannot be reached (Connection refused)" in str(caught.value)
    assert len(waits.seconds) == 2


def test_errors_tell_no_secrets(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("status", UPLOAD, after=1))
    with pytest.raises(DriveError) as caught:
        send()
    error: BaseException | None = caught.value
    while error:
        assert "upload_id" not in str(error)
        assert "ya29" not in str(error)
        error = error.__cause__ or error.__context__


# An interrupted upload goes on


def interrupt(server: DriveServer, send: Callable[..., DriveFile], **changes: Any) -> None:
    server.faults.add(Fault("status", UPLOAD, after=1))
    with pytest.raises(DriveError):
        send(**changes)
    server.faults.clear()


def test_the_next_call_goes_on_where_the_last_one_ended(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    interrupt(server, send)
    session_file = path.with_name("day.zip.upload")
    assert session_file.stat().st_mode & 0o777 == 0o600
    seen: list[int] = []
    send(progress=seen.append)
    proven(server)
    assert seen[0] == 4 * UNIT  # not from the start
    assert not session_file.exists()


@pytest.mark.parametrize("trouble", ["expired", "damaged", "foreign", "other content"])
def test_a_session_file_of_no_use_is_no_harm(
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
    proven(server, content)


def test_an_answer_lost_at_the_very_end_makes_no_second_file(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    path.write_bytes(CONTENT[:UNIT])
    server.faults.add(Fault("lose_answer", UPLOAD, times=1))
    server.faults.add(Fault("status", UPLOAD))
    with pytest.raises(DriveError):
        send()
    server.faults.clear()
    created = proven(server, CONTENT[:UNIT])
    server.uploads.expire()
    assert send().id == created.id
    proven(server, CONTENT[:UNIT])


def test_another_s_file_of_the_name_is_a_conflict_for_the_interrupted_too(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], settings: DriveSettings, path: Path
) -> None:
    interrupt(server, send)
    drive.upload(path, "day.zip", settings.folder, {})
    with pytest.raises(ArchiveConflictError):
        send()
    proven(server)


KILLED = """
import sys
from pathlib import Path
from lse_resources.google_drive import DriveSettings, GoogleDrive
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
def test_killed_and_started_again(
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

    command = [sys.executable, "-c", KILLED, server.url, settings.folder, str(path.parent)]
    # The server kills its client at one of its requests, the first, the second, …, which is then carried out, or not.
    api = on(path="/drive/v3/")
    if moment % 2:
        server.faults.add(Fault("call", api, times=1, after=moment // 2, action=kill))
    else:
        cut = Fault("cut_before", api, times=1, after=moment // 2)
        server.faults.add(Fault("call", api, times=1, after=moment // 2, action=kill)).add(cut)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        child.append(process)
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    server.faults.clear()
    found = server.store.named("day.zip")
    for doc in found:  # whatever was killed, what is there is whole
        assert server.store.content(doc).read_bytes() in (CONTENT, b"old")
    send(existing=DriveFile.of(found[0]) if found else None)
    proven(server)
    assert not path.with_name("day.zip.upload").exists()


# Downloads


def test_cut_downloads_go_on(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    for number in range(20):
        server.faults.add(Fault("truncate", media, times=1, at=UNIT * (number % 4)))
    for kind in ("cut_body", "cut_before", "status", "lose_answer"):
        server.faults.add(Fault(kind, media, times=2))
    assert back(drive, file, path.with_name("back"))
    assert server.faults.struck("truncate") >= 5


def test_damaged_downloads_are_repeated(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    server.faults.add(Fault("corrupt", media, times=2))
    assert back(drive, file, path.with_name("back"))
    server.faults.add(Fault("corrupt", media))
    target = path.with_name("never")
    target.write_bytes(b"what was there")
    with pytest.raises(CorruptArchiveError, match="other bytes came"):
        drive.download(file, target)
    assert target.read_bytes() == b"what was there"
    assert list(path.parent.glob("*.part")) == []


def test_an_interrupted_download_goes_on_in_the_next_call(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    server.faults.add(Fault("truncate", media, times=1, at=3 * UNIT))
    server.faults.add(Fault("status", media))
    target, seen = path.with_name("back"), []
    with pytest.raises(DriveError, match=r"cannot download day\.zip"):
        drive.download(file, target)
    assert not target.exists()
    server.faults.clear()
    drive.download(file, target, progress=seen.append)
    assert seen[0] == 3 * UNIT
    assert hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256


def test_a_file_that_is_gone_is_a_conflict(
    drive: GoogleDrive, server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    file = send()
    drive._service.api.files().delete(fileId=file.id).execute()
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        drive.download(file, path.with_name("back"))
