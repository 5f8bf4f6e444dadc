"""Prunes local files or copies of a day, after the other places of the day were verified."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lse_archive.errors import CorruptArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import content_hash, content_sums, read_sums
from lse_archive.folder.opened import delete_unread
from lse_archive.folder.pruned import PrunedDay, day_content, write_pruned
from lse_archive.folder.publish import SCRATCH, displace
from lse_archive.folder.reader import RunFile, hidden_names, read_folder
from lse_archive.folder.state import now_text, update_state
from lse_archive.layout import DayPaths
from lse_archive.results import PruneResult
from lse_archive.texts import counted
from lse_archive.zips.day import check_zip, zip_sums
from lse_operations.checks import check_archive, check_attachments, check_count, check_files, check_rows, compare_rows
from lse_operations.upload import copy_difference, find_copies
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.protocol import Destination
from lse_resources.postgres.database import Database

What = Literal["files", "zips"]


class _NotProvenError(Exception):
    """The day is kept; the text is the reason."""


def prune_day(
    destination: Destination,
    database: Database,
    paths: DayPaths,
    what: What,
    *,
    dry_run: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> PruneResult:
    """Prunes the day's run files or its zip, if all places agree; else keeps it and returns the reason.

    The day must not lack runs or attachments. The local files and zip must agree with their checksums, the
    destination's own checksum with this content, and the rows in Postgres with the files. The copy must pass the test
    of a restore: on the local zip if that has its bytes, else on a download. Summary and checksums stay
    (`lse_archive.folder.pruned`).

    Args:
        dry_run: Check, and delete nothing.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        DatabaseError: Postgres refused or cannot be reached.
        ArchiveError: The disk cannot be read or written.
    """
    began = time.monotonic()
    result = PruneResult(project=paths.project, date=str(paths.day), what=what, action="kept")
    with disk_errors(f"cannot prune {paths.project} {paths.day}"), day_lock(paths, on_wait=on_wait):
        try:
            copy = _prove(destination, database, paths, what, on_wait)
        except _NotProvenError as reason:
            result.why = str(reason)
        else:
            result.freed = _size(paths.folder if what == "files" else paths.zip)
            result.action = "would prune" if dry_run else "pruned"
            if not dry_run and not _prune(destination, paths, what, copy):
                result.freed, result.why = 0, "its files cannot be deleted yet: the next command on the day does it"
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def prune_copy(
    destination: Destination,
    paths: DayPaths,
    *,
    dry_run: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> PruneResult:
    """Prunes the copy at the destination, if the local run files and zip are intact and have its content.

    Never prunes the last copy: that of a day whose files or zip were pruned here.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        ArchiveError: The disk cannot be read or written.
    """
    began = time.monotonic()
    result = PruneResult(project=paths.project, date=str(paths.day), what="copies", action="kept")
    with disk_errors(f"cannot prune {paths.project} {paths.day}"), day_lock(paths, on_wait=on_wait):
        try:
            if not paths.folder.is_dir() or not paths.zip.is_file():
                raise _NotProvenError("it is the last copy: the run files and the zip are not both here")
            _prove_here(paths)
            copy = _the_copy(destination, paths)
            _compare_copy(destination, copy, paths)  # by checksum only: a copy that is pruned need not be readable
        except _NotProvenError as reason:
            result.why = str(reason)
        else:
            result.freed = copy.size
            result.action = "would prune" if dry_run else "pruned"
            if not dry_run:
                destination.trash(copy)
                update_state(paths, copy_pruned_at=now_text())
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def _prove(
    destination: Destination,
    database: Database,
    paths: DayPaths,
    what: What,
    on_wait: Callable[[str], None] | None,
) -> StoredFile:
    if not (paths.folder.is_dir() if what == "files" else paths.zip.is_file()):
        raise _NotProvenError(f"its {what} are not here")
    path = paths.folder if what == "files" else paths.zip
    if path.is_symlink():
        raise _NotProvenError(f"it is a link, which frees nothing: move {path.readlink()} to {path}, and prune again")
    _prove_here(paths)
    copy = destination.prove(_the_copy(destination, paths))
    _compare_copy(destination, copy, paths)
    _prove_restorable(destination, copy, paths)
    if what == "zips" and copy_difference(copy, paths, without_zip=True):
        why = f"{destination.place} has no content hash of the copy, so that it cannot be checked without the zip"
        raise _NotProvenError(f"{why}; upload it again: lse archive upload")
    if what == "files" and paths.folder.is_dir() and (hidden := hidden_names(paths.folder)):
        raise _NotProvenError(f"hidden files are in no copy of the day: {', '.join(hidden[:3])}; move them away")
    rows = check_rows(compare_rows(database, paths, on_wait=on_wait))
    if rows.verdict != "agrees":
        raise _NotProvenError(f"{rows.says} in Postgres; {rows.hint}")
    return copy


def _prove_here(paths: DayPaths) -> None:
    for complete in (check_count(paths), check_attachments(paths)):
        if complete.verdict == "differs":
            raise _NotProvenError(f"{complete.says}; {complete.hint}")
    for check in (check_files(paths), check_archive(paths)):
        if check.verdict != "agrees":
            raise _NotProvenError(f"{check.says}; {check.hint}" if check.hint else check.says)


def _the_copy(destination: Destination, paths: DayPaths) -> StoredFile:
    found = find_copies(destination, paths)
    if len(found) != 1:
        raise _NotProvenError(f"{destination.place} has {counted(len(found), 'file')} of it")
    return found[0]


def _compare_copy(destination: Destination, copy: StoredFile, paths: DayPaths) -> None:
    difference = ("the archive", "a file in the trash") if copy.trashed else copy_difference(copy, paths)
    if difference:
        expected, there = difference
        raise _NotProvenError(f"{destination.place} holds something else: expected {expected}, found {there}")


def _prove_restorable(destination: Destination, copy: StoredFile, paths: DayPaths) -> None:
    """Tests the bytes of the copy as a restore does. A local zip with the same bytes was tested by `_prove_here`."""
    if paths.zip.is_file() and LocalFile.read(paths.zip).equals(copy):
        return
    paths.archive_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=paths.archive_dir) as scratch:
        downloaded = Path(scratch) / copy.name
        destination.download(copy, downloaded)
        try:
            sums = zip_sums(downloaded)
            check_zip(downloaded, downloaded, sums)
        except CorruptArchiveError as error:
            raise _NotProvenError(f"its copy cannot be restored: {error.why}") from error
        # The summary may differ: it describes the content, and is written again with it.
        if content_hash(content_sums(sums)) != day_content(paths):
            raise _NotProvenError("its copy holds other content")


def _prune(destination: Destination, paths: DayPaths, what: What, copy: StoredFile) -> bool:
    """Whether the files are deleted; those that a process still reads are deleted later."""
    if what == "zips":
        update_state(paths, zip_pruned_at=now_text())
        paths.zip.unlink()
        return True
    record = PrunedDay(
        pruned_at=now_text(),
        content_sha256=content_hash(content_sums(read_sums(paths.folder) or {})),
        place=destination.place,
        remote_sha256=copy.sha256 or "",
        remote_bytes=copy.size,
    )
    files = read_folder(paths.folder, paths.day)
    runs = ((f.header.run_id, f.header.trace_id, f.sha256) for f in files if isinstance(f, RunFile))
    write_pruned(paths, record, runs)
    # One rename: no reader sees a part of the day.
    return delete_unread(displace(paths, paths.folder))


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
