"""Resumable downloads: ranges are written to a temporary file, which is checked and renamed."""

import http.client
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from googleapiclient.errors import HttpError

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.google_drive.retry import CALL_ERRORS
from lse_resources.destinations.google_drive.service import DRIVES, DriveService

_PIECE = 8 << 20  # bytes per request, held in memory
_TRIES = 3


def download(
    service: DriveService,
    file: StoredFile,
    target: Path,
    progress: Callable[[int], None],
    *,
    acknowledge_abuse: bool = False,
) -> None:
    """Downloads `file`, compares its checksum, and moves it to `target`.

    An interrupted download leaves `.<name>.<checksum>.part` beside the target; the next call continues it.

    Args:
        acknowledge_abuse: Download it, too, if Google takes it for malware or spam; only its owner, or
            a manager of its shared drive, may: https://developers.google.com/workspace/drive/api/guides/manage-downloads

    Raises:
        DestinationError: Drive refused, or could not be reached for too long.
        ArchiveConflictError: The file on Drive has changed since `file` was read.
        CorruptArchiveError: The downloaded bytes do not match Drive's checksum, three times.
        ArchiveError: The target cannot be written.
    """
    mark = (file.sha256 or file.md5 or file.id)[:16]
    part = target.with_name(f".{target.name}.{mark}.part")
    try:
        for _ in range(_TRIES):
            _fetch(service, file, part, progress, acknowledge_abuse=acknowledge_abuse)
            if LocalFile.read(part).equals(file):
                part.replace(target)
                return
            part.unlink()
    except OSError as error:
        raise ArchiveError(f"cannot write {target}", why=error.strerror or str(error)) from error
    raise CorruptArchiveError(
        f"cannot download {file.name}",
        why=f"the downloaded bytes do not match Drive's checksum, {_TRIES} times",
        hint="Run the command again; if it fails again, check for a proxy that changes downloads",
    )


def _fetch(
    service: DriveService, file: StoredFile, part: Path, progress: Callable[[int], None], *, acknowledge_abuse: bool
) -> None:
    attempts = service.retries.attempts(f"download {file.name}")
    request = service.api.files().get_media(fileId=file.id, acknowledgeAbuse=acknowledge_abuse, **DRIVES)
    with part.open("ab") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
        at = stream.seek(0, os.SEEK_END)
        progress(at)
        while at < file.size:
            try:
                data = _piece(request, at, file)
            except CALL_ERRORS as error:
                attempts.wait_or_raise(error)
                continue
            attempts.restart()
            stream.write(data)
            at += len(data)
            progress(at)
        stream.flush()
        os.fsync(stream.fileno())


def _piece(request: Any, at: int, file: StoredFile) -> bytes:
    last = min(at + _PIECE, file.size) - 1
    headers = {**request.headers, "range": f"bytes={at}-{last}", "accept-encoding": "identity"}
    response, content = request.http.request(request.uri, headers=headers)
    if response.status != 206:
        if response.status < 300:
            raise http.client.HTTPException("Drive ignored the range")
        if response.status in (404, 416):
            raise ArchiveConflictError(
                f"{file.name} changed on Drive while it was downloaded", hint="Run the command again"
            )
        raise HttpError(response, content, uri=request.uri)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.get("content-range", ""))
    if not found or int(found[1]) != at or not content:
        raise http.client.IncompleteRead(b"")
    if int(found[2]) != file.size:
        raise ArchiveConflictError(
            f"{file.name} changed on Drive while it was downloaded", hint="Run the command again"
        )
    return content[: last + 1 - at]
