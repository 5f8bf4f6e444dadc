"""The Drive client without faults: sign-in, folder, files, uploads and downloads."""

import json
import logging
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.auth.exceptions import OAuthError, RefreshError

from lse_archive.errors import ArchiveConflictError, ArchiveError, DestinationError, SettingsError
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER, DriveServer
from lse_resources.destinations.google_drive.client import DriveSettings, GoogleDrive, Retries
from lse_resources.destinations.google_drive.credentials import load_credentials
from lse_resources.destinations.google_drive.retry import explain
from lse_resources.destinations.google_drive.settings import folder_id

BOT = "bot@lse-demo.iam.gserviceaccount.com"
NEVER = Retries(0.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DriveServer]:
    with DriveServer(tmp_path / "drive") as running:
        yield running
        assert running.violations == []


@pytest.fixture
def folder(server: DriveServer) -> str:
    return server.store.add_folder("Archive", USER)


@pytest.fixture
def settings(server: DriveServer, folder: str, tmp_path: Path) -> Callable[..., DriveSettings]:
    server.accounts.write_authorized_user(tmp_path / "user.json", USER, url=server.url)

    def make(**changes: Any) -> DriveSettings:
        facts: dict[str, Any] = {
            "folder_url": folder,
            "auth_type": "oauth2",
            "credentials_path": tmp_path / "user.json",
        }
        facts |= {"token_path": tmp_path / "home" / "token.json", "api_root": server.url}
        return DriveSettings(**{**facts, **changes})

    return make


@pytest.fixture
def drive(settings: Callable[..., DriveSettings]) -> Iterator[GoogleDrive]:
    with GoogleDrive(settings(), retries=NEVER) as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.zip").write_bytes(b"zip" * 700_000)
    return tmp_path / "a.zip"


def calls(server: DriveServer, name: str) -> int:
    return sum(entry.details.get("call") == name for entry in server.requests)


# The folder's address


@pytest.mark.parametrize(
    "url",
    [
        "https://drive.google.com/drive/folders/1AbC_d-EfGhIjK",
        "https://drive.google.com/drive/folders/1AbC_d-EfGhIjK?usp=sharing&resourcekey=0-x",
        "https://drive.google.com/drive/u/0/folders/1AbC_d-EfGhIjK",
        "https://drive.google.com/drive/mobile/folders/1AbC_d-EfGhIjK/?usp=drive_link#x",
        "https://drive.google.com/open?id=1AbC_d-EfGhIjK&usp=drive_fs",
        "drive.google.com/drive/folders/1AbC_d-EfGhIjK",
        "  1AbC_d-EfGhIjK\n",
    ],
)
def test_every_form_of_a_folder_address_is_accepted(url: str) -> None:
    assert folder_id(url) == "1AbC_d-EfGhIjK"


@pytest.mark.parametrize(
    "url", ["", "x", "https://example.com/drive/folders/1AbC_d-EfGhIjK", "https://drive.google.com/"]
)
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="GOOGLE_DRIVE_FOLDER_URL"):
        folder_id(url)


def test_an_unencrypted_api_address_is_refused(settings: Callable[..., DriveSettings]) -> None:
    with pytest.raises(SettingsError, match="API_ROOT"):
        settings(api_root="http://drive.example.com")


# Sign-in


def test_a_user_token_is_private_and_reused(server: DriveServer, settings: Callable[..., DriveSettings]) -> None:
    token_path = settings().token_path
    for _ in range(2):
        with GoogleDrive(settings(), retries=NEVER) as drive:
            assert drive.about().email == USER
    assert calls(server, "token refresh_token") == 1
    assert stat.S_IMODE(token_path.stat().st_mode) == 0o600
    server.accounts.expire_tokens()
    with GoogleDrive(settings(), retries=NEVER) as drive:
        assert drive.about().email == USER
    assert calls(server, "token refresh_token") == 2


def test_a_token_that_cannot_be_stored_is_not_a_network_error(
    settings: Callable[..., DriveSettings], tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file where the directory should be")
    with GoogleDrive(settings(), retries=NEVER) as drive, pytest.raises(SettingsError, match="cannot write"):
        drive.about()


def test_a_new_credentials_file_replaces_the_stored_token(
    server: DriveServer, settings: Callable[..., DriveSettings], tmp_path: Path
) -> None:
    with GoogleDrive(settings(), retries=NEVER) as drive:
        drive.about()
    server.accounts.add_user("bob@example.com")
    server.accounts.write_authorized_user(tmp_path / "user.json", "bob@example.com", url=server.url)
    with GoogleDrive(settings(), retries=NEVER) as drive:
        assert drive.about().email == "bob@example.com"


def test_a_refresh_does_not_replace_the_token_of_a_later_sign_in(
    server: DriveServer, settings: Callable[..., DriveSettings], tmp_path: Path
) -> None:
    with GoogleDrive(settings(), retries=NEVER) as drive:
        drive.about()
        later = json.loads(settings().token_path.read_bytes()) | {"refresh_token": "of a later sign-in"}
        settings().token_path.write_text(json.dumps(later))
        server.accounts.expire_tokens()
        drive.about()
    assert json.loads(settings().token_path.read_bytes()) == later


def test_a_damaged_token_is_an_error_that_names_the_login_command(settings: Callable[..., DriveSettings]) -> None:
    with GoogleDrive(settings(), retries=NEVER) as drive:
        drive.about()
    settings().token_path.write_bytes(b"{")
    with pytest.raises(SettingsError, match=r"token\.json is not JSON.*lse drive login"):
        GoogleDrive(settings())


def test_the_error_for_a_revoked_token_names_the_login_command(server: DriveServer, drive: GoogleDrive) -> None:
    drive.about()
    server.accounts.revoke(USER)
    with pytest.raises(DestinationError, match=r"invalid_grant.*lse drive login"):
        drive.about()


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_the_error_for_a_wrong_clock_says_so(
    server: DriveServer,
    settings: Callable[..., DriveSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
) -> None:
    server.accounts.write_service_account(tmp_path / "key.json", BOT, url=server.url)
    monkeypatch.setattr(server.accounts, "_now", lambda: time.time() + seconds)
    chosen = settings(auth_type="service_account", credentials_path=tmp_path / "key.json")
    with (
        GoogleDrive(chosen, retries=NEVER) as drive,
        pytest.raises(DestinationError, match=r"invalid_grant: Invalid JWT: Token must.*clock.*lse doctor"),
    ):
        drive.about()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, "sign in"),
        ({"error": "invalid_grant", "error_description": "Invalid email or User ID"}, "GOOGLE_DRIVE_SUBJECT"),
        ({"error": "unauthorized_client"}, "domain-wide delegation"),
        ({"error": "deleted_client"}, "new credentials"),
        ({"error": "admin_policy_enforced"}, "administrator"),
        ({"error": "invalid_rapt"}, "sign in"),
        ("no answer", "sign in"),
        ({"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, "publish"),
    ],
)
def test_the_error_for_a_refused_sign_in_says_what_to_do(answer: object, hint: str) -> None:
    assert hint in explain("list the folder", RefreshError("refused", answer), Retries(sign_in="sign in")).hint


def test_the_reason_of_every_refusal_of_the_token_endpoint_is_shown() -> None:
    described = {"error": "internal_failure", "error_description": "Backend Error"}
    for error, shown in (
        (RefreshError("x", described, retryable=True), "internal_failure: Backend Error"),
        (OAuthError("Error code invalid_grant: bad audience", "{}"), "invalid_grant: bad audience"),
        (RefreshError("The credentials do not contain the necessary fields"), "the necessary fields"),
    ):
        assert shown in explain("list the folder", error, Retries()).why


@pytest.mark.parametrize("code", [9, 10])
def test_the_error_for_a_certificate_that_is_not_valid_now_names_the_clock(code: int) -> None:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code, error.verify_message = code, "certificate has expired"
    assert "clock" in explain("list the folder", error, Retries()).hint


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("cannotDownloadAbusiveFile", "lse archive import"),
        ("cannotDownloadFile", "allow downloads"),
        ("downloadQuotaExceeded", "tomorrow"),
        ("domainPolicy", "administrator"),
        ("appNotAuthorizedToFile", "lse drive login"),
        ("teamDriveHierarchyTooDeep", "nearer to the root"),
        ("activeItemCreationLimitExceeded", "another account"),
        ("storageQuotaExceeded", "shared drive"),
    ],
)
def test_the_error_for_a_refusal_says_what_to_do(
    server: DriveServer, drive: GoogleDrive, reason: str, hint: str
) -> None:
    body = json.dumps({"error": {"code": 403, "message": "no", "errors": [{"reason": reason, "message": "no"}]}})
    server.faults.add(Fault("status", on("GET"), status=403, body=body.encode()))
    with pytest.raises(DestinationError, match=f"Drive answered 403 {reason}, no.*{hint}"):
        drive.about()


def test_the_error_without_a_token_names_the_login_command(
    server: DriveServer, settings: Callable[..., DriveSettings], tmp_path: Path
) -> None:
    server.accounts.write_client_secrets(tmp_path / "client.json", url=server.url)
    with pytest.raises(DestinationError, match="lse drive login"):
        GoogleDrive(settings(credentials_path=tmp_path / "client.json"))


def test_a_service_account_needs_a_shared_drive_or_a_subject(
    server: DriveServer, settings: Callable[..., DriveSettings], tmp_path: Path, path: Path
) -> None:
    key = tmp_path / "key.json"
    server.accounts.write_service_account(key, BOT, url=server.url, delegates=(USER,))
    facts = {"auth_type": "service_account", "credentials_path": key}
    shown = server.store.add_folder("Shown", USER, roles={BOT: "writer"})
    with (
        GoogleDrive(settings(**facts, folder_url=shown), retries=NEVER) as drive,
        pytest.raises(DestinationError, match=r"A service account has no storage.*shared drive"),
    ):
        drive.check_folder()
    server.accounts.set_limit(BOT, 15 << 30)  # as Drive reports for some, though it refuses their uploads
    with GoogleDrive(settings(**facts, folder_url=shown), retries=NEVER) as drive:
        drive.check_folder()
        project = drive.ensure_project_folder("P")
        with pytest.raises(
            DestinationError, match=r"storageQuotaExceeded.*A service account has no storage"
        ) as refused:
            drive.upload(path, "a.zip", project, {})
        assert "Free space" not in str(refused.value)
    team = server.store.add_drive("Team", {BOT: "writer"})
    with GoogleDrive(settings(**facts, folder_url=team), retries=NEVER) as drive:
        assert drive.check_folder().shared_drive
        project = drive.ensure_project_folder("P")
        assert drive.ensure_project_folder("P") == project
        drive.upload(path, "a.zip", project, {})
        assert len(drive.find_file(project, "a.zip")) == 1
    with GoogleDrive(settings(**facts, subject=USER), retries=NEVER) as drive:
        assert drive.check_folder().account.email == USER
    with (
        GoogleDrive(settings(**facts, subject="eve@example.com"), retries=NEVER) as drive,
        pytest.raises(DestinationError, match=r"unauthorized_client.*domain-wide delegation"),
    ):
        drive.about()


def test_application_default_credentials(
    settings: Callable[..., DriveSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "user.json"))
    assert load_credentials(settings(auth_type="adc", credentials_path=None)) is not None
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(DestinationError, match="gcloud auth"):
        load_credentials(settings(auth_type="adc", credentials_path=None))


@pytest.mark.parametrize(
    "content", ["not json", "[]", "{}", '{"type": "authorized_user"}', '{"type": "service_account"}']
)
@pytest.mark.parametrize("kind", ["oauth2", "service_account"])
def test_a_wrong_credentials_file_is_named(
    settings: Callable[..., DriveSettings], tmp_path: Path, content: str, kind: str
) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(SettingsError, match=r"wrong\.json|token\.json"):
        load_credentials(settings(auth_type=kind, credentials_path=tmp_path / "wrong.json"))


# The folder


def test_a_valid_folder_is_described_without_secrets(server: DriveServer, drive: GoogleDrive, folder: str) -> None:
    facts = drive.check_folder()
    assert (facts.id, facts.name, facts.shared_drive, facts.free) == (folder, "Archive", False, 15 << 30)
    assert drive.describe()["account"] == USER
    assert "ya29" not in json.dumps(drive.describe())


def test_an_invalid_folder_is_an_error_before_any_upload(
    server: DriveServer, settings: Callable[..., DriveSettings], drive: GoogleDrive, path: Path
) -> None:
    server.accounts.add_user("bob@example.com")
    store = server.store
    file = drive.upload(path, "a.zip", drive.ensure_project_folder("P"), {})
    trashed = store.add_folder("Gone", USER)
    drive._service.api.files().update(fileId=trashed, body={"trashed": True}).execute()
    read_only = store.add_folder("Shown", "bob@example.com", roles={USER: "reader"})
    cases = {
        "1doesnotexist": "404 notFound",
        file.id: "is not a folder",
        trashed: "in the trash",
        read_only: "may not write",
    }
    for identity, text in cases.items():
        with (
            GoogleDrive(settings(folder_url=identity), retries=NEVER) as client,
            pytest.raises(DestinationError, match=text),
        ):
            client.check_folder()
    server.accounts.set_limit(USER, path.stat().st_size + 5)
    assert drive.check_folder(5).free == 5
    with pytest.raises(DestinationError, match="6 bytes are needed, 5 are free"):
        drive.check_folder(6)
    server.accounts.set_limit(USER, 5)
    with pytest.raises(DestinationError, match="is full"):
        drive.check_folder()


@pytest.mark.parametrize("name", ["plain", "it's", "back\\slash", "\\'", "🦉 owl", "a'b\\c\"d", "%2F", " lead"])
def test_project_folders_are_found_by_their_exact_name(drive: GoogleDrive, name: str) -> None:
    assert drive.find_project_folders(name) == []
    made = drive.ensure_project_folder(name)
    assert [drive.ensure_project_folder(name)] == drive.find_project_folders(name) == [made]
    assert drive.find_project_folders(name.swapcase()) == [] or name == name.swapcase()


def test_concurrent_creators_use_one_folder(drive: GoogleDrive) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(drive.ensure_project_folder, ["P"] * 8))
        assert len(set(pool.map(drive.ensure_project_folder, ["P"] * 8))) == 1


def test_threads_create_one_folder_before_drive_lists_it(server: DriveServer, drive: GoogleDrive) -> None:
    def listing(request: Any) -> bool:
        return "name = 'P'" in request.query.get("q", "")

    server.faults.add(Fault("status", listing, status=200, body=b'{"files": []}'))
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(drive.ensure_project_folder, ["P"] * 8))
    server.faults.clear()
    assert list(made) == drive.find_project_folders("P")
    assert len(server.store.named("P")) == 1


@pytest.mark.parametrize("gone", ["trash", "delete"])
def test_a_deleted_folder_is_created_again(server: DriveServer, drive: GoogleDrive, gone: str) -> None:
    first = drive.ensure_project_folder("P")
    files = drive._service.api.files()
    (files.update(fileId=first, body={"trashed": True}) if gone == "trash" else files.delete(fileId=first)).execute()
    second = drive.ensure_project_folder("P")
    assert second != first
    assert drive.find_project_folders("P") == [second]


@pytest.mark.parametrize("recorded", ["of another account", "of another archive", "damaged"])
def test_an_unusable_record_of_folders_is_replaced(
    server: DriveServer, settings: Callable[..., DriveSettings], drive: GoogleDrive, folder: str, recorded: str
) -> None:
    record = settings().token_path.with_name("drive_folders.json")
    if recorded == "of another archive":
        elsewhere = server.store.add_folder("Elsewhere", USER)
        with GoogleDrive(settings(folder_url=elsewhere)) as other:
            other.ensure_project_folder("P")
    else:
        record.parent.mkdir(exist_ok=True)
        record.write_text("{" if recorded == "damaged" else json.dumps({"P": "made-for-another"}))
    made = drive.ensure_project_folder("P")
    assert drive.find_project_folders("P") == [made]
    assert server.store.doc(made)["parents"] == [folder]
    assert json.loads(record.read_text()) == {"P": made}


def test_the_recorded_id_of_a_folder_is_used_again(server: DriveServer, settings: Callable[..., DriveSettings]) -> None:
    """A killed process has recorded the id and sent its request; Drive may execute that later."""
    server.faults.add(Fault("status", on("POST", "/drive/v3/files"), times=1, status=403))
    with GoogleDrive(settings()) as killed, pytest.raises(DestinationError):
        killed.ensure_project_folder("P")
    [identity] = json.loads(settings().token_path.with_name("drive_folders.json").read_text()).values()
    with GoogleDrive(settings()) as later:
        assert later.ensure_project_folder("P") == identity


# Files


def test_pages_of_files_are_listed_oldest_first(server: DriveServer, drive: GoogleDrive, tmp_path: Path) -> None:
    server.page_cap = 2
    project = drive.ensure_project_folder("P")
    for number in range(5):
        (tmp_path / "x").write_bytes(bytes([number]))
        drive.upload(tmp_path / "x", f"{number}.zip", project, {})
    assert [file.name for file in drive.list_files(project)] == [f"{number}.zip" for number in range(5)]
    drive.trash(drive.list_files(project)[0])
    assert len(drive.list_files(project)) == 4


def test_two_files_of_one_name_are_both_found(server: DriveServer, drive: GoogleDrive, path: Path) -> None:
    first = drive.upload(path, "a.zip", drive.ensure_project_folder("P"), {})
    body = {"name": "a.zip", "parents": [drive.ensure_project_folder("P")], "mimeType": "application/zip"}
    drive._service.api.files().create(body=body).execute()
    found = drive.find_file(drive.ensure_project_folder("P"), "a.zip")
    assert (len(found), found[0].id) == (2, first.id)


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 1024 * 1024, 5_000_001])
def test_a_download_equals_the_upload(drive: GoogleDrive, tmp_path: Path, size: int) -> None:
    (tmp_path / "x.zip").write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])
    seen: list[int] = []
    facts = {"project": "it's", "day": "2026-01-02"}
    session_file = tmp_path / "x.zip.upload"
    target = drive.ensure_project_folder("P")
    file = drive.upload(tmp_path / "x.zip", "x.zip", target, facts, progress=seen.append, session_file=session_file)
    assert (file.size, dict(file.app_properties)) == (size, facts)
    assert seen[-1] == size
    assert seen == sorted(seen)
    assert session_file.exists()  # until the caller has recorded the id
    drive.download(file, tmp_path / "back", progress=seen.append)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "x.zip").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.endswith(".part")) == []


def test_an_existing_name_is_a_conflict(drive: GoogleDrive, path: Path) -> None:
    project = drive.ensure_project_folder("P")
    drive.upload(path, "a.zip", project, {})
    with pytest.raises(ArchiveConflictError, match=r"a\.zip is already in the Drive folder"):
        drive.upload(path, "a.zip", project, {})


def test_replacing_keeps_the_id_and_the_old_revision(server: DriveServer, drive: GoogleDrive, path: Path) -> None:
    project = drive.ensure_project_folder("P")
    first = drive.upload(path, "a.zip", project, {"day": "x", "old": "1"})
    path.write_bytes(b"new")
    second = drive.upload(path, "a.zip", project, {"day": "y"}, existing=first)
    assert (second.id, second.size, dict(second.app_properties)) == (first.id, 3, {"day": "y"})
    assert [each["size"] for each in server.store.revisions(first.id)] == ["2100000", "3"]
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        drive.upload(path, "a.zip", project, {}, existing=first)
    with pytest.raises(ArchiveConflictError, match="changed on Drive"):
        drive.download(first, path.with_name("back"))


def test_the_same_content_is_not_sent_again(server: DriveServer, drive: GoogleDrive, path: Path) -> None:
    project = drive.ensure_project_folder("P")
    first = drive.upload(path, "a.zip", project, {"day": "x"})
    again = drive.upload(path, "a.zip", project, {"day": "y"}, existing=first)
    assert len(server.store.revisions(first.id)) == 1
    assert (again.revision, dict(again.app_properties)) == (first.revision, {"day": "y"})


def test_md5_is_used_if_sha256_is_missing(server: DriveServer, drive: GoogleDrive, path: Path, tmp_path: Path) -> None:
    project = drive.ensure_project_folder("P")
    file = drive.upload(path, "a.zip", project, {})
    stored = {key: value for key, value in server.store.doc(file.id).items() if key != "sha256Checksum"}
    server.store._put(stored)
    found = drive.find_file(project, "a.zip")[0]
    assert found.sha256 is None
    drive.download(found, tmp_path / "back")
    assert drive.upload(path, "a.zip", project, {}, existing=found).id == file.id


def test_many_threads_share_a_client(drive: GoogleDrive, tmp_path: Path) -> None:
    project = drive.ensure_project_folder("P")

    def round_trip(number: int) -> bool:
        source, back = tmp_path / f"{number}.zip", tmp_path / f"{number}.back"
        source.write_bytes(bytes([number]) * 1_500_000)
        drive.download(drive.upload(source, source.name, project, {}), back)
        return back.read_bytes() == source.read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(round_trip, range(12)))


def test_local_file_errors_are_reported_as_local(drive: GoogleDrive, path: Path, tmp_path: Path) -> None:
    project = drive.ensure_project_folder("P")
    with pytest.raises(ArchiveError, match=r"cannot read .*none\.zip"):
        drive.upload(tmp_path / "none.zip", "x", project, {})
    file = drive.upload(path, "a.zip", project, {})
    with pytest.raises(ArchiveError, match="cannot write"):
        drive.download(file, tmp_path / "no" / "where")


def test_no_secret_is_logged(
    server: DriveServer, drive: GoogleDrive, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    drive.upload(path, "a.zip", drive.ensure_project_folder("P"), {})
    for secret in ("upload_id", "ya29.", "1//demo", "demo-secret"):
        assert secret not in caplog.text
