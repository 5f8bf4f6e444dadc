"""Runs, traces and DataFrames for analysts, from the database or from run files and zips."""

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
from lse_archive.folder.reader import may_hold_run, run_file_paths
from lse_archive.runs.header import unwrap
from lse_archive.runs.scanner import NotARunError
from lse_resources.postgres.analysis.columns import COLUMNS, RunColumns, run_columns
from lse_resources.postgres.database import Database, explain

if TYPE_CHECKING:
    import pandas as pd

_RANGE = sql.SQL("project = %(project)s AND run_date BETWEEN %(first)s AND %(last)s")
_SELECT_COLUMNS = sql.SQL("SELECT {} FROM run_facts WHERE {} ORDER BY run_date, start_time, run_id").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), _RANGE
)
_HAS_PROJECT = """
SELECT EXISTS (SELECT FROM days WHERE project = %(project)s) OR EXISTS (SELECT FROM runs WHERE project = %(project)s)
"""
_DOING = "cannot run the statement"
_TIMES = ("start_time", "end_time")
_COUNTS = ("depth", "prompt_tokens", "completion_tokens", "total_tokens")
_COSTS = ("prompt_cost", "completion_cost", "total_cost")
_NAMES_HINT = "docs/database.md describes tables and views; information_schema.columns lists them"
# Hints for errors in the user's own statement; the general hints assume an unprepared database or a load.
_HINTS: dict[type[psycopg.Error], str] = {
    errors.ReadOnlySqlTransaction: "Statements can only read here; to write, use psql with the URL of `lse db url`",
    errors.UndefinedTable: _NAMES_HINT,
    errors.UndefinedColumn: _NAMES_HINT,
    errors.UndefinedFunction: "Check the name of the function and the types of its arguments",
}


class JsonText(str):
    """The text of a json or jsonb value as the server sent it: parsing it would round numbers."""

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
    """Queries on the table `runs`. Days are in UTC, ranges include both ends, ids are strings or UUIDs.

    All methods raise DatabaseError if Postgres cannot be reached or refuses.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_run_ids(self, project: str, start: date, end: date | None = None) -> list[str]:
        """Returns the ids of the runs of a day or a range, sorted."""
        return self._ids(sql.SQL("SELECT run_id::text FROM runs WHERE {} ORDER BY 1"), project, start, end)

    def get_trace_ids(self, project: str, start: date, end: date | None = None) -> list[str]:
        """Returns the ids of the traces with a run in a day or a range, sorted."""
        return self._ids(sql.SQL("SELECT DISTINCT trace_id::text FROM runs WHERE {} ORDER BY 1"), project, start, end)

    def get_run(self, run_id: str | UUID) -> dict[str, Any] | None:
        """Returns a run as LangSmith sent it, or its rendering if it is marked. None: the run is not there."""
        rows = self._documents("run_id = %s", run_id)
        return rows[0][2] if rows else None

    def get_runs_for_trace(self, trace_id: str | UUID) -> list[RunTree]:
        """Returns a trace as trees, over all its days: the root, and every run whose parent is not in the archive."""
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
        """Returns the rows of `run_facts` of a day or a range, oldest first; times in UTC, costs as floats."""
        with self._database.session("cannot read the runs") as connection:
            rows = connection.execute(
                _SELECT_COLUMNS, {"project": project, "first": start, "last": end or start}
            ).fetchall()
        return _frame(rows)

    def query(self, statement: str, *, json_as_text: bool = False) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Runs one read-only SQL statement; returns the names of the columns, and the rows.

        Args:
            json_as_text: Return json and jsonb values as `JsonText`. Default: parsed.

        Raises:
            UsageError: The statement is empty.
        """
        with self._database.session(_DOING) as connection, connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            cursor = connection.cursor()
            if json_as_text:
                for name in ("json", "jsonb"):
                    cursor.adapters.register_loader(name, _JsonTextLoader)
            try:
                # Prepared: the server accepts only one statement, so none can end the transaction and then write.
                cursor.execute(statement.encode(), prepare=True)
            except tuple(_HINTS) as error:
                hint = next(hint for kind, hint in _HINTS.items() if isinstance(error, kind))
                raise DatabaseError(_DOING, why=explain(error, _DOING).why, hint=hint) from error
            if cursor.pgresult and cursor.pgresult.status == pq.ExecStatus.EMPTY_QUERY:
                raise UsageError("the statement is empty", hint="Write one, for example: SELECT * FROM daily_facts")
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()

    def has_project(self, project: str) -> bool:
        """Whether the project has a row in `runs` or in `days`."""
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
    """Returns the same DataFrame as `Runs.load_runs`, without a database.

    Args:
        sources: Folders of run files, and zips of them. Files without a run are skipped; if a run occurs twice,
            the first one counts.

    Raises:
        UsageError: A source does not exist.
        CorruptArchiveError: A zip cannot be read.
    """
    rows: dict[UUID, RunColumns] = {}
    for source in sources:
        for content in _contents(source):
            try:
                document, header = unwrap(content)
            except NotARunError:
                continue
            row = run_columns(project, day_of(header.start), header, document)
            rows.setdefault(row.run_id, row)
    ordered = sorted(rows.values(), key=lambda row: (row.run_date, row.start_time or 0, row.run_id))
    return _frame([astuple(row) for row in ordered])


def _contents(source: Path) -> Iterator[bytes]:
    if source.is_dir():
        for path in run_file_paths(source):
            yield path.read_bytes()
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                if may_hold_run(name.rpartition("/")[2]):
                    yield archive.read(name)
    except FileNotFoundError:
        raise UsageError(f"{source} does not exist", hint="Name the folder of a day, or its zip") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise CorruptArchiveError(f"{source} cannot be read", why=str(error), hint="Restore it from Drive") from error


def _frame(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd  # slow to import, and needed only here

    frame = pd.DataFrame.from_records(rows, columns=COLUMNS)
    for name in _TIMES:
        frame[name] = frame[name].astype("datetime64[us, UTC]")  # nanoseconds end in 2262
    for name in _COUNTS:
        frame[name] = frame[name].astype("Int64")
    for name in _COSTS:
        frame[name] = frame[name].astype("float64")
    return frame


def _uuid(key: str | UUID) -> UUID:
    try:
        return key if isinstance(key, UUID) else UUID(key)
    except ValueError:
        raise UsageError(f"'{key}' is not an id", why="ids of runs and traces are UUIDs") from None
