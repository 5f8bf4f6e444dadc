"""A day's folder of run files: what is in it, read one file at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import compact_time, day_of, day_window
from lse_archive.documents import NotARunError, RunFacts, unwrap


@dataclass(frozen=True, slots=True)
class RunFile:
    """One run of the day.

    Attributes:
        name: File name within the folder.
        sha256: Digest of the file's bytes.
        size: Bytes of the file.
        facts: What the archive knows of the run.
        document: The JSON of the run itself, exact; for a file of an older tool without its wrapper.
    """

    name: str
    sha256: bytes
    size: int
    facts: RunFacts
    document: bytes


@dataclass(frozen=True, slots=True)
class UnfitFile:
    """A file that stays where it is but counts as no run of this day; `reason` says why."""

    name: str
    sha256: bytes
    size: int
    reason: str


def run_file_name(facts: RunFacts) -> str:
    """`<run id>_<start time>.json`"""
    return f"{facts.run_id}_{compact_time(facts.start)}.json"


def run_file_paths(folder: Path) -> list[Path]:
    """The files that may hold a run, sorted by name: `*.json` that does not start with `_` or a dot."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(".json") and path.name[0] not in "_.")


def read_folder(folder: Path, day: date) -> Iterator[RunFile | UnfitFile]:
    """Reads a day's folder in the order of its file names.

    Unfit are: broken JSON, JSON that is no run, a run that started on another day, and a run that an earlier file
    of the folder holds already.
    """
    window = day_window(day)
    seen: dict[str, str] = {}
    for path in run_file_paths(folder):
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        try:
            document, facts = unwrap(content)
        except NotARunError as error:
            yield UnfitFile(path.name, digest, len(content), str(error))
            continue
        if facts.start not in window:
            reason = f"run {facts.run_id} started on {day_of(facts.start)}"
        elif first := seen.get(facts.run_id):
            reason = f"run {facts.run_id} is already in {first}"
        else:
            seen[facts.run_id] = path.name
            yield RunFile(path.name, digest, len(content), facts, document)
            continue
        yield UnfitFile(path.name, digest, len(content), reason)
