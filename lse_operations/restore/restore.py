"""Plans and restores days from the destination."""

from __future__ import annotations

import contextlib
import glob
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.contents import content_files
from lse_archive.folder.locks import day_lock
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.state import update_state
from lse_archive.folder.tombstones import read_tombstones
from lse_archive.layout import DayPaths, Layout
from lse_archive.results import RestoreResult
from lse_archive.zips.day import zip_day
from lse_operations.restore.copies import RemoteArchive, copies
from lse_operations.restore.unpack import UnpackedDay, clear, holds, publish, unpack_day
from lse_resources.destinations.encryption import check_decryptable
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.protocol import ArchiveSource


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How days are restored.

    Attributes:
        may_replace: Called before a local day that differs is replaced; returns whether it may be.
        allow_shrink: Drop local runs that are not in the copy.
        verify_only: Check that the day can be restored, and write nothing.
        downloading: Called with (bytes done, bytes in total).
        extracting: Called with (files done, files in total).
        on_wait: Called with the holder of the day's lock, if it is held.
        is_destination: Whether the copy is the day's archive at the destination, so that its id is recorded.
    """

    may_replace: Callable[[str], bool] = lambda _: True
    allow_shrink: bool = False
    verify_only: bool = False
    downloading: Callable[[int, int], None] = lambda _done, _all: None
    extracting: Callable[[int, int], None] = lambda _done, _all: None
    on_wait: Callable[[str], None] | None = None
    is_destination: bool = True


def plan(
    destination: ArchiveSource, paths: DayPaths, copy: RemoteArchive, *, verify_only: bool = False
) -> RestoreResult:
    """What a restore of the day would do, by the destination's metadata. Downloads and writes nothing.

    Raises:
        ArchiveConflictError: The destination has two files of the day.
        NoKeyError: It must be decrypted, and no key is set.
        ArchiveError: The local files cannot be read.
    """
    with _disk_errors(paths):
        unchanged = not verify_only and copy.content is not None and holds(paths, copy.content)
        return _planned(destination, paths, copy, unchanged=unchanged, verify_only=verify_only)


def _planned(
    destination: ArchiveSource, paths: DayPaths, copy: RemoteArchive, *, unchanged: bool, verify_only: bool = False
) -> RestoreResult:
    file, content = copy.file, copy.content
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
    destination: ArchiveSource, paths: DayPaths, copy: RemoteArchive, options: RestoreOptions | None = None
) -> RestoreResult:
    """Restores the run files and the zip of one day as they are at the destination, or changes nothing.

    A local zip with the copy's checksum is used instead of a download, except with `verify_only`. The next restore
    continues an interrupted download.

    Raises:
        NoKeyError: The copy is encrypted, and cannot be decrypted with the configured key.
        ArchiveConflictError: The destination has two files of the day, or `may_replace` returned False.
        ShrinkError: The local day has runs that the copy does not.
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
            result = _planned(destination, paths, copy, unchanged=True)
            remove_downloads(paths)
        else:
            result = _restore(destination, paths, copy, file, options)
    if result.action in ("restored", "replaced") and read_tombstones(paths) and result.content_sha256 != copy.content:
        zip_day(paths, on_wait=options.on_wait)  # the copy's zip has runs that were left out
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def restore_pruned(
    destination: ArchiveSource, paths: DayPaths, *, on_wait: Callable[[str], None] | None = None
) -> RestoreResult | None:
    """Restores a pruned day, so that it can be written again (law 1); None if it is not pruned.

    Raises:
        ArchiveError: See `restore_day`; or the destination no longer has the day.
    """
    if not is_pruned(paths):
        return None
    layout = Layout(paths.data_dir, paths.archive_dir)
    found = copies(destination, paths.project, paths.day, paths.day, layout=layout)
    if not found:
        raise ArchiveError(
            f"{paths.project} {paths.day} cannot be restored",
            why=f"its local files were pruned, and {destination.place} does not have it",
            hint=f"Search the trash of {destination.place}; the rows in Postgres are still there",
        )
    return restore_day(destination, paths, found[0], RestoreOptions(on_wait=on_wait))


def _restore(
    destination: ArchiveSource, paths: DayPaths, copy: RemoteArchive, file: StoredFile, options: RestoreOptions
) -> RestoreResult:
    asked = False
    if copy.content and not options.verify_only:
        asked = _ask(destination, paths, file, options)
    local = not options.verify_only and _is_local(paths, file)
    if options.verify_only:
        paths.incoming.unlink(missing_ok=True)  # an earlier download does not verify the current copy
    source = paths.zip if local else paths.incoming
    if not local and not _is_copy(source, file):
        paths.archive_dir.mkdir(parents=True, exist_ok=True)
        destination.download(file, source, progress=lambda done: options.downloading(done, file.size))
    try:
        unpacked = unpack_day(paths, source, progress=options.extracting)
        result = RestoreResult(
            project=paths.project,
            date=str(paths.day),
            action="proven",
            name=file.name,
            source="local zip" if local else destination.place,
            bytes=file.size,
            runs=unpacked.summary.runs,
            files=len(content_files(unpacked.paths.folder)),
            content_sha256=unpacked.content,
            unfit_files=unpacked.summary.unfit_files,
            left_out=list(unpacked.hidden),
            forgotten=unpacked.forgotten.runs,
            older=unpacked.older,
        )
        if not options.verify_only:
            result.action = _publish(destination, paths, copy, unpacked, source, options, asked=asked)
        return result
    finally:
        clear(paths)
        remove_downloads(paths)


def _publish(
    destination: ArchiveSource,
    paths: DayPaths,
    copy: RemoteArchive,
    unpacked: UnpackedDay,
    source: Path,
    options: RestoreOptions,
    *,
    asked: bool,
) -> Literal["restored", "replaced", "unchanged"]:
    file, existed = copy.file, paths.folder.exists()
    # The content that the copy promises was compared before the download.
    if existed and unpacked.content != copy.content and holds(paths, unpacked.content):
        return "unchanged"
    if not asked:
        _ask(destination, paths, file, options)
    publish(paths, unpacked, source, allow_shrink=options.allow_shrink)
    if not unpacked.differs:
        recorded = {"drive_file_id": file.id, "drive_sha256": file.sha256, "drive_content": unpacked.content}
        update_state(paths, zip_pruned_at=None, **(recorded if options.is_destination else {}))
    return "replaced" if existed else "restored"


def _ask(destination: ArchiveSource, paths: DayPaths, file: StoredFile, options: RestoreOptions) -> bool:
    if paths.folder.exists():
        what = f"{paths.folder} differs from the copy on {destination.place} ({file.modified[:10]})"
        if not options.may_replace(f"{what}. Replace it by the copy"):
            raise ArchiveConflictError(what, why="the question was not answered with yes", hint="--force replaces it")
    return True


def _is_local(paths: DayPaths, file: StoredFile) -> bool:
    """Whether the local zip has the copy's bytes."""
    return _is_copy(paths.zip, file)


def _is_copy(path: Path, file: StoredFile) -> bool:
    try:
        return path.is_file() and path.stat().st_size == file.size and LocalFile.read(path).equals(file)
    except CorruptArchiveError:
        return False


def remove_downloads(paths: DayPaths) -> None:
    """Removes the downloaded copies of a day, also unfinished ones."""
    with contextlib.suppress(OSError):  # the day is restored: the next restore removes them
        name = glob.escape(paths.incoming.name)
        for pattern in (f"{name}*", f".{name}.*.part"):  # also the encrypted file
            for left in paths.archive_dir.glob(pattern):
                left.unlink(missing_ok=True)


def _disk_errors(paths: DayPaths) -> AbstractContextManager[None]:
    what = f"{paths.project} {paths.day} cannot be restored under {paths.data_dir}"
    return disk_errors(what, "Free disk space or fix the permissions; nothing was published in part")
