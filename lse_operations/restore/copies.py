"""Lists the projects and the zips of their days at the destination."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

from lse_archive.days import parse_day
from lse_archive.errors import ArchiveConflictError, UsageError
from lse_archive.folder.state import read_state
from lse_archive.layout import Layout
from lse_archive.names import project_folder, project_name, zip_name
from lse_resources.destinations.encryption import is_encrypted
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.protocol import SEARCH_LAG, ArchiveSource

_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})\.zip\Z")


@dataclass(frozen=True, slots=True)
class RemoteArchive:
    """A day at the destination. `files` has several if they share a name, or if the day is there twice."""

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
                f"there are an encrypted and an unencrypted file for {self.project} {self.day}, and they differ",
                why="only one can be the archive",
                hint="Upload the day, if its runs are here (lse archive upload); else move one of the two away,"
                " restore the other, and compare their runs",
            )
        if len(self.files) > 1:
            raise ArchiveConflictError(
                f"there are {len(self.files)} files for {self.project} {self.day}: {self.files[0].name}",
                why="only one can be the archive",
                hint="List them: lse drive dedupe --dry-run",
            )
        return self.files[0]

    @property
    def content(self) -> str | None:
        """See `StoredFile.content`."""
        return self.files[0].content


def _refuse(_: str, error: UsageError) -> None:
    raise error


def archived_projects(
    destination: ArchiveSource, known: list[str], *, on_unknown: Callable[[str, UsageError], None] = _refuse
) -> Iterator[str]:
    """The projects that have a folder at the destination.

    Args:
        known: Names of projects, needed for names that are too long for a folder.
        on_unknown: Called with (folder, error) for a folder whose project is not known. Default: raises the error.

    Raises:
        DestinationError: The destination refused or cannot be reached.
        UsageError: A project's name cannot be recovered from its folder.
    """
    by_folder = {project_folder(name): name for name in known}
    for folder in destination.project_folders():
        name = by_folder.get(folder) or project_name(folder)
        if name is None:
            what, hint = f"the project of the folder '{folder}' is not known", "Restore it by its name: --project NAME"
            on_unknown(folder, UsageError(what, why="its name is too long for a folder name", hint=hint))
        else:
            yield name


def copies(
    destination: ArchiveSource,
    project: str,
    first: date | None = None,
    last: date | None = None,
    *,
    layout: Layout | None = None,
    on_other: Callable[[StoredFile], None] = lambda _: None,
) -> list[RemoteArchive]:
    """The days of a project at the destination, oldest first.

    Older tools used other names: without a zip of the usual name, any name that ends in the day counts. An unencrypted
    zip beside an encrypted one of the same content does not count: a killed upload left it.

    Args:
        layout: The local archive, which knows the ids of its uploads: Drive may not list the last ones yet.
        on_other: Called with each file of the project's folder that is the zip of no day, and with zips of other names
            beside a day's usual one.

    Raises:
        DestinationError: The destination refused or cannot be reached.
    """
    folders = destination.find_project_folders(project_folder(project))
    by_day: dict[date, list[StoredFile]] = {}
    # By id: a file, and a shortcut to it in another of the folders, are one copy.
    listed = {file.id: file for folder in folders for file in destination.list_files(folder)}
    for file in sorted(listed.values(), key=lambda file: (file.created, file.id)):
        day = _day(file.name)
        if day is None:
            on_other(file)
        elif (first is None or day >= first) and (last is None or day <= last):
            by_day.setdefault(day, []).append(file)
    for day, identity in _uploads(layout, project, first, last) if layout else ():
        file = None if day in by_day else destination.read(identity)
        if file and file.folder in folders and _day(file.name) == day:
            by_day[day] = [file]
    result = []
    for day, files in sorted(by_day.items()):
        named = [file for file in files if file.name == zip_name(project, day)]
        for file in files if named else ():
            if file not in named:
                on_other(file)
        files = list(_without_leftovers(named or files))
        if len(files) > 1:  # some may be listed although they were removed
            files = [now for file in files if (now := destination.read(file.id)) and now.folder == file.folder]
        if files:
            result.append(RemoteArchive(project, day, tuple(files)))
    return result


def _uploads(layout: Layout, project: str, first: date | None, last: date | None) -> Iterator[tuple[date, str]]:
    """The days that this archive uploaded within the search lag, each with the id of the copy."""
    oldest = f"{datetime.now(UTC) - SEARCH_LAG:%Y-%m-%dT%H:%M:%SZ}"  # as `now_text`
    for day in layout.recorded_days(project):
        if (first is None or day >= first) and (last is None or day <= last):
            state = read_state(layout.day(project, day))
            if state.drive_file_id and (state.uploaded_at or "") > oldest and not state.copy_pruned_at:
                yield day, state.drive_file_id


def _day(name: str) -> date | None:
    """The day in which a zip's name ends."""
    found = _DATED.search(name)
    with contextlib.suppress(UsageError):
        return parse_day(found[1]) if found else None
    return None


def _without_leftovers(files: list[StoredFile]) -> Iterator[StoredFile]:
    encrypted = [file for file in files if is_encrypted(file)]
    for file in files:
        if is_encrypted(file) or not any(_is_same(file, other) for other in encrypted):
            yield file


def _is_same(file: StoredFile, other: StoredFile) -> bool:
    bytes_agree = file.sha256 is not None and file.sha256 == other.sha256
    return bytes_agree or (file.content is not None and file.content == other.content)
