"""Every error has one clear line and its exit code, and leaves no partial files."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from archive_fixtures import snapshot
from home_fixtures import DAY, PROJECT, CommandResult, Installation, midnight, run_uuid

from lse_archive.days import today
from lse_archive.folder.state import read_state
from lse_demo.faults import Fault, on
from lse_operations.day_selection import is_fetch_due
from lse_resources.projects import ProjectConfig

pytestmark = pytest.mark.slow


def content(directory: Path) -> dict[str, bytes]:
    """Returns all files of data and archives, unpublished ones included, without locks."""
    paths = [path for name in ("data", "archives") for path in (directory / name).rglob("*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file() and path.suffix != ".lock"}


def one_line(ended: CommandResult, code: int, *parts: str) -> None:
    """Asserts that a command ended with this code and one line of explanation that contains these parts."""
    lines = [line for line in ended.err.splitlines() if not line.startswith(("    not done:", "not started:"))]
    assert (ended.code, len(lines)) == (code, 1), ended
    assert "Traceback" not in ended.err
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--date", "2026-02-30"], ["'2026-02-30' is not a day", "there is no such day"]),
        (["--date", "31/01/2026"], ["'31/01/2026' is not a day"]),
        (["--date", str(today())], ["cannot be archived yet", "in UTC"]),
        (["--date", str(today() + timedelta(days=400))], ["cannot be archived yet"]),
        (["--date", "2026-01-01", "--start-date", "2026-01-01"], ["--date cannot be combined with --start-date"]),
        (["--end-date", "2026-01-01"], ["--end-date needs --start-date"]),
        (["--start-date", "2026-01-02", "--end-date", "2026-01-01"], ["the range ends before it starts"]),
        (["--project", " "], ["--project is empty"]),
        (["--date", ""], ["--date is empty"]),
        (["--start-date", " "], ["--start-date is empty"]),
        (["--start-date", "2026-01-01", "--end-date", ""], ["--end-date is empty"]),
        ([], ["no project is selected", "lse projects add NAME --start DAY"]),
    ],
)
def test_wrong_options(bare_installation: Installation, options: list[str], parts: list[str]) -> None:
    if options and "--project" not in options:
        options = ["--project", PROJECT, *options]
    ended = bare_installation.lse("archive", "fetch", *options, "--json")
    one_line(ended, 2, "lse: ", *parts)
    assert ended.out == ""
    assert content(bare_installation.directory) == {}


def test_options_before_the_command_are_rejected(bare_installation: Installation) -> None:
    ended = bare_installation.lse("archive", "--project", PROJECT, "fetch")
    one_line(ended, 2, "options before the command would be ignored", "lse archive fetch …")


@pytest.mark.parametrize("words", [["archive", "fetch", "--dat", "2026-01-01"], ["archive", "fecth"], ["fetch"]])
def test_unknown_commands_and_options(bare_installation: Installation, words: list[str]) -> None:
    ended = bare_installation.lse(*words)
    assert ended.code == 2
    assert "No such" in ended.err


def test_an_invalid_setting(bare_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_LANGSMITH_PATIENCE", "much")
    one_line(bare_installation.archive("fetch"), 1, "LSE_PATIENCE (or LSE_LANGSMITH_PATIENCE) is invalid", "Correct it")


def test_an_invalid_projects_file(bare_installation: Installation) -> None:
    (bare_installation.directory / "projects.toml").write_text("[[project]]\nname = 'x'\n")
    one_line(bare_installation.archive("fetch"), 1, "projects.toml cannot be read")


@pytest.mark.parametrize(
    "words", [["archive", "zip", "--project", "p"], ["sql", "SELECT 1"], ["db", "migrate"], ["up"]]
)
def test_a_home_that_cannot_be_written(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    (bare_installation.directory / "file").touch()
    monkeypatch.setenv("LSE_HOME", str(bare_installation.directory / "file" / "home"))
    one_line(bare_installation.lse(*words), 1, str(bare_installation.directory / "file"), "Not a directory")


def test_a_projects_file_that_cannot_be_written(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not even root may create files there.
    monkeypatch.setenv("LSE_PROJECTS_FILE", "/proc/projects.toml")
    one_line(
        bare_installation.lse("projects", "add", "x", "--start", "2026-01-01"),
        1,
        "/proc/projects.toml cannot be written",
    )


def test_errors_of_langsmith(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(3)
    two_days = "--start-date", str(DAY - timedelta(days=1)), "--end-date", str(DAY)

    missing = installation.lse("archive", "fetch", "--project", "no such", *two_days, "--json")
    first = f"no such {DAY - timedelta(days=1)}: "  # with --json the day must be in the error line
    one_line(missing, 1, first, "LangSmith has no project 'no such'", "Check the spelling")
    assert "not started: 1 day," in missing.err
    assert [entry["error"]["step"] for entry in missing.json] == ["fetch", "fetch"]

    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_wrong")
    one_line(installation.archive("fetch"), 1, "HTTP 403", "Check LANGSMITH_API_KEY")
    monkeypatch.setenv("LANGSMITH_API_KEY", "")
    one_line(installation.archive("fetch"), 1, "LANGSMITH_API_KEY is not set")
    monkeypatch.setenv("LANGSMITH_API_KEY", installation.environment["LANGSMITH_API_KEY"])
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:9")
    one_line(installation.archive("fetch"), 1, "ConnectError", "check whether LangSmith can be reached")
    assert content(installation.directory) == {}


def test_a_project_missing_in_langsmith_does_not_stop_the_others(installation: Installation) -> None:
    installation.fill(3)
    for name in ("gone", PROJECT):
        assert installation.lse("projects", "add", name, "--start", str(DAY)).code == 0
    ended = installation.lse("archive", "fetch", "--date", str(DAY), "--json")
    assert ended.code == 1
    assert ["error" in entry for entry in ended.json] == [True, False]


def test_days_that_were_never_fetched(installation: Installation) -> None:
    one_line(installation.archive("zip"), 1, "has no run files", "lse archive fetch")
    one_line(installation.archive("upload"), 1, "has no zip", "lse archive zip")
    one_line(installation.archive("to-db"), 1, "there are no run files", "Fetch or restore the day first")
    one_line(installation.archive("to-db", "--dry-run"), 1, "there are no run files", "Fetch or restore the day first")
    assert content(installation.directory) == {}


def test_an_existing_day_is_changed_only_on_request(installation: Installation) -> None:
    installation.fill(3)
    assert installation.archive("fetch").code == 0
    before, requests_before = content(installation.directory), len(installation.langsmith.requests)

    one_line(installation.archive("fetch"), 1, "exists already", "--force fetches again and merges")
    bare = installation.lse("archive", "--project", PROJECT, "--date", str(DAY))
    one_line(bare, 1, "exists already")
    assert "not done: zip, upload" in bare.err
    assert content(installation.directory) == before
    assert len(installation.langsmith.requests) == requests_before

    assert installation.archive("fetch", "--refresh").code == 0


def test_a_drive_file_is_replaced_only_on_request(installation: Installation) -> None:
    installation.fill(3)
    assert installation.lse("archive", "--project", PROJECT, "--date", str(DAY)).code == 0
    [before] = installation.drive.store.named(installation.paths().zip.name)
    installation.store.generate(PROJECT, DAY, runs=4, mean_bytes=3000, seed=1)
    assert installation.archive("fetch", "--refresh").code == 0
    assert installation.archive("zip").code == 0

    one_line(installation.archive("upload"), 1, "on Drive has other content", "--force replaces it")
    assert installation.drive.store.named(installation.paths().zip.name) == [before]

    assert installation.archive("upload", "--force", "--json").entry["action"] == "replaced"
    [after] = installation.drive.store.named(installation.paths().zip.name)
    assert after["id"] == before["id"]
    assert installation.drive.store.content(after).read_bytes() == installation.paths().zip.read_bytes()


def test_drive_cannot_be_reached_or_is_not_set_up(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(3)
    bare = "archive", "--project", PROJECT, "--date", str(DAY)
    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", "")
    unset = installation.lse(*bare)
    one_line(unset, 1, "Google Drive is not configured", "--skip-upload")
    assert "✓ zip" in unset.out
    assert installation.paths().zip.exists()

    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", "not a link")
    one_line(installation.archive("upload"), 1, "GOOGLE_DRIVE_FOLDER_URL is not a Drive folder")
    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", installation.environment["GOOGLE_DRIVE_FOLDER_URL"])
    installation.drive.faults.add(Fault("status", on(path="/drive/v3"), status=401, body=b"{}"))
    one_line(installation.archive("upload"), 1, "Drive")
    assert installation.uploads() == 0


def test_postgres_cannot_be_reached(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(3)
    assert installation.archive("full-sweep").code == 0
    password = "hunter2-secret"
    monkeypatch.setenv("LSE_DATABASE_URL", f"postgresql://lse:{password}@127.0.0.1:9/lse?connect_timeout=2")

    loading = installation.archive("to-db", "--json")
    one_line(loading, 1, "cannot connect to Postgres", "Check that the server runs and that LSE_DATABASE_URL names it")
    assert loading.entry["error"]["what"] == "cannot connect to Postgres"
    one_line(installation.archive("to-db", "--dry-run"), 1, "cannot connect to Postgres")
    one_line(installation.archive("verify"), 1, "cannot connect to Postgres")
    one_line(installation.lse("db", "migrate"), 1, "cannot connect to Postgres")
    monkeypatch.setenv("LSE_DATABASE_URL", f"postgresql://lse:{password}@127.0.0.1:notaport/lse")
    malformed = installation.archive("to-db")
    one_line(malformed, 1, "127.0.0.1" if password in malformed.err else "Postgres")
    assert password not in malformed.err + loading.err


def test_a_day_with_missing_runs_is_published_with_exit_code_3(installation: Installation) -> None:
    installation.fill(5)
    installation.langsmith.behavior.stats_offset = 2

    swept = installation.archive("full-sweep", "--json")

    entry = swept.entry
    assert swept.code == 3
    assert (entry["fetch_result"]["proof"], entry["fetch_result"]["runs"]) == ("fewer", 5)
    assert entry["db_result"]["successful_inserts"] == 5  # the sweep continued
    [count] = [check for check in entry["checks"] if check["name"] == "langsmith_count"]
    assert (count["verdict"], count["differences"][0]["expected"]) == ("differs", "7")
    assert installation.archive("fetch", "--refresh").code == 3
    assert installation.archive("fetch", "--refresh", "--no-count").code == 0


def test_an_incomplete_day_is_kept_everywhere_named_and_healed(installation: Installation) -> None:
    """One run is never served, and one cannot be read: both are named in each place, and neither stops a step."""
    installation.fill(5)
    unserved = installation.put(1, midnight() + 1)
    unreadable = b'{"id":"not a uuid"}'
    installation.store.put_raw(PROJECT, unreadable, run_id=run_uuid(2), start_time=datetime.combine(DAY, time(1), UTC))
    installation.langsmith.behavior.broken_runs = {unserved: 500}
    name = f"_unreadable_{hashlib.sha256(unreadable).hexdigest()}.bin"

    swept = installation.archive("full-sweep", "--json")

    assert swept.code == 3, swept.err
    assert swept.entry["problems"] == []
    assert (swept.entry["fetch_result"]["proof"], swept.entry["fetch_result"]["runs"]) == ("fewer", 5)
    assert swept.entry["fetch_result"]["incomplete"] == [unserved, name]
    assert (swept.entry["db_result"]["successful_inserts"], swept.entry["db_result"]["errors"]) == (5, [])
    differing = {check["name"] for check in swept.entry["checks"] if check["verdict"] != "agrees"}
    assert differing == {"langsmith_count"}
    assert f"incomplete: {PROJECT}: {DAY}" in installation.lse("status", "--project", PROJECT).out
    state = read_state(installation.paths())
    assert is_fetch_due(ProjectConfig(PROJECT, DAY), DAY, state, datetime.now(UTC))
    prune = "prune", "--older-than", "1d", "--project", PROJECT, "--force", "--json"
    for command in (("archive", *prune), ("archive", *prune, "--what", "zips"), ("drive", *prune)):
        pruned = installation.lse(*command)
        assert "the day is incomplete" in pruned.entry["why"], pruned
    fetched = installation.archive("fetch", "--refresh")
    assert (fetched.code, fetched.out.count(unserved)) == (3, 1)

    before = snapshot(installation.directory / "data")
    shutil.rmtree(installation.directory / "data")
    shutil.rmtree(installation.directory / "archives")
    assert installation.archive("restore").code == 0
    assert snapshot(installation.directory / "data") == before
    verified = installation.archive("verify", "--json")
    [count] = [check for check in verified.entry["checks"] if check["name"] == "langsmith_count"]
    assert (verified.code, count["verdict"]) == (3, "differs")
    assert [row["item"] for row in count["differences"]] == [unserved, name]

    installation.langsmith.behavior.broken_runs = {}
    installation.store.delete([run_uuid(2)])
    healed = installation.archive("full-sweep", "--force", "--json")
    assert (healed.code, healed.entry["fetch_result"]["runs"]) == (0, 6)
    assert healed.entry["fetch_result"]["incomplete"] == []
    assert (installation.paths().folder / name).read_bytes() == unreadable


def test_an_old_empty_day_is_unproven(installation: Installation) -> None:
    installation.store.project(PROJECT)
    old = date(2024, 2, 29)

    ended = installation.archive("fetch", "--json", day=old)

    assert ended.code == 0
    assert (ended.entry["runs"], ended.entry["proof"]) == (0, "unproven")
    assert "cannot be proven" in installation.archive("fetch", "--refresh", day=old).out
