"""Reads a day's folder for the database: as fast as Python can, and past the files whose rows are up to date."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import day_of, day_window
from lse_archive.documents import NotARunError, unwrap
from lse_archive.errors import ArchiveError, UsageError
from lse_archive.folder import RunFile, UnfitFile

_READ_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A run file whose digest the database knows: it was not parsed again."""

    name: str


class DayReader:
    """The files of a day's folder by name, with the judgement of `lse_archive.folder.read_folder`.

    pathlib alone would take as long as all that is done here with a file of 5 KB.

    Raises:
        UsageError: There is no such folder.
    """

    def __init__(self, folder: Path, day: date) -> None:
        self._folder = folder
        self._day = day
        try:
            with os.scandir(folder) as entries:
                self.names = sorted(name for entry in entries if _may_hold_a_run(name := entry.name))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"there are no run files in {folder}", todo="Fetch or restore the day first") from None

    def files(self, known: Mapping[bytes, bytes] | None = None) -> Iterator[RunFile | UnfitFile | KnownFile]:
        """Reads the files one after the other.

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
                run_id = known.get(digest)
                if run_id is not None and run_id not in seen:
                    seen[run_id] = name
                    yield KnownFile(name)
                    continue
                try:
                    document, facts = unwrap(content)
                except NotARunError as error:
                    yield UnfitFile(name, digest, len(content), str(error))
                    continue
                run_id = bytes.fromhex(facts.run_id.replace("-", ""))
                if facts.start not in window:
                    reason = f"run {facts.run_id} started on {day_of(facts.start)}"
                elif first := seen.get(run_id):
                    reason = f"run {facts.run_id} is already in {first}"
                else:
                    seen[run_id] = name
                    yield RunFile(name, digest, len(content), facts, document)
                    continue
                yield UnfitFile(name, digest, len(content), reason)
        finally:
            os.close(directory)


def _may_hold_a_run(name: str) -> bool:
    return name.endswith(".json") and name[0] not in "_."


def _read(name: str, directory: int) -> bytes:
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
        try:
            content = part = os.read(descriptor, _READ_AT_ONCE)
            if len(content) == _READ_AT_ONCE:
                parts = [content]
                while part:
                    part = os.read(descriptor, _READ_AT_ONCE << 6)
                    parts.append(part)
                content = b"".join(parts)
            return content
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArchiveError(f"cannot read {name}", why=error.strerror or str(error)) from error
