"""Files of a day that no row holds: run files and attachments, from the folder, the zip, or the destination."""

from __future__ import annotations

from collections.abc import Generator

from lse_archive.errors import SettingsError
from lse_archive.layout import DayPaths
from lse_archive.zips.reader import BROKEN, contents, file_name, opened
from lse_operations.restore.kept_copy import KeptCopy
from lse_viewer.archive import NotFoundError

_PIECE = 1 << 20


def open_file(paths: DayPaths, name: str, copy: KeptCopy) -> Generator[bytes]:
    """The pieces of a file of the day, from its folder, or else from its zip, or from the copy at the destination.

    Args:
        name: The name of a file, without a folder; it must not come from outside unchecked.

    Raises:
        NotFoundError: None of them has it, or it is damaged.
        ArchiveError: The copy cannot be read, see `KeptCopy`.
    """
    parts = _parts(paths, name, copy)
    first = next(parts, b"")  # errors are raised here, before a response begins
    return _joined(first, parts)


def _joined(first: bytes, rest: Generator[bytes]) -> Generator[bytes]:
    yield first
    yield from rest


def _parts(paths: DayPaths, name: str, copy: KeptCopy) -> Generator[bytes]:
    try:
        with (paths.folder / name).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    for place in (opened(paths.zip), copy.opened(paths)):
        began = False
        try:
            with place as archive:
                if archive and (info := next((one for one in archive.infolist() if file_name(one) == name), None)):
                    for part in contents(archive, info):
                        began = True
                        yield bytes(part)
                    return
        except (FileNotFoundError, SettingsError, *BROKEN):
            if began:
                raise
    raise NotFoundError(
        f"the file {name} is not here",
        why="neither the day's folder nor its zip has it, nor a copy at the destination",
        hint=f"Restore the day: lse archive restore --date {paths.day}",
    )
