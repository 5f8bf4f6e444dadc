"""Duplicate files of one day at a destination: selects the one to keep, and trashes the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.folder.locks import day_lock
from lse_archive.folder.publish import SCRATCH
from lse_archive.layout import DayPaths
from lse_archive.zips.inventory import Inventory, zip_inventory
from lse_operations.restore.copies import RemoteArchive, copies
from lse_resources.destinations.encryption import is_encrypted
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.protocol import Destination


@dataclass(frozen=True, slots=True)
class Decision:
    """Which file of a day stays, and which are removed.

    Attributes:
        keep: The file that holds everything in the others; None if there is none, then nothing is removed.
        trash: The others.
        why: The reason, for the user.
    """

    copy: RemoteArchive
    keep: StoredFile | None
    trash: tuple[StoredFile, ...]
    why: str


def duplicates(destination: Destination, project: str) -> list[RemoteArchive]:
    """The days of a project that have several files. Raises DestinationError."""
    return [copy for copy in copies(destination, project) if len(copy.files) > 1]


def decide(destination: Destination, copy: RemoteArchive, scratch: Path) -> Decision:
    """Compares the files of a day by checksum, and if those differ by content.

    If their names differ, or one of them cannot be read, nothing is removed.

    Args:
        scratch: A directory for temporary downloads.
    """
    if len({(file.name, is_encrypted(file)) for file in copy.files}) > 1:
        return Decision(copy, None, (), "their names differ: keep the day's archive, and move the others away")
    if all(_same_bytes(file, copy.files[0]) for file in copy.files):
        return Decision(copy, copy.files[0], copy.files[1:], "all have the same bytes")
    files = sorted(copy.files, key=lambda file: file.modified, reverse=True)
    held: dict[str, Inventory] = {}
    for file in files:
        try:
            held[file.id] = _download(destination, file, scratch)
        except ArchiveError as error:
            return Decision(copy, None, (), f"{file.id} cannot be read: {error}")
        if held[file.id].damaged:
            return Decision(copy, None, (), f"{file.id} is damaged: check it, and move it to the trash")
    for file in files:
        if all(_is_in(held[other.id], held[file.id]) for other in files):
            others = tuple(other for other in files if other is not file)
            return Decision(copy, file, others, "it holds every run of the others")
    why = "no file holds everything in the others: restore each of them, and upload the union"
    return Decision(copy, None, (), why)


def remove(
    destination: Destination,
    paths: DayPaths,
    file: StoredFile,
    *,
    keep: StoredFile,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    """Moves a file to the trash, if neither it nor `keep`, which holds everything in it, has changed.

    Raises:
        ArchiveConflictError: One of them was removed or changed.
        ArchiveError: The destination refused or cannot be reached, or `keep` is damaged.
        DayLockedError: Another process holds the day's lock for too long.
    """
    with day_lock(paths, on_wait=on_wait):
        for one in (keep, file):
            now = destination.read(one.id)
            if now is not None and one is keep:
                now = destination.prove(now)
            if now is None or _state(now) != _state(one):
                raise ArchiveConflictError(
                    f"{one.name} ({one.id}) changed on {destination.place} since it was compared",
                    hint="Run the command again",
                )
        destination.trash(file)


def _download(destination: Destination, file: StoredFile, scratch: Path) -> Inventory:
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=scratch) as directory:
        target = Path(directory) / "copy.zip"
        destination.download(file, target)
        return zip_inventory(target)


def _is_in(one: Inventory, other: Inventory) -> bool:
    """Whether the other file holds all runs of the first, and its other files byte for byte."""
    return not one.missing_from(other) and one.others.items() <= other.others.items()


def _same_bytes(file: StoredFile, other: StoredFile) -> bool:
    known = (file.sha256 or file.md5) is not None
    return known and (file.sha256, file.md5, file.size) == (other.sha256, other.md5, other.size)


def _state(file: StoredFile) -> tuple[object, ...]:
    return file.name, file.folder, file.revision, file.size, file.sha256, file.md5, file.trashed
