"""What is printed: lines, and the objects of `--json`. Standard output may be closed, full, or not UTF-8."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any, NoReturn, TextIO

import msgspec
import typer

from lse_archive.errors import ArchiveError
from lse_archive.printable import HIDDEN, printable

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_HIDDEN = re.compile(f"[{HIDDEN}]")


def echo(*cells: str, err: bool = False) -> None:
    """Prints a line of cells, separated by tabs, on standard output or on stderr; each cell is made harmless."""
    typer.echo("\t".join(map(printable, cells)), err=err)


def discard(stream: TextIO) -> None:
    """Redirects the stream to the null device, its buffered text included."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def print_object(document: dict[str, Any]) -> None:
    """Prints the one object of `--json`."""
    try:
        text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    except UnicodeEncodeError:  # a path that is not UTF-8: JSON's escapes hold it
        text = json.dumps(document, indent=2)
    write_json(text + "\n")


def write_json(text: str) -> None:
    """Writes JSON.

    Characters that a terminal would execute are JSON escapes; where standard output is not UTF-8, all of non-ASCII.
    """
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    escaped = _HIDDEN if encoding == "utf8" else _NOT_ASCII
    sys.stdout.write(escaped.sub(lambda found: json.dumps(found[0])[1:-1], text))


def print_json(results: list[dict[str, Any]]) -> None:
    """Prints the one object of `--json`, with these entries."""
    print_object({"results": results})


def end_command(entries: list[dict[str, Any]], code: int, *, json: bool) -> NoReturn:
    """Prints the entries if `json`, and exits with the code."""
    if json:
        print_json(entries)
    raise typer.Exit(code)


def error_object(step: str, error: ArchiveError) -> dict[str, str]:
    """The `error` of an entry."""
    return {"step": step, "what": error.what, "why": error.why, "todo": error.hint}
