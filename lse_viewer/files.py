"""Files of a day that no row holds: run files and attachments, from the folder or the zip."""

from __future__ import annotations

from collections.abc import Generator

from lse_archive.layout import DayPaths
from lse_archive.zips.reader import BROKEN, contents, file_name, opened
from lse_viewer.archive import NotFoundError

_PIECE = 1 << 20


def open_file(paths: DayPaths, name: str) -> Generator[bytes]:
    """The pieces of a file of the day, from its folder, or else from its zip.

    Args:
        name: The name of a file, without a folder; it must not come from outside unchecked.

    Raises:
        NotFoundError: Neither has it, or the zip is damaged.
    """
    parts = _parts(paths, name)
    first = next(parts, b"")  # errors are raised here, before a response begins
    return _joined(first, parts)


def _joined(first: bytes, rest: Generator[bytes]) -> Generator[bytes]:
    yield first
    yield from rest


def _parts(paths: DayPaths, name: str) -> Generator[bytes]:
    try:
        with (paths.folder / name).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    try:
        with opened(paths.zip) as archive:
            for info in archive.infolist():
                if file_name(info) == name:
                    yield from map(bytes, contents(archive, info))
                    return
    except (FileNotFoundError, *BROKEN):
        pass
    raise NotFoundError(
        f"the file {name} is not here",
        why="neither the day's folder nor its zip has it",
        hint=f"Restore the day: lse archive restore --date {paths.day}",
    )
