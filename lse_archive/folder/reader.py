"""Reads the run files of a day's folder, one file at a time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import compact_time, day_of, day_window
from lse_archive.errors import ArchiveError, UsageError
from lse_archive.folder.manifest import SUMS
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.runs.header import RunHeader, unwrap
from lse_archive.runs.scanner import NotARunError

NOT_AS_RECORDED = f"it differs from {SUMS}"
"""The reason why a damaged file is invalid."""


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

    @property
    def key(self) -> str:
        """The run's id."""
        return self.header.run_id


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


def run_file_names(folder: Path | Folder) -> list[str]:
    """The names of the files that may hold a run, sorted; see `may_hold_run`."""
    with open_folder(folder) as opened:
        return [name for name in opened.names() if may_hold_run(name)]


def may_hold_run(name: str) -> bool:
    """Whether a file of this name is read as a run file: `*.json` that does not start with `_` or a dot."""
    return name.endswith(".json") and name[0] not in "_."


def hidden_names(folder: Path) -> list[str]:
    """The names of hidden files and folders, which no zip holds, sorted; without the files of desktops."""
    names = (path.name for path in folder.iterdir())
    return sorted(name for name in names if name.startswith(".") and not name.startswith(("._", ".DS_Store")))


def file_digests(folder: Path | Folder, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The names of files and the sha256 of their current content.

    Raises:
        FileNotFoundError: A file is missing.
        ArchiveError: A file cannot be read.
    """
    with open_folder(folder) as opened:
        for name in names:
            yield name, opened.digest(name)


def read_folder(folder: Path | Folder, day: date) -> Iterator[RunFile | InvalidFile]:
    """Reads a day's folder; see `DayReader`.

    Raises:
        UsageError: There is no such folder.
        ArchiveError: A file cannot be read.
    """
    with open_run_files(folder) as opened:
        for file in DayReader(opened, day).files():
            if not isinstance(file, KnownFile):
                yield file


@contextlib.contextmanager
def open_run_files(folder: Path | Folder) -> Generator[Folder]:
    """Holds a day's folder open, see `open_folder`: what is read of it is of one state of the day.

    Raises:
        UsageError: There is no such folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(open_folder(folder))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"there are no run files in {folder}", hint="Fetch or restore the day first") from None
        yield opened


def parse_file(name: str, content: bytes, digest: bytes, day: date) -> RunFile | InvalidFile:
    """The run in a file; invalid is a file without a run, or with one that started on another day.

    Args:
        digest: The sha256 of the content.
    """
    try:
        document, header = unwrap(content)
    except NotARunError as error:
        return InvalidFile(name, digest, len(content), str(error))
    if header.start not in day_window(day):
        return InvalidFile(name, digest, len(content), f"run {header.run_id} started on {day_of(header.start)}")
    return RunFile(name, digest, len(content), header, document)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A run file whose digest is already known: it was not parsed."""

    name: str


class DayReader:
    """The files of a day's open folder, in the order of their names; `names` lists them.

    Invalid are: broken JSON, JSON that is no run, a run that started on another day, and a run that an earlier file
    of the folder holds.

    Args:
        sums: Digests by file name; a file that differs from its digest is invalid too.
    """

    def __init__(self, folder: Folder, day: date, sums: Mapping[str, bytes] | None = None) -> None:
        self._folder = folder
        self._day = day
        self._sums = sums or {}
        self.names = run_file_names(folder)

    def files(self, known: Mapping[bytes, bytes] | None = None) -> Iterator[RunFile | InvalidFile | KnownFile]:
        """Reads the files one by one.

        Args:
            known: Run ids (16 bytes) of this day by the digests of their files, which need no parsing.

        Raises:
            ArchiveError: A file cannot be read.
        """
        known = known or {}
        seen: dict[bytes, str] = {}
        for name in self.names:
            content = self._read(name)
            digest = hashlib.sha256(content).digest()
            if self._sums.get(name, digest) != digest:
                yield InvalidFile(name, digest, len(content), NOT_AS_RECORDED)
                continue
            run_id = known.get(digest)
            if run_id is not None and run_id not in seen:
                seen[run_id] = name
                yield KnownFile(name)
                continue
            file = parse_file(name, content, digest, self._day)
            if isinstance(file, RunFile):
                run_id = bytes.fromhex(file.key.replace("-", ""))
                if (first := seen.setdefault(run_id, name)) != name:
                    file = InvalidFile(name, digest, len(content), f"run {file.key} is already in {first}")
            yield file

    def _read(self, name: str) -> bytes:
        try:
            return self._folder.read(name)
        except FileNotFoundError as error:
            raise ArchiveError(f"cannot read {self._folder.path / name}", why=error.strerror or "") from error
