"""The Drive client with faults: equal bytes or a clear error, never a wrong file."""

import random
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drive_rig import CONTENT, UNIT, UPLOAD, FakeSleep, assert_stored, downloads_intact, media

from lse_archive.errors import CorruptArchiveError, DestinationError
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER, DriveServer, rate_limit
from lse_resources.destinations.google_drive.client import DriveFile, DriveSettings, GoogleDrive

pytestmark = pytest.mark.slow


def test_connections_cut_at_random_bytes_twenty_times(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    content = random.Random(2).randbytes(40 * UNIT)
    path.write_bytes(content)
    cuts = random.Random(1)
    for number in range(20):  # each chunk is cut; status queries are answered
        at, reset = cuts.randrange(4 * UNIT), number % 2 == 0
        server.faults.add(Fault("cut_request", UPLOAD, times=1, after=number, at=at, reset=reset))
    send()
    assert server.faults.struck("cut_request") == 20
    assert_stored(server, content)


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
def test_an_upload_succeeds_after_a_temporary_fault_at_any_request(
    server: DriveServer, send: Callable[..., DriveFile], fault: Fault, after: int
) -> None:
    facts = {name: getattr(fault, name) for name in ("kind", "match", "times", "status", "headers", "body")}
    api = facts.pop("match")
    server.faults.add(Fault(**facts, match=lambda request: api(request) and request.path != "/token", after=after))
    send()
    assert_stored(server)


def test_uploads_succeed_when_a_fifth_of_requests_fail(
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
        assert downloads_intact(drive, file, path.with_name("back"))
    assert len(drive.list_files(project)) == 12
    assert server.faults.struck() >= 40


def test_delays_double_and_respect_retry_after(
    server: DriveServer, drive: GoogleDrive, fake_sleep: FakeSleep, caplog: pytest.LogCaptureFixture
) -> None:
    api = on("GET", "/drive/v3/files")
    server.faults.add(Fault("status", api, times=3))
    server.faults.add(rate_limit(429, match=api, times=1, headers={"Retry-After": "40"}))
    drive.find_project_folders("P")
    assert fake_sleep.seconds == [1.5, 2.5, 4.5, 40.0]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "  waiting for Drive: Drive answered 503"
    ]


def test_a_permanent_fault_is_a_clear_error(server: DriveServer, drive: GoogleDrive, fake_sleep: FakeSleep) -> None:
    server.faults.add(Fault("status", on("GET", "/drive/v3/files"), status=503))
    with pytest.raises(
        DestinationError, match=r"cannot list the Drive folder: Drive answered 503\. Run the command again later"
    ):
        drive.find_project_folders("P")
    assert sum(fake_sleep.seconds) == 300.0
    server.faults.clear()
    fake_sleep.seconds.clear()
    server.faults.add(rate_limit(403, "dailyLimitExceeded"))
    with pytest.raises(DestinationError, match="dailyLimitExceeded"):
        drive.find_project_folders("P")
    assert fake_sleep.seconds == []


def is_chunk(request: Any) -> bool:
    return UPLOAD(request) and not request.headers.get("Content-Range", "").startswith("bytes */")


def test_an_upload_continues_while_status_queries_are_answered(
    server: DriveServer, send: Callable[..., DriveFile], fake_sleep: FakeSleep
) -> None:
    server.faults.add(Fault("status", is_chunk, status=503, times=20))
    send()
    assert_stored(server)
    assert sum(fake_sleep.seconds) > 300.0


def test_an_upload_without_stored_bytes_ends_after_four_patiences(
    server: DriveServer, send: Callable[..., DriveFile], fake_sleep: FakeSleep
) -> None:
    server.faults.add(Fault("status", is_chunk, status=503))
    with pytest.raises(DestinationError, match=r"cannot upload day\.zip: Drive answered 503"):
        send()
    assert sum(fake_sleep.seconds) == 4 * 300.0


def test_an_upload_without_answers_ends_after_one_patience(
    server: DriveServer, settings: DriveSettings, path: Path, fake_sleep: FakeSleep
) -> None:
    server.faults.add(Fault("cut_before", UPLOAD))
    retries = replace(fake_sleep.retries(), patience=40.0)
    with GoogleDrive(settings, retries=retries) as drive, pytest.raises(DestinationError, match="cannot be reached"):
        drive.upload(path, "day.zip", settings.folder, {})
    assert sum(fake_sleep.seconds) == 40.0


def test_an_expired_session_is_replaced_by_a_new_one(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, times=2, after=1, action=server.uploads.expire))
    send()
    assert_stored(server)
    assert len(list(server.store.incoming.iterdir())) == 0


def test_sessions_that_always_expire_are_a_clear_error(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, action=server.uploads.expire))
    with pytest.raises(DestinationError, match="ended 5 upload sessions"):
        send()
    assert server.store.named("day.zip") == []


def test_an_upload_continues_after_its_token_expired(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, after=1, times=2, action=server.accounts.expire_tokens))
    send()
    assert_stored(server)


def test_access_revoked_during_an_upload_is_an_error(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("call", UPLOAD, after=1, times=1, action=lambda: server.accounts.revoke(USER)))
    with pytest.raises(DestinationError, match=r"cannot upload day\.zip: .*lse drive login"):
        send()
    assert server.store.named("day.zip") == []


def test_bytes_damaged_in_transit_are_sent_again(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("corrupt_stored", UPLOAD, times=2, after=1))
    send()
    assert_stored(server)


def test_an_upload_that_is_always_damaged_leaves_no_file(
    server: DriveServer, send: Callable[..., DriveFile], path: Path
) -> None:
    server.faults.add(Fault("corrupt_stored", UPLOAD))
    with pytest.raises(CorruptArchiveError, match="other bytes than were sent, 3 times"):
        send()
    assert server.store.named("day.zip") == []
    assert not path.with_name("day.zip.upload").exists()


def test_a_damaged_replacement_is_discarded(server: DriveServer, send: Callable[..., DriveFile], path: Path) -> None:
    old = send()
    path.write_bytes(CONTENT[::-1])
    server.faults.add(Fault("corrupt_stored", UPLOAD))
    with pytest.raises(CorruptArchiveError):
        send(existing=old)
    assert assert_stored(server).revision == old.revision
    server.faults.clear()
    assert send(existing=old).id == old.id
    assert_stored(server, CONTENT[::-1])


def test_a_full_drive_and_a_read_only_folder_are_clear_errors(
    server: DriveServer, drive: GoogleDrive, send: Callable[..., DriveFile], path: Path
) -> None:
    server.accounts.set_limit(USER, 1000)
    with pytest.raises(DestinationError, match=r"storageQuotaExceeded.*Free space"):
        send()
    server.accounts.add_user("bob@example.com")
    shown = server.store.add_folder("Shown", "bob@example.com", roles={USER: "reader"})
    with pytest.raises(DestinationError, match=r"insufficientFilePermissions.*editor"):
        drive.upload(path, "day.zip", shown, {})
    assert server.store.named("day.zip") == []


def test_the_error_for_an_unreachable_drive_is_one_line(settings: DriveSettings, fake_sleep: FakeSleep) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))  # bound, but not listening
        root = f"http://127.0.0.1:{occupied.getsockname()[1]}"
        away = DriveSettings(settings.folder_url, "oauth2", settings.credentials_path, settings.token_path, root)
        with GoogleDrive(away, retries=fake_sleep.retries()) as drive, pytest.raises(DestinationError) as caught:
            drive.check_folder()
    assert "cannot use the Drive folder: Google Drive cannot be reached (Connection refused)" in str(caught.value)
    assert len(fake_sleep.seconds) == 2


def test_errors_contain_no_secrets(server: DriveServer, send: Callable[..., DriveFile]) -> None:
    server.faults.add(Fault("status", UPLOAD, after=1))
    with pytest.raises(DestinationError) as caught:
        send()
    error: BaseException | None = caught.value
    while error:
        assert "upload_id" not in str(error)
        assert "ya29" not in str(error)
        error = error.__cause__ or error.__context__
