"""Runs, traces, feedback, attachments and DataFrames for analysts, from the database or from run files and zips."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import errors, pq, sql
from psycopg.adapt import Loader
from psycopg.types.json import set_json_loads

from lse_archive.days import day_of, parse_day
from lse_archive.errors import CorruptArchiveError, DatabaseError, UsageError
from lse_archive.folder.manifest import SUMMARY, parse_summary
from lse_archive.folder.opened import open_folder
from lse_archive.folder.reader import may_hold_run
from lse_archive.folder.records import RECORD_FILES, Record, RecordKind, parse_records
from lse_archive.runs.header import RunHeader, unwrap
from lse_archive.runs.scanner import NotARunError
from lse_archive.zips.reader import BROKEN, contents, opened
from lse_resources.postgres.analysis.columns import (
    ATTACHMENT_COLUMNS,
    COLUMNS,
    FEEDBACK_COLUMNS,
    AttachmentColumns,
    FeedbackColumns,
    RunColumns,
    attachment_columns,
    feedback_columns,
    mean_scores,
    run_columns,
)
from lse_resources.postgres.analysis.facts import ATTACHMENTS, FEEDBACK, RUNS, Facts
from lse_resources.postgres.analysis.json_values import load_json
from lse_resources.postgres.database import Database, explain

if TYPE_CHECKING:
    import pandas as pd

_RANGE = sql.SQL("project = %(project)s AND run_date BETWEEN %(first)s AND %(last)s")
_HAS_PROJECT = """
SELECT EXISTS (SELECT FROM days WHERE project = %(project)s) OR EXISTS (SELECT FROM runs WHERE project = %(project)s)
"""
_DOING = "cannot run the statement"
_TIMES = {"start_time", "end_time", "created_at", "modified_at"}
_COUNTS = {"depth", "prompt_tokens", "completion_tokens", "total_tokens", "bytes"}
_DECIMALS = {"prompt_cost", "completion_cost", "total_cost", "score"}
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(\.zip)?$", re.ASCII)
_NAMES_HINT = "docs/database.md describes tables and views; information_schema.columns lists them"
# Hints for errors in the user's own statement; the general hints assume an unprepared database or a load.
_HINTS: dict[type[psycopg.Error], str] = {
    errors.ReadOnlySqlTransaction: "Statements can only read here; to write, use psql with the URL of `lse db url`",
    errors.UndefinedTable: _NAMES_HINT,
    errors.UndefinedColumn: _NAMES_HINT,
    errors.UndefinedFunction: "Check the name of the function and the types of its arguments",
}


@dataclass(frozen=True, slots=True)
class JsonText:
    """The text of a json or jsonb value as the server sent it, in UTF-8: parsing it would round numbers.

    A `str` takes up to four times the memory.
    """

    text: bytes


class _JsonTextLoader(Loader):
    def load(self, data: bytes | bytearray | memoryview) -> JsonText:
        return JsonText(bytes(data))


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
        return self._load(RUNS, project, start, end)

    def load_feedback(self, project: str, start: date, end: date | None = None) -> pd.DataFrame:
        """Returns the rows of `feedback_facts` of a day or a range, by day and time; times in UTC, scores as floats."""
        return self._load(FEEDBACK, project, start, end)

    def load_attachments(self, project: str, start: date, end: date | None = None) -> pd.DataFrame:
        """Returns the rows of `attachments` of a day or a range, by day, run and name."""
        return self._load(ATTACHMENTS, project, start, end)

    def query(self, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Runs one read-only SQL statement; returns the names of the columns, and the rows.

        Raises:
            UsageError: The statement is empty.
        """
        with self.stream(statement) as (columns, rows):
            return columns, list(rows)

    @contextmanager
    def stream(
        self, statement: str, *, json_as_text: bool = False
    ) -> Generator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
        """Runs one read-only SQL statement; yields the names of the columns, and the rows one by one.

        Only one row is in memory. The rows can be read inside of the block.

        Args:
            json_as_text: Return json and jsonb values as `JsonText`. Default: parsed.

        Raises:
            UsageError: The statement is empty.
        """
        with self._database.session(_DOING) as connection, _statement_errors(), connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            set_json_loads(load_json, connection)
            cursor = connection.cursor()
            if json_as_text:
                for name in ("json", "jsonb"):
                    cursor.adapters.register_loader(name, _JsonTextLoader)
            columns = _prepare(connection, statement)
            if not columns:
                cursor.execute(statement.encode(), prepare=True)
                if cursor.pgresult and cursor.pgresult.status == pq.ExecStatus.EMPTY_QUERY:
                    raise UsageError("the statement is empty", hint="Write one, for example: SELECT * FROM daily_facts")
                yield [], iter(())
                return
            with closing(cursor.stream(statement.encode())) as rows:  # ty: ignore[invalid-argument-type] - a generator
                yield columns, rows

    def has_project(self, project: str) -> bool:
        """Whether the project has a row in `runs` or in `days`."""
        with self._database.session("cannot read the runs") as connection:
            [(found,)] = connection.execute(_HAS_PROJECT, {"project": project}).fetchall()
        return found

    def _load(self, facts: Facts, project: str, start: date, end: date | None) -> pd.DataFrame:
        statement = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, facts.columns)), facts.view, _RANGE, facts.order
        )
        with self._database.session("cannot read the archive") as connection:
            set_json_loads(load_json, connection)
            parameters = {"project": project, "first": start, "last": end or start}
            rows = connection.execute(statement, parameters).fetchall()
        return _frame(facts, rows)

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
        return [(run_id, parent, load_json(data) if data else {}) for run_id, parent, data in rows]


@contextmanager
def _statement_errors() -> Generator[None]:
    try:
        yield
    except tuple(_HINTS) as error:
        hint = next(hint for kind, hint in _HINTS.items() if isinstance(error, kind))
        raise DatabaseError(_DOING, why=explain(error, _DOING).why, hint=hint) from error


def _prepare(connection: psycopg.Connection, statement: str) -> list[str]:
    """Returns the names of the columns of a statement, before it is executed.

    The server prepares only one statement: none can end the transaction and then write.
    """
    result = connection.pgconn.prepare(b"", statement.encode())
    if result.status == pq.ExecStatus.COMMAND_OK:
        result = connection.pgconn.describe_prepared(b"")
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(result, encoding="utf-8")
    return [(result.fname(column) or b"").decode() for column in range(result.nfields)]


def load_runs_from_files(project: str, sources: Sequence[Path]) -> pd.DataFrame:
    """Returns the same DataFrame as `Runs.load_runs`, without a database.

    Args:
        sources: Folders of run files, and zips of them. Files without a run are skipped; if a run occurs twice,
            the first one counts.

    Raises:
        UsageError: A source does not exist.
        CorruptArchiveError: A zip cannot be read.
    """
    rows: dict[UUID, RunColumns] = {}
    scores = mean_scores(_feedback(project, sources))
    for header, document in documents_from_files(sources):
        row = run_columns(project, day_of(header.start), header, document, scores.get(UUID(header.run_id)))
        rows.setdefault(row.run_id, row)
    return _frame(RUNS, [attrgetter(*COLUMNS)(row) for row in sorted(rows.values(), key=_run_order)])


def documents_from_files(sources: Iterable[Path]) -> Iterator[tuple[RunHeader, bytes]]:
    """Yields the header and the JSON of each file that holds a run, by source and name; see `load_runs_from_files`."""
    for source in sources:
        for _, content in _files(source, may_hold_run):
            try:
                document, header = unwrap(content)
            except NotARunError:
                continue
            yield header, document


def load_feedback_from_files(project: str, sources: Sequence[Path]) -> pd.DataFrame:
    """Returns the same DataFrame as `Runs.load_feedback`, without a database; see `load_runs_from_files`."""
    rows = sorted(_feedback(project, sources), key=_feedback_order)
    return _frame(FEEDBACK, list(map(attrgetter(*FEEDBACK_COLUMNS), rows)))


def load_attachments_from_files(project: str, sources: Sequence[Path]) -> pd.DataFrame:
    """Returns the same DataFrame as `Runs.load_attachments`, without a database; see `load_runs_from_files`."""
    records = {(day, record.key): record for day, record in _records(sources, "attachments")}
    rows = {key: attachment_columns(project, key[0], record) for key, record in records.items()}
    ordered = sorted(rows, key=lambda key: _attachment_order(rows[key], key[1]))
    return _frame(ATTACHMENTS, [attrgetter(*ATTACHMENT_COLUMNS)(rows[key]) for key in ordered])


def _feedback(project: str, sources: Iterable[Path]) -> list[FeedbackColumns]:
    """The feedback of all sources. A record that is there twice: the newest, or else that of the earlier day."""
    found: dict[UUID, FeedbackColumns] = {}
    for day, record in _records(sources, "feedback"):
        row = feedback_columns(project, day, record)
        found[row.id] = max(found.get(row.id, row), row, key=_age)
    return list(found.values())


def _records(sources: Iterable[Path], kind: RecordKind) -> Iterator[tuple[date, Record]]:
    for source in sources:
        files = dict(_files(source, {SUMMARY, *RECORD_FILES[kind]}.__contains__))
        seen: set[bytes] = set()
        for name in RECORD_FILES[kind]:
            if name in files:
                day = _day(source, files.get(SUMMARY))
                for record in parse_records(name, BytesIO(files[name]), seen):
                    if isinstance(record, Record):
                        yield day, record


def _day(source: Path, summary: bytes | None) -> date:
    if summary is not None:
        return date.fromisoformat(parse_summary(summary, source).date)
    if not (found := _DAY.search(source.name)):
        raise UsageError(f"the day of {source} is not known", why=f"it has no {SUMMARY}", hint="Name the day's folder")
    return parse_day(found[1])


_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _age(row: FeedbackColumns) -> tuple[datetime, int]:
    return row.modified_at or _FIRST, -row.run_date.toordinal()


# As the orders of `Facts`: what is not known comes last.
def _run_order(row: RunColumns) -> tuple[date, datetime, UUID]:
    return row.run_date, row.start_time or _LAST, row.run_id


def _feedback_order(row: FeedbackColumns) -> tuple[date, datetime, UUID]:
    return row.run_date, row.created_at or _LAST, row.id


def _attachment_order(row: AttachmentColumns, key: str) -> tuple[date, str, str, str]:
    return row.run_date, str(row.run_id or "~"), row.name or "", key


def _files(source: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the wanted files of a folder or zip, sorted."""
    try:
        with open_folder(source) as folder:
            for name in filter(wanted, folder.names()):
                yield name, folder.read(name)
            return
    except NotADirectoryError:
        pass
    except FileNotFoundError:
        raise UsageError(f"{source} does not exist", hint="Name the folder of a day, or its zip") from None
    try:
        with opened(source) as archive:
            for info in sorted(archive.infolist(), key=attrgetter("filename")):
                if wanted(name := info.filename.rpartition("/")[2]):
                    yield name, b"".join(contents(archive, info))
    except BROKEN as error:
        raise CorruptArchiveError(f"{source} cannot be read", why=str(error), hint="Restore it from Drive") from error


def _frame(facts: Facts, rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd  # slow to import, and needed only here

    frame = pd.DataFrame.from_records(rows, columns=facts.columns)
    for name in frame.columns:
        if name in _TIMES:
            frame[name] = frame[name].astype("datetime64[us, UTC]")  # nanoseconds end in 2262
        elif name in _COUNTS:
            frame[name] = frame[name].astype("Int64")
        elif name in _DECIMALS:
            frame[name] = frame[name].astype("float64")
    return frame


def _uuid(key: str | UUID) -> UUID:
    try:
        return key if isinstance(key, UUID) else UUID(key)
    except ValueError:
        raise UsageError(f"'{key}' is not an id", why="ids of runs and traces are UUIDs") from None
