"""Resumable uploads: they continue after connection errors, lost sessions, expired tokens and a killed process.

Google's `HttpRequest.next_chunk` implements the protocol; the retry loop is here, because Google's own sends an
exhausted stream again after an error and hangs. For the same reason the chunks are bytes and not a stream. The
alternative, google-resumable-media over `AuthorizedSession`, is a second HTTP stack (requests) beside the one of all
other calls, and leaves the recovery to its caller too.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from googleapiclient.http import MediaUpload

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, DestinationError
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.files import FIELDS, DriveFile, LocalFile
from lse_resources.destinations.google_drive.retry import CALL_ERRORS, DriveRefusalError, json_answer, status_of
from lse_resources.destinations.google_drive.service import DRIVES, DriveService
from lse_resources.destinations.google_drive.session import SessionFile, UploadSession

UNIT = 256 * 1024  # Drive accepts chunks in multiples of this
_LARGEST = 64 * UNIT
_TRIES = 3
_SESSIONS = 5


class FileChunks(MediaUpload):
    """The file as chunks of bytes, whose size adapts to the connection.

    Args:
        before_last: Called right before the last chunk is sent.
    """

    def __init__(self, content: LocalFile, before_last: Callable[[], None]) -> None:
        self._content = content
        self._before_last = before_last
        self._chunk = 4 * UNIT

    def grow(self, seconds: float) -> None:
        """Doubles the chunk if the last one was sent in less than 2 seconds."""
        if seconds < 2:
            self._chunk = min(self._chunk * 2, _LARGEST)

    def shrink(self) -> None:
        """Halves the chunk: the last one failed."""
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
        """Reads a chunk. `end` is its length: Google's name is wrong. Raises ArchiveError."""
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
    """Drive has deleted the session: a new one is needed."""


class Upload:
    """The upload of one file."""

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
        self._session_file = SessionFile(session_file)
        self._session = self._resumable_session()
        self._what = f"upload {name}"

    @property
    def file_id(self) -> str | None:
        """The id that an interrupted upload reserved for a new file, None if there is none."""
        return self._session.file_id if self._session and not self._session.update else None

    def run(self) -> StoredFile:
        """Sends the content until Drive's checksum agrees with that of the local file.

        If the existing file has this content already, nothing is sent. A new file with wrong content is moved to the
        trash; of an existing file the wrong revision is deleted, which makes the previous one current again.

        Raises:
            DestinationError: Drive refused, or failed for longer than the patience. The session file stays.
            ArchiveConflictError: The existing file has changed, or the new file is not in its folder.
            CorruptArchiveError: Drive's checksum differed three times.
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
            why=f"Drive stored other bytes than were sent, {_TRIES} times",
            hint="Run the command again; if it fails again, check for a proxy that changes uploads",
        )

    def _resumable_session(self) -> UploadSession | None:
        session, content = self._session_file.load(self._service.root_url), self._content
        if session is None:
            return None
        if (session.size, session.sha256) != (content.size, content.sha256):
            self._cancel(session)
            return None
        if (session.folder_id, session.update) != (self._folder_id, bool(self._existing)):
            return None
        return session if not self._existing or session.file_id == self._existing.id else None

    def _cancel(self, session: UploadSession) -> None:
        """Ends the session of another content, which Drive would keep for a week: it may hold runs that were erased.

        Without an answer, nothing is lost: no one can read or complete it, once its URI is forgotten. The request is
        that of https://cloud.google.com/storage/docs/performing-resumable-uploads#cancel-upload
        """
        if session.uri:
            http = self._request(session, FileChunks(self._content, self._check_existing)).http
            with contextlib.suppress(*CALL_ERRORS):
                http.request(session.uri, "DELETE", headers={"Content-Length": "0"})

    def _done(self, file: StoredFile) -> StoredFile:
        stale = dict.fromkeys(file.app_properties)
        if file.app_properties != self._properties:
            body = {"appProperties": {**stale, **self._properties}}
            request = self._service.api.files().update(fileId=file.id, body=body, fields=FIELDS, **DRIVES)
            file = DriveFile.of(self._service.run(f"set the properties of {self._name}", request))
        self._progress(file.size)
        return file

    def _is_in_place(self, file: StoredFile) -> bool:
        """Whether the file is in its folder: a finished file may have been moved or trashed before a resumed upload."""
        now = self._service.read(file.id)
        return now is not None and now.folder == self._folder_id

    def _check_existing(self) -> None:
        # The last chunk replaces the content, which another host may have extended since the upload began.
        if self._existing:
            self._check_unchanged(self._existing, may_be_ours=True)

    def _check_unchanged(self, existing: StoredFile, *, may_be_ours: bool = False) -> None:
        """Raises ArchiveConflictError if another program changed the file.

        Args:
            may_be_ours: The last chunk may have been stored although its answer was lost.
        """
        now = self._get(existing.id)
        ours = may_be_ours and self._content.equals(now)
        if now.trashed or (now.revision != existing.revision and not ours):
            self._forget()
            raise ArchiveConflictError(
                f"{self._name} changed on Drive after it was compared", hint="Run the command again"
            )

    def _get(self, file_id: str) -> DriveFile:
        request = self._service.api.files().get(fileId=file_id, fields=FIELDS, **DRIVES)
        return DriveFile.of(self._service.run(f"read the metadata of {self._name} on Drive", request))

    def _send(self) -> DriveFile:
        for _ in range(_SESSIONS):
            session = self._session or self._new_session()
            try:
                return self._stream(session)
            except _SessionLostError:
                self._session = msgspec.structs.replace(session, uri="") if self._session else None
        raise DestinationError(
            f"cannot {self._what}",
            why=f"Drive ended {_SESSIONS} upload sessions before they were complete",
            hint="Run the command again later",
        )

    def _new_session(self) -> UploadSession:
        # The id is reserved before the first byte is sent: a create can be repeated with it, Drive then answers 409.
        if self._existing:
            identity = self._existing.id
        else:
            request = self._service.api.files().generateIds(count=1, space="drive", fields="ids")
            identity = self._service.run(self._what, request)["ids"][0]
        content = self._content
        self._session = UploadSession("", identity, content.size, content.sha256, bool(self._existing), self._folder_id)
        self._session_file.save(self._session)
        return self._session

    def _request(self, session: UploadSession, media: FileChunks) -> Any:
        files = self._service.api.files()
        if session.update:
            return files.update(fileId=session.file_id, body={}, media_body=media, fields=FIELDS, **DRIVES)
        body = {"id": session.file_id, "name": self._name, "parents": [self._folder_id], "mimeType": media.mimetype()}
        body["appProperties"] = self._properties
        return files.create(body=body, media_body=media, fields=FIELDS, **DRIVES)

    def _stream(self, session: UploadSession) -> DriveFile:
        """Sends the content through one session until Drive has all of it."""
        media = FileChunks(self._content, self._check_existing)
        request = self._request(session, media)
        attempts = self._service.retries.attempts(self._what)
        is_progress_known = not session.uri
        furthest = 0
        while True:
            began = time.monotonic()
            try:
                if is_progress_known:
                    _, answer = request.next_chunk()
                    resource = answer if answer is None else json_answer(answer)
                else:  # a new request: after an error Google's client would query the progress itself
                    request = self._request(session, media)
                    request.resumable_uri = session.uri
                    resource = self._query_progress(request)
                if resource is not None:
                    return DriveFile.of(resource)
                if request.resumable_progress > furthest:
                    attempts.restart()
                    if is_progress_known:
                        media.grow(time.monotonic() - began)
                elif is_progress_known:
                    raise TimeoutError("Drive stored nothing of the last chunk")
                else:
                    attempts.extend()
                is_progress_known = True
            except CALL_ERRORS as error:
                if is_progress_known:
                    media.shrink()
                if (found := self._handle_error(session, request, error)) is not None:
                    return found
                attempts.wait_or_raise(error)
                is_progress_known = not request.resumable_uri
            if is_progress_known:
                furthest = max(furthest, request.resumable_progress)
                self._progress(request.resumable_progress)
            if request.resumable_uri and request.resumable_uri != session.uri:
                session = self._session = msgspec.structs.replace(session, uri=request.resumable_uri)
                self._session_file.save(session)

    def _query_progress(self, request: Any) -> dict[str, Any] | None:
        """Sets the request's progress to the bytes that Drive has; returns the resource of a finished file."""
        headers = {"Content-Range": f"bytes */{self._content.size}", "Content-Length": "0"}
        response, content = request.http.request(request.resumable_uri, "PUT", headers=headers)
        if response.status != 308:
            return json_answer(request.postproc(response, content))  # raises HttpError for any error
        # "bytes=0-<last>", or no header while Drive has nothing.
        request.resumable_progress = int(response["range"].rpartition("-")[2]) + 1 if "range" in response else 0
        return None

    def _handle_error(self, session: UploadSession, request: Any, error: Exception) -> DriveFile | None:
        """Returns the file if the error shows that it exists already; raises if the session is lost; else None."""
        status = status_of(error)
        if request.resumable_uri and status in (400, 404, 410):
            raise _SessionLostError from error
        if status == 409 and not session.update:
            if file := self._service.read(session.file_id):
                return file
            self._session = None
            raise _SessionLostError from error
        return None

    def _forget(self) -> None:
        self._session = None
        self._session_file.delete()

    def _undo(self, file: StoredFile) -> None:
        self._forget()
        if self._existing is None:
            body = {"trashed": True}
            self._service.run(
                f"remove the damaged {self._name}",
                self._service.api.files().update(fileId=file.id, body=body, fields="id", **DRIVES),
            )
            return
        what = f"restore the previous version of {self._name}"
        request = self._service.api.revisions().delete(fileId=file.id, revisionId=self._get(file.id).revision)
        try:
            self._service.run(what, request)
        except DriveRefusalError as refusal:
            if refusal.status != 404:  # deleted by a previous attempt whose answer was lost
                raise
        if self._get(file.id).revision != self._existing.revision:
            raise CorruptArchiveError(
                f"cannot {what}",
                why="Drive's current version is not the previous one",
                hint="Restore it in Drive: right click, File information, Manage versions",
            )
