"""Reads the run files of a day's folder, one file at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import compact_time, day_of, day_window
from lse_archive.errors import ArchiveError, UsageError
from lse_archive.folder.manifest import SUMS
from lse_archive.runs.header import RunHeader, unwrap
from lse_archive.runs.scanner import NotARunError

NOT_AS_RECORDED = f"it differs from {SUMS}"
"""The reason why a damaged file is invalid."""

_READ_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class RunFile:
    """One run of the day.

    Attributes:
        name: File name within the folder.
        sha256: Digest of the file's bytes.
        size: Bytes of the file.
        header: The header of the run.
        document: The JSON of the run itself, exact; for a file of an older tool without its wrapper.
    """

    name: str
    sha256: bytes
    size: int
    header: RunHeader
    document: bytes


@dataclass(frozen=True, slots=True)
class InvalidFile:
    """A file that stays in the folder but is no run of this day, and the reason."""

    name: str
    sha256: bytes
    size: int
    reason: str


def run_file_name(header: RunHeader) -> str:
    """`<run id>_<start time>.json`"""
    return f"{header.run_id}_{compact_time(header.start)}.json"


def run_file_paths(folder: Path) -> list[Path]:
    """The paths of the files that may hold a run, sorted by name; see `may_hold_run`."""
    return [folder / name for name in _names(folder)]


def may_hold_run(name: str) -> bool:
    """Whether a file of this name is read as a run file: `*.json` that does not start with `_` or a dot."""
    return name.endswith(".json") and name[0] not in "_."


def file_digests(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The names of files and the sha256 of their current content.

    Raises:
        ArchiveError: A file cannot be read.
    """
    directory = os.open(folder, os.O_RDONLY)
    try:
        for name in names:
            yield name, hashlib.sha256(_read(name, directory)).digest()
    finally:
        os.close(directory)


def read_folder(folder: Path, day: date) -> Iterator[RunFile | InvalidFile]:
    """Reads a day's folder; see `DayReader`.

    Raises:
        UsageError: There is no such folder.
        ArchiveError: A file cannot be read.
    """
    for file in DayReader(folder, day).files():
        if not isinstance(file, KnownFile):
            yield file


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A run file whose digest is already known: it was not parsed."""

    name: str


class DayReader:
    """The files of a day's folder, in the order of their names; `names` lists them.

    Invalid are: broken JSON, JSON that is no run, a run that started on another day, and a run that an earlier file
    of the folder holds. It uses plain system calls: pathlib would double the time.

    Args:
        sums: Digests by file name; a file that differs from its digest is invalid too.

    Raises:
        UsageError: There is no such folder.
    """

    def __init__(self, folder: Path, day: date, sums: Mapping[str, bytes] | None = None) -> None:
        self._folder = folder
        self._day = day
        self._sums = sums or {}
        try:
            self.names = _names(folder)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"there are no run files in {folder}", hint="Fetch or restore the day first") from None

    def files(self, known: Mapping[bytes, bytes] | None = None) -> Iterator[RunFile | InvalidFile | KnownFile]:
        """Reads the files one by one.

        Args:
            known: Run ids (16 bytes) of this day by the digests of their files, which need no parsing.

        Raises:
            ArchiveError: A file cannot be read.
        """
        known = known or {}
        window = day_window(self._day)
        seen: dict[bytes, str] = {}
        directory = os.open(self._folder, os.O_RDONLY)
        try:
            for name in self.names:
                content = _read(name, directory)
                digest = hashlib.sha256(content).digest()
                if self._sums.get(name, digest) != digest:
                    yield InvalidFile(name, digest, len(content), NOT_AS_RECORDED)
                    continue
                run_id = known.get(digest)
                if run_id is not None and run_id not in seen:
                    seen[run_id] = name
                    yield KnownFile(name)
                    continue
                try:
                    document, header = unwrap(content)
                except NotARunError as error:
                    yield InvalidFile(name, digest, len(content), str(error))
                    continue
                run_id = bytes.fromhex(header.run_id.replace("-", ""))
                if header.start not in window:
                    reason = f"run {header.run_id} started on {day_of(header.start)}"
                elif first := seen.get(run_id):
                    reason = f"run {header.run_id} is already in {first}"
                else:
                    seen[run_id] = name
                    yield RunFile(name, digest, len(content), header, document)
                    continue
                yield InvalidFile(name, digest, len(content), reason)
        finally:
            os.close(directory)


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if may_hold_run(entry.name))


def _read(name: str, directory: int) -> bytes:
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
        try:
            # Read to the end: network file systems may return short reads.
            parts = [os.read(descriptor, _READ_AT_ONCE)]
            while parts[-1]:
                parts.append(os.read(descriptor, _READ_AT_ONCE << 6))
            return b"".join(parts)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArchiveError(f"cannot read {name}", why=error.strerror or str(error)) from error
