"""`lse archive restore`: plan, questions, refusals and restored days."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from archive_fixtures import Archive, snapshot
from home_fixtures import Installation
from test_cli_prompts import terminal

from lse_archive.names import project_folder
from lse_archive.results import RestoreResult
from lse_demo.faults import Fault, Matchable
from lse_demo.google_drive.server import USER
from lse_operations.restore.restore import restore_day
from lse_operations.upload import find_copy_difference, upload_day
from lse_resources.open_destination import open_destination
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_day
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

FIRST = date(2026, 1, 1)
PROJECTS = ("shop / EMEA", "other")


@pytest.fixture
def archive(installation: Installation) -> Iterator[Archive]:
    """The archive of the installation."""
    with open_destination(Settings.load()) as destination:
        yield Archive(installation.directory, destination)


def test_a_month_of_two_projects_is_restored_with_its_rows(installation: Installation, archive: Archive) -> None:
    days = [FIRST + timedelta(days=number) for number in range(30)]
    for project in PROJECTS:
        for number, day in enumerate(days):
            paths = archive.add(day, project, runs=1 + number % 4, seed=f"{project} {day}")
            load_day(installation.database, project, day, paths.folder)
    before = snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)
    archive.delete_local()
    with psycopg.connect(installation.database.url) as connection:
        connection.execute("TRUNCATE runs, loads, days CASCADE")
    listed = installation.lse("archive", "restore", "--all-projects", "--dry-run", "--json")
    assert listed.code == 0
    assert [entry["action"] for entry in listed.json] == ["would restore"] * 60
    assert not archive.layout.data_dir.exists() or snapshot(archive.layout.data_dir) == {}
    ended = installation.lse("archive", "restore", "--all-projects", "--to-db", "--json")
    assert ended.code == 0, ended.err
    assert [entry["action"] for entry in ended.json] == ["restored"] * 60
    assert sum(entry["db_result"]["successful_inserts"] for entry in ended.json) == sum(e["runs"] for e in ended.json)
    assert (snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)) == before
    with installation.database.connect() as connection:
        noted = connection.execute("SELECT count(*), sum(rows) FROM days WHERE loaded_at IS NOT NULL").fetchone()
    assert noted == (60, sum(entry["runs"] for entry in ended.json))
    for project in PROJECTS:
        for day in days:
            assert verify_day(installation.database, project, day, archive.paths(day, project).folder).is_consistent
    again = installation.lse("archive", "restore", "--all-projects")
    assert (again.code, again.out.count("unchanged: the local day has the same content")) == (0, 60)


def test_a_day_that_differs_is_not_replaced_without_a_confirmation(
    installation: Installation, archive: Archive
) -> None:
    same, differing = archive.add(FIRST, "other"), archive.add(FIRST + timedelta(days=1), "other")
    victim = next(differing.folder.glob("0*.json"))
    victim.write_bytes(b"{")
    ended = installation.lse("archive", "restore", "--project", "other", "--json")
    assert ended.code == 1
    assert "--force replaces it" in ended.err
    assert victim.read_bytes() == b"{"
    [first, second] = ended.json
    assert (first["action"], second["error"]["step"]) == ("unchanged", "restore")
    forced = installation.lse("archive", "restore", "--project", "other", "--force", "--json")
    assert (forced.code, [entry["action"] for entry in forced.json]) == (0, ["unchanged", "replaced"])
    assert victim.read_bytes() != b"{"
    assert same.folder.is_dir()


@pytest.mark.parametrize("planned", ["unchanged", "would restore"])
def test_a_day_that_changes_after_the_plan_is_not_replaced_without_a_confirmation(
    installation: Installation, archive: Archive, monkeypatch: pytest.MonkeyPatch, planned: str
) -> None:
    paths = archive.add(FIRST, "other")
    if planned == "would restore":
        shutil.rmtree(paths.folder)

    def after_another(*arguments: Any) -> RestoreResult:
        archive.write(FIRST, "other", outputs={"answer": "of another process"})
        return restore_day(*arguments)

    monkeypatch.setattr("lse_cli.work.restore.restore_day", after_another)
    ended = installation.lse("archive", "restore", "--project", "other", "--json")
    assert (ended.code, ended.entry["action"]) == (1, planned)
    assert "--force replaces it" in ended.entry["error"]["todo"]
    written = next(paths.folder.glob("0*.json"))
    assert b"of another process" in written.read_bytes()
    forced = installation.lse("archive", "restore", "--project", "other", "--force", "--json")
    assert (forced.code, forced.entry["action"]) == (0, "replaced")
    assert b"of another process" not in written.read_bytes()


def test_a_confirmation_is_for_one_day(installation: Installation, archive: Archive) -> None:
    days = [FIRST, FIRST + timedelta(days=1)]
    victims = [next(archive.add(day, "other").folder.glob("0*.json")) for day in days]
    for victim in victims:
        victim.write_bytes(b"{")
    with terminal(installation, "archive", "restore", "--project", "other") as shown:
        for day, answer in zip(days, "yn", strict=True):
            shown.until(f"{day} differs from the copy on Drive")
            shown.until("[y/N]: ")
            shown.type(f"{answer}\n")
        assert shown.end() == 1
    assert [victim.read_bytes() == b"{" for victim in victims] == [False, True]


def test_a_local_file_that_cannot_be_read_fails_only_its_day(installation: Installation, archive: Archive) -> None:
    bad, good = archive.add(FIRST, "other"), archive.add(FIRST + timedelta(days=1), "other")
    (bad.folder / "zz.json").symlink_to(installation.directory / "nowhere")
    shutil.rmtree(good.folder)
    ended = installation.lse("archive", "restore", "--project", "other", "--force", "--json")
    assert ended.code == 1
    [first, second] = ended.json
    assert "No such file" in first["error"]["why"]
    assert "zz.json" in first["error"]["why"]
    assert second["action"] == "restored"
    assert good.folder.is_dir()


def test_a_folder_of_unknown_project_does_not_stop_the_others(installation: Installation, archive: Archive) -> None:
    long = "x" * 230
    archive.add(FIRST, long)
    alone = installation.lse("archive", "restore", "--all-projects", "--json")
    assert (alone.code, [entry["error"]["step"] for entry in alone.json]) == (1, ["restore"])
    paths = archive.add(FIRST, "other")
    archive.delete_local()
    ended = installation.lse("archive", "restore", "--all-projects", "--json")
    assert ended.code == 1
    [left_out, restored] = ended.json
    assert left_out["project"] == project_folder(long)
    assert "--project NAME" in left_out["error"]["todo"]
    assert restored["action"] == "restored"
    assert paths.folder.is_dir()


@pytest.mark.parametrize("selection", [["--all-projects"], ["--project", "other"]])
def test_two_folders_of_the_same_name_are_read_as_one(
    installation: Installation, archive: Archive, selection: list[str]
) -> None:
    days = [archive.add(FIRST + timedelta(days=number), "other") for number in range(2)]
    second = installation.drive.store.add_folder("other", USER, parent=Settings.load().drive.folder)
    installation.drive.store.move(days[1].zip.name, second)
    assert upload_day(archive.destination, days[1]).action == "unchanged"
    assert find_copy_difference(archive.destination, days[1]) is None
    archive.delete_local()
    ended = installation.lse("archive", "restore", *selection, "--json")
    assert (ended.code, [entry["action"] for entry in ended.json]) == (0, ["restored"] * 2)
    assert all(paths.folder.is_dir() for paths in days)


def test_a_range_is_restored(installation: Installation, archive: Archive) -> None:
    for number in range(4):
        archive.add(FIRST + timedelta(days=number), "other", runs=1)
    archive.delete_local()
    ended = installation.lse(
        "archive", "restore", "--project", "other", "--start-date", "2026-01-02", "--end-date", "2026-01-03", "--json"
    )
    assert [entry["date"] for entry in ended.json] == ["2026-01-02", "2026-01-03"]
    ended = installation.lse(
        "archive", "restore", "--project", "other", "--date", "2026-01-01", "--verify-only", "--json"
    )
    assert [(entry["date"], entry["action"]) for entry in ended.json] == [("2026-01-01", "proven")]
    assert sorted(path.name for path in (archive.layout.data_dir / "other").iterdir() if path.name[0] != ".") == [
        "2026-01-02",
        "2026-01-03",
    ]


def test_one_bad_day_does_not_stop_the_others(installation: Installation, archive: Archive) -> None:
    good, bad = archive.add(FIRST, "other"), archive.add(FIRST + timedelta(days=1), "other")
    [doc] = installation.drive.store.named(bad.zip.name)
    installation.drive.store.content(doc).write_bytes(bytes(int(doc["size"])))
    archive.delete_local()
    ended = installation.lse("archive", "restore", "--project", "other", "--json")
    assert ended.code == 1
    assert [entry.get("error", {}).get("step") for entry in ended.json] == [None, "restore"]
    assert good.folder.is_dir()
    assert not bad.folder.exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--project", "x", "--all-projects"], 2, "--all-projects"),
        (["--project", "x", "--date", "2026-01-01", "--start-date", "2026-01-01"], 2, "--date"),
        (["--project", "x", "--start-date", "2026-01-02", "--end-date", "2026-01-01"], 2, "ends before"),
        (["--project", "x", "--date", "yesterday"], 2, "not a day"),
        (["--project", " "], 2, "empty"),
        (["--verify-only", "--dry-run"], 2, "--verify-only"),
        ([], 2, "no project is selected"),
        (["--project", "nobody's"], 1, "nothing to restore on Drive"),
    ],
)
def test_wrong_usage_is_one_error_line(installation: Installation, options: list[str], code: int, text: str) -> None:
    ended = installation.lse("archive", "restore", *options)
    assert (ended.code, ended.err.count("\n")) == (code, 1)
    assert text in ended.err


def test_files_are_restored_without_a_database(
    installation: Installation, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = archive.add(FIRST, "other")
    shutil.rmtree(paths.folder)
    monkeypatch.setenv("LSE_DATABASE_URL", "postgresql://127.0.0.1:1/none?connect_timeout=1")
    ended = installation.lse("archive", "restore", "--project", "other", "--to-db", "--json")
    assert ended.code == 1
    assert paths.folder.is_dir()
    assert json.loads(ended.out)["results"][0]["error"]["what"]


def test_restored_days_stay_on_the_screen_above_the_bars(installation: Installation, archive: Archive) -> None:
    days = [FIRST + timedelta(days=number) for number in range(4)]
    for day in days:
        archive.add(day, "other")
    archive.delete_local()
    arrived, first, second = threading.Semaphore(0), threading.Event(), threading.Event()

    def hold() -> None:
        arrived.release()
        first.wait(60)

    def is_download(request: Matchable) -> bool:
        return request.query.get("alt") == "media"

    installation.drive.faults.add(Fault("call", is_download, times=3, action=hold))
    installation.drive.faults.add(Fault("call", is_download, after=3, action=lambda: second.wait(60)))
    try:
        with terminal(installation, "archive", "restore", "--project", "other") as shown:
            for _ in range(3):
                assert arrived.acquire(timeout=60)
            shown.until("━")
            first.set()
            for _ in range(3):
                shown.until("✓ other")
            shown.until("━")
            second.set()
            assert shown.end() == 0
    finally:
        first.set()
        second.set()
    rows = [row.partition(": ")[:2] for row in shown.rows() if row]
    assert rows == [(f"  {sign}other {day}", ": ") for sign in ("", "✓ ") for day in days]
