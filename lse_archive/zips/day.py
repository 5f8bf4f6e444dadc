"""The day archive: a zip with the same bytes for the same files, read back before it is published."""

from __future__ import annotations

import contextlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

from lse_archive.errors import ArchiveConflictError, CorruptArchiveError
from lse_archive.files import disk_errors, file_sha256, publish_file
from lse_archive.folder.contents import ensure_manifest, unrecorded
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import (
    SUMMARY,
    SUMS,
    Summary,
    content_hash,
    content_sums,
    parse_summary,
    parse_sums,
    read_sums,
    reject_foreign,
    sort_key,
)
from lse_archive.folder.state import read_state, update_state
from lse_archive.folder.tombstones import read_tombstones
from lse_archive.layout import DayPaths
from lse_archive.results import ZipResult
from lse_archive.texts import counted
from lse_archive.zips.inventory import folder_inventory, shrink_error, zip_inventory
from lse_archive.zips.reader import BROKEN, file_name, opened, sha256
from lse_archive.zips.unzip import inspect
from lse_archive.zips.writer import write_zip


def zip_day(
    paths: DayPaths,
    *,
    target: Path | None = None,
    allow_shrink: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> ZipResult:
    """Archives the day's folder; an archive of the same content is not changed.

    Args:
        target: The path of the zip, if not in the archive directory.
        progress: Called with (done, total), in files.

    Raises:
        CorruptArchiveError: The folder differs from its checksums; nothing was written.
        ArchiveConflictError: The folder or the existing archive is another project's, or the folder another day's.
        ShrinkError: The existing archive holds runs that the folder lacks, or that are still pending in the folder.
        ArchiveError: There is no folder, or it cannot be written.
    """
    began = time.monotonic()
    target = target or paths.zip
    with day_lock(paths, on_wait=on_wait):
        summary = ensure_manifest(paths)
        if summary.date != str(paths.day):
            raise ArchiveConflictError(
                f"{paths.folder} cannot be archived",
                why=f"its summary is that of {summary.date}",
                hint=f"Fetch the day again, or rename the folder to {summary.date}",
            )
        sums = read_sums(paths.folder) or {}
        _reject_forgotten(paths, sums)
        written = not _holds(target, sums)
        if written:
            require_own_zip(target, paths.project)
            if not allow_shrink:
                _check_superset(paths, target, sums)
            with disk_errors(f"cannot write {target}", "Free space or fix the permissions"):
                with publish_file(target) as file:
                    _write(paths, sums, file, progress)
                    check_zip(file, target, sums)
                if target == paths.zip and read_state(paths).zip_pruned_at:
                    update_state(paths, zip_pruned_at=None)
        return ZipResult(
            project=paths.project,
            date=str(paths.day),
            path=str(target),
            written=written,
            files=len(sums) + 1,
            bytes_in=summary.bytes,
            bytes=target.stat().st_size,
            sha256=file_sha256(target)[1],
            content_sha256=content_hash(content_sums(sums)),
            left_out=unrecorded(paths.folder, sums),
            duration_seconds=round(time.monotonic() - began, 3),
        )


def _reject_forgotten(paths: DayPaths, sums: dict[str, bytes]) -> None:
    """Refuses a folder with run files that were erased on purpose: somebody put back an older one."""
    tombstones = read_tombstones(paths)
    if tombstones and (found := sum(tombstones.owner(name, b"") is not None for name in sums)):
        raise ArchiveConflictError(
            f"{paths.project} {paths.day} cannot be archived",
            why=f"{paths.folder} holds {counted(found, 'run')} with a tombstone: erased on purpose before",
            hint=f"Erase them again: lse forget --replay --project '{paths.project}'",
        )


def _write(
    paths: DayPaths, sums: dict[str, bytes], file: BinaryIO, progress: Callable[[int, int], None] | None
) -> None:
    folder, changed = paths.folder, None
    names = sorted([*sums, SUMS], key=sort_key)
    try:
        for done, (name, digest) in enumerate(write_zip(file, folder, names), 1):
            if name in sums and digest != sums[name]:
                changed = name
                break
            if progress:
                progress(done, len(names))
    except FileNotFoundError as error:
        changed = error.filename
    if changed:
        raise CorruptArchiveError(
            f"{paths.project} {paths.day} cannot be archived",
            why=f"{folder / changed} differs from {SUMS}",
            hint="Fetch the day again, or restore it from its zip or from Drive",
        )


def check_zip(file: Path | IO[bytes], name: Path, sums: dict[str, bytes]) -> None:
    """Reads a whole archive as a restore does, and compares every file with its checksum.

    Raises:
        RefusedArchiveError: A restore would refuse it.
        CorruptArchiveError: It does not hold exactly these files; the error names it as `name`.
    """
    try:
        with opened(file) as archive:
            entries, found = inspect(archive, name)
            names = {entry for _, entry in entries}
            if names != {*sums, SUMS}:
                raise CorruptArchiveError(
                    f"{name} is damaged", why=f"other files than expected: {min(names ^ {*sums, SUMS})}"
                )
            if found.sums != sums:
                raise CorruptArchiveError(f"{name} is damaged", why=f"its {SUMS} differs from the expected one")
            for info, entry in entries:
                if entry in sums and sums[entry] != sha256(archive, info):
                    raise CorruptArchiveError(f"{name} is damaged", why=f"{entry} differs from its checksum")
    except BROKEN as error:
        raise CorruptArchiveError(f"{name} is damaged", why=str(error)) from error


def zip_sums(path: Path) -> dict[str, bytes]:
    """The checksums in an archive.

    Raises:
        CorruptArchiveError: It is no zip, or holds none.
    """
    return parse_sums(_member(path, SUMS), path)


def zip_summary(path: Path) -> Summary:
    """The summary in an archive.

    Raises:
        CorruptArchiveError: It is no zip, or holds none.
    """
    return parse_summary(_member(path, SUMMARY), path)


def require_own_zip(path: Path, project: str) -> None:
    """Returns if there is no zip, or if it may be replaced by one of the project, see `require_own`.

    Raises:
        ArchiveConflictError: It belongs to another project.
    """
    with contextlib.suppress(CorruptArchiveError):  # an older tool's, or damaged
        if path.exists():
            reject_foreign(zip_summary(path), project, path)


def _member(path: Path, name: str) -> bytes:
    try:
        with opened(path) as archive:
            found = next((info for info in archive.infolist() if file_name(info) == name), None)
            if found is None:
                raise zipfile.BadZipFile(f"it holds no {name}")
            return archive.read(found)
    except BROKEN as error:
        raise CorruptArchiveError(
            f"{path} is damaged", why=str(error), hint="Make it again: lse archive zip"
        ) from error


def set_aside(path: Path) -> Path:
    """Renames a damaged archive to an unused name that is not an archive's; returns the new path."""
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.damaged.{number}")
    path.rename(target)
    return target


def _holds(target: Path, sums: dict[str, bytes]) -> bool:
    if not target.exists():
        return False
    try:
        check_zip(target, target, sums)
    except CorruptArchiveError:
        return False
    return True


def _check_superset(paths: DayPaths, target: Path, sums: dict[str, bytes]) -> None:
    """Checks law 1: the folder must hold the archive's runs. A damaged archive is renamed, not deleted."""
    if not target.exists():
        return
    tombstones = read_tombstones(paths)
    archived = zip_inventory(target, tombstones, sums)
    if archived.damaged:
        set_aside(target)
        return
    # A missing file is reported when it is archived.
    present = [paths.folder / name for name in sums if (paths.folder / name).exists()]
    here = folder_inventory((path for path in present if path.name not in archived.same), tombstones)
    if archived.missing_from(here):  # a run may be in a file of another name
        here = folder_inventory(present, tombstones)
    if missing := archived.missing_from(here):
        hint = "Restore the day from the archive and fetch it again; --allow-shrink drops the runs"
        raise shrink_error(str(target), str(paths.folder), missing, hint)
