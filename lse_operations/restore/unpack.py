"""Unpacks the zip of a day into a work folder, verifies it, and publishes it as a whole."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lse_archive.errors import CorruptArchiveError, RefusedArchiveError, ShrinkError
from lse_archive.folder.contents import content_files, ensure_manifest, is_as_recorded
from lse_archive.folder.forgetting import Erased, copy_without, publish_reduced
from lse_archive.folder.manifest import FeedbackSummary, Summary, read_summary
from lse_archive.folder.opened import open_folder
from lse_archive.folder.pruned import day_content, delete_pruned_record, is_pruned, pruned_runs
from lse_archive.folder.publish import discard
from lse_archive.folder.state import clear_verified
from lse_archive.folder.tombstones import NONE, Tombstones, folder_tombstones, read_tombstones
from lse_archive.layout import DayPaths
from lse_archive.zips.day import require_own_zip, set_aside
from lse_archive.zips.inventory import Inventory, folder_inventory, shrink_error, zip_inventory
from lse_archive.zips.unzip import extract

_ALLOW_SHRINK = "lse archive restore --allow-shrink drops the runs"


@dataclass(frozen=True, slots=True)
class UnpackedDay:
    """A day that was unpacked from a zip and verified, but not published yet.

    Attributes:
        paths: The paths of the day, with the work folder as the data directory.
        summary: Its summary; a new one for a zip of an older tool.
        content: See `content_hash`.
        older: Whether the zip had no manifest.
        hidden: Files of desktops that were not extracted.
        forgotten: What was left out of it, because it was erased on purpose.
        zip_content: The content hash of the zip: another one than `content` if something was left out, or if the zip
            lacks tombstones.
    """

    paths: DayPaths
    summary: Summary
    content: str
    older: bool
    hidden: tuple[str, ...]
    zip_content: str
    forgotten: Erased = field(default_factory=Erased)

    @property
    def differs(self) -> bool:
        """Whether the folder differs from the zip."""
        return self.content != self.zip_content


def holds(paths: DayPaths, content: str) -> bool:
    """Whether the day's folder exists, is intact and has exactly this content. Reads every file."""
    try:
        with open_folder(paths.folder) as folder:
            summary = read_summary(folder)
            return summary is not None and summary.content_sha256 == content and is_as_recorded(folder)
    except (CorruptArchiveError, FileNotFoundError):
        return False


def unpack_day(
    paths: DayPaths, source: Path, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> UnpackedDay:
    """Extracts a zip into `paths.restoring`, and compares every file with its checksum.

    Runs that have tombstones, here or in the zip, are left out.

    The caller holds the day's lock, and removes `paths.restoring` afterwards.

    Raises:
        RefusedArchiveError: The zip is of another project or day, or is no day archive.
        CorruptArchiveError: It is damaged, or a file differs from its checksum.
        ArchiveError: It does not fit on the disk.
    """
    clear(paths)
    unpacked = replace(paths, data_dir=paths.restoring)
    contents = extract(source, unpacked.folder, progress=progress)
    if contents.summary and (contents.summary.project, contents.summary.date) != (paths.project, str(paths.day)):
        raise RefusedArchiveError(
            f"{source.name} is refused",
            why=f"it holds {contents.summary.project} {contents.summary.date}, not {paths.project} {paths.day}",
        )
    damaged = CorruptArchiveError(f"{source.name} is damaged", why="its files differ from its checksums")
    try:
        summary = ensure_manifest(unpacked)  # without checksums, the summary has the content hash
    except CorruptArchiveError:
        raise damaged from None
    if contents.sums is not None and not is_as_recorded(unpacked.folder):
        raise damaged
    content = summary.content_sha256
    day = UnpackedDay(unpacked, summary, content, contents.sums is None, contents.hidden, content)
    tombstones = read_tombstones(paths) | folder_tombstones(unpacked.folder)
    reduced = unpacked.folder.with_name(f"{unpacked.folder.name}.reduced")
    if not tombstones or not (copied := copy_without(unpacked, reduced, tombstones)):
        return day
    erased, content = copied
    shutil.rmtree(unpacked.folder)
    reduced.rename(unpacked.folder)
    return replace(day, summary=ensure_manifest(unpacked), content=content, forgotten=erased)


def publish(paths: DayPaths, unpacked: UnpackedDay, source: Path, *, allow_shrink: bool = False) -> None:
    """Publishes the unpacked folder and the zip as the day's. The caller holds the day's lock.

    The zip is renamed first: if the process is killed in between, the folder is still the old one and is restored
    again. A damaged local zip is set aside. A zip with runs that were left out is not published: the caller makes
    another one of the folder.

    Raises:
        ArchiveConflictError: The local zip belongs to another project.
        ShrinkError: The local folder or zip, or the pruned day, has something that the copy does not (law 1), or the
            record of the pruned day cannot be read. Not with `allow_shrink`.
    """
    archived = None
    require_own_zip(paths.zip, paths.project)
    if paths.zip.is_file() and not paths.zip.samefile(source):
        archived = zip_inventory(paths.zip, read_tombstones(paths))
    if not allow_shrink:
        _check_superset(paths, unpacked, archived)
    if archived and archived.damaged:
        set_aside(paths.zip)
    clear_verified(paths)
    if not unpacked.differs:
        source.replace(paths.zip)
    publish_reduced(paths, unpacked.paths.folder, before=unpacked.zip_content, content=unpacked.content)
    delete_pruned_record(paths)
    clear(paths)


def clear(paths: DayPaths) -> None:
    """Removes what a killed restore or import left behind. The caller holds the day's lock."""
    discard(paths, paths.restoring)


def _check_superset(paths: DayPaths, unpacked: UnpackedDay, archived: Inventory | None) -> None:
    if not (paths.folder.is_dir() or archived or is_pruned(paths)):
        return
    restored = _folder_inventory(unpacked.paths.folder)
    tombstones = read_tombstones(paths)
    if paths.folder.is_dir() and (lost := _folder_inventory(paths.folder, tombstones).missing_from(restored)):
        raise _shrink(str(paths.folder), lost, "Archive and upload what is here: lse archive zip, lse archive upload")
    # A damaged zip is set aside, not replaced.
    if archived and not archived.damaged and (lost := archived.missing_from(restored)):
        raise _shrink(str(paths.zip), lost, "Upload it: lse archive upload")
    if is_pruned(paths) and (lost := _pruned_inventory(paths, unpacked).missing_from(restored)):
        hint = "Search the destination's trash and the file's versions for the former copy"
        raise _shrink(f"{paths.project} {paths.day}, whose files were pruned,", lost, hint)
    if (
        is_pruned(paths)
        and (recorded := _pruned_feedback(paths)) > len(restored.feedback) + unpacked.forgotten.feedback
    ):
        raise ShrinkError(
            f"{paths.project} {paths.day}, whose files were pruned, has more feedback than the copy",
            why=f"{recorded} records were pruned, and the copy has {len(restored.feedback)}",
            hint=f"Search the destination's trash and the file's versions for the former copy; {_ALLOW_SHRINK}",
        )


def _pruned_feedback(paths: DayPaths) -> int:
    """The number of the pruned day's feedback records; 0 if its summary cannot be read."""
    with contextlib.suppress(CorruptArchiveError):
        summary = FeedbackSummary.of(read_summary(paths.pruned))
        return (summary.feedback or 0) + summary.feedback_apart
    return 0


def _pruned_inventory(paths: DayPaths, unpacked: UnpackedDay) -> Inventory:
    """The inventory of the pruned day's runs; empty if the copy has the same content."""
    with contextlib.suppress(CorruptArchiveError):
        if day_content(paths) == unpacked.content:
            return Inventory()
    try:
        tombstones = read_tombstones(paths)
        return Inventory(named={run_id for run_id, _, _ in pruned_runs(paths) if run_id not in tombstones})
    except CorruptArchiveError as error:
        raise ShrinkError(
            error.what, why="the copy has other content than the pruned day", hint=_ALLOW_SHRINK
        ) from error


def _shrink(what: str, lost: dict[str, str], hint: str) -> ShrinkError:
    return shrink_error(what, "the copy", lost, f"{hint}; {_ALLOW_SHRINK}")


def _folder_inventory(folder: Path, tombstones: Tombstones = NONE) -> Inventory:
    return folder_inventory(content_files(folder), tombstones)
