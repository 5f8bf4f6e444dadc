"""Single files: atomic writes, locks, hashes, and the errors of the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from lse_archive.cancellation import wait_for_lock
from lse_archive.errors import ArchiveError, UsageError

_log = logging.getLogger(__name__)
_CLOCK_TICK_NS = 100_000_000
"""More than the granularity of time stamps in Linux' local file systems (10 ms at most)."""
_MAX_CACHED = 64
_WRITABLE = "Make it writable, or set another directory in .env (LSE_HOME, LSE_DATA_DIR, LSE_ARCHIVE_DIR)"
_CHECK = "Check that it exists and can be read and written"
_HINTS = {
    errno.ENOSPC: "Free space, then run the command again",
    errno.EDQUOT: "Free space, then run the command again",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENAMETOOLONG: "Use a shorter name",
}
_hashes: dict[tuple[int, ...], str] = {}
_unsynced: set[Path] = set()


@contextlib.contextmanager
def publish_file(target: Path, *, mode: int | None = None) -> Generator[BinaryIO]:
    """Opens a temporary file beside the target; on success, syncs it and renames it to the target.

    On failure the temporary file is removed, and the target does not change.

    Args:
        mode: The permissions of the file, from its creation on. Default: those of the process' new files.

    Raises:
        OSError: It cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        # O_EXCL follows no link that the owner of a shared directory may have created.
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode
        )
        with os.fdopen(descriptor, "wb+") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)  # independent of the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(target.parent)


def link_file(source: Path, target: Path) -> None:
    """Links a file, or copies it on a file system without hard links.

    Raises:
        FileExistsError: There is a file at the target.
        OSError: It can be neither linked nor copied.
    """
    try:
        os.link(source, target)
    except OSError:
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from None
        shutil.copy2(source, target)


@contextlib.contextmanager
def disk_errors(what: str, hint: str = "") -> Generator[None]:
    """Converts errors of the disk, also those that SQLite reports, to an ArchiveError.

    Args:
        what: The failed action, as a clause.
        hint: What the user can do about it. Default: by the kind of error.

    Raises:
        ArchiveError: The block raised an OSError or an error of SQLite.
    """
    try:
        yield
    except (OSError, sqlite3.DatabaseError) as error:
        raise disk_error(what, error, hint) from error


def disk_error(what: str, error: OSError | sqlite3.DatabaseError, hint: str = "") -> ArchiveError:
    """Returns the error for the user; arguments as in `disk_errors`."""
    if not isinstance(error, OSError):
        return ArchiveError(what, why=str(error), hint=hint)
    why = error.strerror or str(error)
    if error.filename is not None and str(error.filename) not in what:
        why = f"{why}: {error.filename}"
    return ArchiveError(what, why=why, hint=hint or _HINTS.get(error.errno or 0, _CHECK))


def absolute_path(path: Path) -> Path:
    """Returns the path with `~` expanded and from the root on.

    Raises:
        UsageError: There is no home directory for its `~`, or the working directory is gone.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        why = f"no home directory is known for {path.parts[0]}"
    except FileNotFoundError:
        why = "the working directory was deleted"
    raise UsageError(f"cannot use {path}", why=why, hint="Write the whole path, from / on")


def file_digest(path: Path) -> bytes:
    """The sha256 of a file as it is now. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def file_sha256(path: Path) -> tuple[int, str]:
    """Size in bytes and hex SHA-256 of a file. The last hashes are cached: a sweep needs that of a zip four times.

    A file is read again if its inode, size or times differ. The hash of a file that was just written is not cached:
    within a clock tick, a second write would not change its times.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if known := _hashes.get(identity):  # one look-up: another thread may clear the cache
            return status.st_size, known
        settled = time.time_ns() - status.st_mtime_ns > _CLOCK_TICK_NS
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    if settled:
        if len(_hashes) >= _MAX_CACHED:
            _hashes.clear()
        _hashes[identity] = digest
    return size, digest


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory to the disk, after a rename in it.

    The rename is done, so an error of the flush does not undo it: it is logged as a warning, once for each directory.
    Some network file systems refuse to flush directories (EINVAL).
    """
    try:
        flush_directory(path)
    except OSError as error:
        if path not in _unsynced:
            _unsynced.add(path)
            why = error.strerror or error
            _log.warning("%s cannot be flushed to the disk (%s): a power failure may undo the last changes", path, why)


def flush_directory(path: Path) -> None:
    """As `sync_directory`, but raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Path) -> Generator[None]:
    """Holds the lock of a file that is read, changed and written: without it, one of two changes is lost.

    The lock is `.<name>.lock` beside the file, because a change replaces the file itself. It is held for moments only.

    Raises:
        ArchiveError: The file system has no locks, or another process held the lock for ten minutes.
        OSError: The lock cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        wait_for_lock(
            lambda: try_lock(descriptor, lock),
            lambda: ArchiveError(
                f"{path} cannot be changed",
                why=f"another process holds {lock}",
                hint="Wait until it is done, or stop it",
            ),
        )
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, path: Path, *, shared: bool = False) -> bool:
    """Locks an open file or folder; False if another holds it. `flock` belongs to the open file: also for threads.

    Args:
        path: What is locked, for the error.
        shared: Others may hold a shared lock, too.

    Raises:
        ArchiveError: The file system has no locks, or its lock server does not respond (ENOLCK).
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be locked",
            why=f"its file system does not lock files ({error.strerror or error})",
            hint="Use a local disk, or mount the network file system with locks; lse doctor tries it",
        ) from error
    return True


def lock_holder(descriptor: int) -> str:
    """What the holder of a lock has written into its file."""
    return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
