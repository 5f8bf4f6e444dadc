"""Atomic publication of a folder: a reader sees the old folder or the new one, never a part of either."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.files import link_file, sync_directory
from lse_archive.folder.opened import delete_unread, is_read
from lse_archive.folder.reader import hidden_names
from lse_archive.layout import DayPaths

_log = logging.getLogger(__name__)
_LIBC = ctypes.CDLL(None, use_errno=True)
# renameat2(2); EINVAL: the file system has no exchange.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

SCRATCH = ".scratch-"
"""The prefix of short-lived working folders in the archive directory."""

_DAY = r"\d{4}-\d\d-\d\d"
_DISPLACED = re.compile(rf"{_DAY}(\.old-[0-9a-f]{{16}}|\.discarded)")  # .discarded: of older versions
_TEMPORARY = re.compile(rf"\..*{_DAY}\.(zip|state\.json).*\.tmp|{re.escape(SCRATCH)}.*")
_STALE_SECONDS = 24 * 3600
_swept: set[Path] = set()


def publish_folder(paths: DayPaths, staged: Path) -> None:
    """Replaces the day's folder by a complete staged folder, in one step where the system can exchange two folders.

    Elsewhere the old folder is renamed first: between the two renames, readers find it in the work folder. If the
    process is killed there, `recover` moves the old folder back; the staged one can be published again.

    The folder's hidden files stay. A folder that is a symbolic link is replaced by a folder here; the link's target
    stays.

    Raises:
        ArchiveConflictError: The folder holds a hidden folder. Nothing was published.
        OSError: Nothing was published.
    """
    if paths.folder.is_dir():
        _keep_hidden(paths.folder, staged)
    flush(staged)
    paths.folder.parent.mkdir(parents=True, exist_ok=True)
    target = paths.folder.readlink() if paths.folder.is_symlink() else None
    displaced = None
    if os.path.lexists(paths.folder):
        if _exchange(staged, paths.folder):
            displaced = staged
        else:
            paths.folder.rename(paths.retired)
            displaced = paths.retired
    if displaced != staged:
        try:
            staged.rename(paths.folder)
        except OSError:
            recover(paths)
            raise
    # It is published: what fails from here on does not undo it.
    sync_directory(paths.folder.parent)
    if target is not None:
        _log.warning("%s was a link, and is a folder now: its former files are still in %s", paths.folder, target)
    if displaced is not None:
        discard(paths, displaced)


def discard(paths: DayPaths, folder: Path) -> bool:
    """Removes a folder of the day: its path is free at once, and its files are deleted when nobody reads them.

    Returns:
        Whether the files are deleted. If not, `recover` does it later.
    """
    try:
        return delete_unread(displace(paths, folder))
    except FileNotFoundError:
        return True
    except OSError as error:
        _log.warning("%s cannot be removed (%s); it is tried again", folder, error.strerror or error)
        return False


def displace(paths: DayPaths, folder: Path) -> Path:
    """Renames a folder to an unused name for folders to delete; returns the new path. Raises OSError."""
    unused = paths.retired.with_name(f"{paths.retired.name}-{secrets.token_hex(8)}")
    folder.rename(unused)
    _swept.discard(unused.parent)
    return unused


def flush(folder: Path) -> None:
    """Flushes the folder's file system to the disk; one fsync for each file takes twenty times as long.

    Raises:
        OSError: Not everything could be written.
    """
    syncfs = getattr(_LIBC, "syncfs", None)  # Linux; it does not wait for other file systems, and reports errors
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(folder))
    finally:
        os.close(descriptor)


def recover(paths: DayPaths) -> None:
    """Repairs an interrupted publication, and deletes what former ones displaced. The caller holds the day's lock.

    Raises:
        ArchiveError: The day's folder is a link to a folder that is not there.
        OSError: The old folder cannot be moved back.
    """
    _sweep(paths)
    # Only published folders are read: a staged one that is read was exchanged, and its process was killed.
    for staged in (paths.staging / "runs", replace(paths, data_dir=paths.restoring).folder):
        if staged.is_symlink() or is_read(staged):
            discard(paths, staged)
    if os.path.lexists(paths.retired):
        if os.path.lexists(paths.folder):
            discard(paths, paths.retired)
        else:
            paths.retired.rename(paths.folder)
            sync_directory(paths.folder.parent)
    if paths.folder.is_symlink() and not paths.folder.is_dir():
        raise ArchiveError(
            f"{paths.folder} cannot be used",
            why=f"it is a link to {paths.folder.readlink()}, and there is no folder",
            hint="Mount that disk, or delete the link",
        )


def _keep_hidden(folder: Path, staged: Path) -> None:
    for name in hidden_names(folder):
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise ArchiveConflictError(
                f"{folder} cannot be replaced",
                why=f"it holds '{name}', which is a folder, a link or a special file",
                hint="Move it away, and run the command again",
            )
        (staged / name).unlink(missing_ok=True)  # of a publication that failed
        link_file(folder / name, staged / name)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step. False: this system or file system cannot."""
    renameat2 = getattr(_LIBC, "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), os.fspath(one), None, os.fspath(other))


def _sweep(paths: DayPaths) -> None:
    """Removes displaced folders, and the temporary files and scratch folders of killed processes.

    With thousands of days, listing a directory takes long: each is listed once in a process, and again when a folder
    was displaced into it, or could not be deleted.
    """
    for folder in {paths.state.parent, paths.archive_dir} - _swept:
        _swept.add(folder)
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                if _DISPLACED.fullmatch(path.name):
                    if not delete_unread(path):
                        _swept.discard(folder)
                elif _TEMPORARY.fullmatch(path.name):
                    _delete_stale(path)


def _delete_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:  # a recent one may be in use
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
