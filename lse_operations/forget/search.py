"""Searches all places for runs that were erased: the proof of an erasure, and `lse forget --check`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lse_archive.folder.publish import SCRATCH
from lse_archive.folder.tombstones import Tombstones
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.zips.inventory import zip_inventory
from lse_operations.forget.local import find_leftovers
from lse_operations.lake import find_in_lake
from lse_operations.upload import find_copies
from lse_resources.destinations.files import LocalFile
from lse_resources.destinations.protocol import Destination
from lse_resources.lake.place import LakePlace


def search_day(
    destination: Destination | None, lake: LakePlace | None, paths: DayPaths, tombstones: Tombstones
) -> Iterator[tuple[str, int]]:
    """Searches a day's files, zips, the lake, and what the destination keeps, earlier revisions and versions included.

    Yields:
        Each place that was searched, and the number of entries of the runs in it. A copy or a revision that cannot be
        read is no proof: it counts as one entry.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        ArchiveError: A file or a copy cannot be read.
    """
    yield from find_leftovers(paths, tombstones)
    if lake is not None:
        yield "the lake", find_in_lake(lake, paths, tombstones)
    if destination is None:
        return
    copies = find_copies(destination, paths)
    paths.archive_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=paths.archive_dir) as scratch:
        target = Path(scratch) / "copy.zip"
        for file in copies:
            name = destination.place
            if paths.zip.is_file() and LocalFile.read(paths.zip).equals(file):
                yield name, 0  # the zip was searched
            else:
                destination.download(file, target)
                yield name, _entries(target, tombstones)
        history = destination.history(project_folder(paths.project), paths.zip.name, copies[0] if copies else None)
        for copy in history.copies:
            name = f"{destination.place}: {copy.kind}"
            if copy.has_content:
                target.unlink(missing_ok=True)
                destination.download_earlier(copy, target)
                yield name, _entries(target, tombstones)


def _entries(path: Path, tombstones: Tombstones) -> int:
    found = zip_inventory(path, tombstones)
    return found.forgotten or int(found.damaged)
