"""Results on standard output, which may be closed, full, or not UTF-8."""

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

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def discard(stream: TextIO) -> None:
    """Redirects the stream to the null device, its buffered text included."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def print_object(document: dict[str, Any]) -> None:
    """Prints the one object of `--json`."""
    write_json(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def write_json(text: str) -> None:
    """Writes JSON; where standard output is not UTF-8, with JSON escapes for non-ASCII."""
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    if encoding != "utf8":
        text = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    sys.stdout.write(text)


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
