"""For analysts: runs, traces and DataFrames from the database, or straight from files and zips."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import errors, pq, sql
from psycopg.adapt import Loader

from lse_archive.days import day_of
from lse_archive.errors import CorruptArchiveError, DatabaseError, UsageError
from lse_archive.folder.reader import run_file_paths
from lse_archive.runs.header import unwrap
from lse_archive.runs.scanner import NotARunError
from lse_resources.postgres.analysis.columns import COLUMNS, RunColumns, run_columns
from lse_resources.postgres.database import Database, explain

if TYPE_CHECKING:
    import pandas as pd

_RANGE = sql.SQL("project = %(project)s AND run_date BETWEEN %(first)s AND %(last)s")
_FACTS = sql.SQL("SELECT {} FROM run_facts WHERE {} ORDER BY run_date, start_time, run_id").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), _RANGE
)
_HAS_PROJECT = """
SELECT EXISTS (SELECT FROM days WHERE project = %(project)s) OR EXISTS (SELECT FROM runs WHERE project = %(project)s)
"""
_STATEMENT = "cannot run the statement"
_TIMES = ("start_time", "end_time")
_COUNTS = ("depth", "prompt_tokens", "completion_tokens", "total_tokens")
_COSTS = ("prompt_cost", "completion_cost", "total_cost")
_NAMES_TODO = "docs/database.md describes tables and views; information_schema.columns lists them"
# What a statement of the reader's own may meet: the database is prepared, and this is no load.
_STATEMENT_HINTS: dict[type[psycopg.Error], str] = {
    errors.ReadOnlySqlTransaction: "Statements can only read here: use psql with the URL of `lse db url` to write",
    errors.UndefinedTable: _NAMES_TODO,
    errors.UndefinedColumn: _NAMES_TODO,
    errors.UndefinedFunction: "Check the function's name, and the types of what it is given",
}


class JsonText(str):
    """A value of the type json or jsonb, in the server's own text: parsing it would round its numbers."""

    __slots__ = ()


class _JsonTextLoader(Loader):
    def load(self, data: bytes | bytearray | memoryview) -> JsonText:
        return JsonText(bytes(data), "utf-8")


@dataclass(slots=True)
class RunTree:
    """A run of a trace and the runs below it, in the order in which they started."""

    run_id: str
    run: dict[str, Any]
    children: list[RunTree] = field(default_factory=list)


class Runs:
    """What is in the table `runs`. Days are UTC, ranges hold both their ends; ids are strings or UUIDs.

    All methods raise DatabaseError where Postgres cannot be reached or refuses.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_run_ids(self, project: str, start: date, end: date | None = None) -> list[str]:
        """The ids of a day's or a range's runs, sorted."""
        return self._ids(sql.SQL("SELECT run_id::text FROM runs WHERE {} ORDER BY 1"), project, start, end)

    def get_trace_ids(self, project: str, start: date, end: date | None = None) -> list[str]:
        """The ids of the traces that have a run in a day or a range, sorted."""
        return self._ids(sql.SQL("SELECT DISTINCT trace_id::text FROM runs WHERE {} ORDER BY 1"), project, start, end)

    def get_run(self, run_id: str | UUID) -> dict[str, Any] | None:
        """One run as LangSmith sent it, or the rendering of what JSONB cannot hold; None: there is no such row."""
        rows = self._documents("run_id = %s", run_id)
        return rows[0][2] if rows else None

    def get_runs_for_trace(self, trace_id: str | UUID) -> list[RunTree]:
        """A trace as a tree, over all its days: its root, and any run whose parent is not in the archive."""
        nodes: dict[str, RunTree] = {}
        parents: dict[str, str | None] = {}
        for run_id, parent, run in self._documents("trace_id = %s", trace_id):
            nodes[run_id] = RunTree(run_id, run)
            parents[run_id] = parent
        roots = []
        for run_id, node in nodes.items():
            parent = nodes.get(parents[run_id] or "")
            (roots if parent is None or parent is node else parent.children).append(node)
        return roots

    def load_runs(self, project: str, start: date, end: date | None = None) -> pd.DataFrame:
        """The rows of `run_facts` of a day or a range, oldest first: times in UTC, costs as floats."""
        with self._database.session("cannot read the runs") as connection:
            rows = connection.execute(_FACTS, {"project": project, "first": start, "last": end or start}).fetchall()
        return _frame(rows)

    def query(self, statement: str, *, json_as_text: bool = False) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Runs one SQL statement that may only read; returns the names of the columns, and the rows.

        Args:
            json_as_text: Values of json and jsonb are `JsonText`. Default: they are parsed.

        Raises:
            UsageError: The statement is empty.
        """
        with self._database.session(_STATEMENT) as connection, connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            cursor = connection.cursor()
            if json_as_text:
                for name in ("json", "jsonb"):
                    cursor.adapters.register_loader(name, _JsonTextLoader)
            try:
                # Prepared: the server takes one statement only, so that none can end the transaction and then write.
                cursor.execute(statement.encode(), prepare=True)
            except tuple(_STATEMENT_HINTS) as error:
                hint = next(hint for kind, hint in _STATEMENT_HINTS.items() if isinstance(error, kind))
                raise DatabaseError(_STATEMENT, why=explain(error, _STATEMENT).why, hint=hint) from error
            if cursor.pgresult and cursor.pgresult.status == pq.ExecStatus.EMPTY_QUERY:
                raise UsageError("the statement is empty", hint="Give one, as in: SELECT * FROM daily_facts")
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()

    def has_project(self, project: str) -> bool:
        """Whether there is a row of the project, or a day of it was loaded."""
        with self._database.session("cannot read the runs") as connection:
            [(found,)] = connection.execute(_HAS_PROJECT, {"project": project}).fetchall()
        return found

    def _ids(self, statement: sql.SQL, project: str, start: date, end: date | None) -> list[str]:
        with self._database.session("cannot read the runs") as connection:
            parameters = {"project": project, "first": start, "last": end or start}
            return [run_id for (run_id,) in connection.execute(statement.format(_RANGE), parameters)]

    def _documents(self, condition: LiteralString, key: str | UUID) -> list[tuple[str, str | None, dict[str, Any]]]:
        statement = sql.SQL(
            "SELECT run_id::text, parent_run_id::text, data::text FROM runs WHERE {} ORDER BY start_time, run_id"
        ).format(sql.SQL(condition))
        with self._database.session("cannot read the runs") as connection:
            rows = connection.execute(statement, (_uuid(key),)).fetchall()
        return [(run_id, parent, json.loads(data) if data else {}) for run_id, parent, data in rows]


def load_runs_from_files(project: str, sources: Iterable[Path]) -> pd.DataFrame:
    """The same DataFrame as `Runs.load_runs`, without a database.

    Args:
        sources: Folders of run files, and zips of them. Files that hold no run are passed over; of a run that is
            there twice, the first counts.

    Raises:
        UsageError: A source does not exist.
        CorruptArchiveError: A zip cannot be read.
    """
    facts: dict[UUID, RunColumns] = {}
    for source in sources:
        for content in _contents(source):
            try:
                document, run = unwrap(content)
            except NotARunError:
                continue
            row = run_columns(project, day_of(run.start), run, document)
            facts.setdefault(row.run_id, row)
    ordered = sorted(facts.values(), key=lambda row: (row.run_date, row.start_time or 0, row.run_id))
    return _frame([astuple(row) for row in ordered])


def _contents(source: Path) -> Iterator[bytes]:
    if source.is_dir():
        for path in run_file_paths(source):
            yield path.read_bytes()
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                base = name.rpartition("/")[2]
                if base.endswith(".json") and base[0] not in "_.":
                    yield archive.read(name)
    except FileNotFoundError:
        raise UsageError(f"{source} does not exist", hint="Name a day's folder or its zip") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise CorruptArchiveError(f"{source} cannot be read", why=str(error), hint="Restore it from Drive") from error


def _frame(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd  # slow to import, and only analysts need it

    frame = pd.DataFrame.from_records(rows, columns=COLUMNS)
    for name in _TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    for name in _COUNTS:
        frame[name] = frame[name].astype("Int64")
    for name in _COSTS:
        frame[name] = frame[name].astype("float64")
    return frame


def _uuid(key: str | UUID) -> UUID:
    try:
        return key if isinstance(key, UUID) else UUID(key)
    except ValueError:
        raise UsageError(f"'{key}' is no id", why="ids of runs and traces are UUIDs") from None
