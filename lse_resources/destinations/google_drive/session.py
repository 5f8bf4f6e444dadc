"""An upload under way, remembered beside the file so that another process can go on with it."""

import contextlib
from pathlib import Path

import msgspec

from lse_archive.errors import ArchiveError
from lse_resources.destinations.google_drive.files import LocalFile
from lse_resources.destinations.google_drive.secret import write_secret


class UploadSession(msgspec.Struct, frozen=True):
    """A resumable session. Its `uri` is a secret: whoever has it can write the file. "" before Drive gave one."""

    uri: str
    file_id: str
    size: int
    sha256: str
    update: bool  # of a file that was there before
    folder_id: str


class SessionKeeper:
    """The session's file, of mode 0600; with no path, nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, content: LocalFile, root_url: str) -> UploadSession | None:
        """The kept session if it is one for just this content at this server, else None."""
        try:
            session = msgspec.json.decode(self._path.read_bytes(), type=UploadSession) if self._path else None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        if session is None or (session.size, session.sha256) != (content.size, content.sha256):
            return None
        # Credentials are sent along with the chunks: never to another server.
        return session if not session.uri or session.uri.startswith(root_url) else None

    def save(self, session: UploadSession) -> None:
        """Keeps the session. Raises ArchiveError."""
        if self._path:
            try:
                write_secret(self._path, msgspec.json.encode(session).decode())
            except OSError as error:
                raise ArchiveError(f"cannot write {self._path}", why=error.strerror or str(error)) from error

    def forget(self) -> None:
        """Removes the file; one that cannot be removed does no harm, it fits no other content."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
