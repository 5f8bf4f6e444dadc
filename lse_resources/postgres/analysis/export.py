"""Exports a range of runs to a file: the columns of `run_facts` as CSV or Parquet, or the runs as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args
from uuid import UUID

import psycopg
from psycopg import sql

from lse_archive.errors import ArchiveError, UsageError
from lse_resources.postgres.analysis.columns import COLUMNS
from lse_resources.postgres.database import Database

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl"]

_RANGE = " WHERE project = {} AND run_date BETWEEN {} AND {} ORDER BY run_date, start_time, run_id"
_CONTENT = "(SELECT (data -> {})::text FROM runs WHERE runs.run_id = f.run_id AND runs.run_date = f.run_date) AS {}"
_FETCH_ROWS = 5000
_STDOUT = 1  # its descriptor


@dataclass(frozen=True, slots=True)
class Export:
    """A finished export: number of rows, and bytes of the file (None: a stream)."""

    path: Path
    rows: int
    bytes: int | None


def export_runs(
    database: Database,
    project: str,
    start: date,
    end: date,
    path: Path,
    format: Format,
    *,
    contents: bool = False,
) -> Export:
    """Writes the runs of a range of days (both ends included). A file appears when it is complete.

    Args:
        path: The file; the target of a symlink is replaced, and the symlink stays. Standard output (`-`), and
            anything that is no regular file, such as a pipe, is written directly.
        format: `csv` and `parquet` contain the columns of `run_facts`; `jsonl` contains the runs, one per line.
        contents: Add the columns `inputs` and `outputs` (JSON text) to csv and parquet.

    Raises:
        UsageError: The format is unknown, or it is parquet and the path is a stream.
        DatabaseError: Postgres cannot be reached or refuses.
        ArchiveError: The file cannot be written.
        BrokenPipeError: The reader of the stream has closed it.
    """
    if format not in get_args(Format):
        raise UsageError(f"there is no format {format}", hint=f"Choose one of {', '.join(get_args(Format))}")
    values = [sql.Literal(value) for value in (project, start, end)]
    streams = is_stream(path)
    if streams and format == "parquet":
        raise UsageError(
            f"cannot write parquet to {path}", why="it is not a file", hint="Name a file, or choose csv or jsonl"
        )
    try:
        with database.session("cannot export the runs") as connection, _target(path) as file:
            if format == "parquet":
                rows = _write_parquet(connection, _select_columns(values, contents), file)
            elif format == "csv":
                copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(_select_columns(values, contents))
                rows = _copy(connection, copy, file)
            else:
                rows = _write_lines(connection, values, file)
        return Export(path, rows, None if streams else path.stat().st_size)
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
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _select_columns(values: list[sql.Literal], contents: bool) -> sql.Composed:
    columns: list[sql.Composable] = [
        sql.SQL("metadata::text AS metadata") if name == "metadata" else sql.Identifier(name) for name in COLUMNS
    ]
    if contents:
        columns += [sql.SQL(_CONTENT).format(sql.Literal(name), sql.Identifier(name)) for name in ("inputs", "outputs")]
    return sql.SQL("SELECT {} FROM run_facts AS f" + _RANGE).format(sql.SQL(", ").join(columns), *values)


def _copy(connection: psycopg.Connection, statement: sql.Composed, file: IO[bytes]) -> int:
    cursor = connection.cursor()
    with cursor.copy(statement) as copy:
        for part in copy:
            file.write(part)
    return cursor.rowcount


def _write_lines(connection: psycopg.Connection, values: list[sql.Literal], file: IO[bytes]) -> int:
    # The text from the server is copied: parsing and writing the JSON again would round numbers.
    rows = 0
    for data, run_id, mark in _stream(
        connection, sql.SQL("SELECT data::text, run_id::text, mark FROM runs" + _RANGE).format(*values)
    ):
        text = data if data is not None else json.dumps({"id": run_id, "mark": mark})
        file.write(text.encode() + b"\n")
        rows += 1
    return rows


def _stream(connection: psycopg.Connection, statement: sql.Composed) -> Iterator[tuple[Any, ...]]:
    with connection.transaction(), connection.cursor("export") as cursor:
        cursor.itersize = _FETCH_ROWS
        yield from cursor.execute(statement)


def _write_parquet(connection: psycopg.Connection, statement: sql.Composed, file: IO[bytes]) -> int:
    import pyarrow as pa  # slow to import, and needed only here
    from pyarrow import parquet

    rows = 0
    with connection.transaction(), connection.cursor("export") as cursor:
        cursor.execute(statement)
        schema = _schema(pa, [column.name for column in cursor.description or ()])
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch := cursor.fetchmany(_FETCH_ROWS):
                columns = [
                    pa.array([_to_arrow(value) for value in values], field.type)
                    for values, field in zip(zip(*batch, strict=True), schema, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                rows += len(batch)
    return rows


def _schema(pa: Any, names: list[str]) -> pa.Schema:
    kinds = {
        "run_date": pa.date32(),
        "depth": pa.int32(),
        "is_root": pa.bool_(),
        "tags": pa.list_(pa.string()),
        "mark": pa.list_(pa.string()),
        "latency_seconds": pa.float64(),
    }
    kinds |= {name: pa.timestamp("us", tz="UTC") for name in ("start_time", "end_time")}
    kinds |= {name: pa.int64() for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    kinds |= {name: pa.float64() for name in ("prompt_cost", "completion_cost", "total_cost")}
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in names])


def _to_arrow(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value
