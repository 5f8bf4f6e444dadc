"""The first page of the README, followed literally in a fresh clone: each of its commands, and what it says of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from browser_fixtures import Browser, open_page
from platform_fixtures import free_port, wait_until

from lse_archive.days import today
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore
from lse_platform.process_registry import Registry
from lse_resources.embedded_postgres.server import EmbeddedServer

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_COMMAND = re.compile(r"(?:make|cp|lse|psql|\.) ")
YESTERDAY = today() - timedelta(days=1)
RUNS = 25


def commands(section: str) -> list[str]:
    """Returns the commands of a section in their order: lines of its code blocks, and code in its sentences."""
    text = _README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = []
    for block, span in re.findall(r"^ *```\n(.*?)^ *```$|`([^`\n]+)`", text, re.MULTILINE | re.DOTALL):
        found += [line.partition(" #")[0].strip() for line in block.splitlines()] if block else [span]
    return [command for command in found if _COMMAND.match(command)]


class Clone:
    """A fresh clone of the checkout, and a user with an empty home directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.user = directory / "lse", directory / "user"
        self.user.mkdir()
        self.port = free_port()
        kept = {name: value for name, value in os.environ.items() if not re.match("LSE|LANG|GOOGLE|AWS|VIRTUAL", name)}
        cache = os.environ.get("PIP_CACHE_DIR", str(Path("~/.cache/pip").expanduser()))
        # PORT: 3000 may be in use.
        self._environment = kept | {
            "HOME": str(self.user),
            "PORT": self.port,
            "PIP_CACHE_DIR": cache,
            "LANG": "C.UTF-8",
        }
        subprocess.run(["git", "clone", "--quiet", _ROOT, self.directory], check=True)

    def run(self, command: str, *, activate: bool = True) -> str:
        """Runs a command as it stands in the README; returns what it prints."""
        ended = subprocess.run(
            self._shell(command, activate=activate),
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert ended.returncode == 0, f"{command}: {ended.returncode}\n{ended.stdout}"
        return ended.stdout

    @contextmanager
    def up(self, command: str) -> Generator[str]:
        """Runs a command that runs until Ctrl-C; yields the address of its UI."""
        log = self.directory.parent / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._shell(command, activate=True),
                cwd=self.directory,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until(lambda: "LSE is up" in log.read_text() or process.poll() is not None, 180, "it did not start")
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{self.port}"
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
            process.wait(90)

    def _shell(self, command: str, *, activate: bool) -> list[str]:
        return ["bash", "-c", f". .venv/bin/activate && {command}" if activate else command]


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    directory = Path(tempfile.mkdtemp(prefix="lse-readme-", dir="/tmp"))
    directory.chmod(0o755)
    clone = Clone(directory)
    try:
        yield clone
    finally:
        for home in (clone.directory / ".lse-demo" / "home", clone.user / ".lse"):
            EmbeddedServer(home / "postgres").remove()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def page(chromium: str, clone: Clone) -> Iterator[Browser]:
    with open_page(chromium, f"http://127.0.0.1:{clone.port}") as browser:
        yield browser


def test_see_it_work(clone: Clone, page: Browser) -> None:
    demo, up_demo = [command for command in commands("See it work") if command in ("make demo", "make up-demo")]
    said = clone.run(demo, activate=False)
    assert "Done in" in said
    base = clone.directory / ".lse-demo"
    # "two made-up projects, three days, archived end to end, broken, found and repaired"
    settings = {
        "LSE_HOME": "home",
        "LSE_DATA_DIR": "data",
        "LSE_ARCHIVE_DIR": "archives",
        "LSE_PROJECTS_FILE": "projects.toml",
    }
    given = " ".join(f"{name}={base / place}" for name, place in settings.items())
    days = json.loads(clone.run(f"{given} lse status --json 2>/dev/null"))["results"]
    projects = {day["project"] for day in days}
    assert len(projects) == 2
    assert {len([day for day in days if day["project"] == project]) for project in projects} == {3}
    assert all(day["files"] == "here" and day["verified"] for day in days)
    assert "The row of run" in said
    assert "files and rows differ" in said
    # "leaves everything under .lse-demo and touches nothing else"
    assert clone.run("git status --porcelain").splitlines() == []
    ignored = {line.split()[-1].split("/")[0] for line in clone.run("git status --porcelain --ignored").splitlines()}
    assert {".venv", ".lse-demo"} <= ignored
    assert not (clone.user / ".lse").exists()

    with clone.up(up_demo):
        # "the same data in the browser"
        page.wait_for("/locations/__repository__@lse/asset-groups/support_bot/lineage", re.compile("run_files"))
        # "the UI shows what they did": the list of runs names the projects and days of the command line's runs
        for name in projects:
            page.wait_for("/runs", re.compile(rf"{re.escape(name)}"))
        page.wait_for("/runs", re.compile(days[0]["date"]))
    assert Registry(base / "home" / "run").holder() == ""


def test_a_first_real_day(clone: Clone, page: Browser) -> None:
    listed = commands("A first real day")
    assert listed[0] == "make install"
    with (
        LangSmithStore() as store,
        LangSmithServer(store) as langsmith,
        DriveServer(clone.directory.parent / "drive") as drive,
    ):
        store.generate("my project", YESTERDAY, runs=RUNS, mean_bytes=2000)
        drive.accounts.write_authorized_user(clone.user / "drive.json", USER, url=drive.url)
        answers = {
            "LANGSMITH_API_KEY": DEMO_KEY,
            "LANGSMITH_ENDPOINT": langsmith.url,
            "GOOGLE_DRIVE_FOLDER_URL": drive.store.add_folder("Archive", USER),
            "GOOGLE_DRIVE_CREDENTIALS_PATH": str(clone.user / "drive.json"),
        }
        done = []
        for command in listed:
            if command.startswith("lse drive login"):  # the credentials above are those of a user who has signed in
                continue
            if command == "make up":
                with clone.up(command):
                    # "the UI shows what they did"
                    page.wait_for("/runs", re.compile(str(YESTERDAY)))
                    page.wait_for("/runs", re.compile("my project"))
                assert Registry(clone.user / ".lse" / "run").running() == {}  # "Ctrl-C stops everything"
                assert Registry(clone.user / ".lse" / "run").holder() == ""
            else:
                said = clone.run(command, activate=command not in (listed[0], ". .venv/bin/activate"))
                if command.startswith("cp "):
                    _fill_in(clone.directory / ".env", answers, drive.url)
                if "full-sweep" in command:
                    assert f"{RUNS} runs" in said
                    again = clone.run(command.replace("full-sweep", "full-sweep --force"))
                    assert "unchanged" in again  # "Once more over the same day changes nothing, and says so"
            done.append(command.split()[0])
        assert {"make", "cp", "lse"} <= set(done)
        _check_places(clone, drive)


def _fill_in(env: Path, answers: dict[str, str], api_root: str) -> None:
    """Sets settings in `.env`, as a person does with an editor; the address of the local Drive is not in the file."""
    text = env.read_text()
    for name, value in answers.items():
        text, count = re.subn(rf"^#? ?{name}=.*$", f"{name}={value}", text, count=1, flags=re.MULTILINE)
        assert count == 1, name
    env.write_text(f"{text}\nGOOGLE_DRIVE_API_ROOT={api_root}\n")


def _check_places(clone: Clone, drive: DriveServer) -> None:
    """What "Where things lie" says."""
    [folder] = clone.directory.glob(f"data/*/{YESTERDAY}")
    [archive] = clone.directory.glob(f"archives/*_{YESTERDAY}.zip")
    assert "OK" in clone.run(f"cd '{folder}' && sha256sum -c _sha256sums.txt")
    if shutil.which("unzip"):
        assert "No errors" in clone.run(f"unzip -t '{archive}'")
    assert drive.store.named(archive.name)
    [query] = [command for command in commands("Where things lie") if command.startswith("psql")]
    sql = query.partition(" -c ")[2]
    answer = clone.run(query if shutil.which("psql") else f"lse sql {sql}")
    assert "my project" in answer
    assert str(RUNS) in answer
    for command in commands("The command line"):
        if command in ("lse archive verify", "lse status"):
            clone.run(f'{command} --project "my project"')
