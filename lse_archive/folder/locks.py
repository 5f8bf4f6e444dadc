"""The lock of a project's day: one writer at a time, across processes and hosts that share the data directory."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path

from lse_archive.cancellation import wait_for_lock
from lse_archive.errors import DayLockedError
from lse_archive.files import lock_holder, try_lock
from lse_archive.folder.manifest import require_own
from lse_archive.folder.publish import recover
from lse_archive.folder.state import repair_state
from lse_archive.layout import DayPaths


@contextlib.contextmanager
def day_lock(paths: DayPaths, *, on_wait: Callable[[str], None] | None = None) -> Generator[None]:
    """Holds the day's lock, and first repairs what a killed process left: a publication, or a damaged state.

    The system releases the lock when the process exits for any reason. On read-only media there is nothing to lock:
    no process of this host can write there, and the next write fails with the system's reason.

    Args:
        on_wait: Called once with the holder, if another writer holds the lock.

    Raises:
        DayLockedError: Another writer held the lock for ten minutes.
        ArchiveConflictError: The day's folder is another project's, see `require_own`.
        ArchiveError: The file system has no locks, or the day's folder is a link to nothing.
        OSError: The lock cannot be created.
    """
    descriptor = _open(paths.lock)
    if descriptor is None:
        yield
        return
    try:
        _wait_for(descriptor, paths, on_wait)
        _write_holder(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
        recover(paths)
        for folder in (paths.folder, paths.pruned):
            require_own(folder, paths.project)
        repair_state(paths)
        try:
            yield
        finally:
            _write_holder(descriptor, "")
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """Opens a lock file; None on a read-only file system."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise


def _wait_for(descriptor: int, paths: DayPaths, on_wait: Callable[[str], None] | None) -> None:
    wait_for_lock(
        lambda: try_lock(descriptor, paths.lock),
        lambda: DayLockedError(
            f"{paths.project} {paths.day} is being written",
            why=f"{lock_holder(descriptor)} holds {paths.lock}",
            hint="Wait until it is done, or stop it",
        ),
        lambda: on_wait and on_wait(lock_holder(descriptor)),
    )


def _write_holder(descriptor: int, holder: str) -> None:
    with contextlib.suppress(OSError):  # only shown to those who wait: a full disk must not stop a prune
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
