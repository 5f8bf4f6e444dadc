"""Exports a range of runs, feedback or attachments to a file: columns as CSV or Parquet, or documents as JSON lines."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args
from uuid import UUID

import psycopg
from psycopg import sql

from lse_archive.errors import ArchiveError, UsageError
from lse_archive.files import publish_file
from lse_resources.postgres.analysis.columns import COLUMNS
from lse_resources.postgres.analysis.facts import FACTS, RUNS, Facts
from lse_resources.postgres.database import Database

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl"]

_RANGE = " WHERE project = {} AND run_date BETWEEN {} AND {} ORDER BY {}"
_CONTENT = "(SELECT (data -> {})::text FROM runs WHERE runs.run_id = f.run_id AND runs.run_date = f.run_date) AS {}"
_CONTENTS = ("inputs", "outputs")
COPY_LINES = "COPY ({}) TO STDOUT (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')"
"""Copies texts of jsonb as lines: they contain no control character, so that COPY neither quotes nor escapes them."""

_SELECT_LINES = "SELECT coalesce(data::text, jsonb_build_object('id', {}, 'mark', mark)::text) FROM {}" + _RANGE
_JSON = {"metadata", "feedback_scores", "value", "correction"}
# A row group of a parquet file, of which a few copies are in memory.
_GROUP_ROWS = 5000
_GROUP_BYTES = 8_000_000
_LARGE_BYTES = 32_000_000
_STDOUT = 1  # its descriptor


@dataclass(frozen=True, slots=True)
class Export:
    """A finished export: number of rows, what a row is, and bytes of the file (None: a stream)."""

    path: Path
    rows: int
    noun: str
    bytes: int | None


def export_facts(
    database: Database,
    project: str,
    start: date,
    end: date,
    path: Path,
    format: Format,
    *,
    table: str = "runs",
    contents: bool = False,
) -> Export:
    """Writes the runs, the feedback or the attachments of a range of days (both ends included).

    A file appears when it is complete.

    Args:
        path: The file; the target of a symlink is replaced, and the symlink stays. Standard output (`-`), and
            anything that is no regular file, such as a pipe, is written directly.
        format: `csv` and `parquet` contain the columns of `run_facts`, `feedback_facts` or `attachments`; `jsonl`
            contains the runs or records, one per line.
        table: One of `FACTS`.
        contents: Add the columns `inputs` and `outputs` (JSON text) of runs to csv and parquet.

    Raises:
        UsageError: Format or table is unknown, it is parquet and the path is a stream, or contents of no runs.
        DatabaseError: Postgres cannot be reached or refuses.
        ArchiveError: The file cannot be written.
        BrokenPipeError: The reader of the stream has closed it.
    """
    if format not in get_args(Format):
        raise UsageError(f"there is no format {format}", hint=f"Choose one of {', '.join(get_args(Format))}")
    if table not in FACTS:
        raise UsageError(f"there is no table {table}", hint=f"Choose one of {', '.join(FACTS)}")
    facts = FACTS[table]
    if contents and facts is not RUNS:
        raise UsageError(f"{table} have no inputs and outputs", hint="Leave out --contents, or export runs")
    values = [*(sql.Literal(value) for value in (project, start, end)), facts.order]
    streams = is_stream(path)
    if streams and format == "parquet":
        raise UsageError(
            f"cannot write parquet to {path}", why="it is not a file", hint="Name a file, or choose csv or jsonl"
        )
    try:
        with database.session(f"cannot export the {table}") as connection, _target(path) as file:
            if format == "parquet":
                with connection.transaction():
                    rows = _ParquetExport(database, connection, file, facts, contents=contents).write(values)
            elif format == "csv":
                copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(
                    _select_columns(facts, values, contents)
                )
                rows = _copy(connection, copy, file)
            else:
                # The text from the server is copied: parsing and writing the JSON again would round numbers.
                lines = sql.SQL(_SELECT_LINES).format(facts.key, facts.documents, *values)
                rows = _copy(connection, sql.SQL(COPY_LINES).format(lines), file)
        return Export(path, rows, facts.noun, None if streams else path.stat().st_size)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ArchiveError(
            f"cannot write {path}", why=error.strerror or str(error), hint="Choose another path"
        ) from error


def is_stream(path: Path) -> bool:
    """Whether an export is written directly: to standard output, under any name, or to anything but a regular file."""
    if _is_standard_output(path):
        return True
    with contextlib.suppress(OSError):
        return not stat.S_ISREG(path.stat().st_mode)
    return False


def _is_standard_output(path: Path) -> bool:
    if str(path) == "-":
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(_STDOUT))
    except OSError:
        return False


@contextlib.contextmanager
def _target(path: Path) -> Generator[IO[bytes]]:
    """Opens the stream, or a temporary file that replaces the target when the block succeeds."""
    if is_stream(path):
        # Opening the path of standard output again would overwrite the file from its start.
        with open(_STDOUT, "wb", closefd=False) if _is_standard_output(path) else path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    (target.parent / "..").stat()  # a missing directory is an error, and not made
    with publish_file(target) as file:
        yield file


def _select_columns(facts: Facts, values: Sequence[sql.Composable], contents: bool) -> sql.Composed:
    columns = csv_columns(facts)
    if contents:
        columns += [sql.SQL(_CONTENT).format(sql.Literal(name), sql.Identifier(name)) for name in _CONTENTS]
    return sql.SQL("SELECT {} FROM {} AS f" + _RANGE).format(sql.SQL(", ").join(columns), facts.view, *values)


def csv_columns(facts: Facts) -> list[sql.Composable]:
    """The columns of a view, JSON values as text."""
    as_text = sql.SQL("{0}::text AS {0}")
    names = [(name, sql.Identifier(name)) for name in facts.columns]
    return [as_text.format(column) if name in _JSON else column for name, column in names]


def _copy(connection: psycopg.Connection, statement: sql.Composed, file: IO[bytes]) -> int:
    cursor = connection.cursor()
    with cursor.copy(statement) as copy:
        for part in copy:
            file.write(part)
    return cursor.rowcount


class _ParquetExport:
    """Writes rows as row groups of a bounded size. Called within a transaction.

    A large content is read on a connection of its own, since libpq keeps a buffer of the size of the largest row: it
    must not be in memory while parquet compresses the content.
    """

    def __init__(
        self, database: Database, connection: psycopg.Connection, file: IO[bytes], facts: Facts, *, contents: bool
    ) -> None:
        import pyarrow as pa  # slow to import, and needed only here
        from pyarrow import parquet

        self._pa = pa
        self._database = database
        self._connection = connection
        self._facts = facts
        self._names = _CONTENTS if contents else ()
        self._schema = _schema(pa, [*facts.columns, *self._names])
        # Contents seldom repeat: a dictionary or statistics of them would be further copies.
        repeating = [*facts.columns, "tags.list.element", "mark.list.element"]
        self._writer = parquet.ParquetWriter(
            file, self._schema, compression="zstd", use_dictionary=repeating, write_statistics=repeating
        )

    def write(self, values: Sequence[sql.Composable]) -> int:
        """Writes the selected rows; returns their number."""
        connection = self._connection
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        [(snapshot,)] = connection.execute("SELECT pg_export_snapshot()").fetchall()
        rows, group, size = 0, list[tuple[Any, ...]](), 0
        with self._writer, closing(connection.cursor().stream(self._select(values))) as found:  # ty: ignore[invalid-argument-type]
            for *row, large in found:
                rows += 1
                length = sum(len(value) for value in row if isinstance(value, str))
                if group and (large or len(group) >= _GROUP_ROWS or size + length > _GROUP_BYTES):
                    self._write_group(group)
                    group, size = [], 0
                group.append(tuple(row))
                size += length
                if large:
                    self._write_group([self._with_contents(snapshot, group.pop())])
                    size = 0
            if group:
                self._write_group(group)
        return rows

    def _select(self, values: Sequence[sql.Composable]) -> sql.Composed:
        """The columns, without large contents, and whether the row has one."""
        columns = csv_columns(self._facts)
        large = [sql.SQL("coalesce(octet_length({}) > {}, false)").format(*self._limited(name)) for name in self._names]
        for name in self._names:
            limited = sql.SQL("CASE WHEN octet_length({0}) <= {1} THEN {0} END AS {0}")
            columns.append(limited.format(*self._limited(name)))
        columns.append(sql.SQL(" OR ").join(large) if large else sql.SQL("false"))
        added = [sql.SQL(", " + _CONTENT).format(sql.Literal(name), sql.Identifier(name)) for name in self._names]
        where, _, order = _RANGE.partition(" ORDER BY ")
        # OFFSET 0: the texts of the contents are made once.
        selected = sql.SQL("SELECT {} FROM (SELECT f.*{} FROM {} AS f" + where + " OFFSET 0) AS f ORDER BY " + order)
        return selected.format(sql.SQL(", ").join(columns), sql.Composed(added), self._facts.view, *values)

    def _limited(self, name: str) -> tuple[sql.Identifier, sql.Literal]:
        return sql.Identifier(name), sql.Literal(_LARGE_BYTES)

    def _with_contents(self, snapshot: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        selected = [sql.SQL("convert_to((data -> {})::text, 'UTF8')").format(sql.Literal(name)) for name in self._names]
        statement = sql.SQL("SELECT {} FROM runs WHERE run_id = %s AND run_date = %s")
        key = [row[COLUMNS.index(name)] for name in ("run_id", "run_date")]
        contents = []
        for column in selected:
            with self._database.connect() as connection, connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
                contents += connection.cursor(binary=True).execute(statement.format(column), key).fetchall()[0]
        return (*row[: len(COLUMNS)], *contents)

    def _write_group(self, rows: list[tuple[Any, ...]]) -> None:
        columns = [
            self._pa.array([_to_arrow(value) for value in values], field.type)
            for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
        ]
        rows.clear()  # the values were copied
        self._writer.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))


def _schema(pa: Any, names: list[str]) -> pa.Schema:
    kinds = {
        "run_date": pa.date32(),
        "depth": pa.int32(),
        "is_root": pa.bool_(),
        "deleted": pa.bool_(),
        "tags": pa.list_(pa.string()),
        "mark": pa.list_(pa.string()),
        "latency_seconds": pa.float64(),
    }
    kinds |= {name: pa.timestamp("us", tz="UTC") for name in ("start_time", "end_time", "created_at", "modified_at")}
    kinds |= {name: pa.int64() for name in ("prompt_tokens", "completion_tokens", "total_tokens", "bytes")}
    kinds |= {name: pa.float64() for name in ("prompt_cost", "completion_cost", "total_cost", "score")}
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in names])


def _to_arrow(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value
