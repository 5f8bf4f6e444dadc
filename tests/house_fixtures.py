"""A whole house for a test: its directories, a local LangSmith and Drive, databases, and the command line over them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import psycopg
import pytest
from database_fixtures import recreate
from psycopg import sql

from lse_archive.days import format_time, today
from lse_archive.layout import DayPaths
from lse_cli.main import main
from lse_demo.drive_server import USER, DriveServer
from lse_demo.langsmith_server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith_store import LangSmithStore
from lse_resources.databases import dagster_url
from lse_resources.house import given_file, open_house
from lse_resources.postgres import Database
from lse_resources.settings import Settings

# Recent enough that LangSmith would still have it, so that its count proves the day.
DAY = today() - timedelta(days=3)
PROJECT = "shop / EMEA"
_ROOT = Path(__file__).parent.parent


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        """The entries of `--json`: standard output is one object and nothing else."""
        document = json.loads(self.out)
        assert list(document) == ["results"]
        return document["results"]

    @property
    def entry(self) -> dict[str, Any]:
        """The only entry."""
        [entry] = self.json
        return entry


@dataclass
class House:
    """Everything that a user has."""

    directory: Path
    langsmith: LangSmithServer
    store: LangSmithStore
    drive: DriveServer
    database: Database
    environment: dict[str, str] = field(repr=False)

    def lse(self, *arguments: str, stdin: str = "") -> Ended:
        """Runs `lse` in this process, as the console script does; standard input is no terminal."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        argv, sys.argv = sys.argv, ["lse", *arguments]
        stdin_before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        finally:
            sys.argv, sys.stdin = argv, stdin_before
        return Ended(code, out.getvalue(), err.getvalue())

    def archive(self, command: str, *options: str, project: str = PROJECT, day: date = DAY) -> Ended:
        """`lse archive COMMAND` for one project and day."""
        return self.lse("archive", command, "--project", project, "--date", str(day), *options)

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the console script in a process of its own."""
        command = [Path(sys.executable).with_name("lse"), *arguments]
        return subprocess.run(
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def fill(self, runs: int = 30, project: str = PROJECT, day: date = DAY) -> None:
        """Lets LangSmith have this many runs of a day."""
        self.store.generate(project, day, runs=runs, mean_bytes=3000)

    def put(self, number: int, start: int, *, project: str = PROJECT, parent: int | None = None, **fields: Any) -> str:
        """Gives LangSmith a run that started at `start` microseconds since 1970; returns its id."""
        run = small_run(number, start, self.store.project(project).id, parent) | fields
        return self.store.put_raw(project, json.dumps(run).encode())

    def paths(self, project: str = PROJECT, day: date = DAY) -> DayPaths:
        return Settings.load().layout.day(project, day)

    def rows(self, project: str = PROJECT, day: date = DAY) -> dict[str, tuple[Any, ...]]:
        """The rows of a day by run id: where the row lies, who wrote it, its trace, mark and content."""
        query = "SELECT run_id::text, ctid::text, xmin::text, trace_id::text, mark, data FROM runs"
        with self.database.connect() as connection:
            found = connection.execute(f"{query} WHERE project = %s AND run_date = %s", (project, day)).fetchall()
        return {row[0]: row[1:] for row in found}

    def sql(self, statement: str, *values: Any) -> None:
        """Does something to the database by hand."""
        with self.database.connect() as connection:
            connection.execute(statement.encode(), values)

    def uploads(self) -> int:
        """Requests that brought bytes to Drive."""
        return sum(request.path.startswith("/upload/") and request.method == "PUT" for request in self.drive.requests)

    def instance(self) -> dg.DagsterInstance:
        """The user's Dagster instance."""
        os.environ.update(open_house(Settings.load()).environment())
        return dg.DagsterInstance.from_config(str(self.directory / "home" / "dagster"))


def small_run(number: int, start: int, project_id: str, parent: int | None = None) -> dict[str, Any]:
    """A run as v2 answers it; run `number` has always the same id."""
    run_id, trace = run_uuid(number), run_uuid(number if parent is None else parent)
    began = format_time(start)
    return {
        "id": run_id,
        "trace_id": trace,
        "project_id": project_id,
        "parent_run_ids": [] if parent is None else [trace],
        "is_root": parent is None,
        "name": f"run {number}",
        "run_type": "CHAIN",
        "status": "SUCCESS",
        "start_time": began,
        "end_time": format_time(start + 1_000),
        "inputs": {"question": f"number {number}?"},
        "outputs": {"answer": "yes"},
    }


def run_uuid(number: int) -> str:
    return str(uuid.UUID(int=(0x0198 << 112) | (7 << 76) | (8 << 60) | number))


def midnight(day: date = DAY) -> int:
    """The first microsecond of a UTC day, since 1970."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture(scope="session")
def dagster_template(
    postgres_server: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Callable[[str], str], str]:
    """Database URLs, and the name of a database that has Dagster's tables, to copy others from."""
    name = f"dagster_template_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    recreate(postgres_server, name)
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_bytes(given_file("dagster.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        settings = Settings(lse_dagster_database_url=postgres_server(name))
        patch.setenv("LSE_DAGSTER_POSTGRES_URL", dagster_url(settings))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            instance.get_runs(limit=1)
            instance.event_log_storage.get_maximum_record_id()
            instance.all_instigator_state()
    return postgres_server, name


@pytest.fixture
def dagster_database_url(dagster_template: tuple[Callable[[str], str], str]) -> Iterator[str]:
    """The libpq URL of a database with Dagster's tables."""
    url, template = dagster_template
    name = f"dagster_{uuid.uuid4().hex[:12]}"
    recreate(url, name, template)
    # Hundreds of small commits a day, none of which has to survive the machine.
    yield f"{url(name)}&options=-c%20synchronous_commit%3Doff"
    with psycopg.connect(url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def bare_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house in which nothing is running: for what fails, or is done, before any of it is asked."""
    environment = _environment(tmp_path, monkeypatch)
    nobody = cast(Any, None)
    return House(tmp_path, nobody, nobody, nobody, nobody, environment)


@pytest.fixture
def house(
    tmp_path: Path, database_url: str, dagster_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """A house in which `lse` and `dg.materialize` work; LangSmith and Drive are empty."""
    with (
        LangSmithStore() as store,
        LangSmithServer(store) as langsmith,
        DriveServer(tmp_path / "drive") as drive,
    ):
        drive.accounts.write_authorized_user(tmp_path / "drive.json", USER, url=drive.url)
        environment = _environment(
            tmp_path,
            monkeypatch,
            LANGSMITH_API_KEY=DEMO_KEY,
            LANGSMITH_ENDPOINT=langsmith.url,
            GOOGLE_DRIVE_API_ROOT=drive.url,
            GOOGLE_DRIVE_FOLDER_URL=drive.store.add_folder("Archive", USER),
            GOOGLE_DRIVE_CREDENTIALS_PATH=str(tmp_path / "drive.json"),
            LSE_DATABASE_URL=database_url,
            LSE_DAGSTER_DATABASE_URL=dagster_database_url,
        )
        yield House(tmp_path, langsmith, store, drive, Database(database_url), environment)
        assert langsmith.violations == []
        assert drive.violations == []


def _environment(directory: Path, monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, str]:
    """Sets all settings for a house in this directory; those of the user do not matter."""
    for name in (*map(str.upper, Settings.model_fields), "DAGSTER_HOME", "LSE_DAGSTER_POSTGRES_URL"):
        monkeypatch.setenv(name, "")  # so that it is restored whatever the code sets
        monkeypatch.delenv(name)
    values |= {
        "LSE_HOME": str(directory / "home"),
        "LSE_DATA_DIR": str(directory / "data"),
        "LSE_ARCHIVE_DIR": str(directory / "archives"),
        "LSE_PROJECTS_FILE": str(directory / "projects.toml"),
        "LSE_ENV_FILE": os.devnull,
        "LSE_LANGSMITH_STATS_SECONDS": "0",
        "LSE_LANGSMITH_PATIENCE": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values
