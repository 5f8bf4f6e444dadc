"""`lse status`: where each day stands."""

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


def test_a_day_is_shown_at_every_place_it_has_reached(installation: Installation) -> None:
    installation.fill()
    list_project(installation, 4)
    assert installation.archive("fetch").code == 0
    place = ("files", "zip", "drive", "postgres", "verified")

    def stands() -> list[object]:
        [day] = [entry for entry in installation.lse("status", "--json").json if entry["date"] == str(DAY)]
        return [day[name] for name in place]

    assert stands() == ["here", "missing", False, False, False]
    assert installation.archive("full-sweep", "--force").code == 0
    assert stands() == ["here", "here", True, True, True]
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


def test_without_a_database_the_rest_is_known(bare_installation: Installation) -> None:
    list_project(bare_installation, 3)
    ended = bare_installation.lse("status")
    assert ended.code == 0
    assert "nothing is known of Postgres" in ended.err
    assert "?" in ended.out


def test_without_projects_it_says_how_to_add_one(bare_installation: Installation) -> None:
    for options in ([], ["--project", "typo"]):
        ended = bare_installation.lse("status", *options)
        assert ended.code == 2
        assert f"there is no file {bare_installation.directory / 'projects.toml'}" in ended.err
        assert "lse projects add" in ended.err


def test_what_was_archived_without_being_listed_is_shown(bare_installation: Installation) -> None:
    bare_installation.paths().folder.mkdir(parents=True)
    update_state(bare_installation.paths(day=DAY - timedelta(days=2)), verified_at="2026-01-01T00:00:00Z")
    bare_installation.paths("zip alone").zip.parent.mkdir(parents=True)
    bare_installation.paths("zip alone").zip.touch()
    every = bare_installation.lse("status", "--json")
    assert [(entry["project"], entry["date"]) for entry in every.json] == [(PROJECT, str(DAY))]
    alone = bare_installation.lse("status", "--json", "--project", "zip alone")
    assert [(entry["date"], entry["zip"]) for entry in alone.json] == [(str(DAY), "here")]
    list_project(bare_installation, 3, "listed")
    assert {entry["project"] for entry in bare_installation.lse("status", "--json").json} == {"listed", PROJECT}


def test_days_of_which_only_run_files_exist_are_named(bare_installation: Installation) -> None:
    list_project(bare_installation, 3)
    for back in (1, 2, 3):
        bare_installation.paths(day=today() - timedelta(days=back)).folder.mkdir(parents=True)
    bare_installation.paths().zip.parent.mkdir(parents=True)
    bare_installation.paths().zip.touch()
    alone = f"{today() - timedelta(days=2)} to {today() - timedelta(days=1)} (2 days)"
    assert f"run files only, nowhere else: {PROJECT}: {alone}" in bare_installation.lse("status").out


@pytest.mark.parametrize("options", [["--start-date", "2026-02-01", "--end-date", "2026-01-01"], ["--end-date", "x"]])
def test_a_range_that_is_none_is_refused(bare_installation: Installation, options: list[str]) -> None:
    list_project(bare_installation, 3)
    assert bare_installation.lse("status", *options).code == 2


def test_two_years_of_many_projects_cost_one_small_file_a_day(bare_installation: Installation) -> None:
    """No clock here (bench/orchestration.py has it): what is read grows with the days shown, not with the archive."""
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
