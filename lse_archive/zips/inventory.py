"""Inventory of a folder or a zip, as far as it can be read; used to refuse a replacement with fewer runs."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lse_archive.errors import CorruptArchiveError, RefusedArchiveError, ShrinkError
from lse_archive.files import file_digest
from lse_archive.folder.attachments import (
    ATTACHMENTS,
    Attachment,
    attachment_digest,
    attachment_file,
    parse_attachments,
)
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.folder.reader import may_hold_run
from lse_archive.folder.tombstones import NONE, Tombstones
from lse_archive.runs.feedback import FEEDBACK_FILES, read_record, split_mark
from lse_archive.runs.header import unwrap
from lse_archive.runs.scanner import NotARunError
from lse_archive.texts import counted
from lse_archive.zips.reader import BROKEN, file_name, normalize_names, sha256
from lse_archive.zips.unzip import IN_MEMORY_BYTES, check_overlaps

_RUN_NAME = re.compile(rb"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:_[0-9A-Za-z.]*)?\.json")
_HEADER = b"PK\x03\x04"  # before each file of a zip: PKWARE's APPNOTE.TXT, 4.3.7


@dataclass(slots=True)
class Inventory:
    """The runs and files of a folder or zip, without manifests and hidden files.

    What belongs to a run that has a tombstone is left out, so that its erasure is no loss.

    Attributes:
        tombstones: Runs that were erased on purpose.
        forgotten: Number of runs, records, entries and files that were left out because of them.
        runs: The ids of the runs that can be read, and whether they have ended.
        named: The run ids in the names of files that hold no run or cannot be read.
        others: The sha256 of files that hold no run, by name.
        feedback: The ids of feedback records, and when each was last edited, in microseconds since the epoch.
        unread: Unreadable files without a run id in their names, or the file list of a zip if that is damaged.
        names: The names of all files, without their folder.
        same: The names of files that were left out, because the other side of the comparison has the same bytes.
        damaged: Whether something cannot be read.
    """

    tombstones: Tombstones = NONE
    forgotten: int = 0
    runs: dict[str, bool] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    others: dict[str, bytes] = field(default_factory=dict)
    feedback: dict[bytes, int | None] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    same: set[str] = field(default_factory=set)
    damaged: bool = False
    _attached: dict[str, bool] = field(default_factory=dict)  # files of attachments: whether a run without one lists it

    def missing_from(self, new: Inventory) -> dict[str, str]:
        """The run ids and file names that a replacement by `new` would lose, each with the reason.

        A file that holds no run may have other content in `new`: it is another version of the same file, not a loss. Of
        feedback each record must be there, in the same or a later state.
        """
        lost = dict.fromkeys(self.unread, "cannot be read")
        read = FEEDBACK_FILES if self.feedback else frozenset[str]()  # their records count: some move to the other file
        lost |= dict.fromkeys(self.others.keys() - new.names - read, "is no run, and is not there")
        for record, modified in self.feedback.items():
            if record not in new.feedback:
                lost[_shown(record)] = "is not there"
            elif (modified or 0) > (new.feedback[record] or 0):
                lost[_shown(record)] = "was edited later than the one there"
        lost |= dict.fromkeys(self.named - new.runs.keys() - new.named, "is not there")
        for run, ended in self.runs.items():
            if run not in new.runs:
                lost[run] = "is not there"
            elif ended and not new.runs[run]:
                lost[run] = "has not ended there"
        return lost

    def add(self, name: str, content: bytes) -> None:
        """Adds a file that is no manifest."""
        if name in FEEDBACK_FILES:
            records = [read_record(split_mark(line)[0]) for line in content.split(b"\n") if line]
            left = [record for record in records if record.run_id not in self.tombstones]
            self.forgotten += len(records) - len(left)
            if records and not left:
                return
            for record in left:
                known = self.feedback.get(record.identity)
                self.feedback[record.identity] = max(filter(None, (known, record.modified)), default=None)
        elif name == ATTACHMENTS:
            self._add_list(name, content)
            return
        else:
            with contextlib.suppress(NotARunError):
                header = unwrap(content)[1]
                if header.run_id in self.tombstones:
                    self.forgotten += 1
                    return
                self.runs[header.run_id] = self.runs.get(header.run_id, False) or header.end is not None
                return
        if self.tombstones.owner(name, content):
            self.forgotten += 1
        else:
            self._add_other(name, hashlib.sha256(content).digest())

    def _add_list(self, name: str, content: bytes) -> None:
        listed: list[Attachment] = []
        with contextlib.suppress(CorruptArchiveError):
            listed = parse_attachments(content, Path(name))
        for one in listed:
            file = attachment_file(one.sha256)
            self.forgotten += one.run_id in self.tombstones
            self._attached[file] = self._attached.get(file, False) or one.run_id not in self.tombstones
        if not listed or any(self._attached.values()):
            self._add_other(name, hashlib.sha256(content).digest())

    def without_forgotten(self) -> Inventory:
        """Leaves out the files of attachments that only runs with tombstones list; called when all files are added."""
        for file, is_needed in self._attached.items():
            if not is_needed:
                self.others.pop(file, None)
        named = {run_id for run_id in self.named if run_id in self.tombstones}
        self.forgotten += len(named)
        self.named -= named
        return self

    def _add_other(self, name: str, digest: bytes) -> None:
        if not name.startswith("."):
            self.named |= _run_ids(os.fsencode(name))
            self.others[name] = digest

    def _add_unreadable(self, name: str) -> None:
        ids = _run_ids(os.fsencode(name))
        self.named |= ids
        if not ids:
            self.unread.add(name)


def folder_inventory(paths: Iterable[Path], tombstones: Tombstones = NONE) -> Inventory:
    """The inventory of these files, without runs that have tombstones.

    Raises:
        OSError: One of them cannot be read.
    """
    inventory = Inventory(tombstones)
    for path in paths:
        if path.name not in (SUMMARY, SUMS):
            inventory.names.add(path.name)
            if _is_parsed(path.name, tombstones):
                inventory.add(path.name, path.read_bytes())
            else:
                inventory._add_other(path.name, file_digest(path))
    return inventory.without_forgotten()


def contents_inventory(files: Iterable[tuple[str, Iterable[bytes]]], tombstones: Tombstones) -> Inventory:
    """The inventory of files by their names and the pieces of their contents, without runs that have tombstones."""
    inventory = Inventory(tombstones)
    for name, pieces in files:
        if name in (SUMMARY, SUMS):
            continue
        inventory.names.add(name)
        if _is_parsed(name, tombstones):
            inventory.add(name, b"".join(pieces))
        else:
            digest = hashlib.sha256()
            for piece in pieces:
                digest.update(piece)
            inventory._add_other(name, digest.digest())
    return inventory.without_forgotten()


def zip_inventory(path: Path, tombstones: Tombstones = NONE, other: Mapping[str, bytes] | None = None) -> Inventory:
    """The inventory of a zip, without runs that have tombstones.

    Of a damaged zip: the files that can be read, and the run ids in the names.

    Args:
        other: The checksums of the other side of a comparison. Files with the same bytes there are not parsed.

    The zip is not trusted: nothing is read of one whose files overlap, and a file above 512 MB counts as one that
    holds no run.

    Raises:
        OSError: The disk cannot be read.
    """
    inventory = Inventory(tombstones)
    try:
        with zipfile.ZipFile(path) as archive:
            normalize_names(archive)
            is_readable = _is_readable(archive, path)
            for info in archive.infolist():
                if not info.is_dir():
                    _add_entry(inventory, archive, info, file_name(info), other or {}, is_readable=is_readable)
    except BROKEN:
        inventory.damaged = True
        content = _map(path)
        inventory.named |= _run_ids(content)
        if content.find(_HEADER) >= 0:
            inventory.unread.add("the list of its files")
    return inventory.without_forgotten()


def _is_readable(archive: zipfile.ZipFile, path: Path) -> bool:
    """Whether no files overlap: else a small zip could take any time to read."""
    try:
        check_overlaps([info for info in archive.infolist() if info.header_offset >= 0], path.stat().st_size, path)
    except RefusedArchiveError:
        return False
    return True


def _add_entry(
    inventory: Inventory,
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    name: str,
    other: Mapping[str, bytes],
    *,
    is_readable: bool,
) -> None:
    is_manifest = name in (SUMMARY, SUMS)
    if not is_manifest:
        inventory.names.add(name)
    try:
        if info.header_offset < 0 or not is_readable:  # negative if the beginning of the zip is missing
            raise zipfile.BadZipFile
        if not is_manifest and name in other and sha256(archive, info) == other[name]:
            inventory.same.add(name)
        elif is_manifest or not _is_parsed(name, inventory.tombstones) or info.file_size > IN_MEMORY_BYTES:
            digest = sha256(archive, info)
            if not is_manifest:
                inventory._add_other(name, digest)
        else:
            inventory.add(name, archive.read(info))
    except BROKEN:
        inventory.damaged = True
        if not is_manifest:
            inventory._add_unreadable(name)


def _is_parsed(name: str, tombstones: Tombstones) -> bool:
    return may_hold_run(name) or name in FEEDBACK_FILES or (bool(tombstones) and attachment_digest(name) is None)


def _map(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _shown(identity: bytes) -> str:
    return f"feedback {identity.decode('utf-8', 'replace')}"


def _run_ids(content: bytes | mmap.mmap) -> set[str]:
    return {found[1].decode() for found in _RUN_NAME.finditer(content)}


def shrink_error(what: str, than: str, lost: dict[str, str], hint: str) -> ShrinkError:
    """The error that names the runs or files that would be lost, see `Inventory.missing_from`."""
    noun = "run" if all(_RUN_NAME.fullmatch(os.fsencode(f"{name}.json")) for name in lost) else "file"
    example = min(lost)
    return ShrinkError(
        f"{what} holds {counted(len(lost), noun)} that {than} does not",
        why=f"for example {example}, which {lost[example]}",
        hint=hint,
    )
