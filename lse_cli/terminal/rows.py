"""Prints the rows of an SQL statement: as a table for a terminal, as lines or JSON objects for programs."""

from __future__ import annotations

import codecs
import itertools
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from lse_archive.errors import UsageError
from lse_archive.printable import HIDDEN, printable
from lse_cli.terminal.output import write_json
from lse_resources.postgres.analysis.frames import JsonText

_MAX_WIDTH = 60  # characters of a cell
_MIN_WIDTH = 8
_TABLE_ROWS = 1000
_PART = 1 << 20  # characters
_CONTROLS = re.compile(f"[\x00-\x1f{HIDDEN}\\\\]")
_COPY_NAMES = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}

_encode = msgspec.json.Encoder().encode

Rows = Iterable[Sequence[Any]]


def print_objects(columns: list[str], rows: Rows) -> None:
    """Prints one JSON object per row. Dates, times, numerics, ids, NaN and infinities are strings; bytea is hex.

    Raises:
        UsageError: Two columns have the same name: an object would only hold the last one.
    """
    if repeated := [name for index, name in enumerate(columns) if name in columns[:index]]:
        raise UsageError(
            f"two columns are named {repeated[0]}",
            why="a JSON object holds each name once",
            hint="Give each column its own name: SELECT … AS name",
        )
    labels = [f"\n      {_encode(name).decode()}: " for name in columns]
    labels[1:] = [f",{label}" for label in labels[1:]]

    def pieces(row: Sequence[Any]) -> Iterator[str]:
        yield f"{before}\n    {{"
        for label, value in zip(labels, row, strict=True):
            yield label
            yield from _parts(value if isinstance(value, JsonText) else _encode(_plain(value)).decode())
        yield "\n    }"

    before = '{\n  "results": ['
    for row in rows:
        for text in _joined(pieces(row)):
            write_json(text)
        before = ","
    write_json("\n  ]\n}\n" if before == "," else f"{before}]\n}}\n")


def print_lines(columns: list[str], rows: Rows) -> None:
    """Prints COPY's text format with a header: backslash escapes, control characters as \\x1b, NULL is \\N."""

    def pieces(line: Sequence[Any]) -> Iterator[str]:
        for index, value in enumerate(line):
            if index:
                yield "\t"
            if value is None:
                yield "\\N"
            else:
                yield from map(_escaped, _parts(_text(value)))
        yield "\n"

    for line in itertools.chain([columns], rows):
        for text in _joined(pieces(line)):
            sys.stdout.write(text)


def _joined(pieces: Iterable[str]) -> Iterator[str]:
    """Yields many short texts as one: a write takes longer than a join."""
    batch, size = list[str](), 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _PART:
            yield "".join(batch)
            batch, size = [], 0
    yield "".join(batch)


def _parts(text: str | JsonText) -> Iterator[str]:
    """Yields a text in parts: a copy of a long one takes as much memory again."""
    if isinstance(text, str) and len(text) <= _PART:
        yield text
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    content = text.text if isinstance(text, JsonText) else text
    for begin in range(0, len(content), _PART):
        part = content[begin : begin + _PART]
        yield part if isinstance(part, str) else decoder.decode(part)


def print_table(columns: list[str], rows: Rows) -> None:
    """Prints a table with long values cut; one column per line if the columns do not fit beside each other.

    Many rows are several tables: the width of a column depends on all rows of its table.
    """
    from rich import box
    from rich.cells import cell_len, set_cell_size
    from rich.console import Console
    from rich.table import Table

    def cut(value: object, width: int) -> str:
        text = "" if value is None else printable(next(_parts(_text(value)), "")[: 2 * width])
        return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"

    console = Console(highlight=False, markup=False, emoji=False)
    if len(columns) * (_MIN_WIDTH + 2) <= console.width:
        remaining = ([cut(value, _MAX_WIDTH) for value in row] for row in rows)
        page = list(itertools.islice(remaining, _TABLE_ROWS))
        while True:
            table = Table(box=box.SIMPLE_HEAD)
            for column in columns:
                table.add_column(printable(column), no_wrap=True, overflow="ellipsis")
            for row in page:
                table.add_row(*row)
            console.print(table)
            if not (page := list(itertools.islice(remaining, _TABLE_ROWS))):
                return
    names = [printable(column) for column in columns]
    name_width = max(map(cell_len, names))
    value_width = max(_MIN_WIDTH, shutil.get_terminal_size().columns - name_width - 2)
    for number, row in enumerate(rows, start=1):
        lines = [f"{name:{name_width}}  {cut(value, value_width)}" for name, value in zip(names, row, strict=True)]
        sys.stdout.write("\n".join([f"row {number:,}", *lines, "", ""]))


def _plain(value: Any) -> Any:
    """The value in types that JSON has, without loss."""
    if isinstance(value, JsonText):
        return msgspec.Raw(value.text)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"\\x{bytes(value).hex()}"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value if isinstance(value, str | int | float | None) else str(value)


def _text(value: Any) -> str | JsonText:
    if isinstance(value, JsonText):
        return value
    plain = _plain(value)
    return _encode(plain).decode() if isinstance(plain, list | dict | bool) else str(plain)


def _escaped(text: str) -> str:
    return _CONTROLS.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    # COPY reads bytes: one escape for each byte of the character's UTF-8.
    return _COPY_NAMES.get(character) or "".join(f"\\x{byte:02x}" for byte in character.encode())
