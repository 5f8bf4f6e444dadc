"""Small file operations that the embedded PostgreSQL's modules share, and two facts that all of them state."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

OWN_DATABASE = "Set LSE_DATABASE_URL to a PostgreSQL of your own"
"""What to do where the embedded server cannot be used."""
SYSTEM_ROOT = Path("/var/lib/lse")
"""Where root keeps what the server's unprivileged user must reach and cannot reach elsewhere."""


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock on a file, which is made if missing; the system releases it when its holder dies."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new one; everybody may read it."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with new.open("x", encoding="utf-8") as file:  # "x" follows no link that the directory's owner may have put there
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def make_open_dir(path: Path) -> None:
    """Make a directory that everybody may read, if it is missing."""
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
