"""Reads the files of a day back from the lake's table `raw`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import date
from itertools import groupby
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lse_archive.errors import CorruptArchiveError
from lse_resources.lake.place import FileReader, LakePlace
from lse_resources.lake.schema import table_key

_COLUMNS = ["file", "part", "content"]


def read_raw(place: LakePlace, project: str, day: date) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields the name of each file of the day, and the pieces of its content, which must be read before the next name.

    Raises:
        FileNotFoundError: The lake does not have the day.
        CorruptArchiveError: The table cannot be read.
        DestinationError: The lake refuses or cannot be reached.
    """
    key = table_key("raw", project, day)
    for name, rows in groupby(_rows(place, key), key=lambda row: row[0]):
        yield name, _pieces(rows, key)


def _pieces(rows: Iterator[tuple[str, int, bytes]], key: str) -> Iterator[bytes]:
    for expected, (name, part, content) in enumerate(rows):
        if part != expected:
            raise _damaged(key, f"a part of {name} is missing")
        yield content


def _rows(place: LakePlace, key: str) -> Iterator[tuple[str, int, bytes]]:
    with readable(key):
        table = parquet.ParquetFile(FileReader(place.version(key)))
        for group in range(table.num_row_groups):
            columns = table.read_row_group(group, columns=_COLUMNS).to_pydict()
            yield from zip(*(columns[name] for name in _COLUMNS), strict=True)


@contextmanager
def readable(key: str) -> Generator[None]:
    """Converts the errors of a damaged Parquet file. Raises CorruptArchiveError."""
    damaged: Any = (pa.ArrowException, KeyError, UnicodeDecodeError)
    try:
        yield
    except damaged as error:
        raise _damaged(key, " ".join(str(error).split())[:200]) from error


def _damaged(key: str, why: str) -> CorruptArchiveError:
    return CorruptArchiveError(f"{key} in the lake is damaged", why=why, hint="Build the day again: lse lake build")
