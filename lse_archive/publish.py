"""Atomic publication: a reader sees the old file or folder, or the new one, and never a part of either."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from lse_archive.layout import DayPaths


def publish_folder(paths: DayPaths, staged: Path) -> None:
    """Puts a complete staged folder in the place of the day's folder.

    A rename cannot replace a folder that is not empty: the old one is set aside first. If the process dies between
    the two moves, `recover` brings the old folder back; the staged one is still there to be published again.
    """
    # One sync for thousands of files: an fsync of each costs twenty times as much.
    os.sync()
    paths.folder.parent.mkdir(parents=True, exist_ok=True)
    if paths.folder.exists():
        paths.folder.rename(paths.retired)
    staged.rename(paths.folder)
    _sync_directory(paths.folder.parent)
    shutil.rmtree(paths.retired, ignore_errors=True)


def recover(paths: DayPaths) -> None:
    """Repairs a publication that was cut short: the folder is back, or what it replaced is gone."""
    if not paths.retired.exists():
        return
    if paths.folder.exists():
        shutil.rmtree(paths.retired)
    else:
        paths.retired.rename(paths.folder)
        _sync_directory(paths.folder.parent)


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
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
