"""Reads single files of days from their copies at the destination."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import zipfile
from collections.abc import Generator
from pathlib import Path

from lse_archive.errors import ArchiveError, CorruptArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.publish import SCRATCH
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.reader import BROKEN, opened
from lse_operations.checks import OpenDestination
from lse_operations.restore.copies import copies

MAX_BYTES = 1_000_000_000
"""The largest zip that is downloaded."""
KEPT_SECONDS = 300
"""A downloaded zip is kept for so long, for further files of its day."""


class KeptCopy:
    """The zip of the day that was asked for last, downloaded from the destination. Threads may share it.

    It is in a scratch folder, where an erasure (`lse_operations.forget`) finds it.
    """

    def __init__(self, open_destination: OpenDestination) -> None:
        self._open_destination = open_destination
        self._lock = threading.Lock()
        self._kept: tuple[Path, tempfile.TemporaryDirectory[str]] | None = None

    @contextlib.contextmanager
    def opened(self, paths: DayPaths) -> Generator[zipfile.ZipFile | None]:
        """Opens the day's copy; None if the destination has none. Waits while another one is downloaded.

        Raises:
            SettingsError: No destination is set up.
            DestinationError: The destination refused or cannot be reached.
            CorruptArchiveError: The copy is damaged.
            ArchiveError: It is too large, cannot be decrypted, or the disk is full.
        """
        with contextlib.ExitStack() as stack:
            with self._lock:
                path = self._downloaded(paths)
                try:
                    archive = stack.enter_context(opened(path)) if path else None
                except BROKEN as error:
                    raise CorruptArchiveError(f"the copy of {paths.project} {paths.day} is damaged") from error
            yield archive

    def _downloaded(self, paths: DayPaths) -> Path | None:
        if self._kept and self._kept[0].name == paths.zip.name and self._kept[0].exists():
            return self._kept[0]
        self._delete()
        with self._open_destination() as destination, disk_errors(f"{paths.zip.name} cannot be downloaded"):
            layout = Layout(paths.data_dir, paths.archive_dir)
            if not (found := copies(destination, paths.project, paths.day, paths.day, layout=layout)):
                return None
            file = found[0].file
            if file.size > MAX_BYTES:
                raise ArchiveError(
                    f"the copy of {paths.project} {paths.day} is too large for a single file of it",
                    why=f"it has {file.size:,} bytes, and at most {MAX_BYTES:,} are downloaded",
                    hint=f"Restore the day: lse archive restore --date {paths.day}",
                )
            paths.archive_dir.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=paths.archive_dir)
            path = Path(scratch.name) / paths.zip.name
            try:
                destination.download(file, path)
            except BaseException:
                scratch.cleanup()
                raise
        self._kept = path, scratch
        timer = threading.Timer(KEPT_SECONDS, self._expire, [path])
        timer.daemon = True
        timer.start()
        return path

    def _expire(self, path: Path) -> None:
        with self._lock:
            if self._kept and self._kept[0] == path:
                self._delete()

    def _delete(self) -> None:
        """Deletes the zip; those who read it keep it open."""
        if self._kept:
            self._kept[1].cleanup()
        self._kept = None
