"""Atomic writes of single files: a reader sees the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from lse_archive.errors import ArchiveError


@contextlib.contextmanager
def publish_file(target: Path) -> Generator[BinaryIO]:
    """Opens a temporary file beside the target; on success, syncs it and renames it to the target.

    On failure the temporary file is removed, and the target does not change.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


@contextlib.contextmanager
def disk_errors(what: str, hint: str = "") -> Generator[None]:
    """Converts errors of the disk, also those that SQLite reports, to an ArchiveError.

    Args:
        what: The failed action, as a clause.
        hint: What the user can do about it.

    Raises:
        ArchiveError: The block raised an OSError or an error of SQLite.
    """
    try:
        yield
    except (OSError, sqlite3.DatabaseError) as error:
        why = str(error)
        if isinstance(error, OSError) and error.strerror:
            why = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise ArchiveError(what, why=why, hint=hint) from error


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
