"""Everything of a day on the local disk that may hold runs beside the published folder and the zip."""

from __future__ import annotations

import contextlib
import glob
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lse_archive.errors import ArchiveError, CorruptArchiveError
from lse_archive.fetch.staging import Staging
from lse_archive.files import file_lock, publish_file
from lse_archive.folder.contents import content_files
from lse_archive.folder.late_feedback import read_late_feedback
from lse_archive.folder.manifest import SUMMARY, SUMS, read_sums
from lse_archive.folder.opened import delete_unread
from lse_archive.folder.publish import SCRATCH, displace
from lse_archive.folder.tombstones import Tombstones
from lse_archive.layout import DayPaths
from lse_archive.runs.feedback import FEEDBACK_APART
from lse_archive.zips.day import zip_summary
from lse_archive.zips.inventory import Inventory, folder_inventory, zip_inventory
from lse_archive.zips.reader import BROKEN, file_name, normalize_names


def erase_leftovers(paths: DayPaths, tombstones: Tombstones) -> dict[str, int]:
    """Erases runs from an unfinished fetch and from set-aside zips, and deletes what killed processes left.

    Called with the day's lock held. What a set-aside zip alone holds of other runs stays, in a zip of the same name.

    Returns:
        The number of files and folders by kind.

    Raises:
        ArchiveError: A process reads a former folder of the day, or a set-aside zip cannot be written anew.
        OSError: The disk cannot be written.
    """
    erased: dict[str, int] = {}
    if paths.staging.is_dir():
        before = _staged(paths, tombstones)
        Staging(paths, tombstones=tombstones).close()
        _add(erased, "staging", before)
    for path in former_folders(paths):
        unused = path if path.name.startswith(f"{paths.retired.name}-") else displace(paths, path)
        if not delete_unread(unused):
            raise ArchiveError(
                f"a former folder of {paths.project} {paths.day} cannot be deleted",
                why="another process reads it",
                hint="Wait until it is done, or stop it, and run: lse forget --resume",
            )
        _add(erased, "former folders", 1)
    with file_lock(paths.late_feedback):
        for path in temporary_files(paths):
            path.unlink(missing_ok=True)
            _add(erased, "temporary files", 1)
    for path in set_aside_zips(paths):
        found = zip_inventory(path, tombstones)
        if found.forgotten or found.damaged:
            _rewrite(paths, path, found, tombstones)
            _add(erased, "set-aside zips", 1)
    return erased


def find_leftovers(paths: DayPaths, tombstones: Tombstones) -> Iterator[tuple[str, int]]:
    """What of the runs that have tombstones is on the local disk: each kind of place, and a number of entries.

    Raises:
        ArchiveError: A file cannot be read.
        OSError: The disk cannot be read.
    """
    yield "run files", folder_inventory(_files(paths.folder), tombstones).forgotten
    late = Inventory(tombstones)
    late.add(FEEDBACK_APART, b"\n".join(read_late_feedback(paths)))
    yield "late feedback", late.forgotten
    yield "staging", _staged(paths, tombstones)
    # What is in the folder was searched.
    sums = read_sums(paths.folder) or {}
    yield "zip", zip_inventory(paths.zip, tombstones, sums).forgotten if paths.zip.is_file() else 0
    yield "set-aside zips", sum(zip_inventory(path, tombstones).forgotten for path in set_aside_zips(paths))
    folders = (folder_inventory(_files(path), tombstones).forgotten for path in former_folders(paths))
    yield "former folders", sum(folders)
    yield "temporary files", sum(_mentioned(path, tombstones) for path in temporary_files(paths))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _mentioned(path: Path, tombstones: Tombstones) -> int:
    if ".zip" in path.name:
        found = zip_inventory(path, tombstones)
        return found.forgotten or int(found.damaged)
    return len(tombstones.mentioned(path.read_bytes()))


def former_folders(paths: DayPaths) -> list[Path]:
    """Folders that a publication, a restore or a prune displaced or left unfinished."""
    work, day = paths.state.parent, glob.escape(str(paths.day))
    patterns = (f"{day}.old*", f"{day}.discarded", f"{day}.restore*", f"{day}.draft")
    return [path for pattern in patterns for path in sorted(work.glob(pattern))]


def temporary_files(paths: DayPaths) -> list[Path]:
    """Files of the day that only a killed process can have left, if the day's lock is held."""
    work, name, day = paths.state.parent, glob.escape(paths.zip.name), glob.escape(str(paths.day))
    found = [*work.glob(f".{day}.feedback.jsonl.*.tmp"), *work.glob(f".{day}.state.json.*.tmp")]
    found += work.glob(f"{day}.state.json.damaged")
    found += (path for manifest in (SUMMARY, SUMS) for path in paths.folder.glob(f".{manifest}.*.tmp"))
    for pattern in (f".{name}.*.tmp", f".{name}.restore*", f"..{name}.restore*", f"{SCRATCH}*/{name}*"):
        found += paths.archive_dir.glob(pattern)
    for path in paths.archive_dir.glob(f"{SCRATCH}*/copy.zip"):
        with contextlib.suppress(CorruptArchiveError):
            summary = zip_summary(path)
            if (summary.project, summary.date) == (paths.project, str(paths.day)):
                found.append(path)
    return sorted(found)


def set_aside_zips(paths: DayPaths) -> list[Path]:
    """The damaged zips of the day that were set aside."""
    return sorted(paths.archive_dir.glob(f"{glob.escape(paths.zip.name)}.damaged*"))


def _staged(paths: DayPaths, tombstones: Tombstones) -> int:
    journal = sum(len(tombstones.mentioned(path.read_bytes())) for path in paths.staging.glob("journal.sqlite*"))
    return folder_inventory(_files(paths.staging / "runs"), tombstones).forgotten + journal


def _rewrite(paths: DayPaths, path: Path, found: Inventory, tombstones: Tombstones) -> None:
    """Replaces a set-aside zip by what is readable in it and not in the day's folder, without the forgotten runs.

    The unreadable part of a damaged zip may be of any run: it is deleted.
    """
    here = folder_inventory(content_files(paths.folder), tombstones) if paths.folder.is_dir() else Inventory()
    wanted = replace(found, named=set(), unread=set()).missing_from(here)
    if not wanted:
        path.unlink()
        return
    with publish_file(path) as target, zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as rest:
        normalize_names(source)
        for info in source.infolist():
            name = file_name(info)
            try:
                content = source.read(info)
            except BROKEN:
                continue
            alone = Inventory(tombstones)
            alone.add(name, content)
            if name not in (SUMMARY, SUMS) and not alone.forgotten:
                rest.writestr(info, content)


def _add(counts: dict[str, int], kind: str, number: int) -> None:
    if number:
        counts[kind] = counts.get(kind, 0) + number
