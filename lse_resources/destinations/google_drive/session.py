"""The session of an unfinished upload, saved so that another process can continue it."""

import contextlib
from pathlib import Path

import msgspec

from lse_archive.errors import UNDECODABLE, ArchiveError
from lse_archive.files import publish_file


class UploadSession(msgspec.Struct, frozen=True):
    """A resumable session. Its `uri` is a secret that allows writing the file; "" before Drive has returned it."""

    uri: str
    file_id: str
    size: int
    sha256: str
    update: bool  # whether an existing file is replaced
    folder_id: str


class SessionFile:
    """The session's file, of mode 0600; without a path, nothing is saved."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, root_url: str) -> UploadSession | None:
        """Returns the saved session if it is of this server, else None.

        Without it, or with a damaged one, the upload starts over: nothing else depends on it.
        """
        try:
            session = msgspec.json.decode(self._path.read_bytes(), type=UploadSession) if self._path else None
        except (OSError, *UNDECODABLE):
            return None
        if session is None:
            return None
        # The chunks are sent with credentials: never to another server.
        return session if not session.uri or session.uri.startswith(root_url) else None

    def save(self, session: UploadSession) -> None:
        """Saves the session. Raises ArchiveError."""
        if self._path:
            try:
                with publish_file(self._path, mode=0o600) as file:
                    file.write(msgspec.json.encode(session))
            except OSError as error:
                raise ArchiveError(f"cannot write {self._path}", why=error.strerror or str(error)) from error

    def delete(self) -> None:
        """Deletes the file; one that cannot be deleted is ignored, because it is for no other content."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
