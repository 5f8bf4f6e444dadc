"""Atomic writes of single files: a reader sees the old file or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from lse_archive.errors import ArchiveError


@contextlib.contextmanager
def publish_file(target: Path) -> Generator[BinaryIO]:
    """Opens a temporary file beside the target; on success it is synced and takes the target's place.

    On failure it is removed, and the target is as it was.
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
    """Raises what the system refuses as an ArchiveError.

    Args:
        what: What failed then, as a clause.
        hint: What the reader can do about it.

    Raises:
        ArchiveError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        why = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        raise ArchiveError(what, why=why, hint=hint) from error


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
