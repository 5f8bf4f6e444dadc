"""The interface of destinations: Google Drive, object stores, and encryption over either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.history import EarlierCopy, ErasedHistory, History

SEARCH_LAG = timedelta(hours=1)
"""By then a search of the destination finds a new file: on Drive it takes some seconds."""


class ArchiveSource(Protocol):
    """Storage with one folder per project and one zip per day, from which days are restored. Threads may share it.

    Every method raises DestinationError, in one sentence without secrets, when the service refuses finally or cannot
    be reached for longer than the patience.
    """

    @property
    def place(self) -> str:
        """Its name in messages, as in "the copy on Drive"."""
        ...

    def find_project_folders(self, name: str) -> list[str]:
        """The ids of a project's folders, oldest first: one, none, or on Drive by mistake several, read as one."""
        ...

    def project_folders(self) -> list[str]:
        """The names of all projects' folders, sorted, each once."""
        ...

    def read(self, file_id: str) -> StoredFile | None:
        """The file as it is now; None if it was deleted, or is in the trash."""
        ...

    def list_files(self, folder_id: str) -> list[StoredFile]:
        """All files of a folder as the destination lists them, oldest first: Drive's lists lag, see `find_file`."""
        ...

    def download(self, file: StoredFile, target: Path, *, progress: Callable[[int], None] = ...) -> None:
        """Downloads the file, checks it, and moves it to `target`; continues an interrupted download."""
        ...


class Destination(ArchiveSource, Protocol):
    """A source to which days are uploaded."""

    @property
    def keeps_revisions(self) -> bool:
        """Whether replaced content and removed files can be recovered for some time."""
        ...

    def check_folder(self, need: int = 0) -> Any:
        """Raises unless the destination exists and has room for `need` bytes more, as far as it reports that."""
        ...

    def ensure_project_folder(self, name: str) -> str:
        """The id of a project's folder, the oldest if there are several; creates the folder if it is missing."""
        ...

    def find_file(self, folder_id: str, name: str) -> list[StoredFile]:
        """The files of exactly that name as they are now, oldest first: on Drive there may be several.

        Drive's search may lag: for some seconds it does not find a new file. `read` does.
        """
        ...

    def left_behind(self, folder_id: str, file: StoredFile) -> list[StoredFile]:
        """The files that `file` replaced and a killed upload did not remove: unencrypted zips of an encrypted one."""
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
        """Uploads a file, or replaces `existing`, and compares the checksum at the destination.

        The caller deletes `session_file` when it has recorded the id of the file.
        """
        ...

    def prove(self, file: StoredFile) -> StoredFile:
        """Returns the current file, with a checksum that was computed or confirmed by the destination just now."""
        ...

    def trash(self, file: StoredFile) -> None:
        """Moves a file to the trash, or deletes it if there is no trash."""
        ...

    def history(self, folder: str, name: str, keep: StoredFile | None) -> History:
        """Returns what is kept under the name of a zip beside its current content.

        On Drive: earlier revisions, and files of that name in the trash, or in a folder in the trash. In an object
        store: versions, delete markers, unfinished uploads, and objects with the hidden names of an upload.

        Args:
            folder: The name of the project's folder.
            name: The name of the zip, unencrypted: encrypted files of it are found too.
            keep: The current copy as the destination has it now; all else counts as history. None: there is none, and
                every file of that name counts.
        """
        ...

    def download_earlier(self, copy: EarlierCopy, target: Path) -> None:
        """Writes the content of a copy whose `has_content` is True to `target`, decrypted.

        Raises:
            NoKeyError: It is encrypted, and no key decrypts it.
            ArchiveConflictError: It has been erased since.
            DestinationError: The destination refused or cannot be reached.
            ArchiveError: `target` cannot be written.
        """
        ...

    def erase_history(self, folder: str, name: str, keep: StoredFile | None) -> ErasedHistory:
        """Erases finally what `history` returns; nothing of it can be recovered. Can be repeated at any time.

        What the destination refuses (missing rights, retention, a legal hold) is named in the result.

        Raises:
            ArchiveConflictError: `keep` has changed since it was read; nothing was erased.
            DestinationError: The destination cannot be reached. What was erased stays so: call it again.
        """
        ...

    def close(self) -> None:
        """Closes all connections."""
        ...
