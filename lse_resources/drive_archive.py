"""The day archive on Drive: `<folder>/<project>/<project>_<day>.zip`, never replaced by fewer runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, ShrinkError
from lse_archive.layout import DayPaths
from lse_archive.locks import day_lock
from lse_archive.manifest import Summary, content_hash, content_sums
from lse_archive.names import project_folder
from lse_archive.results import UploadResult
from lse_archive.state import now_text, update_state
from lse_archive.zips import missing_runs, zip_summary, zip_sums
from lse_resources.drive_files import DriveFile, LocalFile
from lse_resources.google_drive import GoogleDrive


def find_on_drive(drive: GoogleDrive, paths: DayPaths) -> list[DriveFile]:
    """The day's files on Drive, oldest first: one, none, or by mistake several."""
    folder = drive.find_project_folder(project_folder(paths.project))
    return drive.find_file(folder, paths.zip.name) if folder else []


def upload_day(
    drive: GoogleDrive,
    paths: DayPaths,
    *,
    allow_shrink: bool = False,
    may_replace: Callable[[str], bool] = lambda _: True,
    progress: Callable[[int], None] = lambda _: None,
    on_wait: Callable[[str], None] | None = None,
) -> UploadResult:
    """Brings the day's zip to Drive; the same content is not sent again.

    Args:
        allow_shrink: Replace even a file that holds runs which the zip does not.
        may_replace: Asked before a file of other content is replaced.
        progress: Told how many bytes Drive has.

    Raises:
        ArchiveError: There is no zip.
        ArchiveConflictError: Two files of that name, or `may_replace` said no.
        ShrinkError: The file on Drive holds runs that the zip does not.
        DriveError: Drive refused or cannot be reached.
        CorruptArchiveError: Drive kept other bytes than were sent.
    """
    began = time.monotonic()
    with day_lock(paths, on_wait=on_wait):
        if not paths.zip.is_file():
            raise ArchiveError(
                f"{paths.project} {paths.day} has no archive",
                why=f"there is no {paths.zip}",
                todo="Make it first: lse archive zip",
            )
        summary, content = zip_summary(paths.zip), content_hash(content_sums(zip_sums(paths.zip)))
        local = LocalFile.read(paths.zip)
        found = find_on_drive(drive, paths)
        if len(found) > 1:
            raise ArchiveConflictError(
                f"Drive has {len(found)} files named {paths.zip.name}",
                why="Drive allows two files of one name, and only one can be the archive",
                todo="Compare them and move the wrong one to the trash",
            )
        existing = found[0] if found else None
        if existing and _is_same(existing, local, content):
            action, file = "unchanged", existing
            paths.upload_session.unlink(missing_ok=True)  # of an upload whose last answer was never seen
        else:
            if existing:
                _check_replacement(drive, paths, existing, allow_shrink, may_replace)
            drive.check_folder(need=local.size)
            file = drive.upload(
                paths.zip,
                paths.zip.name,
                drive.ensure_project_folder(project_folder(paths.project)),
                _properties(paths, summary, content, local.sha256),
                existing=existing,
                progress=progress,
                session_file=paths.upload_session,
            )
            action = "replaced" if existing else "created"
        update_state(
            paths, drive_file_id=file.id, drive_sha256=local.sha256, drive_content=content, uploaded_at=now_text()
        )
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


def _is_same(file: DriveFile, local: LocalFile, content: str) -> bool:
    """Whether Drive holds this content: these bytes, or another zip of the same files that is as it was uploaded."""
    if local.equals(file):
        return True
    properties = file.app_properties
    return properties.get("content") == content and file.sha256 is not None and properties.get("sha256") == file.sha256


def _check_replacement(
    drive: GoogleDrive,
    paths: DayPaths,
    existing: DriveFile,
    allow_shrink: bool,
    may_replace: Callable[[str], bool],
) -> None:
    what = f"{existing.name} on Drive has other content (uploaded {existing.modified[:10]})"
    if not may_replace(f"{what}. Replace it? Drive keeps the old revision for 30 days"):
        raise ArchiveConflictError(what, why="it was not to be replaced", todo="--force replaces it")
    if allow_shrink:
        return
    with tempfile.TemporaryDirectory(prefix=".drive-", dir=paths.zip.parent) as scratch:
        copy = Path(scratch) / existing.name
        drive.download(existing, copy)
        try:
            missing = missing_runs(copy, paths.zip)
        except CorruptArchiveError:
            # Not an archive at all: nothing of it can be lost, and Drive keeps the revision.
            return
    if missing:
        raise ShrinkError(
            f"{existing.name} on Drive holds {len(missing)} runs that {paths.zip} does not",
            why=f"for example {min(missing)}",
            todo="Restore the day from Drive and fetch it again; --allow-shrink gives the runs up",
        )


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


def drive_difference(drive: GoogleDrive, paths: DayPaths) -> tuple[str, str] | None:
    """How Drive's file differs from the local zip, as (expected, found); None if it does not."""
    found = find_on_drive(drive, paths)
    if len(found) != 1:
        return "one file", f"{len(found)} files" if found else "no file"
    file = found[0]
    if paths.zip.is_file():
        local = LocalFile.read(paths.zip)
        if local.equals(file) or _is_same(file, local, content_hash(content_sums(zip_sums(paths.zip)))):
            return None
        return f"{local.size} bytes, sha256 {local.sha256}", f"{file.size} bytes, sha256 {file.sha256}"
    return None
