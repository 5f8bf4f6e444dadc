"""What the tests of the core share: a day's folder as a fetch or an older tool leaves it."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

from lse_archive.days import day_window, format_time
from lse_archive.documents import read_facts
from lse_archive.folder import run_file_name
from lse_archive.layout import DayPaths, Layout
from lse_archive.manifest import SUMMARY

DAY = date(2026, 1, 2)
START = day_window(DAY).start
END = day_window(DAY).end


def day_paths(directory: Path, project: str = "chat") -> DayPaths:
    """The places of a project's day below a directory."""
    return Layout(directory / "data", directory / "archives").day(project, DAY)


def run_id(number: int) -> str:
    """The same id for the same number."""
    return str(UUID(int=number << 64 | 1 << 63))


def run(number: int, start: int | None = None, **fields: Any) -> bytes:
    """The JSON of a run; it starts so many microseconds after midnight as its number says, unless told otherwise."""
    begin = START + number if start is None else start
    return json.dumps({"id": run_id(number), "start_time": format_time(begin), **fields}).encode()


def fill(folder: Path, *runs: bytes) -> None:
    """Writes run files under the names that a fetch gives them."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in runs:
        (folder / run_file_name(read_facts(document))).write_bytes(document)


def digests(folder: Path) -> dict[str, str]:
    """The hex sha256 of every file of a folder but its summary."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != SUMMARY
    }
