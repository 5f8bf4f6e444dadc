"""`lse doctor`: it finds each problem, names the fix, and shows no secret."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any, LiteralString, cast

import pyrage
import pytest
from alert_targets import webhook
from database_fixtures import CreateDatabase
from home_fixtures import PROJECT, Installation
from s3_fixtures import FaultProxy

from lse_archive.days import today
from lse_archive.folder.state import now_text, update_state
from lse_cli.work.doctor import examine
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER
from lse_platform.home import open_home
from lse_resources.alerts import Alert
from lse_resources.destinations.object_store import ObjectStore
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings
from lse_sensors.outbox import Outbox

pytestmark = pytest.mark.slow

age: Any = pyrage


def wrong(installation: Installation) -> dict[str, str]:
    """Returns name and text with hint of the findings that are wrong."""
    ended = installation.lse("doctor", "--json")
    found = [entry for entry in json.loads(ended.out)["results"] if entry["verdict"] == "wrong"]
    assert ended.code == (1 if found else 0)
    assert all(entry["todo"] for entry in found)
    return {entry["name"]: f"{entry['says']} {entry['todo']}" for entry in found}


def finding(installation: Installation, name: str) -> tuple[str, str]:
    """Returns verdict and text with hint of the only finding of this name."""
    entries = json.loads(installation.lse("doctor", "--json").out)["results"]
    [entry] = [entry for entry in entries if entry["name"] == name]
    return entry["verdict"], f"{entry['says']} {entry['todo']}"


@pytest.fixture
def healthy(installation: Installation) -> Installation:
    installation.fill(runs=1)
    add_project(installation.directory / "projects.toml", ProjectConfig(PROJECT, date(2026, 1, 1)))
    open_home(Settings.load())
    return installation


def test_a_healthy_installation(healthy: Installation) -> None:
    assert wrong(healthy) == {}
    ended = healthy.lse("doctor")
    assert ended.code == 0
    for name in ("versions", "disk", "clock", "LangSmith", "Drive", "Postgres", "platform"):
        assert f" {name}" in ended.out
    assert healthy.environment["LANGSMITH_API_KEY"] not in ended.out


def test_days_that_are_behind_or_differ_are_named(bare_installation: Installation) -> None:
    days = [today() - timedelta(days=back) for back in range(0, 30)]
    add_project(bare_installation.directory / "projects.toml", ProjectConfig(PROJECT, days[20]))

    def found() -> dict[str, str]:
        entries = json.loads(bare_installation.lse("doctor", "--json").out)["results"]
        return {entry["says"]: entry["verdict"] for entry in entries if entry["name"] == "days"}

    def put(day: date, **state: object) -> None:
        paths = bare_installation.paths(day=day)
        paths.folder.mkdir(parents=True)
        paths.zip.parent.mkdir(exist_ok=True)
        paths.zip.touch()
        update_state(paths, **{"last_fetched_at": now_text(), "count_check": "equal", "verdict": "proven"} | state)

    # A project that was just added: nothing is wrong yet.
    gap = "still in LangSmith, and not archived"
    assert found() == {f"{PROJECT}: {days[13]} to {days[2]} (12 days) are {gap}": "note"}
    for day in days[2:13]:
        put(day)
    assert found() == {f"{PROJECT}: {days[13]} is {gap}": "wrong"}
    put(days[13])
    assert found() == {"no day is behind, none differs": "ok"}  # yesterday's turn is at the daily time
    put(days[15], count_check="fewer", verdict="wrong")  # nobody can repair it
    put(days[16], verdict="wrong")
    put(days[17], verdict=None)
    bare_installation.paths(day=days[17]).zip.unlink()
    assert found() == {
        f"{PROJECT}: {days[15]} is incomplete, and no longer in LangSmith": "note",
        f"{PROJECT}: {days[16]} differs": "wrong",
        f"{PROJECT}: {days[17]} is behind: zip, verify": "wrong",
    }


@pytest.mark.parametrize(
    ("variable", "value", "name", "hint"),
    [
        ("LANGSMITH_API_KEY", "lsv2_pt_wrong", "LangSmith", "LANGSMITH_API_KEY"),
        ("LANGSMITH_API_KEY", "", "LangSmith", ".env"),
        ("LANGSMITH_ENDPOINT", "http://127.0.0.1:1", "LangSmith", ""),
        ("GOOGLE_DRIVE_FOLDER_URL", "1AbCdEfGhIjKlMnOpQrStUvWxYz012345", "Drive", ""),
        ("GOOGLE_DRIVE_CREDENTIALS_PATH", "/nowhere.json", "Drive", ""),
        ("LSE_DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/none", "Postgres", "LSE_DATABASE_URL"),
        ("LSE_ALERT_EMAIL", "me@example.com", "alerts", "both"),
    ],
)
def test_a_problem_is_named_with_its_fix(
    healthy: Installation, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str, hint: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = wrong(healthy)
    assert list(found) == [name]
    assert hint in found[name]
    assert "hush" not in found[name]


def probes(installation: Installation) -> list[bool]:
    """Returns, for each test file on Drive, whether it is in the trash."""
    docs = installation.drive.store._documents.all("file").values()
    return [doc["trashed"] for doc in docs if doc["name"].startswith("lse-doctor-")]


def test_a_file_is_uploaded_to_drive_and_trashed(healthy: Installation) -> None:
    assert "✓ Drive" in healthy.lse("doctor").out
    assert probes(healthy) == [True]


def test_a_file_that_cannot_be_trashed_on_drive_is_left_once(healthy: Installation) -> None:
    refused = Fault("status", lambda request: request.method == "PATCH" and b"trashed" in request.body, status=403)
    healthy.drive.faults.add(refused)
    for _ in range(2):
        assert "does not delete them" in wrong(healthy)["Drive"]
    assert probes(healthy) == [False]


def test_a_service_account_whose_folder_is_in_my_drive(
    healthy: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, drive = "bot@lse-demo.iam.gserviceaccount.com", healthy.drive
    drive.accounts.write_service_account(tmp_path / "key.json", bot, url=drive.url, limit=15 << 30)
    folder = drive.store.add_folder("Shown", USER, roles={bot: "writer"})
    for name, value in {
        "GOOGLE_DRIVE_FOLDER_URL": folder,
        "GOOGLE_DRIVE_AUTH_TYPE": "service_account",
        "GOOGLE_DRIVE_CREDENTIALS_PATH": str(tmp_path / "key.json"),
    }.items():
        monkeypatch.setenv(name, value)
    found = wrong(healthy)["Drive"]
    assert "A service account has no storage of its own: use a folder in a shared drive" in found
    assert "Free space" not in found


def test_a_project_that_is_not_in_langsmith(healthy: Installation) -> None:
    add_project(healthy.directory / "projects.toml", ProjectConfig("typo", date(2026, 1, 1)))
    assert "'typo'" in wrong(healthy)["LangSmith"]


def langsmith_findings(installation: Installation) -> list[str]:
    entries = json.loads(installation.lse("doctor", "--json").out)["results"]
    return [f"{entry['verdict']}: {entry['says']}" for entry in entries if entry["name"] == "LangSmith"]


def test_an_experiment_in_the_list_is_a_project_of_langsmith(healthy: Installation) -> None:
    healthy.langsmith.store.add_project("experiment", reference_dataset_id="0190f0a0-0000-7000-8000-000000000000")
    add_project(healthy.directory / "projects.toml", ProjectConfig("experiment", date(2026, 1, 1)))
    assert wrong(healthy) == {}


def test_the_retention_is_that_of_langsmith(healthy: Installation) -> None:
    behavior = healthy.langsmith.behavior
    assert "ok: it keeps the traces of 1 project for 14 days" in langsmith_findings(healthy)
    behavior.trace_tier = "longlived"
    found = langsmith_findings(healthy)
    assert "ok: it keeps the traces of 1 project for 180 days" in found
    assert f"note: it keeps the traces of '{PROJECT}' for 180 days, and not for 14 days" in found
    behavior.workspace_longlived_days = 90
    assert "ok: it keeps the traces of 1 project for 90 days" in langsmith_findings(healthy)
    behavior.longlived_days = 30
    assert "ok: it keeps the traces of 1 project for 30 days" in langsmith_findings(healthy)
    behavior.trace_tier = None
    assert "note: it does not tell how long it keeps the traces of 1 project" in langsmith_findings(healthy)
    behavior.ttl_settings = {"tenant_id": None, "default_trace_tier": "shortlived", "apply_to_all_projects": False}
    assert "ok: it keeps the traces of 1 project for 14 days" in langsmith_findings(healthy)
    behavior.ttl_settings = {"tenant_id": healthy.langsmith.store.tenant_id, "default_trace_tier": "longlived"}
    assert "ok: it keeps the traces of 1 project for 30 days" in langsmith_findings(healthy)
    behavior.ttl_settings = ["nonsense"]  # ty: ignore[invalid-assignment]
    assert "note: it does not tell how long it keeps the traces of 1 project" in langsmith_findings(healthy)


def test_the_announced_end_of_a_route_is_shown_once(healthy: Installation) -> None:
    assert "ok: it serves runs by its API v2" in langsmith_findings(healthy)
    headers = {"Sunset": "Sun, 31 Jan 2027 00:00:00 GMT"}
    empty = b'{"items":[],"next_cursor":null}'
    fault = Fault("invalid_json", on("POST", "/api/v2/runs/query"), times=9, body=empty, headers=headers)
    healthy.langsmith.faults.add(fault)
    announced = (
        "note: it announces the end of a route that LSE uses: POST /api/v2/runs/query: Sun, 31 Jan 2027 00:00:00 GMT"
    )
    assert langsmith_findings(healthy).count(announced) == 1


def test_a_database_without_tables(healthy: Installation) -> None:
    healthy.sql("DROP TABLE alembic_version")
    assert wrong(healthy) == {}
    assert "! Postgres    the database is not prepared" in (shown := healthy.lse("doctor").out)
    assert "lse archive and lse up prepare it automatically" in shown


LATIN1: LiteralString = "ENCODING 'LATIN1' LOCALE_PROVIDER libc"


def test_a_database_of_another_encoding(
    healthy: Installation, create_database: CreateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "encoding UTF8, sessions in UTC" in healthy.lse("doctor").out
    monkeypatch.setenv("LSE_DATABASE_URL", create_database(LATIN1))
    assert "has the encoding LATIN1" in (found := wrong(healthy)["Postgres"])
    assert "--encoding=UTF8" in found


def test_a_database_of_dagster_of_another_encoding(
    healthy: Installation, create_database: CreateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSE_DAGSTER_DATABASE_URL", create_database(LATIN1))
    assert "Dagster's database has the encoding LATIN1" in wrong(healthy)["Postgres"]


def test_a_langsmith_that_never_answers_delays_the_command_only_shortly(
    healthy: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lse_cli.work.doctor._TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("LSE_LANGSMITH_PATIENCE", "300")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("LANGSMITH_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer in time" in wrong(healthy)["LangSmith"]


def test_a_line_is_printed_as_soon_as_its_check_has_ended(healthy: Installation) -> None:
    printed: list[str] = []
    fault = Fault(
        "call", on("GET", "/sessions"), action=lambda: printed.append(cast(io.StringIO, sys.stdout).getvalue())
    )
    healthy.langsmith.faults.add(fault)
    assert healthy.lse("doctor").code == 0
    assert " clock " in printed[0]
    assert "LangSmith  " not in printed[0]


def test_a_wrong_clock(healthy: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(clock_behind_seconds=3600) as another:
        monkeypatch.setenv("LANGSMITH_ENDPOINT", another.url)
        assert "NTP" in wrong(healthy)["clock"]


def test_a_full_disk(healthy: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lse_cli.work.doctor._MIN_FREE_BYTES", 10**18)
    assert "Free space" in wrong(healthy)["disk"]


def test_a_disk_without_file_locks(healthy: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr("lse_archive.files.fcntl.flock", refuse)
        [found] = [found for found in examine(Settings.load()) if found.name == "disk"]
    assert (found.verdict, "does not lock files (No locks available)" in found.says) == ("wrong", True)


def test_a_disk_that_does_not_flush_directories(healthy: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("lse_cli.work.doctor.flush_directory", refuse)
    found = [found for found in examine(Settings.load()) if found.name == "disk"]
    assert [found.verdict for found in found] == ["note", "ok"] * (len(found) // 2)
    assert "does not flush directories (Invalid argument)" in found[0].says


def test_a_malformed_mail_server_url(healthy: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_ALERT_EMAIL", "me@example.com")
    monkeypatch.setenv("LSE_ALERT_SMTP_URL", "smtp://me:hunter/2@mail.example.com")
    assert "%XX" in wrong(healthy)["alerts"]
    assert "hunter" not in healthy.lse("doctor").out


def test_alerts_that_are_not_delivered(healthy: Installation) -> None:
    Outbox(Settings.load().home / "alerts").put("1", Alert("x"), {"webhook": lambda alert: None})
    assert "lse alerts test" in wrong(healthy)["alerts"]


@pytest.fixture
def stored(
    healthy: Installation, s3_proxy: FaultProxy, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """An installation whose destination is an object store."""
    for name, value in {
        "LSE_ARCHIVE_URL": f"{store.place}/the archive",
        "AWS_ENDPOINT_URL": s3_proxy.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return healthy


def objects(store: ObjectStore) -> list[str]:
    return sorted(meta["path"] for meta in store._store.list().collect())


def test_a_healthy_object_store(stored: Installation, store: ObjectStore) -> None:
    stored.drive.requests.clear()
    assert wrong(stored) == {}
    ended = stored.lse("doctor")
    assert "✓ bucket" in ended.out
    assert " Drive" not in ended.out
    assert "hush" not in ended.out
    assert stored.drive.requests == []
    assert objects(store) == []


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("LSE_ARCHIVE_URL", "ftp://bucket/folder", "s3://bucket/folder"),
        ("LSE_ARCHIVE_URL", "s3://key:hush/hush@bucket", "AWS_SECRET_ACCESS_KEY"),
        ("LSE_ARCHIVE_URL", "s3://no-such-bucket-here", "Check address"),
        ("AWS_ENDPOINT_URL", "http://example.com", "https"),
        ("AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_wrong_setting_of_the_object_store(
    stored: Installation, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = wrong(stored)
    assert list(found) == ["bucket"]
    assert hint in found["bucket"]
    assert "hush" not in found["bucket"]


def test_without_a_key_the_credentials_come_from_the_role(
    stored: Installation, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{s3_proxy.url}/no-role")
    found = json.loads(stored.lse("doctor", "--json").out)["results"]
    [note, refused] = [entry for entry in found if entry["name"] == "bucket"]
    assert (note["verdict"], refused["verdict"]) == ("note", "wrong")
    assert "AWS_SECRET_ACCESS_KEY" in note["todo"]


@pytest.mark.parametrize(("method", "says"), [("GET", "use the bucket"), ("PUT", "upload"), ("POST", "not delete")])
def test_a_missing_right(
    stored: Installation, s3_proxy: FaultProxy, store: ObjectStore, method: str, says: str
) -> None:
    s3_proxy.faults.add(Fault("status", on(method), status=403))
    found = wrong(stored)
    assert list(found) == ["bucket"]
    assert says in found["bucket"]
    assert "list, get, put and delete" in found["bucket"]
    s3_proxy.faults.clear()
    assert wrong(stored) == {}
    assert objects(store) == []  # the object that could not be deleted before is deleted now


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    """A key file and its recipient."""
    identity = age.x25519.Identity.generate()
    path = tmp_path / "key.txt"
    path.write_text(f"{identity}\n")
    return path, str(identity.to_public())


def test_doctor_tests_encryption(
    healthy: Installation, keys: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipient = keys
    assert finding(healthy, "encryption") == ("ok", "off: zips are uploaded unencrypted ")
    monkeypatch.setenv("LSE_AGE_RECIPIENT", recipient)
    verdict, text = finding(healthy, "encryption")
    assert (verdict, "cannot restore" in text, "LSE_AGE_IDENTITY_FILE" in text) == ("note", True, True)
    monkeypatch.setenv("LSE_AGE_IDENTITY_FILE", str(path))
    assert finding(healthy, "encryption")[0] == "ok"
    monkeypatch.setenv("LSE_AGE_RECIPIENT", str(age.x25519.Identity.generate().to_public()))
    assert "remove LSE_AGE_RECIPIENT" in wrong(healthy)["encryption"]


def test_doctor_tests_a_passphrase(healthy: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_AGE_PASSPHRASE", "hush")
    verdict, text = finding(healthy, "encryption")
    assert (verdict, "hush" in text) == ("ok", False)
    monkeypatch.setenv("LSE_AGE_RECIPIENT", "age1hush")
    assert "one or the other" in wrong(healthy)["encryption"]


@pytest.mark.parametrize(("content", "hint"), [(None, "No such file"), (b"AGE-SECRET-KEY-1HUSH", "age-keygen")])
def test_an_age_key_that_cannot_be_read(
    healthy: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, hint: str
) -> None:
    if content is not None:
        (tmp_path / "bad.txt").write_bytes(content)
    monkeypatch.setenv("LSE_AGE_IDENTITY_FILE", str(tmp_path / "bad.txt"))
    found = wrong(healthy)
    assert list(found) == ["encryption"]
    assert hint in found["encryption"]
    assert "HUSH" not in found["encryption"]
