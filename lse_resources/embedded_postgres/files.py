"""File operations and constants that the modules of the embedded PostgreSQL share."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from lse_archive.cancellation import wait_for_lock
from lse_archive.errors import EmbeddedServerError
from lse_archive.files import lock_holder, try_lock

OWN_DATABASE = "Set LSE_DATABASE_URL to a PostgreSQL of your own"
"""The hint where the embedded server cannot be used."""
SYSTEM_ROOT = Path("/var/lib/lse")
"""Where root stores files that the unprivileged user of the server could not reach elsewhere."""


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Holds an exclusive lock on a file, created if missing; the system releases it when the process exits.

    Raises:
        EmbeddedServerError: Another process held the lock for ten minutes.
        ArchiveError: The file system has no locks.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        wait_for_lock(
            lambda: try_lock(fd, path),
            lambda: EmbeddedServerError(
                "cannot start or stop the embedded PostgreSQL",
                why=f"{lock_holder(fd)} holds {path}",
                hint="Wait until it is done, or stop it",
            ),
        )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def make_open_dir(path: Path) -> None:
    """Creates a directory that all users may read, if it is missing."""
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
