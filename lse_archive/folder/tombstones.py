"""Tombstones: which runs of a day were erased on purpose (`lse forget`), so that no step brings them back.

A tombstone is the sha256 of a run id, in lower case with hyphens. Ids are random: the hash does not tell which run it
was. A day's tombstones are in its folder, as `_forgotten.txt`, and so in its zip; and beside it, also without a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from lse_archive.errors import CorruptArchiveError
from lse_archive.files import file_lock, publish_file
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.layout import DayPaths
from lse_archive.runs.header import CANONICAL_UUID

FORGOTTEN = "_forgotten.txt"
"""The tombstones of a day: 64 hexadecimal digits a line, sorted."""

_LINES = re.compile(rb"(?:[0-9a-f]{64}\n)*")
_UUID = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ID = re.compile(_UUID, re.IGNORECASE)
_NAMED = re.compile(_UUID + rb"(?=[_.])", re.IGNORECASE)
# What names the run that unreadable bytes are of; other keys, such as `parent_run_id`, name other runs.
_OWNER = re.compile(rb'"(?:id|run_id)"\s*:\s*"(%s)"' % _UUID, re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tombstones:
    """A set of tombstones; `run_id in tombstones` says whether a run was erased."""

    digests: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, run_ids: Iterable[str]) -> Tombstones:
        """The tombstones of these runs."""
        return cls(frozenset(map(tombstone, run_ids)))

    def __contains__(self, run_id: str | None) -> bool:
        return run_id is not None and bool(self.digests) and tombstone(run_id) in self.digests

    def __len__(self) -> int:
        return len(self.digests)

    def __or__(self, other: Tombstones) -> Tombstones:
        return Tombstones(self.digests | other.digests)

    def lines(self) -> Iterator[bytes]:
        """The lines of `FORGOTTEN`."""
        return (digest.hex().encode() + b"\n" for digest in sorted(self.digests))

    def mentioned(self, content: bytes) -> set[bytes]:
        """The tombstones of the runs whose ids are anywhere in a text."""
        ids = {found[0].decode("ascii").lower() for found in _ID.finditer(content)} if self.digests else set()
        return {digest for run_id in ids if (digest := tombstone(run_id)) in self.digests}

    def owner(self, name: str, content: bytes) -> bytes | None:
        """The tombstone of the run that a file or bytes which hold no readable run are of, by name or content."""
        if self.digests:
            named = [found[0] for found in _NAMED.finditer(name.encode("utf-8", "surrogateescape"))]
            for run_id in [*named, *(found[1] for found in _OWNER.finditer(content))]:
                if (digest := tombstone(run_id.decode("ascii").lower())) in self.digests:
                    return digest
        return None


NONE = Tombstones()


def tombstone(run_id: str) -> bytes:
    """The sha256 of a run id in lower case with hyphens, however it is written; of another text as it is."""
    if not CANONICAL_UUID.fullmatch(run_id):
        with contextlib.suppress(ValueError):
            run_id = str(UUID(run_id))
    return hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).digest()


def parse_tombstones(content: bytes, origin: Path) -> Tombstones:
    """Reads the bytes of a `FORGOTTEN`; `origin` is named in the error.

    Raises:
        CorruptArchiveError: They are not tombstones.
    """
    if not _LINES.fullmatch(content):
        raise CorruptArchiveError(
            f"{origin} cannot be read",
            why="a line is not the sha256 of a run id",
            hint="Restore the day from its zip or its copy: without the list, erased runs could come back",
        )
    return Tombstones(frozenset(bytes.fromhex(line.decode()) for line in content.split()))


def folder_tombstones(folder: Path | Folder) -> Tombstones:
    """The tombstones in a day's folder; none if it lists none, or if there is no folder.

    Raises:
        CorruptArchiveError: They cannot be read.
    """
    try:
        with open_folder(folder) as opened:
            return parse_tombstones(opened.read(FORGOTTEN), opened.path / FORGOTTEN)
    except (FileNotFoundError, NotADirectoryError):
        return NONE


def read_tombstones(paths: DayPaths) -> Tombstones:
    """All tombstones of a day: those in its folder, and those beside it.

    Raises:
        CorruptArchiveError: They cannot be read.
        OSError: The disk cannot be read.
    """
    return folder_tombstones(paths.folder) | _beside(paths)


def add_tombstones(paths: DayPaths, more: Tombstones) -> None:
    """Adds tombstones beside the day: from now on no step publishes these runs.

    Raises:
        CorruptArchiveError: Those that are there cannot be read.
        ArchiveError: Another process held the file's lock for ten minutes.
        OSError: They cannot be written.
    """
    if more.digests <= _beside(paths).digests:
        return
    with file_lock(paths.tombstones):
        found = _beside(paths) | more
        with publish_file(paths.tombstones) as file:
            file.writelines(found.lines())


def _beside(paths: DayPaths) -> Tombstones:
    with contextlib.suppress(FileNotFoundError):
        return parse_tombstones(paths.tombstones.read_bytes(), paths.tombstones)
    return NONE
