"""Where day archives are kept elsewhere: what Google Drive and object stores have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lse_resources.destinations.files import StoredFile


class Destination(Protocol):
    """A place with one folder per project and one zip per day. Threads may share it.

    Every method raises DestinationError, in one sentence without secrets, when the place refuses for good or cannot be
    reached for long enough.
    """

    @property
    def place(self) -> str:
        """What people call it, as in "the copy on Drive"."""
        ...

    @property
    def keeps_revisions(self) -> bool:
        """Whether the old content of a replaced file, and a removed one, can be had back for a while."""
        ...

    def check_folder(self, need: int = 0) -> Any:
        """Raises unless the place is there and takes `need` bytes more, as far as it can tell beforehand."""
        ...

    def find_project_folder(self, name: str) -> str | None:
        """The id of a project's folder, None if there is none."""
        ...

    def ensure_project_folder(self, name: str) -> str:
        """The id of a project's folder, which is made if it is missing."""
        ...

    def project_folders(self) -> list[str]:
        """The names of all projects' folders, sorted, each once."""
        ...

    def find_file(self, folder_id: str, name: str) -> list[StoredFile]:
        """The files of exactly that name, oldest first: on Drive there may be several."""
        ...

    def left_behind(self, folder_id: str, file: StoredFile) -> list[StoredFile]:
        """What `file` replaced, and a killed upload did not remove: unencrypted zips beside an encrypted one."""
        ...

    def list_files(self, folder_id: str) -> list[StoredFile]:
        """All files of a folder, oldest first."""
        ...

    def upload(
        self,
        path: Path,
        name: str,
        folder_id: str,
        app_properties: Mapping[str, str],
        *,
        existing: StoredFile | None = None,
        progress: Callable[[int], None] = ...,
        session_file: Path | None = None,
    ) -> StoredFile:
        """Puts a file there, or in the place of `existing`, and proves by checksum that it arrived."""
        ...

    def download(self, file: StoredFile, target: Path, *, progress: Callable[[int], None] = ...) -> None:
        """Puts the file's content at `target`, whole and proven or not at all; goes on with what a broken one left."""
        ...

    def prove(self, file: StoredFile) -> StoredFile:
        """The file as it is there now, its checksum made or vouched for by the place at this moment."""
        ...

    def trash(self, file: StoredFile) -> None:
        """Removes a file; into a trash, where there is one."""
        ...

    def close(self) -> None:
        """Closes all connections."""
        ...


@runtime_checkable
class RepeatsNames(Protocol):
    """A place on which two folders may have one name, as on Drive."""

    def duplicate_folders(self) -> list[str]:
        """The names that several projects' folders share; only the oldest of them is used. Raises DestinationError."""
        ...
