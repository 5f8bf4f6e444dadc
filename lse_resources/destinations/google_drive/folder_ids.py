"""The ids of the project folders that this installation created: Drive's search finds a new folder with a delay."""

import contextlib
import logging
from collections.abc import Generator
from pathlib import Path

import msgspec

from lse_archive.errors import UNDECODABLE
from lse_archive.files import disk_errors, file_lock, publish_file

_log = logging.getLogger(__name__)


class FolderIds:
    """The ids by the folders' names, in a file that all processes of the installation use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._what = f"cannot record the id of a Drive folder in {path}"

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Holds the lock of the one thread that may create a folder.

        Raises:
            ArchiveError: Another held it for ten minutes, or it cannot be created.
        """
        with contextlib.ExitStack() as exits:
            with disk_errors(self._what):
                exits.enter_context(file_lock(self._path))
            yield

    def all(self) -> dict[str, str]:
        """The ids by name. A damaged file has none: Drive's search finds the folders after its delay."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, *UNDECODABLE) as error:
            _log.warning("%s cannot be read (%s): Drive's search finds new folders with a delay", self._path, error)
            return {}

    def set(self, name: str, identity: str) -> None:
        """Records the id of a folder. Raises ArchiveError."""
        with disk_errors(self._what), publish_file(self._path) as file:
            file.write(msgspec.json.encode({**self.all(), name: identity}))
