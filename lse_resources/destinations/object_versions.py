"""The versions, delete markers and unfinished uploads of a bucket, by botocore: obstore neither lists nor deletes them.

S3 API: ListObjectVersions, ListMultipartUploads, AbortMultipartUpload, and Get, Head and DeleteObject with a version.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from lse_archive.errors import ArchiveConflictError, ArchiveError, DestinationError
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.history import EarlierCopy, ErasedHistory, History, Kind, Leftover

_ATTEMPTS = 5
_PIECE = 8 << 20  # bytes, held in memory
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "TooManyRequests")
_UNSUPPORTED = ("NotImplemented", "MethodNotAllowed", "UnsupportedOperation")
_GONE = ("NoSuchVersion", "NoSuchUpload", "NoSuchKey")
_GRANT = "Grant this key s3:DeleteObjectVersion, s3:ListBucketVersions and s3:AbortMultipartUpload"
_T = TypeVar("_T")


class ObjectVersions:
    """The versions of the objects of a bucket.

    Args:
        bucket: Its name.
        prefix: The prefix of all keys; "" or without a slash at the end.
        config: As of `ObjectStore`; credentials that are missing are read from the environment.
        place: The name of the destination in messages.
        sleep: Waits between attempts, in seconds.
    """

    def __init__(
        self, bucket: str, prefix: str, config: Mapping[str, str], place: str, sleep: Callable[[float], None]
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._place = place
        self._sleep = sleep
        region = config.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        endpoint = config.get("endpoint")
        self._client: Any = get_session().create_client(
            "s3",
            region_name=region or "us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id=config.get("access_key_id"),
            aws_secret_access_key=config.get("secret_access_key"),
            aws_session_token=os.environ.get("AWS_SESSION_TOKEN") if config.get("access_key_id") else None,
            config=Config(
                retries={"total_max_attempts": 1},  # `_call` repeats, and sleeps as all else here
                s3={"addressing_style": "path" if endpoint else "auto"},
            ),
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def history(self, folder: str, name: str, keep: StoredFile | None) -> History:
        """Everything under the key of the zip, and under the hidden names of its uploads, but what is in use.

        Raises:
            ArchiveConflictError: `keep` is not the current object.
            DestinationError: The store refused or cannot be reached.
        """
        copies: list[EarlierCopy] = []
        left: list[Leftover] = []
        for what, read in (("older versions", self._versions), ("unfinished uploads", self._uploads)):
            try:
                copies += self._call(f"list {what} of {name}", lambda read=read: list(read(folder, name, keep)))
            except _UnsupportedError:
                why = f"{self._place} does not list them"
                left.append(Leftover(f"{what} of {name}", why, "Look into the store's own console", certain=False))
        return History(tuple(copies), tuple(left))

    def download(self, copy: EarlierCopy, target: Path) -> None:
        """Writes the content of a version to `target`; see `Destination.download_earlier`."""

        def download() -> None:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + copy.id, VersionId=copy.revision)
            with contextlib.closing(answer["Body"]) as body, target.open("wb") as stream:
                for piece in body.iter_chunks(_PIECE):
                    stream.write(piece)

        try:
            self._call(f"download {_named(copy)}", download)
        except OSError as error:
            raise ArchiveError(f"cannot write {target}", why=error.strerror or str(error)) from error

    def erase(self, folder: str, name: str, keep: StoredFile | None) -> ErasedHistory:
        """Deletes finally what `history` returns, but what the store's locks and rights protect."""
        history = self.history(folder, name, keep)
        erased: Counter[str] = Counter()
        left: list[Leftover] = []
        protected: set[str] = set()
        # A marker that is deleted before the versions below it would make an old zip the current one.
        for copy in sorted(history.copies, key=lambda copy: copy.kind == "delete marker"):
            if copy.kind == "delete marker" and copy.id in protected:
                continue
            refused = self._delete(copy)
            if refused:
                left.append(refused)
                protected.add(copy.id)
            else:
                erased[copy.kind] += 1
        return ErasedHistory(erased, (*left, *history.left))

    def _versions(self, folder: str, name: str, keep: StoredFile | None) -> Iterator[EarlierCopy]:
        in_use = {_lock(folder, name)}
        if keep is not None:
            in_use |= {keep.id, _proven(folder, name)}
        for answer in self._pages("list_object_versions", folder, name):
            for entry in answer.get("Versions", ()):
                kind = self._kind(entry["Key"], folder, name)
                key = entry["Key"].removeprefix(self._prefix)
                if kind is None:
                    continue
                if entry["IsLatest"] and key in in_use:
                    if keep is not None and key == keep.id and entry["ETag"] != keep.revision:
                        raise ArchiveConflictError(
                            f"{name} changed on {self._place} since it was read", hint="Run the command again"
                        )
                    continue
                modified = entry["LastModified"].isoformat()
                yield EarlierCopy(kind, key, entry["VersionId"], name, entry["Size"], modified)
            for entry in answer.get("DeleteMarkers", ()):
                if self._kind(entry["Key"], folder, name):
                    key, modified = entry["Key"].removeprefix(self._prefix), entry["LastModified"].isoformat()
                    yield EarlierCopy("delete marker", key, entry["VersionId"], name, 0, modified)

    def _uploads(self, folder: str, name: str, keep: StoredFile | None) -> Iterator[EarlierCopy]:
        for answer in self._pages("list_multipart_uploads", folder, name):
            for entry in answer.get("Uploads", ()):
                if self._kind(entry["Key"], folder, name):
                    key, modified = entry["Key"].removeprefix(self._prefix), entry["Initiated"].isoformat()
                    yield EarlierCopy("unfinished upload", key, entry["UploadId"], name, 0, modified)

    def _pages(self, operation: str, folder: str, name: str) -> Iterator[Mapping[str, Any]]:
        for prefix in (f"{folder}/{name}", f"{folder}/.{name}."):
            yield from self._client.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)

    def _kind(self, key: str, folder: str, name: str) -> Kind | None:
        """The kind of an object: `version` under the zip's own key; None for those that are not of this zip."""
        if key == f"{self._prefix}{folder}/{name}":
            return "version"
        if key.removeprefix(self._prefix) in (_lock(folder, name), _proven(folder, name)):
            return "lock object"
        hidden = re.escape(f"{self._prefix}{folder}/.{name}.") + "[0-9a-f]{12}"
        return "hidden object" if re.fullmatch(hidden, key) else None

    def _delete(self, copy: EarlierCopy) -> Leftover | None:
        request = {"Bucket": self._bucket, "Key": self._prefix + copy.id}
        try:
            if copy.kind == "unfinished upload":
                self._call(
                    f"abort {_named(copy)}",
                    lambda: self._client.abort_multipart_upload(**request, UploadId=copy.revision),
                )
            else:
                self._call(
                    f"delete {_named(copy)}", lambda: self._client.delete_object(**request, VersionId=copy.revision)
                )
        except ArchiveConflictError:  # erased by an attempt whose answer was lost
            return None
        except _DeniedError as denied:
            return self._explain(copy, request | {"VersionId": copy.revision}, denied.why)
        return None

    def _explain(self, copy: EarlierCopy, request: Mapping[str, str], why: str) -> Leftover:
        # HeadObject has both, if the key may read them (s3:GetObjectRetention, s3:GetObjectLegalHold).
        found: Mapping[str, Any] = {}
        with contextlib.suppress(ClientError, BotoCoreError):
            found = self._client.head_object(**request)
        until = found["ObjectLockRetainUntilDate"].isoformat() if "ObjectLockRetainUntilDate" in found else ""
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            return Leftover(_named(copy), "it has a legal hold", "Remove the hold, then run the command again", until)
        if until:
            why = f"the store retains it (object lock, {found.get('ObjectLockMode', '')})"
            return Leftover(_named(copy), why, "Run the command again after that time", until)
        return Leftover(_named(copy), why, _GRANT)

    def _call(self, what: str, function: Callable[[], _T]) -> _T:
        """Returns the result of `function`, which is repeated while the store is busy or cannot be reached."""
        failures = 0
        while True:
            try:
                return function()
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                code = error.response.get("Error", {}).get("Code", "")
                why = f"{self._place} answered {code}"
                if code in _GONE:
                    hint = "Run the command again"
                    raise ArchiveConflictError(f"cannot {what}", why="it is no longer there", hint=hint) from None
                if status == 501 or code in _UNSUPPORTED:
                    raise _UnsupportedError(f"cannot {what}", why=why) from None
                if status == 403:
                    raise _DeniedError(f"cannot {what}", why=why, hint=_GRANT) from None
                if status < 500 and status != 429 and code not in _BUSY:
                    raise DestinationError(f"cannot {what}", why=why) from None
            except BotoCoreError as error:
                why = f"{self._place} cannot be reached ({type(error).__name__})"
            failures += 1
            if failures == _ATTEMPTS:
                raise DestinationError(f"cannot {what}", why=why, hint="Run the command again later")
            self._sleep(2.0**failures)


class _UnsupportedError(DestinationError):
    """The store does not have this operation."""


class _DeniedError(DestinationError):
    """The store refuses the operation to this key, or for this object."""


def _lock(folder: str, name: str) -> str:
    return f"{folder}/.{name}.lock"


def _proven(folder: str, name: str) -> str:
    return f"{folder}/.{name}.proven"


def _named(copy: EarlierCopy) -> str:
    return f"the {copy.kind} {copy.revision} of {copy.id}"
