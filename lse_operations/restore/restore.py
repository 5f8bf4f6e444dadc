"""Restores days from the destination of the archive: the plan and the restore."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.locks import day_lock
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.state import update_state
from lse_archive.layout import DayPaths
from lse_archive.results import RestoreResult
from lse_operations.restore.copies import RemoteArchive, copies
from lse_operations.restore.unpack import LaidOut, clear, holds, lay_out, publish
from lse_resources.destinations.encryption import check_decryptable
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.protocol import Destination


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How days are restored.

    Attributes:
        may_replace: Called before a local day that differs is replaced; returns whether it may be.
        allow_shrink: Drop local runs that are not in the copy.
        verify_only: Prove that the day can be restored, and write nothing.
        downloading: Called with (bytes done, bytes in total).
        extracting: Called with (files done, files in total).
        on_wait: Called with the holder of the day's lock, if it is held.
    """

    may_replace: Callable[[str], bool] = lambda _: True
    allow_shrink: bool = False
    verify_only: bool = False
    downloading: Callable[[int, int], None] = lambda _done, _all: None
    extracting: Callable[[int, int], None] = lambda _done, _all: None
    on_wait: Callable[[str], None] | None = None


def plan(destination: Destination, paths: DayPaths, copy: RemoteArchive, *, verify_only: bool = False) -> RestoreResult:
    """What a restore of the day would do, from the destination's metadata. Nothing is downloaded or written.

    Raises:
        ArchiveConflictError: The day has two files there.
        NoKeyError: It would have to be decrypted, and nothing is set for that.
        ArchiveError: What is here cannot be read.
    """
    file, content = copy.file, copy.content
    with _disk_errors(paths):
        unchanged = not verify_only and content is not None and holds(paths, content)
        local = not verify_only and _is_local(paths, file)
    if unchanged:
        action = "unchanged"
    elif not paths.folder.exists():
        action = "would restore"
    else:
        action = "would replace" if content else "would compare"
    if not unchanged and not local:
        check_decryptable(file)
    runs = file.app_properties.get("runs", "")
    return RestoreResult(
        project=paths.project,
        date=str(paths.day),
        action=action,
        name=file.name,
        source="local zip" if local else destination.place,
        bytes=file.size,
        runs=int(runs) if runs.isdecimal() else None,
        content_sha256=content,
    )


def restore_day(
    destination: Destination, paths: DayPaths, copy: RemoteArchive, options: RestoreOptions | None = None
) -> RestoreResult:
    """Brings one day back: its run files and its zip, as they are at the destination, or nothing.

    A zip that is here already with the checksum of the copy is not downloaded, but to prove the copy. A broken download
    is continued by the next restore.

    Raises:
        NoKeyError: The copy is encrypted, and does not open with what is set.
        ArchiveConflictError: The day has two files there, or `may_replace` said no.
        ShrinkError: What is here holds runs that the copy does not.
        RefusedArchiveError, CorruptArchiveError: The copy is no archive of this day, or damaged.
        DestinationError: The destination refused or cannot be reached.
        ArchiveError: It cannot be written.
    """
    options = options or RestoreOptions()
    began = time.monotonic()
    file = copy.file
    with _disk_errors(paths), day_lock(paths, on_wait=options.on_wait):
        clear(paths)
        if not options.verify_only and copy.content and holds(paths, copy.content):
            result = plan(destination, paths, copy)
            _remove_downloads(paths)
        else:
            result = _restore(destination, paths, copy, file, options)
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def bring_back(
    destination: Destination, paths: DayPaths, *, on_wait: Callable[[str], None] | None = None
) -> RestoreResult | None:
    """Restores a day that was pruned, so that it can be written again (law 1); None if it was not.

    Raises:
        ArchiveError: As `restore_day`, and if the destination does not have it any more.
    """
    if not is_pruned(paths):
        return None
    found = copies(destination, paths.project, paths.day, paths.day)
    if not found:
        raise ArchiveError(
            f"{paths.project} {paths.day} cannot be brought back",
            why=f"its files were pruned here, and {destination.place} does not have it",
            hint=f"Look into the trash of {destination.place}; the rows in Postgres are still there",
        )
    return restore_day(destination, paths, found[0], RestoreOptions(on_wait=on_wait))


def _restore(
    destination: Destination, paths: DayPaths, copy: RemoteArchive, file: StoredFile, options: RestoreOptions
) -> RestoreResult:
    asked = False
    if copy.content and not options.verify_only:
        asked = _ask(destination, paths, file, options)
    local = not options.verify_only and _is_local(paths, file)
    if options.verify_only:
        paths.incoming.unlink(missing_ok=True)  # what an earlier download left proves nothing of the copy now
    source = paths.zip if local else paths.incoming
    if not local and not _is_copy(source, file):
        paths.archive_dir.mkdir(parents=True, exist_ok=True)
        destination.download(file, source, progress=lambda done: options.downloading(done, file.size))
    try:
        laid = lay_out(paths, source, progress=options.extracting)
        result = RestoreResult(
            project=paths.project,
            date=str(paths.day),
            action="proven",
            name=file.name,
            source="local zip" if local else destination.place,
            bytes=file.size,
            runs=laid.summary.runs,
            files=len(laid.summary.unfit_files) + laid.summary.runs,
            content_sha256=laid.content,
            unfit_files=laid.summary.unfit_files,
            left_out=list(laid.hidden),
            older=laid.older,
        )
        if not options.verify_only:
            result.action = _publish(destination, paths, file, laid, source, options, asked=asked)
        return result
    finally:
        clear(paths)
        _remove_downloads(paths)


def _publish(
    destination: Destination,
    paths: DayPaths,
    file: StoredFile,
    laid: LaidOut,
    source: Path,
    options: RestoreOptions,
    *,
    asked: bool,
) -> Literal["restored", "replaced", "unchanged"]:
    existed = paths.folder.exists()
    if existed and holds(paths, laid.content):
        return "unchanged"
    if not asked:
        _ask(destination, paths, file, options)
    publish(paths, laid, source, allow_shrink=options.allow_shrink)
    update_state(paths, drive_file_id=file.id, drive_sha256=file.sha256, drive_content=laid.content, zip_pruned_at=None)
    return "replaced" if existed else "restored"


def _ask(destination: Destination, paths: DayPaths, file: StoredFile, options: RestoreOptions) -> bool:
    if paths.folder.exists():
        what = f"{paths.folder} differs from the copy on {destination.place} ({file.modified[:10]})"
        if not options.may_replace(f"{what}. Replace it by the copy"):
            raise ArchiveConflictError(what, why="it was not to be replaced", hint="--force replaces it")
    return True


def _is_local(paths: DayPaths, file: StoredFile) -> bool:
    """Whether the zip that is here has the copy's bytes."""
    return _is_copy(paths.zip, file)


def _is_copy(path: Path, file: StoredFile) -> bool:
    try:
        return path.is_file() and path.stat().st_size == file.size and LocalFile.read(path).equals(file)
    except CorruptArchiveError:
        return False


def _remove_downloads(paths: DayPaths) -> None:
    paths.incoming.unlink(missing_ok=True)
    for part in paths.archive_dir.glob(f".{glob.escape(paths.incoming.name)}.*.part"):
        part.unlink(missing_ok=True)


def _disk_errors(paths: DayPaths) -> AbstractContextManager[None]:
    what = f"{paths.project} {paths.day} cannot be restored under {paths.data_dir}"
    return disk_errors(what, "Free disk space or fix the permissions; nothing was published in part")
