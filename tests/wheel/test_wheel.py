"""The wheel alone, in an empty virtual environment and an empty directory outside of any checkout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from platform_fixtures import free_port

_ROOT = Path(__file__).parents[2]
_ASSETS = json.dumps({"query": "{ assetNodes { assetKey { path } } }"}).encode()

Lse = Callable[..., str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and its dependencies, in the versions of the lock file."""
    built, directory = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=_ROOT, check=True)
    [wheel] = built.iterdir()
    pinned = re.findall(r"^[\w.-]+==\S+(?: ;.*?)?(?= \\$)", (_ROOT / "requirements.lock").read_text(), re.MULTILINE)
    (built / "constraints.txt").write_text("\n".join(pinned))
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [directory / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--constraint", built / "constraints.txt", wheel], cwd=directory, check=True)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory, in which the commands run."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def lse(environment: Path, directory: Path) -> Lse:
    """Runs `lse` of the wheel, and returns its output."""
    (directory / "user").mkdir()
    variables = {"PATH": os.defpath, "HOME": str(directory / "user"), "LANG": "C.UTF-8"}

    def run(*arguments: str, **settings: str) -> str:
        command = [str(environment / "bin" / "lse"), *arguments]
        return subprocess.run(
            command, cwd=directory, env=variables | settings, check=True, capture_output=True, text=True, timeout=300
        ).stdout

    return run


@pytest.fixture(scope="module")
def demo(lse: Lse, directory: Path) -> dict[str, str]:
    """The settings of an archive that the demo made."""
    said = lse("demo")
    assert "Done in" in said
    base = directory / ".lse-demo"
    return {
        "LSE_HOME": str(base / "home"),
        "LSE_DATA_DIR": str(base / "data"),
        "LSE_ARCHIVE_DIR": str(base / "archives"),
        "LSE_PROJECTS_FILE": str(base / "projects.toml"),
    }


@pytest.fixture
def up(environment: Path, directory: Path, demo: dict[str, str]) -> Iterator[str]:
    """The address of a platform that runs over the demo's archive."""
    port = free_port()
    variables = {"PATH": os.defpath, "HOME": str(directory / "user"), **demo}
    command = [environment / "bin" / "lse", "up", "--port", str(port)]
    with subprocess.Popen(command, cwd=directory, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert any("LSE is up" in line for line in process.stdout), "the platform did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_version_is_that_of_the_project(lse: Lse) -> None:
    [version] = re.findall(r'^version = "(.*)"$', (_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert lse("--version") == f"lse {version}\n"


def test_without_a_project_status_says_how_to_add_one(lse: Lse) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        lse("status")
    assert "lse projects add" in error.value.stderr


def test_commands_work_on_an_archive(lse: Lse, demo: dict[str, str], directory: Path) -> None:
    states = json.loads(lse("status", "--json", **demo))["results"]
    assert {state["project"] for state in states} == {"support-bot", "Sales / EMEA agent"}
    assert int(lse("sql", "SELECT count(*) FROM runs", **demo).splitlines()[1]) > 0
    day = states[0]["date"]
    choice = ("--project", "support-bot", "--start-date", day, "--end-date", day)
    lse("export", *choice, "--format", "parquet", "--output", str(directory / "runs.parquet"), **demo)
    assert (directory / "runs.parquet").stat().st_size > 0
    for command in ("zip", "to-db"):
        [entry] = json.loads(lse("archive", command, *choice, "--json", **demo))["results"]
        assert entry["project"] == "support-bot"


def test_the_platform_shows_the_assets(up: str) -> None:
    request = urllib.request.Request(f"{up}/graphql", _ASSETS, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        nodes = json.load(answer)["data"]["assetNodes"]
    assert {"run_files", "runs_table"} <= {node["assetKey"]["path"][-1] for node in nodes}
