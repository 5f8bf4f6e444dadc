"""Brings days back from the archive's destination: what is there, what a restore would do, and the restore."""

from __future__ import annotations

import contextlib
import glob
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from lse_archive.days import parse_day
from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, UsageError
from lse_archive.folder.locks import day_lock
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.state import update_state
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder, project_name, zip_name
from lse_archive.results import RestoreResult
from lse_operations.restore.unpack import LaidOut, clear, holds, lay_out, publish
from lse_resources.destinations.encryption import check_opens, is_encrypted
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.protocol import Destination, RepeatsNames

_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})\.zip")


@dataclass(frozen=True, slots=True)
class RemoteArchive:
    """A day at the destination. `files` are several where one name stands for two files."""

    project: str
    day: date
    files: tuple[StoredFile, ...]

    @property
    def file(self) -> StoredFile:
        """The one file.

        Raises:
            ArchiveConflictError: There are several.
        """
        if len({is_encrypted(file) for file in self.files}) > 1:
            raise ArchiveConflictError(
                f"{self.project} {self.day} is there encrypted and unencrypted, and the two differ",
                why="only one can be the archive",
                hint="Upload the day, if its runs are here (lse archive upload); else move one of the two elsewhere,"
                " restore the other, and look which holds more",
            )
        if len(self.files) > 1:
            raise ArchiveConflictError(
                f"there are {len(self.files)} files for {self.project} {self.day}: {self.files[0].name}",
                why="only one can be the archive",
                hint="Look at them: lse drive dedupe --dry-run",
            )
        return self.files[0]

    @property
    def content(self) -> str | None:
        """See `StoredFile.content`."""
        return self.files[0].content


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How days are restored.

    Attributes:
        may_replace: Asked before a day that is here and differs is replaced.
        allow_shrink: Give up runs that are here and not in the copy.
        verify_only: Prove that the day could be restored, and keep nothing.
        downloading: Told (bytes done, bytes in all).
        extracting: Told (files done, files in all).
        on_wait: Told who holds the day's lock, if somebody does.
    """

    may_replace: Callable[[str], bool] = lambda _: True
    allow_shrink: bool = False
    verify_only: bool = False
    downloading: Callable[[int, int], None] = lambda _done, _all: None
    extracting: Callable[[int, int], None] = lambda _done, _all: None
    on_wait: Callable[[str], None] | None = None


def _refuse(_: str, error: UsageError) -> None:
    raise error


def archived_projects(
    destination: Destination, known: list[str], *, on_unknown: Callable[[str, UsageError], None] = _refuse
) -> Iterator[str]:
    """The projects that have a folder at the destination.

    Args:
        known: Names of projects: one that was too long for its folder is found among them.
        on_unknown: Told the folder of which that is not so, and why it is left out. Default: raises that.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        UsageError: A project's name cannot be had back.
    """
    by_folder = {project_folder(name): name for name in known}
    for folder in destination.project_folders():
        name = by_folder.get(folder) or project_name(folder)
        if name is None:
            what, hint = f"the project of the folder '{folder}' is not known", "Restore it by its name: --project NAME"
            on_unknown(folder, UsageError(what, why="it was too long to be kept in the folder's", hint=hint))
        else:
            yield name


def repeated_folders(destination: Destination) -> dict[str, ArchiveConflictError]:
    """Names that several folders share, each with the error of an incomplete restore. Raises DestinationError."""
    names = destination.duplicate_folders() if isinstance(destination, RepeatsNames) else []
    why, hint = "only the oldest of them is read", "Move the others' files into the oldest by hand, and restore again"
    return {
        name: ArchiveConflictError(f"there are several folders named '{name}'", why=why, hint=hint) for name in names
    }


def copies(
    destination: Destination, project: str, first: date | None = None, last: date | None = None
) -> list[RemoteArchive]:
    """The days of a project at the destination, oldest first.

    Older tools named their zips otherwise: any that ends in a day counts, where no zip of our name does. An unencrypted
    zip beside the encrypted one of the same content does not count: a killed upload left it.

    Raises:
        DestinationError: The destination refused or cannot be reached.
    """
    folder = destination.find_project_folder(project_folder(project))
    by_day: dict[date, list[StoredFile]] = {}
    for file in destination.list_files(folder) if folder else ():
        if (found := _DATED.search(file.name)) and found.end() == len(file.name):
            try:
                day = parse_day(found[1])
            except UsageError:
                continue
            if (first is None or day >= first) and (last is None or day <= last):
                by_day.setdefault(day, []).append(file)
    result = []
    for day, files in sorted(by_day.items()):
        named = [file for file in files if file.name == zip_name(project, day)]
        result.append(RemoteArchive(project, day, tuple(_without_leftovers(named or files))))
    return result


def _without_leftovers(files: list[StoredFile]) -> Iterator[StoredFile]:
    encrypted = [file for file in files if is_encrypted(file)]
    for file in files:
        if is_encrypted(file) or not any(_is_same(file, other) for other in encrypted):
            yield file


def _is_same(file: StoredFile, other: StoredFile) -> bool:
    bytes_agree = file.sha256 is not None and file.sha256 == other.sha256
    return bytes_agree or (file.content is not None and file.content == other.content)


def plan(destination: Destination, paths: DayPaths, copy: RemoteArchive, *, verify_only: bool = False) -> RestoreResult:
    """What a restore of the day would do, by what the destination tells. Nothing is downloaded or written.

    Raises:
        ArchiveConflictError: The day has two files there.
        NoKeyError: It would have to be decrypted, and nothing is set for that.
        ArchiveError: What is here cannot be read.
    """
    file, content = copy.file, copy.content
    with _disk_errors(paths):
        unchanged = not verify_only and content is not None and holds(paths, content)
        local = not verify_only and _is_local(paths, file)
    if unchanged:
        action = "unchanged"
    elif not paths.folder.exists():
        action = "would restore"
    else:
        action = "would replace" if content else "would compare"
    if not unchanged and not local:
        check_opens(file)
    runs = file.app_properties.get("runs", "")
    return RestoreResult(
        project=paths.project,
        date=str(paths.day),
        action=action,
        name=file.name,
        source="local zip" if local else destination.place,
        bytes=file.size,
        runs=int(runs) if runs.isdecimal() else None,
        content_sha256=content,
    )


def restore_day(
    destination: Destination, paths: DayPaths, copy: RemoteArchive, options: RestoreOptions | None = None
) -> RestoreResult:
    """Brings one day back: its run files and its zip, as they are at the destination, or nothing.

    A zip that is here already with the checksum of the copy is not downloaded, but to prove the copy. A broken download
    is continued by the next restore.

    Raises:
        NoKeyError: The copy is encrypted, and does not open with what is set.
        ArchiveConflictError: The day has two files there, or `may_replace` said no.
        ShrinkError: What is here holds runs that the copy does not.
        RefusedArchiveError, CorruptArchiveError: The copy is no archive of this day, or damaged.
        DestinationError: The destination refused or cannot be reached.
        ArchiveError: It cannot be written.
    """
    options = options or RestoreOptions()
    began = time.monotonic()
    file = copy.file
    with _disk_errors(paths), day_lock(paths, on_wait=options.on_wait):
        clear(paths)
        if not options.verify_only and copy.content and holds(paths, copy.content):
            result = plan(destination, paths, copy)
            _forget_downloads(paths)
        else:
            result = _restore(destination, paths, copy, file, options)
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def bring_back(
    destination: Destination, paths: DayPaths, *, on_wait: Callable[[str], None] | None = None
) -> RestoreResult | None:
    """Restores a day that was pruned, so that it can be written again (law 1); None if it was not.

    Raises:
        ArchiveError: As `restore_day`, and if the destination does not have it any more.
    """
    if not is_pruned(paths):
        return None
    found = copies(destination, paths.project, paths.day, paths.day)
    if not found:
        raise ArchiveError(
            f"{paths.project} {paths.day} cannot be brought back",
            why=f"its files were pruned here, and {destination.place} does not have it",
            hint=f"Look into the trash of {destination.place}; the rows in Postgres are still there",
        )
    return restore_day(destination, paths, found[0], RestoreOptions(on_wait=on_wait))


def _restore(
    destination: Destination, paths: DayPaths, copy: RemoteArchive, file: StoredFile, options: RestoreOptions
) -> RestoreResult:
    asked = False
    if copy.content and not options.verify_only:
        asked = _ask(destination, paths, file, options)
    local = not options.verify_only and _is_local(paths, file)
    if options.verify_only:
        paths.incoming.unlink(missing_ok=True)  # what an earlier download left proves nothing of the copy now
    source = paths.zip if local else paths.incoming
    if not local and not _is_copy(source, file):
        paths.archive_dir.mkdir(parents=True, exist_ok=True)
        destination.download(file, source, progress=lambda done: options.downloading(done, file.size))
    try:
        laid = lay_out(paths, source, progress=options.extracting)
        result = RestoreResult(
            project=paths.project,
            date=str(paths.day),
            action="proven",
            name=file.name,
            source="local zip" if local else destination.place,
            bytes=file.size,
            runs=laid.summary.runs,
            files=len(laid.summary.unfit_files) + laid.summary.runs,
            content_sha256=laid.content,
            unfit_files=laid.summary.unfit_files,
            left_out=list(laid.hidden),
            older=laid.older,
        )
        if not options.verify_only:
            result.action = _publish(destination, paths, file, laid, source, options, asked=asked)
        return result
    finally:
        clear(paths)
        _forget_downloads(paths)


def _publish(
    destination: Destination,
    paths: DayPaths,
    file: StoredFile,
    laid: LaidOut,
    source: Path,
    options: RestoreOptions,
    *,
    asked: bool,
) -> Literal["restored", "replaced", "unchanged"]:
    existed = paths.folder.exists()
    if existed and holds(paths, laid.content):
        return "unchanged"
    if not asked:
        _ask(destination, paths, file, options)
    publish(paths, laid, source, allow_shrink=options.allow_shrink)
    update_state(paths, drive_file_id=file.id, drive_sha256=file.sha256, drive_content=laid.content, zip_pruned_at=None)
    return "replaced" if existed else "restored"


def _ask(destination: Destination, paths: DayPaths, file: StoredFile, options: RestoreOptions) -> bool:
    if paths.folder.exists():
        what = f"{paths.folder} differs from the copy on {destination.place} ({file.modified[:10]})"
        if not options.may_replace(f"{what}. Replace it by the copy"):
            raise ArchiveConflictError(what, why="it was not to be replaced", hint="--force replaces it")
    return True


def _is_local(paths: DayPaths, file: StoredFile) -> bool:
    """Whether the zip that is here has the copy's bytes."""
    return _is_copy(paths.zip, file)


def _is_copy(path: Path, file: StoredFile) -> bool:
    try:
        return path.is_file() and path.stat().st_size == file.size and LocalFile.read(path).equals(file)
    except CorruptArchiveError:
        return False


def _forget_downloads(paths: DayPaths) -> None:
    paths.incoming.unlink(missing_ok=True)
    for part in paths.archive_dir.glob(f".{glob.escape(paths.incoming.name)}.*.part"):
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(paths: DayPaths) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"{paths.project} {paths.day} cannot be restored under {paths.data_dir}",
            why=f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error),
            hint="Free space or mend the rights; nothing was published in part",
        ) from error
