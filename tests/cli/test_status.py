"""`lse status`: the state of each day."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any

import pytest
from home_fixtures import DAY, PROJECT, Installation, midnight

from lse_archive.days import today
from lse_archive.folder.state import update_state
from lse_archive.names import project_folder
from lse_demo.faults import Fault, on
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow


def list_project(installation: Installation, back: int, name: str = PROJECT) -> None:
    add_project(installation.directory / "projects.toml", ProjectConfig(name, today() - timedelta(days=back)))


def test_the_places_of_a_day_are_shown(installation: Installation) -> None:
    installation.fill()
    list_project(installation, 4)
    assert installation.archive("fetch").code == 0
    places = ("files", "zip", "drive", "postgres", "verified")

    def states() -> list[object]:
        [day] = [entry for entry in installation.lse("status", "--json").json if entry["date"] == str(DAY)]
        return [day[name] for name in places]

    assert states() == ["here", "missing", False, False, None]
    assert installation.archive("full-sweep", "--force").code == 0
    assert states() == ["here", "here", True, True, "proven"]
    installation.sql("DELETE FROM runs WHERE run_id = %s", min(installation.rows()))
    assert installation.archive("verify").code == 3
    [day] = [entry for entry in installation.lse("status", "--json").json if entry["date"] == str(DAY)]
    assert (day["verified"], day["differs"]) == ("wrong", True)
    text = installation.lse("status").out
    assert f"differs: {PROJECT}: {DAY}" in text
    assert "✗" in text


def test_a_day_that_cannot_be_proven_has_a_mark_and_a_line_of_its_own(installation: Installation) -> None:
    old = today() - timedelta(days=60)
    installation.fill(3, day=old)
    installation.fill(3)
    list_project(installation, 62)
    for day in (old, DAY):
        assert installation.archive("full-sweep", day=day).code == 0
    span = ["--start-date", str(old - timedelta(days=2))]
    verified = {day["date"]: day["verified"] for day in installation.lse("status", "--json", *span).json}
    assert {day: verdict for day, verdict in verified.items() if verdict} == {
        str(old): "not_provable",
        str(DAY): "proven",
    }
    text = installation.lse("status", *span).out
    assert f"not provable: {PROJECT}: {old}\n" in text
    assert f"gap: {PROJECT}: {old - timedelta(days=2)} to {old - timedelta(days=1)}, {old + timedelta(days=1)}" in text
    assert ", no longer in LangSmith\n" in text
    assert sum(line.count("○") for line in text.splitlines() if line.startswith("  verified")) == 1
    assert installation.rows(day=old)
    recorded = installation.database.connect().execute("SELECT run_date, verdict FROM days ORDER BY 1").fetchall()
    assert recorded == [(old, "not_provable"), (DAY, "proven")]


def test_the_retention_is_what_langsmith_told_at_the_last_fetch(installation: Installation) -> None:
    behavior, faults = installation.langsmith.behavior, installation.langsmith.faults
    old = today() - timedelta(days=20)
    installation.fill(1)
    installation.fill(1, day=old)
    list_project(installation, 20)

    def days() -> dict[str, dict[str, Any]]:
        return {day["date"]: day for day in installation.lse("status", "--json").json}

    assert days()[str(DAY)]["retention"] == {"days": 14, "read_at": None}
    assert "for 14 days, by retention_days in projects.toml" in installation.lse("status").out
    assert days()[str(old)]["behind"] == []
    behavior.trace_tier, behavior.longlived_days = "longlived", 30
    assert installation.archive("fetch").code == 0
    assert days()[str(old)]["behind"] == ["files"]
    assert days()[str(old)]["last_day"] == str(old + timedelta(days=29))
    # It may have been kept for less when it began: only what retention_days admits is proven.
    assert installation.archive("fetch", "--json", day=old).entry["proof"] == "unproven"

    behavior.longlived_days = None
    faults.add(Fault("status", on("GET", "/workspaces/current/ttl-settings"), status=500))
    assert installation.archive("fetch", "--force").code == 0
    assert days()[str(old)]["retention"]["days"] == 30  # and not the documented 180
    behavior.trace_tier = "shortlived"
    assert installation.archive("fetch", "--force").code == 0
    requests = len(installation.langsmith.requests)
    assert days()[str(old)]["last_day"] is None
    told = f"{PROJECT}: LangSmith keeps its traces for 14 days, as its API answered on {today()}\n"
    assert told in installation.lse("status").out
    assert len(installation.langsmith.requests) == requests


def test_a_sweep_over_days_that_langsmith_no_longer_has_archives_none_of_them(installation: Installation) -> None:
    installation.fill(3)
    list_project(installation, 20)
    span = ["--start-date", str(today() - timedelta(days=20)), "--end-date", str(DAY), "--project", PROJECT]
    ended = installation.lse("archive", "full-sweep", *span)
    assert ended.code == 0, ended.err
    first, last = today() - timedelta(days=20), today() - timedelta(days=14)
    gone = f"{first} to {last} (7 days)"
    assert f"not archived, because LangSmith no longer has them: {PROJECT}: {gone}" in ended.err
    assert ended.out.count("not archived: LangSmith serves no run of the day") == 7
    days = [str(today() - timedelta(days=back)) for back in range(13, 2, -1)]
    assert [str(day) for day in Settings.load().layout.days(PROJECT)] == days
    assert len(list((installation.directory / "archives").glob("*.zip"))) == len(days)
    assert installation.uploads() == len(days)
    assert f"gap: {PROJECT}: {gone}, no longer in LangSmith" in installation.lse("status").out
    again = installation.archive("full-sweep", "--json", day=first)
    assert (again.code, again.entry["fetch_result"]["outcome"]) == (0, "not_served")
    assert [again.entry[name] for name in ("zip_result", "upload_result", "db_result")] == [None] * 3


def test_without_a_destination_a_day_can_be_proven(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(3)
    list_project(installation, 3)
    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", "")
    assert installation.archive("full-sweep", "--skip-upload").code == 0
    span = ["--start-date", str(DAY), "--end-date", str(DAY)]
    day = installation.lse("status", "--json", *span).entry
    assert (day["verified"], day["behind"], day["drive"]) == ("proven", [], False)
    assert "1 day, no gap" in installation.lse("status", *span).out


def test_a_place_that_cannot_be_reached_is_no_difference(installation: Installation) -> None:
    installation.fill(3)
    list_project(installation, 3)
    assert installation.archive("full-sweep").code == 0
    installation.drive.faults.add(Fault("status", status=401))
    assert installation.archive("verify").code == 1
    installation.drive.faults.clear()
    span = ["--start-date", str(DAY), "--end-date", str(DAY)]
    assert installation.lse("status", "--json", *span).entry["verified"] == "proven"


def test_days_that_were_not_uploaded_are_behind(installation: Installation) -> None:
    list_project(installation, 9)
    days = [today() - timedelta(days=back) for back in range(9, 4, -1)]
    span = ["--project", PROJECT, "--start-date", str(days[0]), "--end-date", str(days[-1])]
    for day in days:
        installation.fill(2, day=day)
    installation.drive.faults.add(Fault("status", on(path="/drive/v3/files"), status=401))
    assert installation.lse("archive", "full-sweep", *span).code == 1
    shown = installation.lse("status", *span[2:])
    assert f"behind: {PROJECT}: {days[0]} to {days[-1]} (5 days): upload, verify\n" in shown.out
    assert "no gap" not in shown.out
    assert {tuple(day["behind"]) for day in installation.lse("status", "--json", *span[2:]).json} == {
        ("drive", "verified")
    }
    installation.drive.faults.clear()
    doctor = installation.lse("doctor")
    assert doctor.code == 1
    assert f"{PROJECT}: {days[0]} to {days[-1]} (5 days) are behind: upload, verify" in doctor.out
    [command] = [line for line in doctor.out.splitlines() if "full-sweep --force --skip-fetch" in line]
    assert installation.lse(*shlex.split(command.rpartition("now: lse ")[2])).code == 0
    assert "5 days, no gap" in installation.lse("status", *span[2:]).out
    assert " behind: " not in installation.lse("doctor").out


def test_content_that_changed_since_its_upload_is_behind(installation: Installation) -> None:
    list_project(installation, 3)
    installation.fill(2)
    assert installation.archive("full-sweep").code == 0
    installation.put(1, midnight())
    assert installation.archive("fetch", "--force").code == 0
    day = installation.lse("status", "--json", "--start-date", str(DAY), "--end-date", str(DAY)).entry
    assert (day["drive"], day["behind"]) == (False, ["drive", "verified"])


def test_a_pruned_day_that_another_database_does_not_know_is_verified(installation: Installation) -> None:
    list_project(installation, 9)
    day = today() - timedelta(days=5)
    span = ["--project", PROJECT, "--start-date", str(day), "--end-date", str(day)]
    installation.fill(2, day=day)
    assert installation.lse("archive", "full-sweep", *span).code == 0
    assert installation.lse("archive", "prune", "--project", PROJECT, "--older-than", "1d", "--force").code == 0
    installation.sql("DELETE FROM days")
    installation.sql("DELETE FROM runs")
    # Nothing can be loaded without files: the platform would say for ever that it is going to.
    assert f"behind: {PROJECT}: {day}: verify\n" in installation.lse("status", *span[2:]).out
    [command] = [line for line in installation.lse("doctor").out.splitlines() if "lse archive verify" in line]
    assert installation.lse(*shlex.split(command.rpartition("now: lse ")[2])).code == 3
    shown = installation.lse("status", *span[2:]).out
    assert "behind" not in shown
    assert f"differs: {PROJECT}: {day}\n" in shown


def test_gaps_and_days_about_to_expire_are_marked(installation: Installation) -> None:
    list_project(installation, 40)
    ended = installation.lse("status", "--json", "--start-date", str(today() - timedelta(days=40)))
    assert len(ended.json) == 40
    assert all(entry["gap"] for entry in ended.json)
    expiring = [entry["date"] for entry in ended.json if entry["expires"]]
    assert expiring == [str(today() - timedelta(days=back)) for back in (13, 12, 11, 10)]
    text = installation.lse("status").out
    assert f"about to expire: {PROJECT}: {expiring[0]} to {expiring[-1]} (4 days)" in text
    assert f"gap: {PROJECT}" in text
    assert len({len(line) for line in text.splitlines() if line.startswith(("  files", "  zip"))}) == 1


def test_without_a_database_the_other_places_are_shown(bare_installation: Installation) -> None:
    list_project(bare_installation, 3)
    ended = bare_installation.lse("status")
    assert ended.code == 0
    assert "the state of Postgres is unknown" in ended.err
    assert "?" in ended.out


def test_a_new_project_says_what_starts_at_once(bare_installation: Installation) -> None:
    projects = bare_installation.directory / "projects.toml"
    start = str(today() - timedelta(days=100))
    said = bare_installation.lse("projects", "add", "one", "--start", start).out
    oldest = today() - timedelta(days=13)
    assert (
        f"LangSmith still has 13 days of it, from {oldest} on: the platform (lse up) starts with them at once" in said
    )
    projects.write_text(f'schedule = "off"\n{projects.read_text()}')
    assert "at once" not in bare_installation.lse("projects", "add", "two", "--start", start).out
    projects.write_text(projects.read_text().replace('schedule = "off"', "retention_days = 400", 1))
    assert "still has 100 days of it" in bare_installation.lse("projects", "add", "three", "--start", start).out


def test_without_projects_the_error_names_the_command_that_adds_one(bare_installation: Installation) -> None:
    for options in ([], ["--project", "typo"]):
        ended = bare_installation.lse("status", *options)
        assert ended.code == 2
        assert f"there is no file {bare_installation.directory / 'projects.toml'}" in ended.err
        assert "lse projects add" in ended.err


def test_archived_projects_that_are_not_listed_are_shown(bare_installation: Installation) -> None:
    bare_installation.paths().folder.mkdir(parents=True)
    update_state(bare_installation.paths(day=DAY - timedelta(days=2)), verified_at="2026-01-01T00:00:00Z")
    bare_installation.paths("zip alone").zip.parent.mkdir(parents=True)
    bare_installation.paths("zip alone").zip.touch()
    all_projects = bare_installation.lse("status", "--json")
    assert [(entry["project"], entry["date"]) for entry in all_projects.json] == [(PROJECT, str(DAY))]
    alone = bare_installation.lse("status", "--json", "--project", "zip alone")
    assert [(entry["date"], entry["zip"]) for entry in alone.json] == [(str(DAY), "here")]
    list_project(bare_installation, 3, "listed")
    assert {entry["project"] for entry in bare_installation.lse("status", "--json").json} == {"listed", PROJECT}


def test_days_that_only_have_run_files_are_named(bare_installation: Installation) -> None:
    list_project(bare_installation, 3)
    for back in (1, 2, 3):
        bare_installation.paths(day=today() - timedelta(days=back)).folder.mkdir(parents=True)
    bare_installation.paths().zip.parent.mkdir(parents=True)
    bare_installation.paths().zip.touch()
    alone = f"{today() - timedelta(days=2)} to {today() - timedelta(days=1)} (2 days)"
    assert f"only run files, no copy elsewhere: {PROJECT}: {alone}" in bare_installation.lse("status").out


@pytest.mark.parametrize("options", [["--start-date", "2026-02-01", "--end-date", "2026-01-01"], ["--end-date", "x"]])
def test_an_invalid_range_is_refused(bare_installation: Installation, options: list[str]) -> None:
    list_project(bare_installation, 3)
    assert bare_installation.lse("status", *options).code == 2


def test_two_years_of_two_projects_are_shown(bare_installation: Installation) -> None:
    """The time is measured in bench/orchestration.py: it grows with the days shown, not with the archive."""
    for name in ("a", "b"):
        list_project(bare_installation, 730, name)
        data = bare_installation.directory / "data" / project_folder(name)
        for back in range(1, 731):
            paths = bare_installation.paths(name, today() - timedelta(days=back))
            paths.folder.mkdir(parents=True)
        update_state(bare_installation.paths(name, today() - timedelta(days=1)), verified_at="2026-01-01T00:00:00Z")
        assert len(list(data.iterdir())) == 731
    assert len(bare_installation.lse("status", "--json").json) == 60
    all_days = bare_installation.lse("status", "--json", "--start-date", str(today() - timedelta(days=730))).json
    assert len(all_days) == 1460
    assert sum(entry["verified"] is not None for entry in all_days) == 2
