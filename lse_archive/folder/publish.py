"""Atomic publication of a folder: a reader sees the old folder or the new one, never a part of either."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import shutil
import time
from pathlib import Path

from lse_archive.files import sync_directory
from lse_archive.layout import DayPaths

_LIBC = ctypes.CDLL(None, use_errno=True)

SCRATCH = ".scratch-"
"""The prefix of short-lived working folders in the archive directory."""

_STALE_SECONDS = 3600
_STALE_SCRATCH_SECONDS = 24 * 3600


def publish_folder(paths: DayPaths, staged: Path) -> None:
    """Replaces the day's folder by a complete staged folder.

    A rename cannot replace a folder that is not empty: the old one is renamed first. If the process is killed between
    the two renames, `recover` moves the old folder back; the staged one can be published again.
    """
    _flush(staged)
    paths.folder.parent.mkdir(parents=True, exist_ok=True)
    if paths.folder.exists():
        paths.folder.rename(paths.retired)
    try:
        staged.rename(paths.folder)
    except OSError:
        recover(paths)
        raise
    sync_directory(paths.folder.parent)
    shutil.rmtree(paths.retired, ignore_errors=True)


def _flush(folder: Path) -> None:
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
    """Repairs an interrupted publication: moves the old folder back, or removes it if the new one is published."""
    _sweep(paths)
    if not paths.retired.exists():
        return
    if paths.folder.exists():
        shutil.rmtree(paths.retired)
    else:
        paths.retired.rename(paths.folder)
        sync_directory(paths.folder.parent)


def _sweep(paths: DayPaths) -> None:
    """Removes the temporary files and scratch folders of killed processes; recent ones may be in use."""
    for folder, name in ((paths.state.parent, paths.state.name), (paths.archive_dir, paths.zip.name)):
        for path in folder.glob(f".*{glob.escape(name)}*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
    for path in paths.archive_dir.glob(f"{SCRATCH}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SCRATCH_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
