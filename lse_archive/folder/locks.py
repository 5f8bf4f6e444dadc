"""The lock of a project's day: one writer at a time, across processes and hosts that share the data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Generator

from lse_archive.cancellation import cancellable_sleep
from lse_archive.errors import DayLockedError
from lse_archive.folder.manifest import require_own
from lse_archive.folder.publish import recover
from lse_archive.layout import DayPaths

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def day_lock(
    paths: DayPaths, *, wait_seconds: float = 600.0, on_wait: Callable[[str], None] | None = None
) -> Generator[None]:
    """Holds the day's lock, and first repairs a publication that a killed process left unfinished.

    `flock` belongs to the open file, so two threads of one process exclude each other too, and the system releases
    the lock when the process exits for any reason.

    Args:
        wait_seconds: How long to wait for another writer.
        on_wait: Called once with the holder, if another writer holds the lock.

    Raises:
        DayLockedError: Another writer held the lock for all that time.
        ArchiveConflictError: The day's folder is another project's, see `require_own`.
    """
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("a+") as file:
        deadline = time.monotonic() + wait_seconds
        waiting = False
        while not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not waiting and on_wait:
                on_wait(holder)
            waiting = True
            if time.monotonic() >= deadline:
                raise DayLockedError(
                    f"{paths.project} {paths.day} is being written",
                    why=f"{holder} holds {paths.lock}",
                    hint="Wait until it is done, or stop it",
                )
            cancellable_sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        recover(paths)
        for folder in (paths.folder, paths.pruned):
            require_own(folder, paths.project)
        try:
            yield
        finally:
            file.truncate(0)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
