"""`projects.toml` changes while the platform runs: new projects appear, and a malformed file changes nothing."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import dagster as dg
import pytest
from home_fixtures import DAY, PROJECT, Installation
from platform_fixtures import Up, free_port, wait_until

from lse_archive.errors import SettingsError
from lse_archive.names import project_slug
from lse_location.definitions import definitions
from lse_operations.steps import STEPS
from lse_platform.asset_keys import asset_key
from lse_platform.home import keep_projects
from lse_platform.webserver import reload_code
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

# Dagster's resources use pydantic features that are deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"), pytest.mark.slow]

SECOND = "東京"
_MALFORMED = "\n[[project]\n"
_QUERY = """{
  assetNodes { assetKey { path } }
  workspaceLocationEntryOrError(name: "lse") {
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename } }
  }
}"""


@pytest.fixture
def url(installation: Installation) -> Iterator[str]:
    """The address of a platform with one project; its output is in `up.log`."""
    add_project(installation.directory / "projects.toml", ProjectConfig(PROJECT, DAY, schedule="off"))
    port = free_port()
    platform = Up(installation, "--port", port)
    try:
        platform.wait()
        yield f"http://127.0.0.1:{port}"
    finally:
        if platform.process.poll() is None:
            platform.stop()
        installation.lse("down")


def projects_in_ui(url: str) -> set[str]:
    """Returns the slugs of projects whose assets the UI shows."""
    body = json.dumps({"query": _QUERY}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)["data"]
    assert found["workspaceLocationEntryOrError"]["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    return {node["assetKey"]["path"][0] for node in found["assetNodes"]}


def test_a_new_project_appears_and_a_malformed_file_removes_none(installation: Installation, url: str) -> None:
    projects, log = installation.directory / "projects.toml", installation.directory / "up.log"
    first, both = {project_slug(PROJECT)}, {project_slug(PROJECT), project_slug(SECOND)}
    assert projects_in_ui(url) == first

    add_project(projects, ProjectConfig(SECOND, DAY, schedule="off"))
    wait_until(lambda: projects_in_ui(url) == both, 30, "the UI does not show the new project")

    good = projects.read_text()
    projects.write_text(good + _MALFORMED)
    wait_until(lambda: "WARNING" in log.read_text(), 30, "the log has no warning")
    [warning] = [line for line in log.read_text().splitlines() if "WARNING" in line]
    assert f"{projects} cannot be read: " in warning
    assert "Until then the previous projects are used" in warning
    assert projects_in_ui(url) == both
    reload_code(url)  # as a user might
    assert projects_in_ui(url) == both

    projects.write_text(good.partition("\n[[project]]")[0] + f'\n[[project]]\nname = "{SECOND}"\nstart = {DAY}\n')
    wait_until(lambda: projects_in_ui(url) == both - first, 30, "the UI still shows the removed project")


def defined() -> set[dg.AssetKey]:
    return set(definitions().resolve_asset_graph().get_all_asset_keys())


def test_new_processes_use_the_last_valid_file(bare_installation: Installation) -> None:
    path, settings = bare_installation.directory / "projects.toml", Settings.load()
    add_project(path, ProjectConfig(PROJECT, DAY))
    keep_projects(settings)
    before = defined()
    assert {asset_key(PROJECT, step) for step in STEPS} <= before

    good = path.read_text()
    path.write_text(good + _MALFORMED)
    with pytest.raises(SettingsError):
        keep_projects(settings)
    assert defined() == before

    path.write_text(good)
    add_project(path, ProjectConfig(SECOND, DAY))
    assert defined() > before


def test_the_error_names_a_file_that_was_never_valid(bare_installation: Installation) -> None:
    path = bare_installation.directory / "projects.toml"
    path.write_text(_MALFORMED)
    with pytest.raises(SettingsError, match=r"projects\.toml cannot be read"):
        definitions()
    ended = bare_installation.lse("up", "--port", free_port())
    assert ended.code == 1
    assert f"{path} cannot be read" in ended.err
    assert "Traceback" not in ended.err
    assert not (bare_installation.directory / "home" / "postgres").exists()
