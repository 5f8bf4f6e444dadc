"""What Drive keeps of a file beside its content: earlier revisions, and files of its name in the trash.

Drive keeps a revision for 30 days after it was replaced, or forever if somebody pinned it, and a file in the trash for
30 days. The last revision of a file cannot be deleted alone, and a file only by its owner, in a shared drive by
a manager: https://developers.google.com/workspace/drive/api/reference/rest/v3/revisions/delete and …/files/delete
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from googleapiclient.http import MediaIoBaseDownload

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.texts import counted
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.files import DriveFile
from lse_resources.destinations.google_drive.retry import DriveRefusalError
from lse_resources.destinations.google_drive.service import DRIVES, DriveService
from lse_resources.destinations.history import EarlierCopy, ErasedHistory, History, Leftover

_KEPT = timedelta(days=30)
_PIECE = 8 << 20  # bytes per request, held in memory
_ROUNDS = 20  # a list of revisions may be incomplete
_NOT_OWNER = (
    "In My Drive its owner, in a shared drive a manager can delete it: ask them to empty the trash. Drive deletes it"
    " itself 30 days after it was put there"
)
_NOT_REVISION = "Delete it in Drive: right click, File information, Manage versions"


def find_history(service: DriveService, files: Iterable[DriveFile], keep: StoredFile | None) -> History:
    """What is kept beside the head revision of `keep`, or of none: see `Destination.history`.

    Args:
        files: The files of the name, also those in the trash.
    """
    copies: list[EarlierCopy] = []
    left: list[Leftover] = []
    for file in files:
        is_kept = keep is not None and file.id == keep.id
        if keep is not None and not is_kept and not file.trashed:
            left.append(
                Leftover(
                    f"another file {file.name} ({file.id})",
                    "it is not in the trash",
                    "Remove what is there twice (lse drive dedupe), and run the command again",
                )
            )
            continue
        copies += _earlier_revisions(service, file)
        if not is_kept:
            kind = "trashed file" if file.trashed else "file"
            copies.append(EarlierCopy(kind, file.id, "", file.name, file.size, file.modified))
    return History(tuple(copies), tuple(left))


def erase(service: DriveService, find: Callable[[], History], keep: StoredFile | None) -> ErasedHistory:
    """Deletes what `find` returns, until it returns nothing more; see `Destination.erase_history`."""
    erased: Counter[str] = Counter()
    left: dict[EarlierCopy, Leftover] = {}
    for _ in range(_ROUNDS):
        history = find()
        # After the list: what it has is older than the content that is kept.
        if keep is not None:
            _require_unchanged(service, keep)
        found = [copy for copy in history.copies if copy not in left]
        for copy in found:
            if refused := _delete(service, copy, keep):
                left[copy] = refused
            else:
                erased[copy.kind] += 1
        if not found:
            break
    else:
        history = History(history.copies, (*history.left, _too_many(keep)))
    return ErasedHistory(erased, (*left.values(), *history.left))


def download_earlier(service: DriveService, copy: EarlierCopy, target: Path) -> None:
    """Writes the content of a revision, or of a file in the trash; see `Destination.download_earlier`."""
    if copy.revision:
        request = service.api.revisions().get_media(fileId=copy.id, revisionId=copy.revision)
    else:
        request = service.api.files().get_media(fileId=copy.id, **DRIVES)
    try:
        with target.open("wb") as stream:
            pieces = MediaIoBaseDownload(stream, request, chunksize=_PIECE)
            while copy.size and not service.retries.call(f"download {copy.name}", pieces.next_chunk)[1]:
                pass
    except DriveRefusalError as refusal:
        if refusal.status != 404:
            raise
        raise ArchiveConflictError(
            f"cannot download {_named(copy)}", why="it is no longer on Drive", hint="Run the command again"
        ) from None
    except OSError as error:
        raise ArchiveError(f"cannot write {target}", why=error.strerror or str(error)) from error


def _earlier_revisions(service: DriveService, file: DriveFile) -> Iterator[EarlierCopy]:
    token, fields = None, "nextPageToken,revisions(id,modifiedTime,size)"
    while True:
        request = service.api.revisions().list(fileId=file.id, fields=fields, pageSize=1000, pageToken=token)
        try:
            answer = service.run(f"list the revisions of {file.name} on Drive", request)
        except DriveRefusalError as refusal:
            if refusal.status != 404:  # deleted since it was listed
                raise
            return
        for one in answer.get("revisions", ()):
            if one["id"] != file.revision:
                size, modified = int(one.get("size", 0)), one.get("modifiedTime", "")
                yield EarlierCopy("revision", file.id, one["id"], file.name, size, modified)
        token = answer.get("nextPageToken")
        if not token:
            return


def _require_unchanged(service: DriveService, keep: StoredFile) -> None:
    now = service.read(keep.id)
    if now is None or now.revision != keep.revision:
        raise ArchiveConflictError(
            f"{keep.name} changed on Drive while its history was erased", hint="Run the command again"
        )


def _delete(service: DriveService, copy: EarlierCopy, keep: StoredFile | None) -> Leftover | None:
    if copy.revision:
        request = service.api.revisions().delete(fileId=copy.id, revisionId=copy.revision)
    else:
        request = service.api.files().delete(fileId=copy.id, **DRIVES)
    try:
        service.run(f"delete {_named(copy)} on Drive", request)
    except DriveRefusalError as refusal:
        if refusal.status == 404:  # by an attempt whose answer was lost, or by another process
            return None
        if not refusal.is_denied:
            raise
        if copy.revision:
            is_kept = keep is not None and copy.id == keep.id
            return Leftover(_named(copy), refusal.why, _NOT_REVISION, _until(keep.modified) if is_kept else "")
        return Leftover(_named(copy), refusal.why, _NOT_OWNER, _until(_trashed_time(service, copy)))
    return None


def _trashed_time(service: DriveService, copy: EarlierCopy) -> str:
    """When a file was put into the trash; "" in My Drive, where Drive does not say it."""
    request = service.api.files().get(fileId=copy.id, fields="trashedTime", **DRIVES)
    answer: dict[str, Any] = service.run("read the metadata of a file on Drive", request)
    return answer.get("trashedTime", "")


def _until(since: str) -> str:
    return (datetime.fromisoformat(since) + _KEPT).isoformat() if since else ""


def _named(copy: EarlierCopy) -> str:
    return f"the revision {copy.revision} of {copy.name} ({copy.id})" if copy.revision else f"{copy.name} ({copy.id})"


def _too_many(keep: StoredFile | None) -> Leftover:
    what = f"revisions of {keep.name}" if keep else "files"
    return Leftover(what, f"Drive still lists some after {counted(_ROUNDS, 'round')}", "Run the command again")
