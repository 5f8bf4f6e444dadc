"""A real PostgreSQL for tests, a database of its own for each, and folders of run files to load into it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lse_archive.days import compact_time, to_micros
from lse_resources._postgres_place import find_location
from lse_resources.embedded_postgres import EmbeddedServer
from lse_resources.postgres import Database
from lse_resources.schema import migrate

PROJECT = "a project / with 'quotes'"
DAY = date(2026, 1, 31)
_TEMPLATE = "lse_template"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[str], str]]:
    """Database URLs on a server that lives as long as the tests: an embedded one, or that of LSE_TEST_DATABASE_URL."""
    if given := os.environ.get("LSE_TEST_DATABASE_URL"):
        yield lambda name: make_conninfo(given, dbname=name)
        return
    base = Path(tempfile.mkdtemp(prefix="lse-db-", dir="/tmp")).resolve()
    base.chmod(0o755)
    server = EmbeddedServer(base / "postgres")
    try:
        yield server.start().url
    finally:
        server.stop()
        shutil.rmtree(find_location(server.home).place, ignore_errors=True)
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Callable[[str], str]) -> Callable[[str], str]:
    """The same, with a migrated database that others are copied from in a moment."""
    recreate(postgres_server, _template_name())
    migrate(Database(postgres_server(_template_name())))
    return postgres_server


@pytest.fixture
def database_url(postgres_template: Callable[[str], str]) -> Iterator[str]:
    """The libpq URL of a migrated, empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    recreate(postgres_template, name, _template_name())
    yield postgres_template(name)
    with psycopg.connect(postgres_template("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(database_url: str) -> Database:
    """A migrated, empty database."""
    return Database(database_url)


@pytest.fixture
def empty_database(postgres_server: Callable[[str], str]) -> Iterator[Database]:
    """A database without any table."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    recreate(postgres_server, name)
    yield Database(postgres_server(name))
    with psycopg.connect(postgres_server("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _template_name() -> str:
    return f"{_TEMPLATE}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


def recreate(url: Callable[[str], str], name: str, template: str = "template0") -> None:
    with psycopg.connect(url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )


class RunFolder:
    """A day's folder that a test fills: run `number` has always the same ids, and four runs make a trace."""

    def __init__(self, path: Path, day: date = DAY) -> None:
        self.path = path
        self.day = day
        path.mkdir(parents=True)

    def fill(self, count: int, first: int = 0) -> RunFolder:
        for number in range(first, first + count):
            self.write(number)
        return self

    def write(self, number: int, document: bytes | None = None, **fields: object) -> Path:
        """Writes a run file; `document` is its bytes, else a small run with these fields changed."""
        path = self.path / f"{run_id(number)}_{compact_time(self._start(number))}.json"
        path.write_bytes(document if document is not None else json.dumps(self.run(number) | fields).encode())
        return path

    def run(self, number: int) -> dict[str, object]:
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._start(number))
        return {
            "id": run_id(number),
            "trace_id": trace_id(number),
            "parent_run_ids": [] if run_id(number) == trace_id(number) else [trace_id(number)],
            "name": f"run {number}",
            "run_type": "LLM",
            "status": "SUCCESS",
            "start_time": start.isoformat(),
            "end_time": (start + timedelta(seconds=1.5)).isoformat(),
            "total_tokens": number,
            "inputs": {"messages": [{"role": "user", "content": f"question {number} \u00e4\U0001f600"}]},
            "outputs": {"score": 0.123456789012345678, "answer": ["yes", None, True]},
        }

    def _start(self, number: int) -> int:
        return to_micros(datetime(self.day.year, self.day.month, self.day.day, 12, tzinfo=UTC)) + number

    def with_text(self, number: int, text: str) -> bytes:
        """The bytes of a run with JSON text of one's own as the value of `odd`."""
        return json.dumps(self.run(number)).encode()[:-1] + b', "odd": ' + text.encode("utf-8", "surrogatepass") + b"}"


def run_id(number: int) -> str:
    return str(uuid.UUID(int=(0x0197 << 112) | (7 << 76) | (8 << 60) | number))


def trace_id(number: int) -> str:
    return run_id(number - number % 4)


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    """An empty folder for the run files of DAY."""
    return RunFolder(tmp_path / "data" / str(DAY))
