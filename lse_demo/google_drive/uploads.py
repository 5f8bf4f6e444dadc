"""Resumable upload sessions of the local Drive, with Google's protocol.

https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable
"""

import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lse_demo.google_drive.store import RefusedError
from lse_demo.http import Answer, Request

UNIT = 256 * 1024


@dataclass(slots=True)
class Session:
    """One upload session. `finish` creates the file from the complete content and returns the answer."""

    path: Path
    size: int | None  # as announced by the client
    finish: Callable[[Path], Answer]
    stored: int = 0
    done: Answer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """The upload sessions of a server, in memory; their bytes are in the directory `incoming`."""

    def __init__(self, incoming: Path) -> None:
        self._incoming = incoming
        self._sessions: dict[str, Session] = {}

    def open(self, size: int | None, finish: Callable[[Path], Answer]) -> str:
        """Opens a session and returns its id."""
        identity = "AB" + secrets.token_urlsafe(48)
        path = self.new_path()
        path.touch()
        self._sessions[identity] = Session(path, size, finish)
        return identity

    def new_path(self) -> Path:
        """Returns a new path for incoming bytes."""
        return self._incoming / secrets.token_hex(12)

    def expire(self) -> None:
        """Deletes every session, as Drive does after a week."""
        for session in self._sessions.values():
            session.path.unlink(missing_ok=True)
        self._sessions.clear()

    def put(self, identity: str, request: Request) -> Answer:
        """Answers a PUT to the session: one chunk, the whole content, or a status request. Raises RefusedError."""
        session = self._get(identity)
        with session.lock:
            if session.done:
                return session.done
            begin, end, size = _content_range(request)
            if size is not None and session.size is not None and size != session.size:
                raise RefusedError(400, "invalid", f"Size {size} is not the announced {session.size}.")
            session.size = size if session.size is None else session.size
            if begin is not None:
                self._take(session, begin, end, request.body)
            if session.size is not None and session.stored == session.size:
                session.done = session.finish(session.path)
                return session.done
            return Answer(308, headers={"Range": f"bytes=0-{session.stored - 1}"} if session.stored else {})

    def cancel(self, identity: str) -> Answer:
        """Answers a DELETE of the session: its bytes are deleted. Raises RefusedError."""
        session = self._get(identity)
        with session.lock:
            session.path.unlink(missing_ok=True)
            del self._sessions[identity]
        return Answer(499)

    def partial(self, identity: str, request: Request) -> None:
        """Keeps the whole units of 256 KiB that arrived before a connection broke inside a chunk."""
        session = self._sessions.get(identity)
        if session is None or session.done:
            return
        with session.lock:
            begin = re.match(r"bytes (\d+)-", request.headers.get("Content-Range") or "bytes 0-")
            if begin:
                start = int(begin[1])
                kept = (start + len(request.body)) // UNIT * UNIT
                self._store(session, start, request.body[: max(0, kept - start)])

    def _get(self, identity: str) -> Session:
        if identity not in self._sessions:
            raise RefusedError(404, "notFound", "Upload session not found or expired.")
        return self._sessions[identity]

    def _take(self, session: Session, begin: int, end: int, body: bytes) -> None:
        if len(body) != end + 1 - begin:
            raise RefusedError(400, "badRequest", "Content-Range does not agree with Content-Length.")
        if session.size is not None and end + 1 > session.size:
            raise RefusedError(400, "badRequest", "Content-Range goes beyond the announced size.")
        if end + 1 != session.size and len(body) % UNIT:
            raise RefusedError(400, "badRequest", f"A chunk must be a multiple of {UNIT} bytes.")
        if begin > session.stored:
            raise RefusedError(400, "badRequest", f"Bytes from {session.stored} on are missing.")
        self._store(session, begin, body)

    def _store(self, session: Session, begin: int, body: bytes) -> None:
        # Bytes that are already stored are ignored.
        if begin <= session.stored < begin + len(body):
            with session.path.open("r+b") as stream:
                stream.seek(session.stored)
                stream.write(body[session.stored - begin :])
            session.stored = begin + len(body)


def _content_range(request: Request) -> tuple[int | None, int, int | None]:
    """Returns first and last byte of the request's body (first None: a status request) and the total size, if given."""
    header = request.headers.get("Content-Range")
    if header is None:
        return 0, len(request.body) - 1, len(request.body)
    found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", header)
    if not found:
        raise RefusedError(400, "badRequest", f"Malformed Content-Range: {header}")
    size = None if found[3] == "*" else int(found[3])
    return (None, 0, size) if found[1] is None else (int(found[1]), int(found[2]), size)
