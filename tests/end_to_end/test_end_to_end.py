"""A day from LangSmith to all four places with the command line, and again after LangSmith has lost runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from datetime import date, timedelta
from pathlib import Path

import pytest
from home_fixtures import DAY, PROJECT, Installation, midnight, run_uuid

from lse_archive.days import compact_time
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_demo.faults import Fault, on

pytestmark = pytest.mark.slow

_DAY_MICROSECONDS = 86_400_000_000


def everything(*directories: Path) -> dict[str, tuple[bytes, int]]:
    """Returns content and modification time of every published file."""
    paths = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
    published = [path for path in paths if ".lse" not in path.parts]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in published}


def run_files(installation: Installation, project: str = PROJECT, day: date = DAY) -> dict[str, bytes]:
    """Returns the run files of a day by the ids at the start of their names."""
    folder = installation.paths(project, day).folder
    return {path.name[:36]: path.read_bytes() for path in folder.glob("*.json") if not path.name.startswith("_")}


def zipped_runs(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name[:36]: archive.read(name) for name in archive.namelist() if not name.startswith("_")}


def test_a_second_sweep_changes_nothing_and_reports_that(installation: Installation) -> None:
    installation.fill(30)
    first = installation.archive("full-sweep", "--force")
    assert first.code == 0, first.err
    before, rows, uploads = (
        everything(installation.directory / "data", installation.directory / "archives"),
        installation.rows(),
        1,
    )
    assert (len(rows), installation.uploads()) == (30, uploads)

    second = installation.archive("full-sweep", "--force")

    assert second.code == 0
    for word in ("fetch   unchanged", "zip     unchanged", "the destination has this content", "30 unchanged", "agree"):
        assert word in second.out
    assert everything(installation.directory / "data", installation.directory / "archives") == before
    assert installation.rows() == rows  # ctid and xmin too: no row was rewritten
    assert installation.uploads() == uploads


def test_runs_deleted_in_langsmith_stay_in_the_archive(installation: Installation) -> None:
    installation.fill(20)
    assert installation.archive("full-sweep", "--force").code == 0
    folders = installation.directory / "data", installation.directory / "archives"
    before, rows, uploads = everything(*folders), installation.rows(), installation.uploads()

    installation.store.delete(sorted(rows)[:8])
    fewer = installation.archive("fetch", "--force", "--json").entry
    assert (fewer["outcome"], fewer["runs"], fewer["no_longer_served"]) == ("unchanged", 20, 8)

    installation.store.delete(rows)
    none = installation.archive("full-sweep", "--force", "--json")
    assert none.code == 0
    assert none.entry["fetch_result"]["no_longer_served"] == 20

    installation.langsmith.behavior.api_keys = frozenset(("another",))
    refused = installation.archive("fetch", "--force")
    assert refused.code == 1
    assert "Check LANGSMITH_API_KEY" in refused.err

    installation.langsmith.behavior.api_keys = frozenset((installation.environment["LANGSMITH_API_KEY"],))
    installation.store.delete_project(PROJECT)
    gone = installation.archive("fetch", "--force")
    assert gone.code == 1
    assert f"LangSmith has no project '{PROJECT}'" in gone.err

    assert everything(*folders) == before
    assert installation.rows() == rows
    assert installation.uploads() == uploads


def test_all_four_places_have_exactly_the_runs_of_the_day(installation: Installation) -> None:
    start, end = midnight(), midnight() + _DAY_MICROSECONDS
    # Two runs on the first microsecond and one on the last one test the limits of the day.
    ids = {installation.put(1, start), installation.put(2, start, parent=1), installation.put(3, end - 1)}
    ids |= {installation.put(4, start + 7, end_time=None, status="PENDING")}
    ids |= {installation.put(number, start + 1_000_000) for number in range(10, 60)}  # all on one microsecond
    ids |= {installation.put(5, start + 8, inputs={"text": "x" * 5_000_000})}
    ids |= {installation.put(6, start + 9, name="../../🤖 'agent' \"v2\"\\<%00>/x")}
    installation.put(8, start - 1)
    before = f"{compact_time(start - 1)}{run_uuid(8)}"
    ids |= {installation.put(7, start + 10, parent=8, dotted_order=f"{before}.{compact_time(start + 10)}{run_uuid(7)}")}
    installation.put(9, end)

    swept = installation.archive("full-sweep", "--json")

    assert swept.code == 0, swept.err
    assert (swept.entry["fetch_result"]["runs"], swept.entry["fetch_result"]["pending"]) == (57, 1)
    served = {run.id: run.v2 for run in installation.store.runs(PROJECT) if run.id in ids}
    assert run_files(installation) == served  # byte for byte
    assert zipped_runs(installation.paths().zip) == served
    [on_drive] = installation.drive.store.named(installation.paths().zip.name)
    assert installation.drive.store.content(on_drive).read_bytes() == installation.paths().zip.read_bytes()
    assert {run: row[-1] for run, row in installation.rows().items()} == {
        run: json.loads(v2) for run, v2 in served.items()
    }
    summary = json.loads((installation.paths().folder / SUMMARY).read_bytes())
    assert summary["continued_from_previous_day"] == [run_uuid(8)]


def test_projects_of_any_name(installation: Installation) -> None:
    names = ["../a", 'it\'s "quoted" \\ 100%', "🤖 агент 東京", "x" * 250, "a", "A"]
    for number, name in enumerate(names):
        assert installation.lse("projects", "add", name, "--start", str(DAY)).code == 0
        installation.put(number, midnight(), project=name)

    swept = installation.lse("archive", "--date", str(DAY), "--json")

    assert swept.code == 0, swept.err
    assert [(entry["project"], entry["fetch_result"]["runs"]) for entry in swept.json] == [(name, 1) for name in names]
    for number, name in enumerate(names):
        assert list(run_files(installation, name)) == [run_uuid(number)]
        assert (
            installation.paths(name).folder.parent.parent == installation.directory / "data"
        )  # one level deep, whatever the name
        assert installation.drive.store.named(installation.paths(name).zip.name)


def test_runs_that_jsonb_cannot_store_are_kept_marked_and_consistent(installation: Installation) -> None:
    plain, nul, half = installation.put(1, midnight()), installation.put(2, midnight() + 1), run_uuid(3)
    installation.put(2, midnight() + 1, outputs={"text": "a\u0000b"})
    half_a_pair = installation.store.run(plain)
    assert half_a_pair
    raw = half_a_pair.v2.replace(plain.encode(), half.encode()).replace(b'"yes"', b'"cut \\ud83d off"')
    installation.store.put_raw(PROJECT, raw)

    swept = installation.archive("full-sweep", "--json")

    assert swept.code == 0, swept.err
    assert swept.entry["db_result"]["marked"] == 2
    assert swept.entry["verification_result"]["is_consistent"]
    assert swept.entry["verification_result"]["marked_runs"] == sorted((nul, half))
    assert run_files(installation)[half] == raw
    assert b"\\u0000" in run_files(installation)[nul]
    assert {run: bool(row[3]) for run, row in installation.rows().items()} == {plain: False, nul: True, half: True}


def test_standard_tools_accept_folder_and_zip(installation: Installation, tmp_path: Path) -> None:
    installation.fill(12)
    assert installation.archive("full-sweep", "--skip-upload", "--skip-db").code == 0
    folder, archive = installation.paths().folder, installation.paths().zip
    first = archive.read_bytes()
    archive.unlink()
    os.utime(next(folder.glob("*.json")))
    assert installation.archive("zip").code == 0
    assert archive.read_bytes() == first

    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        opened.extractall(unpacked)
    for checked in (folder, unpacked):
        lines = [line.split("  ", 1) for line in (checked / SUMS).read_text().splitlines()]
        assert {name for _, name in lines} == {path.name for path in checked.iterdir()} - {SUMS}
        for digest, name in lines:
            assert hashlib.sha256((checked / name).read_bytes()).hexdigest() == digest
        if sums := shutil.which("sha256sum"):
            subprocess.run([sums, "--check", "--strict", "--quiet", SUMS], cwd=checked, check=True)
    if unzip := shutil.which("unzip"):
        subprocess.run([unzip, "-tq", archive], check=True, capture_output=True)


def test_a_range_of_days_and_all_projects(installation: Installation) -> None:
    days = [DAY - timedelta(days=1), DAY]
    for project in (PROJECT, "second"):
        assert installation.lse("projects", "add", project, "--start", str(DAY)).code == 0
        for day in days:
            installation.fill(4, project, day)

    # The first day is before the projects' start.
    swept = installation.lse("archive", "fetch", "--start-date", str(days[0]), "--end-date", str(days[1]), "--json")

    assert swept.code == 0, swept.err
    found = [(entry["project"], entry["date"], entry["runs"]) for entry in swept.json]
    assert found == [(project, str(day), 4) for project in (PROJECT, "second") for day in days]


def test_file_steps_work_without_the_database_and_rows_are_loaded_later(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fill(5)
    url = installation.environment["LSE_DATABASE_URL"]
    monkeypatch.setenv("LSE_DATABASE_URL", "postgresql://127.0.0.1:9/lse?connect_timeout=2")
    without = installation.archive("full-sweep", "--json")

    assert without.code == 1
    entry = without.entry
    assert (entry["fetch_result"]["runs"], entry["zip_result"]["written"]) == (5, True)
    assert entry["upload_result"]["action"] == "created"
    assert (entry["db_result"], entry["error"]["step"]) == (None, "load")
    assert "cannot connect to Postgres" in without.err
    assert "Continuing without the database" in without.err
    assert "not done: index, verify" in without.err

    monkeypatch.setenv("LSE_DATABASE_URL", url)
    assert installation.archive("to-db", "--json").entry["successful_inserts"] == 5
    assert installation.archive("verify").code == 0


def test_file_steps_work_without_dagsters_database(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(5)
    monkeypatch.setenv("LSE_DAGSTER_DATABASE_URL", "postgresql://me:hush@127.0.0.1:9/dagster?connect_timeout=2")
    fetched = installation.script("archive", "fetch", "--project", PROJECT, "--date", str(DAY))

    assert fetched.returncode == 0, fetched.stderr
    assert "✓ fetch" in fetched.stdout
    assert "cannot connect to Dagster's database: " in fetched.stderr
    assert "Check LSE_DAGSTER_DATABASE_URL" in fetched.stderr
    assert fetched.stderr.count("\n") == 2
    assert "hush" not in fetched.stderr
    assert installation.paths().folder.is_dir()

    loaded = installation.archive("to-db")
    assert loaded.code == 1
    assert "cannot connect to Dagster's database" in loaded.err


def test_the_load_works_without_drive(installation: Installation) -> None:
    installation.fill(5)
    installation.drive.faults.add(Fault("status", on("GET", "/drive/v3/files"), status=404, body=b"{}"))

    swept = installation.archive("full-sweep", "--json")

    assert swept.code == 1
    assert swept.entry["error"]["step"] == "upload"
    assert swept.entry["db_result"]["successful_inserts"] == 5
    assert "not done: verify" in swept.err
    installation.drive.faults.clear()
    assert installation.archive("full-sweep", "--force", "--skip-fetch").code == 0


def test_an_experiment_is_discovered_and_archived_when_it_is_named(installation: Installation) -> None:
    dataset = "0190f0a0-0000-7000-8000-000000000000"
    installation.store.add_project("experiment\x1b", reference_dataset_id=dataset)
    installation.fill(4, "experiment\x1b")
    installation.fill(1)

    tracing = json.loads(installation.lse("projects", "discover", "--json").out)["projects"]
    shown = installation.lse("projects", "discover", "--experiments")
    [experiment] = json.loads(installation.lse("projects", "discover", "--experiments", "--json").out)["projects"]

    assert [(project["name"], project["dataset_id"], project["listed"]) for project in tracing] == [
        (PROJECT, None, False)
    ]
    assert "experiment\\x1b" in shown.out
    assert "not in the list" in shown.out
    assert (experiment["dataset_id"], experiment["retention_days"]) == (dataset, 14)
    swept = installation.archive("full-sweep", "--json", project=experiment["name"])
    assert (swept.code, swept.entry["verification_result"]["total_runs_in_db"]) == (0, 4)
