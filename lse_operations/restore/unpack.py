"""Puts a day back from a zip: extracted beside the target and verified, then published as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lse_archive.errors import CorruptArchiveError, RefusedArchiveError, ShrinkError
from lse_archive.folder.contents import content_files, ensure_manifest, is_as_recorded
from lse_archive.folder.manifest import SUMMARY, Summary, content_hash, content_sums, read_summary, read_sums
from lse_archive.folder.pruned import day_content, forget_pruned, is_pruned, pruned_runs
from lse_archive.folder.state import forget_proof, publish_day
from lse_archive.layout import DayPaths
from lse_archive.zips.day import set_aside
from lse_archive.zips.inventory import Inventory, folder_inventory, shrink_error, zip_inventory
from lse_archive.zips.unzip import extract

_ALLOW_SHRINK = "lse archive restore --allow-shrink gives the runs up"


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A day that was taken out of a zip and proven, not published yet.

    Attributes:
        paths: The places of the day as if the data directory were the laid-out one.
        summary: Of the day; made anew for a zip of an older tool.
        content: See `content_hash`.
        older: Whether the zip had no manifest.
        hidden: Files of desktops that were left in the zip.
    """

    paths: DayPaths
    summary: Summary
    content: str
    older: bool
    hidden: tuple[str, ...]


def holds(paths: DayPaths, content: str) -> bool:
    """Whether the day's folder is here, intact, and has just this content. Reads every file."""
    try:
        summary = read_summary(paths.folder)
        return summary is not None and summary.content_sha256 == content and is_as_recorded(paths)
    except CorruptArchiveError:
        return False


def lay_out(
    paths: DayPaths, source: Path, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> LaidOut:
    """Takes a zip apart beside the day's folder and proves every file by its checksum.

    The caller holds the day's lock, and removes `paths.restoring` when it is done.

    Raises:
        RefusedArchiveError: The zip is of another project or day, or holds what no day archive holds.
        CorruptArchiveError: It is damaged, or a file is not as its checksum says.
        ArchiveError: It does not fit on the disk.
    """
    clear(paths)
    laid = replace(paths, data_dir=paths.restoring)
    contents = extract(source, laid.folder, progress=progress)
    if contents.summary and (contents.summary.project, contents.summary.date) != (paths.project, str(paths.day)):
        raise RefusedArchiveError(
            f"{source.name} is refused",
            why=f"it holds {contents.summary.project} {contents.summary.date}, not {paths.project} {paths.day}",
        )
    summary = ensure_manifest(laid)
    sums = read_sums(laid.folder) or {}
    content = content_hash(content_sums(sums))
    if contents.sums is not None:
        proven = sums[SUMMARY] == hashlib.sha256((laid.folder / SUMMARY).read_bytes()).digest()
        if not proven or summary.content_sha256 != content or not is_as_recorded(laid):
            raise CorruptArchiveError(f"{source.name} is damaged", why="its files are not as its checksums say")
    return LaidOut(laid, summary, content, contents.sums is None, contents.hidden)


def publish(paths: DayPaths, laid: LaidOut, source: Path, *, allow_shrink: bool = False) -> None:
    """Makes the laid-out day the day, and the zip its archive. The caller holds the day's lock.

    The zip goes first: if the process dies between the two, the folder is still the old one and is restored again.
    A damaged zip that is here is set aside.

    Raises:
        ShrinkError: The folder or the zip here, or a day whose files were pruned, would lose something by it (law 1),
            or the record of the pruned day cannot be read. Not with `allow_shrink`.
    """
    archived = None
    if paths.zip.is_file() and not paths.zip.samefile(source):
        archived = zip_inventory(paths.zip)
    if not allow_shrink:
        _check_superset(paths, laid, archived)
    if archived and archived.damaged:
        set_aside(paths.zip)
    forget_proof(paths)
    source.replace(paths.zip)
    publish_day(paths, laid.paths.folder)
    forget_pruned(paths)
    clear(paths)


def clear(paths: DayPaths) -> None:
    """Removes what an earlier restore or prune, killed in its work, left behind. The caller holds the day's lock."""
    shutil.rmtree(paths.restoring, ignore_errors=True)
    shutil.rmtree(paths.discarded, ignore_errors=True)


def _check_superset(paths: DayPaths, laid: LaidOut, archived: Inventory | None) -> None:
    if not (paths.folder.is_dir() or archived or is_pruned(paths)):
        return
    restored = _folder_inventory(laid.paths.folder)
    if paths.folder.is_dir() and (lost := _folder_inventory(paths.folder).missing_from(restored)):
        raise _shrink(str(paths.folder), lost, "Archive and upload what is here: lse archive zip, lse archive upload")
    # A damaged one is set aside, not lost.
    if archived and not archived.damaged and (lost := archived.missing_from(restored)):
        raise _shrink(str(paths.zip), lost, "Upload it: lse archive upload")
    if is_pruned(paths) and (lost := _pruned_inventory(paths, laid).missing_from(restored)):
        hint = "Look for the former copy in the trash and among the versions at its place"
        raise _shrink(f"{paths.project} {paths.day}, whose files were pruned,", lost, hint)


def _pruned_inventory(paths: DayPaths, laid: LaidOut) -> Inventory:
    """The runs of a pruned day; none to look for if the copy has the very content that was pruned."""
    with contextlib.suppress(CorruptArchiveError):
        if day_content(paths) == laid.content:
            return Inventory()
    try:
        return Inventory(named={run_id for run_id, _, _ in pruned_runs(paths)})
    except CorruptArchiveError as error:
        raise ShrinkError(error.what, why="the copy has other content than was pruned", hint=_ALLOW_SHRINK) from error


def _shrink(what: str, lost: dict[str, str], hint: str) -> ShrinkError:
    return shrink_error(what, "the copy", lost, f"{hint}; {_ALLOW_SHRINK}")


def _folder_inventory(folder: Path) -> Inventory:
    return folder_inventory(content_files(folder))
