"""Two files of one name: which of them is the archive, and what becomes of the others."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lse_archive.errors import CorruptArchiveError
from lse_archive.publish import SCRATCH
from lse_archive.zips import missing_runs
from lse_resources.destination import Destination
from lse_resources.restoring import Copy, copies
from lse_resources.stored_files import StoredFile


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of the files of one day.

    Attributes:
        keep: The file that holds every run of all; None where none does, and nothing may be removed.
        trash: The others.
        why: In plain words.
    """

    copy: Copy
    keep: StoredFile | None
    trash: tuple[StoredFile, ...]
    why: str


def duplicates(destination: Destination, project: str) -> list[Copy]:
    """The days of a project that have several files. Raises DriveError."""
    return [copy for copy in copies(destination, project) if len(copy.files) > 1]


def decide(destination: Destination, copy: Copy, scratch: Path) -> Decision:
    """Compares the files of a day by checksum, and where that differs by the runs that they hold.

    Args:
        scratch: A directory in which files may be downloaded for a moment.

    Raises:
        DriveError: The destination refused or cannot be reached.
    """
    files = sorted(copy.files, key=lambda file: file.modified, reverse=True)
    if len({(file.sha256, file.md5, file.size) for file in files}) == 1:
        oldest = copy.files[0]
        return Decision(copy, oldest, tuple(file for file in files if file is not oldest), "all have the same bytes")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=scratch) as directory:
        whole = dict(_downloaded(destination, files, Path(directory)))
        for file in files:
            if file.id in whole and not any(missing_runs(other, whole[file.id]) for other in whole.values()):
                broken = len(files) - len(whole)
                why = f"it holds every run of the others{f'; {broken} cannot be read' if broken else ''}"
                return Decision(copy, file, tuple(other for other in files if other is not file), why)
    why = "each holds runs that another one does not" if whole else "none of them is an archive"
    return Decision(copy, None, (), f"{why}: restore them one by one by hand, and upload the union")


def apply(destination: Destination, decision: Decision) -> None:
    """Moves the other files to the trash. Raises DriveError."""
    for file in decision.trash:
        destination.trash(file)


def _downloaded(destination: Destination, files: Sequence[StoredFile], directory: Path) -> Iterator[tuple[str, Path]]:
    for number, file in enumerate(files):
        target = directory / f"{number}.zip"
        try:
            destination.download(file, target)
            missing_runs(target, target)  # reads all of it
        except CorruptArchiveError:
            continue
        yield file.id, target
