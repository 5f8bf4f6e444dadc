"""Uploads the day archive to its destination; a copy is never replaced by fewer runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, RefusedArchiveError
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import Summary, content_hash, content_sums, read_sums
from lse_archive.folder.pruned import read_pruned
from lse_archive.folder.publish import SCRATCH
from lse_archive.folder.state import now_text, read_state, update_state
from lse_archive.folder.tombstones import read_tombstones
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.results import UploadResult
from lse_archive.zips.day import check_zip, zip_summary, zip_sums
from lse_archive.zips.inventory import shrink_error, zip_inventory
from lse_resources.destinations.encryption import is_encrypted
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.protocol import Destination

_LACKING = "incomplete"

NO_FILE = ("one file", "no file")
"""What `find_copy_difference` returns if there is no copy."""


def find_copies(destination: Destination, paths: DayPaths) -> list[StoredFile]:
    """The day's files at the destination, oldest first: one, none, or by mistake several.

    The file of the last upload is known by its id: Drive's search may not find it yet.
    """
    return _find(destination, paths)[1]


def _find(destination: Destination, paths: DayPaths) -> tuple[list[str], list[StoredFile]]:
    """The project's folders at the destination, and `find_copies`."""
    folders = destination.find_project_folders(project_folder(paths.project))
    files = [file for folder in folders for file in destination.find_file(folder, paths.zip.name)]
    known = read_state(paths).drive_file_id
    if known and known not in {file.id for file in files}:
        file = destination.read(known)
        if file and file.name == paths.zip.name and file.folder in folders:
            files.append(file)
    # An unencrypted file beside an encrypted one is a leftover, see `left_behind`.
    encrypted = [file for file in files if is_encrypted(file)]
    return folders, sorted(encrypted or files, key=lambda file: file.created)


def upload_day(
    destination: Destination,
    paths: DayPaths,
    *,
    allow_shrink: bool = False,
    may_replace: Callable[[str], bool] = lambda _: True,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    on_wait: Callable[[str], None] | None = None,
) -> UploadResult:
    """Uploads the day's zip. A copy with the same content is not sent again.

    Args:
        allow_shrink: Replace even a file that holds runs which the zip does not.
        may_replace: Called with a question before a file of other content is replaced.
        progress: Called with (bytes stored, bytes in all).
        on_wait: Called with the holder of the day's lock, if another process has it.

    Raises:
        ArchiveError: There is no zip.
        ArchiveConflictError: There are two files of that name, or `may_replace` returned False.
        ShrinkError: The copy holds runs that the zip does not.
        DestinationError: The destination refused or cannot be reached.
        RefusedArchiveError: The zip is of another project or day.
        CorruptArchiveError: The zip is damaged, or the destination stored other bytes than it was sent.
    """
    began = time.monotonic()
    with day_lock(paths, on_wait=on_wait):
        zip_file = _read_zip(paths)
        folders, found = _find(destination, paths)
        existing = _existing_file(destination, paths, found)
        action = _decide(paths, zip_file, existing)
        if action in ("created", "replaced"):
            if existing and existing.content != zip_file.content:
                _check_replacement(destination, paths, existing, allow_shrink, may_replace)
            destination.check_folder(need=zip_file.local.size)
        if existing and _is_current(existing, zip_file):
            file = existing
        else:
            if existing:
                folders = [existing.folder]
            elif not folders:
                folders = [destination.ensure_project_folder(project_folder(paths.project))]
            file = destination.upload(
                paths.zip,
                paths.zip.name,
                folders[0],
                _properties(paths, zip_file),
                existing=existing,
                progress=lambda sent: progress(sent, zip_file.local.size),
                session_file=paths.upload_session,
            )
        update_state(
            paths,
            drive_file_id=file.id,
            drive_sha256=zip_file.local.sha256,
            drive_content=zip_file.content,
            uploaded_at=now_text(),
            copy_pruned_at=None,
        )
        paths.upload_session.unlink(missing_ok=True)  # it has the id of the file until the state has it
        for leftover in destination.left_behind(file.folder, file):
            if not allow_shrink and not _is_same(leftover, zip_file.local, zip_file.content):
                check_superset(destination, paths, leftover)
            destination.trash(leftover)
        return UploadResult(
            project=paths.project,
            date=str(paths.day),
            action=action,
            name=file.name,
            file_id=file.id,
            url=file.web_view_link or None,
            bytes=zip_file.local.size,
            sha256=zip_file.local.sha256,
            duration_seconds=round(time.monotonic() - began, 3),
        )


@dataclass(frozen=True, slots=True)
class _Zip:
    """The local zip: its summary, the checksums in it, its content hash, size and SHA-256."""

    summary: Summary
    sums: dict[str, bytes]
    content: str
    local: LocalFile


def _read_zip(paths: DayPaths) -> _Zip:
    if not paths.zip.is_file():
        raise ArchiveError(
            f"{paths.project} {paths.day} has no zip",
            why=f"there is no {paths.zip}",
            hint="Make it first: lse archive zip",
        )
    summary, sums = zip_summary(paths.zip), zip_sums(paths.zip)
    if (summary.project, summary.date) != (paths.project, str(paths.day)):
        raise RefusedArchiveError(
            f"{paths.zip.name} is not uploaded",
            why=f"it holds {summary.project} {summary.date}, not {paths.project} {paths.day}",
            hint="Move it away, and make it again (lse archive zip), or restore the day",
        )
    return _Zip(summary, sums, content_hash(content_sums(sums)), LocalFile.read(paths.zip))


def _existing_file(destination: Destination, paths: DayPaths, found: list[StoredFile]) -> StoredFile | None:
    if len(found) > 1:
        raise ArchiveConflictError(
            f"{destination.place} has {len(found)} files named {paths.zip.name}",
            why="only one can be the archive",
            hint="List them: lse drive dedupe --dry-run",
        )
    return found[0] if found else None


def _decide(
    paths: DayPaths, zip_file: _Zip, existing: StoredFile | None
) -> Literal["created", "replaced", "unchanged"]:
    """What the upload will do. Checks a zip that will be sent."""
    if existing and _is_current(existing, zip_file):
        return "unchanged"
    _prove_zip(paths, zip_file.sums)
    if existing and zip_file.local.equals(existing):
        return "unchanged"  # a killed upload stored the bytes, but not their properties
    return "replaced" if existing else "created"


def _prove_zip(paths: DayPaths, sums: dict[str, bytes]) -> None:
    """Raises CorruptArchiveError for a damaged zip: it must not replace a good copy."""
    try:
        check_zip(paths.zip, paths.zip, sums)
    except CorruptArchiveError as error:
        raise CorruptArchiveError(
            error.what, why=error.why, hint="Make it again (lse archive zip), or restore the day"
        ) from error


def _is_current(existing: StoredFile, zip_file: _Zip) -> bool:
    """Whether the copy has the zip's content, and names as many missing runs and attachments in its summary."""
    lacking = existing.app_properties.get(_LACKING, "0")
    return existing.content == zip_file.content and lacking == str(_lacking(zip_file.summary))


def _lacking(summary: Summary) -> int:
    return len(summary.incomplete) + len(summary.attachments_missing)


def _is_same(file: StoredFile, local: LocalFile, content: str) -> bool:
    """Whether the copy has this content: the same bytes, or an unchanged upload of another zip of the same files."""
    return local.equals(file) or file.content == content


def _check_replacement(
    destination: Destination,
    paths: DayPaths,
    existing: StoredFile,
    allow_shrink: bool,
    may_replace: Callable[[str], bool],
) -> None:
    what = f"{existing.name} on {destination.place} has other content (uploaded {existing.modified[:10]})"
    kept = "; the old content is kept there for 30 days" if destination.keeps_revisions else ""
    if not may_replace(f"{what}. Replace it{kept}"):
        raise ArchiveConflictError(what, why="the question was not answered with yes", hint="--force replaces it")
    if not allow_shrink:
        check_superset(destination, paths, existing)


def check_superset(destination: Destination, paths: DayPaths, existing: StoredFile) -> None:
    """Law 1 for the copy: all its runs and other files must be in the zip.

    The unreadable part of a damaged copy counts as lost. A file without a zip signature counts as empty.
    """
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=paths.zip.parent) as scratch:
        copy = Path(scratch) / existing.name
        destination.download(existing, copy)
        tombstones = read_tombstones(paths)
        sums = zip_sums(paths.zip)
        there = zip_inventory(copy, tombstones, sums)
        lost = there.missing_from(zip_inventory(paths.zip, tombstones, {name: sums[name] for name in there.same}))
        if lost:  # a run may be in a file of another name
            lost = there.missing_from(zip_inventory(paths.zip, tombstones))
    if lost:
        hint = "Restore the day (lse archive restore) and fetch it again; --allow-shrink drops the runs"
        raise shrink_error(f"{existing.name} on {destination.place}", str(paths.zip), lost, hint)


def _properties(paths: DayPaths, zip_file: _Zip) -> dict[str, str]:
    # Drive allows 124 bytes for key and value together (Drive API, File.appProperties): a long name is cut.
    project = paths.project.encode()[:100].decode(errors="ignore")
    return {
        "project": project,
        "date": str(paths.day),
        "runs": str(zip_file.summary.runs),
        "traces": str(zip_file.summary.traces),
        "content": zip_file.content,
        "sha256": zip_file.local.sha256,
        **({_LACKING: str(lacking)} if (lacking := _lacking(zip_file.summary)) else {}),
    }


def find_copy_difference(destination: Destination, paths: DayPaths) -> tuple[str, str] | None:
    """The difference between the copy and the local day, as (expected, found); None if they agree.

    The copy is compared with the zip, without a zip with the day's run files, or with the record of a pruned day.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        CorruptArchiveError: The local zip or checksums cannot be read.
    """
    found = find_copies(destination, paths)
    if not found:
        return NO_FILE
    if len(found) > 1:
        return "one file", f"{len(found)} files"
    if left := destination.left_behind(found[0].folder, found[0]):
        return "one encrypted file", f"{len(left)} unencrypted beside it"
    return copy_difference(found[0], paths)


def copy_difference(file: StoredFile, paths: DayPaths, *, without_zip: bool = False) -> tuple[str, str] | None:
    """As `find_copy_difference`, for one file; `without_zip`: ignore the local zip."""
    if paths.zip.is_file() and not without_zip:
        local = LocalFile.read(paths.zip)
        if _is_same(file, local, content_hash(content_sums(zip_sums(paths.zip)))):
            return None
        return f"{local.size} bytes, sha256 {local.sha256}", f"{file.size} bytes, sha256 {file.sha256}"
    pruned = read_pruned(paths)
    if pruned and (pruned.remote_sha256, pruned.remote_bytes) == (file.sha256, file.size):
        return None
    sums = None if pruned else read_sums(paths.folder)
    if not pruned and sums is None:
        return "a local zip, or run files with checksums", "neither"
    content = pruned.content_sha256 if pruned else content_hash(content_sums(sums or {}))
    if file.content == content:
        return None
    return f"content {content}", f"content {file.app_properties.get('content', 'not known')}, sha256 {file.sha256}"
