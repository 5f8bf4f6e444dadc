"""Exports a range of runs to a file: CSV or Parquet of their facts, or JSON lines of the runs themselves."""

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
_ROWS_AT_ONCE = 5000
_STDOUT = 1  # its descriptor


@dataclass(frozen=True, slots=True)
class Export:
    """What was written: rows, and bytes of the file (None: it went into a stream)."""

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
    """Writes the runs of a range of days (both ends included) to a file, streaming; it appears when it is complete.

    Args:
        path: The file; a symlink stays, and what it points to is written. Into what is no regular file, such as a pipe,
            it is written directly, and so into standard output (`-`).
        format: `csv` and `parquet` hold the columns of `run_facts`; `jsonl` holds the runs, one JSON a line.
        contents: Add the columns `inputs` and `outputs` (JSON text) to csv and parquet.

    Raises:
        UsageError: The format is unknown, or parquet was asked for in a stream.
        DatabaseError: Postgres cannot be reached or refuses.
        ArchiveError: The file cannot be written.
        BrokenPipeError: Nobody reads the stream any more.
    """
    if format not in get_args(Format):
        raise UsageError(f"there is no format {format}", hint=f"Choose one of {', '.join(get_args(Format))}")
    values = [sql.Literal(value) for value in (project, start, end)]
    streams = is_stream(path)
    if streams and format == "parquet":
        raise UsageError(f"{path} takes no parquet", why="it is no file", hint="Name a file, or choose csv or jsonl")
    try:
        with database.session("cannot export the runs") as connection, _target(path) as file:
            if format == "parquet":
                rows = _write_parquet(connection, _facts(values, contents), file)
            elif format == "csv":
                copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(_facts(values, contents))
                rows = _copy(connection, copy, file)
            else:
                rows = _write_lines(connection, values, file)
        return Export(path, rows, None if streams else path.stat().st_size)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ArchiveError(f"cannot write {path}", why=error.strerror or str(error), hint="Choose another") from error


def is_stream(path: Path) -> bool:
    """Whether an export goes into it as it is made: standard output, by whatever name, or what is no regular file."""
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
    """What is written to; a file takes its place when it is complete."""
    if is_stream(path):
        # Opened once more, a file behind standard output would be written from its beginning.
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


def _facts(values: list[sql.Literal], contents: bool) -> sql.Composed:
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
    # The server's own text: parsing and writing the JSON again would round its numbers.
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
        cursor.itersize = _ROWS_AT_ONCE
        yield from cursor.execute(statement)


def _write_parquet(connection: psycopg.Connection, statement: sql.Composed, file: IO[bytes]) -> int:
    import pyarrow as pa  # slow to import, and only this needs it
    from pyarrow import parquet

    rows = 0
    with connection.transaction(), connection.cursor("export") as cursor:
        cursor.execute(statement)
        schema = _schema(pa, [column.name for column in cursor.description or ()])
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch := cursor.fetchmany(_ROWS_AT_ONCE):
                columns = [
                    pa.array([_plain(value) for value in values], field.type)
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


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value
