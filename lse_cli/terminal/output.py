"""Standard output that may end at any time, be full, or know few letters."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any, TextIO

import msgspec

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def discard(stream: TextIO) -> None:
    """Lets what was and what will be written to the stream go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def print_object(document: dict[str, Any]) -> None:
    """The one object of `--json`; where standard output is not UTF-8, other letters are written as JSON escapes."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    if encoding != "utf8":
        text = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    sys.stdout.write(text + "\n")


def print_json(results: list[dict[str, Any]]) -> None:
    """The one object of `--json`, with its entries."""
    print_object({"results": results})
