"""Folders that are held open while they are read, and the deletion of folders that nobody reads.

A reader keeps the folder's descriptor and a shared `flock` on it. Another folder may take the path in the meantime: the
reader reads the old one to its end. A displaced folder is deleted under an exclusive lock, which a reader prevents.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lse_archive.cancellation import wait_for_lock
from lse_archive.errors import ArchiveError, DayLockedError
from lse_archive.files import try_lock
from lse_archive.layout import retired_folder

_log = logging.getLogger(__name__)
_READ_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Folder:
    """An open folder; `path` is where it was opened, and may be another folder's by now."""

    path: Path
    descriptor: int

    def entries(self) -> list[tuple[str, bool]]:
        """The name of each entry, and whether it is a file or a link to one; sorted."""
        with os.scandir(self.descriptor) as entries:
            return sorted((entry.name, entry.is_file()) for entry in entries)

    def names(self) -> list[str]:
        """The names of the entries, sorted."""
        with os.scandir(self.descriptor) as entries:
            return sorted(entry.name for entry in entries)

    def open(self, name: str) -> BufferedReader:
        """Opens a file for reading in pieces. Raises OSError."""
        return os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor), "rb")

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: There is no such file.
            ArchiveError: It cannot be read.
        """
        return b"".join(self._pieces(name))

    def digest(self, name: str) -> bytes:
        """The sha256 of a file's content, which may be of any size. Raises as `read`."""
        found = hashlib.sha256()
        for piece in self._pieces(name):
            found.update(piece)
        return found.digest()

    def _pieces(self, name: str) -> Iterator[bytes]:
        # Plain system calls: pathlib would double the time of thousands of small files.
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor)
            try:
                # Read to the end: network file systems may return short reads.
                piece = os.read(descriptor, _READ_AT_ONCE)
                while piece:
                    yield piece
                    piece = os.read(descriptor, _READ_AT_ONCE << 6)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ArchiveError(f"cannot read {self.path / name}", why=error.strerror or str(error)) from error


@contextlib.contextmanager
def open_folder(folder: Path | Folder) -> Generator[Folder]:
    """Holds a folder open for reading; an open one is returned as it is.

    No file is created, so that read-only media can be read. Without locks on the file system, the folder is read
    without one.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no such folder.
        OSError: It cannot be read.
        DayLockedError: Another program held it locked exclusively for ten minutes.
    """
    if isinstance(folder, Folder):
        yield folder
        return
    opened = wait_for_lock(
        lambda: _open_shared(folder),
        lambda: DayLockedError(
            f"{folder} cannot be read", why="another process has locked it", hint="Wait until it is done, or stop it"
        ),
        lambda: _log.warning("waiting for %s: another process has locked it", folder),
    )
    try:
        yield opened
    finally:
        os.close(opened.descriptor)


def delete_unread(folder: Path) -> bool:
    """Deletes a displaced folder, unless a process reads it. False: it is still there, and a later start deletes it.

    Of a symbolic link, only the link is deleted: its target may belong to something else.
    """
    try:
        if folder.is_symlink():
            folder.unlink()
            return True
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _lock(descriptor, folder):
                shutil.rmtree(folder)
                return True
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return True
    except OSError as error:
        _log.warning("%s cannot be deleted (%s); it is tried again", folder, error.strerror or error)
    return False


def is_read(folder: Path) -> bool:
    """Whether a process holds the folder open with `open_folder`."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor, folder)
    finally:
        os.close(descriptor)


def _open_shared(path: Path) -> Folder | None:
    """Opens and locks the folder of that path; None if another process has locked it exclusively."""
    while True:
        found, descriptor = _open_any(path)
        try:
            locked = _lock(descriptor, found, shared=True)
            if os.path.samestat(os.fstat(descriptor), found.stat()):
                if locked:
                    return Folder(path, descriptor)
                os.close(descriptor)
                return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was displaced before the lock: open the folder that took its path


def _open_any(path: Path) -> tuple[Path, int]:
    """Opens the folder. Between the two renames of a publication, the old one is in the work folder."""
    for found in (path, retired_folder(path)):
        with contextlib.suppress(FileNotFoundError):
            return found, os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _lock(descriptor: int, path: Path, *, shared: bool = False) -> bool:
    """Locks a folder, see `try_lock`. True, too, where the file system has no locks of folders."""
    try:
        return try_lock(descriptor, path, shared=shared)
    except ArchiveError:
        return True
