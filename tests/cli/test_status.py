"""`lse status`: the state of each day."""

from __future__ import annotations

from datetime import timedelta

import pytest
from home_fixtures import DAY, PROJECT, Installation

from lse_archive.days import today
from lse_archive.folder.state import update_state
from lse_archive.names import project_folder
from lse_resources.projects import ProjectConfig, add_project

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

    assert states() == ["here", "missing", False, False, False]
    assert installation.archive("full-sweep", "--force").code == 0
    assert states() == ["here", "here", True, True, True]
    installation.sql("DELETE FROM runs WHERE run_id = %s", min(installation.rows()))
    assert installation.archive("verify").code == 3
    [day] = [entry for entry in installation.lse("status", "--json").json if entry["date"] == str(DAY)]
    assert (day["verified"], day["differs"]) == (False, True)
    text = installation.lse("status").out
    assert f"differs: {PROJECT}: {DAY}" in text
    assert "✗" in text


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
    assert sum(entry["verified"] for entry in all_days) == 2
