"""Uploads that survive: cut connections, refusals that pass, lost sessions, expired tokens, a killed process.

Google's own `HttpRequest.next_chunk` speaks the protocol, and the loop around it is ours: with retries of its own it
sends an exhausted stream again after an error and hangs, which is also why the chunks are bytes and not a stream. The
alternative, google-resumable-media over `AuthorizedSession`, would be a second HTTP stack (requests) beside the one
that every other call needs, and leaves the recovery to its caller as well.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from googleapiclient.http import MediaUpload

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, DestinationError
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.files import FIELDS, DriveFile, LocalFile
from lse_resources.destinations.google_drive.retry import CALL_ERRORS, Backoff, DriveRefusalError, legible, status_of
from lse_resources.destinations.google_drive.service import DRIVES, DriveService
from lse_resources.destinations.google_drive.session import SessionKeeper, UploadSession

UNIT = 256 * 1024  # Drive takes chunks in multiples of this
_LARGEST = 64 * UNIT
_TRIES = 3


class FileChunks(MediaUpload):
    """The file as chunks of bytes; the chunk grows while the line is quick and shrinks when it breaks.

    `before_last` is called right before the last of them leaves.
    """

    def __init__(self, content: LocalFile, before_last: Callable[[], None]) -> None:
        self._content = content
        self._before_last = before_last
        self._chunk = 4 * UNIT

    def quick(self, seconds: float) -> None:
        """A chunk went through in so many seconds."""
        if seconds < 2:
            self._chunk = min(self._chunk * 2, _LARGEST)

    def broken(self) -> None:
        """A chunk did not go through."""
        self._chunk = max(self._chunk // 2, UNIT)

    def chunksize(self) -> int:
        return self._chunk

    def mimetype(self) -> str:
        return "application/zip"

    def size(self) -> int:
        return self._content.size

    def resumable(self) -> bool:
        return True

    def getbytes(self, begin: int, end: int) -> bytes:
        """`end` is the length, whatever Google calls it. Raises ArchiveError."""
        if begin + end >= self._content.size:
            self._before_last()
        try:
            with self._content.path.open("rb") as stream:
                stream.seek(begin)
                data = stream.read(end)
        except OSError as error:
            raise ArchiveError(f"cannot read {self._content.path}", why=error.strerror or str(error)) from error
        if len(data) != min(end, self._content.size - begin):
            raise CorruptArchiveError(f"{self._content.path} became shorter while it was uploaded")
        return data


class _SessionLostError(Exception):
    """Drive does not know the session any more: begin a new one."""


class Upload:
    """One file on its way to Drive. `run` does it."""

    def __init__(
        self,
        service: DriveService,
        content: LocalFile,
        *,
        name: str,
        folder_id: str,
        app_properties: Mapping[str, str],
        existing: StoredFile | None,
        progress: Callable[[int], None],
        session_file: Path | None,
    ) -> None:
        self._service = service
        self._content = content
        self._name = name
        self._folder_id = folder_id
        self._properties = dict(app_properties)
        self._existing = existing
        self._progress = progress
        self._keeper = SessionKeeper(session_file)
        self._session = self._kept()
        self._what = f"upload {name}"

    @property
    def file_id(self) -> str | None:
        """The id that an interrupted upload was going to give to the file, None if there was none."""
        return self._session.file_id if self._session and not self._session.update else None

    def run(self) -> StoredFile:
        """Sends the content until Drive's checksum agrees with ours.

        Content that the existing file has already is not sent. A new file with wrong content goes to the trash; of an
        existing file the wrong revision is deleted, so that the one before is the file again.

        Raises:
            DestinationError: Drive refused, or could not be reached for too long. The session is kept.
            ArchiveConflictError: The existing file is not what the caller saw, or what was sent is not in its folder.
            CorruptArchiveError: Drive kept something else, three times.
        """
        if self._existing:
            self._check_unchanged(self._existing)
            if self._content.equals(self._existing):
                return self._done(self._existing)
        resumed = self._session is not None
        for _ in range(_TRIES):
            file = self._send()
            if not self._content.equals(file):
                self._undo(file)
            elif self._is_in_place(file):
                return self._done(file)
            else:
                self._forget()
                if not resumed or self._existing:
                    raise ArchiveConflictError(
                        f"{self._name} is not in its folder on Drive",
                        why="the file or the folder was moved, or put into the trash, while it was uploaded",
                        hint="Run the command again",
                    )
            resumed = False
        raise CorruptArchiveError(
            f"cannot {self._what}",
            why=f"Drive kept other bytes than were sent, {_TRIES} times",
            hint="Run the command again; if it stays so, look for a proxy that changes uploads",
        )

    def _kept(self) -> UploadSession | None:
        session = self._keeper.load(self._content, self._service.root_url)
        if session is None or (session.folder_id, session.update) != (self._folder_id, bool(self._existing)):
            return None
        return session if not self._existing or session.file_id == self._existing.id else None

    def _done(self, file: StoredFile) -> StoredFile:
        stale = dict.fromkeys(file.app_properties)
        if file.app_properties != self._properties:
            body = {"appProperties": {**stale, **self._properties}}
            request = self._service.api.files().update(fileId=file.id, body=body, fields=FIELDS, **DRIVES)
            file = DriveFile.of(self._service.run(f"label {self._name}", request))
        self._keeper.forget()
        self._progress(file.size)
        return file

    def _is_in_place(self, file: StoredFile) -> bool:
        """Whether the file is where it will be looked for; it may have been there already, and been taken away."""
        request = self._service.api.files().get(fileId=file.id, fields="parents,trashed", **DRIVES)
        now = self._service.run(f"look at {self._name} on Drive", request)
        return not now.get("trashed") and self._folder_id in now.get("parents", ())

    def _look_again(self) -> None:
        # The last bytes put the content into the place of what may have become more meanwhile.
        if self._existing:
            self._check_unchanged(self._existing, may_be_ours=True)

    def _check_unchanged(self, existing: StoredFile, *, may_be_ours: bool = False) -> None:
        """Raises ArchiveConflictError if somebody else changed the file.

        Args:
            may_be_ours: The last part of the content may have arrived, and the answer was lost.
        """
        now = self._get(existing.id)
        ours = may_be_ours and self._content.equals(now)
        if now.trashed or (now.revision != existing.revision and not ours):
            self._forget()
            raise ArchiveConflictError(
                f"{self._name} changed on Drive since it was looked at", hint="Run the command again"
            )

    def _get(self, file_id: str) -> DriveFile:
        request = self._service.api.files().get(fileId=file_id, fields=FIELDS, **DRIVES)
        return DriveFile.of(self._service.run(f"look at {self._name} on Drive", request))

    def _send(self) -> DriveFile:
        for _ in range(5):
            session = self._session or self._new_session()
            try:
                return self._stream(session)
            except _SessionLostError:
                self._session = msgspec.structs.replace(session, uri="") if self._session else None
        raise DestinationError(
            f"cannot {self._what}", why="Drive lost the upload again and again", hint="Try again later"
        )

    def _new_session(self) -> UploadSession:
        # The id is ours before the first byte is sent: to repeat a create with it is safe, Drive answers 409.
        if self._existing:
            identity = self._existing.id
        else:
            request = self._service.api.files().generateIds(count=1, space="drive", fields="ids")
            identity = self._service.run(self._what, request)["ids"][0]
        content = self._content
        self._session = UploadSession("", identity, content.size, content.sha256, bool(self._existing), self._folder_id)
        self._keeper.save(self._session)
        return self._session

    def _request(self, session: UploadSession, media: FileChunks) -> Any:
        files = self._service.api.files()
        if session.update:
            return files.update(fileId=session.file_id, body={}, media_body=media, fields=FIELDS, **DRIVES)
        body = {"id": session.file_id, "name": self._name, "parents": [self._folder_id], "mimeType": media.mimetype()}
        body["appProperties"] = self._properties
        return files.create(body=body, media_body=media, fields=FIELDS, **DRIVES)

    def _stream(self, session: UploadSession) -> DriveFile:
        media = FileChunks(self._content, self._look_again)
        request = self._request(session, media)
        backoff = self._service.retries.patience(self._what)
        if session.uri:
            request.resumable_uri = session.uri
            resource = self._ask(request, backoff)
            if resource is not None:
                return DriveFile.of(resource)
            self._progress(request.resumable_progress)
        furthest = request.resumable_progress
        while True:
            began, resource = time.monotonic(), None
            try:
                _, answer = request.next_chunk()
                resource = answer if answer is None else legible(answer)
            except CALL_ERRORS as error:
                media.broken()
                if (found := self._settle(session, request, error)) is not None:
                    return found
                if request.resumable_progress > furthest:
                    backoff.reset()
                backoff.wait_or_raise(error)
            else:
                if resource is not None:
                    return DriveFile.of(resource)
                if request.resumable_progress > furthest:
                    backoff.reset()
                    media.quick(time.monotonic() - began)
                else:
                    backoff.wait_or_raise(TimeoutError("Drive kept nothing of the last chunk"))
            furthest = max(furthest, request.resumable_progress)
            self._progress(request.resumable_progress)
            if request.resumable_uri and request.resumable_uri != session.uri:
                session = self._session = msgspec.structs.replace(session, uri=request.resumable_uri)
                self._keeper.save(session)

    def _ask(self, request: Any, backoff: Backoff) -> Any:
        """How far a session of before got: sets the request's progress, or returns the finished file's resource."""
        headers = {"Content-Range": f"bytes */{self._content.size}", "Content-Length": "0"}
        while True:
            try:
                response, content = request.http.request(request.resumable_uri, "PUT", headers=headers)
                if response.status == 308:
                    request.resumable_progress = int(response.get("range", "0--1").rpartition("-")[2]) + 1
                    return None
                if response.status in (400, 404, 410):
                    raise _SessionLostError
                return legible(request.postproc(response, content))  # raises HttpError for what is no success
            except CALL_ERRORS as error:
                backoff.wait_or_raise(error)

    def _settle(self, session: UploadSession, request: Any, error: Exception) -> DriveFile | None:
        """What an error means for the session: it is lost, the file is there already, or (None) nothing yet."""
        status = status_of(error)
        if request.resumable_uri and status in (400, 404, 410):
            raise _SessionLostError from error
        if status == 409 and not session.update:
            file = self._get(session.file_id)
            if not file.trashed:
                return file
            self._session = None
            raise _SessionLostError from error
        return None

    def _forget(self) -> None:
        self._session = None
        self._keeper.forget()

    def _undo(self, file: StoredFile) -> None:
        self._forget()
        if self._existing is None:
            body = {"trashed": True}
            self._service.run(
                f"remove the damaged {self._name}",
                self._service.api.files().update(fileId=file.id, body=body, fields="id", **DRIVES),
            )
            return
        what = f"take back the damaged {self._name}"
        request = self._service.api.revisions().delete(fileId=file.id, revisionId=self._get(file.id).revision)
        try:
            self._service.run(what, request)
        except DriveRefusalError as refusal:
            if refusal.status != 404:  # an answer was lost: it is gone
                raise
        if self._get(file.id).revision != self._existing.revision:
            raise CorruptArchiveError(
                f"cannot {what}",
                why="Drive's current version is not the one of before",
                hint="Restore it in Drive: right click, File information, Manage versions",
            )
