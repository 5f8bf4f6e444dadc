"""`projects.toml` and `lse projects`: any name can be listed, and existing content is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import pytest
from home_fixtures import Installation
from hypothesis import given
from hypothesis import strategies as st

from lse_archive.errors import SettingsError, UsageError
from lse_resources.projects import ProjectConfig, add_project, read_projects

_START = date(2026, 1, 1)


def test_without_a_file_there_is_no_project(tmp_path: Path) -> None:
    assert read_projects(tmp_path / "projects.toml") == []


def test_projects_are_added_at_the_end_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "projects.toml"
    add_project(path, ProjectConfig("first", _START))
    path.write_text(path.read_text() + "# mine\n")
    add_project(path, ProjectConfig("second", date(2025, 12, 31), 400))
    assert read_projects(path) == [ProjectConfig("first", _START), ProjectConfig("second", date(2025, 12, 31), 400)]
    assert "# mine\n" in path.read_text()


@given(st.text(min_size=1).filter(str.strip))
def test_any_name_can_be_listed(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("projects") / "projects.toml"
    add_project(path, ProjectConfig(name, _START))
    assert [project.name for project in read_projects(path)] == [name]


def test_a_project_is_listed_once(tmp_path: Path) -> None:
    path = tmp_path / "projects.toml"
    add_project(path, ProjectConfig("first", _START))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="already"):
        add_project(path, ProjectConfig("first", _START))
    with pytest.raises(UsageError, match="needs a name"):
        add_project(path, ProjectConfig("  ", _START))
    assert path.read_bytes() == before


def test_projects_that_two_processes_add_at_once_are_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "projects.toml"
    code = (
        "import sys\nfrom datetime import date\nfrom pathlib import Path\n"
        "from lse_resources.projects import ProjectConfig, add_project\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
        "for number in range(25):\n"
        "    add_project(Path(sys.argv[1]), ProjectConfig(f'{sys.argv[2]} {number}', date(2026, 1, 1)))\n"
    )
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for name in ("one", "other")
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        assert [process.wait(60) for process in processes] == [0, 0]
    listed = [project.name for project in read_projects(path)]
    assert sorted(listed) == sorted(f"{name} {number}" for name in ("one", "other") for number in range(25))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[project", "projects.toml cannot be read"),
        ("[[project]]\nstart = 2026-01-01\n", "name"),
        ("[[project]]\nname = 'a'\n", "start of 'a' is not a day"),
        ("[[project]]\nname = 'a'\nstart = 'soon'\n", "start of 'a' is not a day"),
        ("[[project]]\nname = 'a'\nstart = 2026-01-01\nretention_days = 0\n", "retention_days of 'a'"),
        ("[[project]]\nname = 'a'\nstart = 2026-01-01\n" * 2, "'a' is listed twice"),
        ("retention = 3\n", "'retention' before the first .* the settings are retention_days, schedule, owner"),
        ("[[project]]\nname = 'a'\nstart = 2026-01-01\nretention = 3\n", "'retention' of 'a' is not a setting"),
        ("project = 3\n", "projects.toml cannot be read"),
        ("project = [3]\n", "projects.toml cannot be read"),
    ],
)
def test_a_malformed_file_is_explained(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "projects.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=why):
        read_projects(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_projects(path)


def test_a_directory_in_its_place_is_explained(bare_installation: Installation) -> None:
    (bare_installation.directory / "projects.toml").mkdir()
    for command in (["status"], ["projects", "list"], ["projects", "add", "x", "--start", "2026-01-01"]):
        ended = bare_installation.lse(*command)
        assert ended.code == 1
        assert "projects.toml cannot be read: Is a directory" in ended.err


def test_the_commands(bare_installation: Installation) -> None:
    nothing = bare_installation.lse("projects", "list")
    assert (nothing.code, nothing.out) == (0, "")
    assert "projects.toml; add one: lse projects add NAME --start DAY" in nothing.err

    assert bare_installation.lse("projects", "add", "shop / EMEA", "--start", "2026-01-31").code == 0
    assert (
        bare_installation.lse("projects", "add", "café", "--start", "2026-02-01", "--retention-days", "400").code == 0
    )
    assert "shop / EMEA\tfrom 2026-01-31" in bare_installation.lse("projects", "list").out
    listed = json.loads(bare_installation.lse("projects", "list", "--json").out)["projects"]
    assert [(entry["name"], entry["start"], entry["retention_days"]) for entry in listed] == [
        ("shop / EMEA", "2026-01-31", 14),
        ("café", "2026-02-01", 400),
    ]

    again = bare_installation.lse("projects", "add", "café", "--start", "2026-02-01")
    assert (again.code, "already" in again.err) == (2, True)
    for name, start, why in (("a\nb", "2026-01-01", "a control character"), ("x", "9998-01-01", "in the future")):
        refused = bare_installation.lse("projects", "add", name, "--start", start)
        assert (refused.code, why in refused.err) == (2, True)
    malformed = bare_installation.lse("projects", "add", "x", "--start", "1.2.2026")
    assert (malformed.code, "is not a day" in malformed.err) == (2, True)
    assert bare_installation.lse("projects", "add", "x").code == 2
