"""The day archive at its destination: `<folder>/<project>/<project>_<day>.zip`, never replaced by fewer runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, RefusedArchiveError
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import Summary, content_hash, content_sums, read_sums
from lse_archive.folder.pruned import read_pruned
from lse_archive.folder.publish import SCRATCH
from lse_archive.folder.state import now_text, update_state
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.results import UploadResult
from lse_archive.zips.day import check_zip, zip_summary, zip_sums
from lse_archive.zips.inventory import shrink_error, zip_inventory
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.protocol import Destination

NO_FILE = ("one file", "no file")
"""What `find_copy_difference` says where there is none."""


def find_copies(drive: Destination, paths: DayPaths) -> list[StoredFile]:
    """The day's files on Drive, oldest first: one, none, or by mistake several."""
    folder = drive.find_project_folder(project_folder(paths.project))
    return drive.find_file(folder, paths.zip.name) if folder else []


def upload_day(
    drive: Destination,
    paths: DayPaths,
    *,
    allow_shrink: bool = False,
    may_replace: Callable[[str], bool] = lambda _: True,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    on_wait: Callable[[str], None] | None = None,
) -> UploadResult:
    """Brings the day's zip to Drive; the same content is not sent again.

    Args:
        allow_shrink: Replace even a file that holds runs which the zip does not.
        may_replace: Asked before a file of other content is replaced.
        progress: Told (bytes that Drive has, bytes in all).

    Raises:
        ArchiveError: There is no zip.
        ArchiveConflictError: Two files of that name, or `may_replace` said no.
        ShrinkError: The file on Drive holds runs that the zip does not.
        DestinationError: Drive refused or cannot be reached.
        RefusedArchiveError: The zip is of another project or day.
        CorruptArchiveError: The zip is damaged, or Drive kept other bytes than were sent.
    """
    began = time.monotonic()
    with day_lock(paths, on_wait=on_wait):
        if not paths.zip.is_file():
            raise ArchiveError(
                f"{paths.project} {paths.day} has no archive",
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
        content, local = content_hash(content_sums(sums)), LocalFile.read(paths.zip)
        folder = drive.find_project_folder(project_folder(paths.project))
        found = drive.find_file(folder, paths.zip.name) if folder else []
        if len(found) > 1:
            raise ArchiveConflictError(
                f"{drive.place} has {len(found)} files named {paths.zip.name}",
                why="only one can be the archive",
                hint="Look at them: lse drive dedupe --dry-run",
            )
        existing = found[0] if found else None
        if existing and existing.content == content:
            action, file = "unchanged", existing
            paths.upload_session.unlink(missing_ok=True)  # of an upload whose last answer was never seen
        else:
            _prove_zip(paths, sums)
            if existing and local.equals(existing):
                action = "unchanged"  # a killed upload did not come to write down whose bytes these are
            else:
                if existing:
                    _check_replacement(drive, paths, existing, allow_shrink, may_replace)
                drive.check_folder(need=local.size)
                action = "replaced" if existing else "created"
            folder = folder or drive.ensure_project_folder(project_folder(paths.project))
            file = drive.upload(
                paths.zip,
                paths.zip.name,
                folder,
                _properties(paths, summary, content, local.sha256),
                existing=existing,
                progress=lambda sent: progress(sent, local.size),
                session_file=paths.upload_session,
            )
        update_state(
            paths,
            drive_file_id=file.id,
            drive_sha256=local.sha256,
            drive_content=content,
            uploaded_at=now_text(),
            copy_pruned_at=None,
        )
        for left in drive.left_behind(folder, file) if folder else ():
            if not allow_shrink and not _is_same(left, local, content):
                _check_superset(drive, paths, left)
            drive.trash(left)
        return UploadResult(
            project=paths.project,
            date=str(paths.day),
            action=action,
            name=file.name,
            file_id=file.id,
            url=file.web_view_link or None,
            bytes=local.size,
            sha256=local.sha256,
            duration_seconds=round(time.monotonic() - began, 3),
        )


def _prove_zip(paths: DayPaths, sums: dict[str, bytes]) -> None:
    """A damaged zip must not take the place of a good copy."""
    try:
        check_zip(paths.zip, paths.zip, sums)
    except CorruptArchiveError as error:
        raise CorruptArchiveError(
            error.what, why=error.why, hint="Make it again (lse archive zip), or restore the day"
        ) from error


def _is_same(file: StoredFile, local: LocalFile, content: str) -> bool:
    """Whether Drive holds this content: these bytes, or another zip of the same files that is as it was uploaded."""
    return local.equals(file) or file.content == content


def _check_replacement(
    drive: Destination,
    paths: DayPaths,
    existing: StoredFile,
    allow_shrink: bool,
    may_replace: Callable[[str], bool],
) -> None:
    what = f"{existing.name} on {drive.place} has other content (uploaded {existing.modified[:10]})"
    kept = "; the old content is kept there for 30 days" if drive.keeps_revisions else ""
    if not may_replace(f"{what}. Replace it{kept}"):
        raise ArchiveConflictError(what, why="it was not to be replaced", hint="--force replaces it")
    if not allow_shrink:
        _check_superset(drive, paths, existing)


def _check_superset(drive: Destination, paths: DayPaths, existing: StoredFile) -> None:
    """Law 1 for the copy: what it holds must be in the zip, which was proven.

    Of a damaged copy all must be there that its files and their names tell, and what cannot be told counts as lost.
    Only what was never a zip holds nothing.
    """
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=paths.zip.parent) as scratch:
        copy = Path(scratch) / existing.name
        drive.download(existing, copy)
        lost = zip_inventory(copy).missing_from(zip_inventory(paths.zip))
    if lost:
        hint = "Restore the day (lse archive restore) and fetch it again; --allow-shrink gives the runs up"
        raise shrink_error(f"{existing.name} on {drive.place}", str(paths.zip), lost, hint)


def _properties(paths: DayPaths, summary: Summary, content: str, sha256: str) -> dict[str, str]:
    # Drive allows 124 bytes for key and value together: a long project name is cut.
    project = paths.project.encode()[:100].decode(errors="ignore")
    return {
        "project": project,
        "date": str(paths.day),
        "runs": str(summary.runs),
        "traces": str(summary.traces),
        "content": content,
        "sha256": sha256,
    }


def find_copy_difference(drive: Destination, paths: DayPaths) -> tuple[str, str] | None:
    """How the file at the destination differs from what is here, as (expected, found); None if it does not.

    What is here is the zip; where that was given up, the content of the day's files; where those were given up too,
    what was proven then.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        CorruptArchiveError: What is here cannot be read.
    """
    folder = drive.find_project_folder(project_folder(paths.project))
    found = drive.find_file(folder, paths.zip.name) if folder else []
    if not folder or not found:
        return NO_FILE
    if len(found) > 1:
        return "one file", f"{len(found)} files"
    if left := drive.left_behind(folder, found[0]):
        return "one encrypted file", f"{len(left)} unencrypted beside it"
    return copy_difference(found[0], paths)


def copy_difference(file: StoredFile, paths: DayPaths, *, without_zip: bool = False) -> tuple[str, str] | None:
    """As `find_copy_difference`, for a file that is known; `without_zip`: as if the local zip were not here."""
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
        return "a zip, or run files with checksums, here", "neither"
    content = pruned.content_sha256 if pruned else content_hash(content_sums(sums or {}))
    if file.content == content:
        return None
    return f"content {content}", f"content {file.app_properties.get('content', 'not known')}, sha256 {file.sha256}"
