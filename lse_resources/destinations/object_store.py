"""An object store (S3 and compatible stores, Google Cloud Storage, Azure) as the archive's destination, by obstore."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from lse_archive.boot import pid_space
from lse_archive.errors import (
    CLOCK_HINT,
    UNDECODABLE,
    ArchiveConflictError,
    ArchiveError,
    CorruptArchiveError,
    DestinationError,
    SettingsError,
)
from lse_resources.destinations.files import LocalFile, StoredFile
from lse_resources.destinations.history import EarlierCopy, ErasedHistory, History, Leftover

if TYPE_CHECKING:
    from lse_resources.destinations.object_versions import ObjectVersions

_SCHEMES = ("s3", "gs", "az")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PIECE = 8 << 20  # bytes per range, held in memory
_PARTS = 9_000  # S3 accepts 10,000 parts per upload
_AT_ONCE = 4  # parts sent in parallel, held in memory
_COPY_BYTES = 5 << 30  # the largest object that S3 copies in one request
_TRIES = 3
_ATTEMPTS = 5
_STALE = timedelta(days=1)
# The time is the store's: no copy takes ten minutes, and S3 accepts a clock that is up to 15 minutes off.
_LOCK_EXPIRES = timedelta(minutes=25)
# A 404 is FileNotFoundError; most other errors, refusals included, are obstore's own.
_ERRORS = (BaseError, OSError)
_REFUSALS = (PermissionError, PermissionDeniedError, UnauthenticatedError)
_CREDENTIALS = "Check the credentials, and the clock of this machine"
_REGION = "Set AWS_REGION to the region of the bucket"
# By the code of the answer (S3 "Error responses", Azure "Blob service error codes"), or by the error of TLS.
_HINTS = {
    "RequestTimeTooSkewed": CLOCK_HINT,
    "RequestExpired": CLOCK_HINT,
    "Request date header too old": CLOCK_HINT,
    "Invalid JWT: Token must be": CLOCK_HINT,
    "NotValidYet": CLOCK_HINT,
    "ExpiredToken": "The temporary credentials have expired: renew them",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY",
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "InvalidObjectState": "The object lies in a cold storage class: restore it there first",
    "BlobArchived": "The object lies in a cold storage class: restore it there first",
    "QuotaExceeded": "Free space in the store, or raise its quota",
    "XMinioStorageFull": "Free space in the store",
    "AllAccessDisabled": "Ask the provider of the store: it has blocked the bucket",
    "AccountProblem": "Ask the provider of the store: it has blocked the account",
    "403 Forbidden": _CREDENTIALS,
}
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def open_store(url: str, config: Mapping[str, str], setting: str) -> tuple[Any, str]:
    """Opens the bucket and prefix of a URL; returns obstore's store, and the bucket's name in messages.

    Args:
        url: s3://…, gs://… or az://…
        config: Credentials, region and endpoint, by obstore's names; missing ones are read from the environment.
        setting: The name of the setting that holds the URL, for errors.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """
    parts, options = _split(url, setting), dict(config)
    endpoint = urlsplit(options.get("endpoint", ""))
    if endpoint.scheme == "http" and endpoint.hostname not in _LOOPBACK:
        raise SettingsError("AWS_ENDPOINT_URL is not safe", why="archives would be sent unencrypted", hint="Use https")
    if parts.scheme == "s3":
        options |= {"checksum_algorithm": "sha256"}  # S3 checks each part on arrival
    try:
        store: Any = from_url(url, config=options, client_options=client_options(config))  # ty: ignore[no-matching-overload]
    except (BaseError, ValueError) as error:
        raise SettingsError(f"{setting} cannot be used", why=_brief(error)) from error
    return store, f"{parts.scheme}://{parts.netloc}"


def client_options(config: Mapping[str, str]) -> dict[str, bool]:
    """The options of obstore's HTTP client: without TLS only where the endpoint is so."""
    return {"allow_http": config.get("endpoint", "").startswith("http://")}


class ObjectStore:
    """The bucket and prefix of a URL such as `s3://bucket/archives`; threads may share it.

    The archive's properties and the SHA-256 of the bytes are the object's metadata. A store does not compute that hash
    itself: every upload is read back before it is copied to its name, and `prove` reads the object. An object above
    5 GiB, which cannot be copied, is uploaded under its name; a second object records that it has been read back.

    Args:
        url: s3://…, gs://… or az://…
        config: Credentials, region and endpoint, by obstore's names; missing ones are read from the environment.
        sleep: Waits between attempts, in seconds.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """

    def __init__(
        self, url: str, config: Mapping[str, str] | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._config = dict(config or {})
        self._store, self.place = open_store(url, self._config, "LSE_ARCHIVE_URL")
        self._versions: ObjectVersions | None = None
        self._url = _split(url, "LSE_ARCHIVE_URL")
        self.keeps_revisions = False
        self._sleep = sleep

    def close(self) -> None:
        """Closes the connections that listed or erased versions; no other stays open."""
        if self._versions:
            self._versions.close()

    def check_folder(self, need: int = 0) -> None:
        """Raises DestinationError unless the bucket can be listed. Object stores do not report free space."""
        with self._converted_errors("use the bucket"):
            self._store.list_with_delimiter()

    def find_project_folders(self, name: str) -> list[str]:
        """The folder's name, in a list; an empty list if it has no object."""
        return [name] if name in self.project_folders() else []

    def ensure_project_folder(self, name: str) -> str:
        """The folder's name; the first object creates the folder."""
        return name

    def project_folders(self) -> list[str]:
        """The names of all projects' folders, sorted."""
        with self._converted_errors("list the bucket"):
            return sorted(prefix.rstrip("/") for prefix in self._store.list_with_delimiter()["common_prefixes"])

    def find_file(self, folder_id: str, name: str) -> list[StoredFile]:
        """The object of that name, in a list; an empty list if there is none."""
        with self._converted_errors(f"read the metadata of {name}"):
            return self._heads([f"{folder_id}/{name}"])

    def read(self, file_id: str) -> StoredFile | None:
        """The object of that key."""
        with self._converted_errors("read the metadata of an object"):
            return next(iter(self._heads([file_id])), None)

    def left_behind(self, folder_id: str, file: StoredFile) -> list[StoredFile]:
        """Nothing: an upload overwrites the object."""
        return []

    def list_files(self, folder_id: str) -> list[StoredFile]:
        """All objects of a folder, oldest first."""
        with self._converted_errors("list the bucket"):
            found = self._store.list_with_delimiter(folder_id)["objects"]
            keys = [meta["path"] for meta in found if not meta["path"].rpartition("/")[2].startswith(".")]
            return sorted(self._heads(keys), key=lambda file: (file.created, file.name))

    def upload(
        self,
        path: Path,
        name: str,
        folder_id: str,
        app_properties: Mapping[str, str],
        *,
        existing: StoredFile | None = None,
        progress: Callable[[int], None] = lambda _: None,
        session_file: Path | None = None,
    ) -> StoredFile:
        """Uploads a file under a hidden name, reads it back, and copies it to its name.

        An interrupted upload starts over. The next upload of the file deletes hidden objects older than a day; a
        lifecycle rule of the bucket must delete incomplete multipart uploads.

        Raises:
            ArchiveConflictError: Without `existing`: an object of that name exists. With it: that object has changed.
            CorruptArchiveError: The store returned other bytes than were sent, three times; nothing was replaced.
            DestinationError: The store refused or cannot be reached.
        """
        content, key = LocalFile.read(path), f"{folder_id}/{name}"
        self._check_unchanged(folder_id, name, existing)
        attributes = {key: quote(value, safe=" :") for key, value in app_properties.items()}
        attributes |= {"bytes_sha256": content.sha256, "Content-Type": "application/zip"}
        self._delete_stale(folder_id, name)
        is_copied = content.size <= _COPY_BYTES
        hidden = f"{folder_id}/.{name}.{content.sha256[:12]}" if is_copied else key
        for _ in range(_TRIES):
            with self._converted_errors(f"upload {name}"):
                self._put(hidden, content, attributes, progress)
                if self._read_hash(hidden) == content.sha256:
                    if is_copied:
                        try:
                            with self._locked(key):
                                self._check_unchanged(folder_id, name, existing)  # by another host
                                self._store.copy(hidden, key)
                        finally:
                            with contextlib.suppress(*_ERRORS):  # a later upload deletes it
                                self._store.delete(hidden)
                    else:
                        self._record_verified(key)
                    progress(content.size)
                    return self._head(key)
                self._store.delete(hidden)
        raise CorruptArchiveError(
            f"cannot upload {name}",
            why=f"{self.place} returned other bytes than were sent, {_TRIES} times",
            hint="Run the command again; if it fails again, check for a proxy that changes uploads",
        )

    def download(self, file: StoredFile, target: Path, *, progress: Callable[[int], None] = lambda _: None) -> None:
        """Downloads the object, compares its checksum, and moves it to `target`; continues an interrupted download.

        Raises:
            ArchiveConflictError: The object has changed since `file` was read.
            CorruptArchiveError: The downloaded bytes do not match the checksum, three times.
            DestinationError: The store refused or cannot be reached.
            ArchiveError: The target cannot be written.
        """
        part = target.with_name(f".{target.name}.{(file.sha256 or file.md5 or 'new')[:16]}.part")
        try:
            for _ in range(_TRIES):
                self._fetch(file, part, progress)
                # A multipart upload of another tool has no checksum; the zip has its own.
                has_checksum = file.sha256 is not None or file.md5 is not None
                if not has_checksum or LocalFile.read(part).equals(file):
                    part.replace(target)
                    return
                part.unlink()
        except OSError as error:
            raise ArchiveError(f"cannot write {target}", why=error.strerror or str(error)) from error
        raise CorruptArchiveError(
            f"cannot download {file.name}",
            why=f"the downloaded bytes do not match its checksum, {_TRIES} times",
            hint="Run the command again; if it fails again, the object is damaged",
        )

    def prove(self, file: StoredFile) -> StoredFile:
        """Reads the object again; returns it with the checksum of its bytes."""
        with self._converted_errors(f"read {file.name}"):
            now = self._head(file.id)
            return dataclasses.replace(now, sha256=self._read_hash(file.id))

    def trash(self, file: StoredFile) -> None:
        """Deletes an object; a bucket with versioning keeps the old version."""
        with self._converted_errors(f"delete {file.name}"):
            self._store.delete(file.id)

    def history(self, folder: str, name: str, keep: StoredFile | None) -> History:
        """Versions, delete markers and unfinished uploads, see `object_versions.py`; of S3 and compatible stores only.

        Of Google Cloud Storage and Azure, which have other interfaces for it, the result names what there may be.
        """
        if self._url.scheme == "s3":
            return self._object_versions().history(folder, name, keep)
        kept = {
            "gs": "noncurrent and soft-deleted versions (gcloud storage ls --all-versions, --soft-deleted)",
            "az": "snapshots, versions and soft-deleted blobs (az storage blob list --include dsv)",
        }
        key, why = f"{folder}/{name}", "LSE cannot list or erase them in this kind of store"
        hint = "Look there, and delete them with its own tool"
        return History(left=(Leftover(f"{kept[self._url.scheme]} of {key}", why, hint, certain=False),))

    def download_earlier(self, copy: EarlierCopy, target: Path) -> None:
        """Writes the content of a version."""
        self._object_versions().download(copy, target)

    def erase_history(self, folder: str, name: str, keep: StoredFile | None) -> ErasedHistory:
        """Deletes what `history` returns."""
        if self._url.scheme == "s3":
            return self._object_versions().erase(folder, name, keep)
        return ErasedHistory(left=self.history(folder, name, keep).left)

    def _object_versions(self) -> ObjectVersions:
        # botocore is slow to import, and needed only here.
        from lse_resources.destinations.object_versions import ObjectVersions

        if self._versions is None:
            prefix = unquote(self._url.path).strip("/")
            self._versions = ObjectVersions(self._url.netloc, prefix, self._config, self.place, self._sleep)
        return self._versions

    @contextlib.contextmanager
    def _locked(self, key: str) -> Generator[None]:
        """Holds a lock object beside an object: no other host replaces it between the comparison and the copy.

        The store creates the lock only if there is none (If-None-Match), and replaces that of a process that has
        exited only if it has not changed (If-Match). A store without conditional writes is used without a lock.

        Raises:
            ArchiveConflictError: Another process holds the lock.
        """
        folder, _, name = key.rpartition("/")
        lock, holder = f"{folder}/.{name}.lock", _Holder(pid_space(), os.getpid(), secrets.token_hex(8))
        content = msgspec.json.encode(holder)
        busy = ArchiveConflictError(
            f"{name} is being replaced on {self.place} by another process", hint="Run the command again when it is done"
        )
        try:
            try:
                mine = obstore.put(self._store, lock, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                there = obstore.get(self._store, lock)
                if not _has_exited(bytes(there.bytes()), there.meta["last_modified"]):
                    raise busy from None
                known: Any = {part: value for part in ("e_tag", "version") if (value := there.meta.get(part))}
                mine = obstore.put(self._store, lock, content, mode=known, use_multipart=False)
            # A store that ignores conditions keeps the last of two locks.
            if self._head(lock).revision != mine["e_tag"]:
                raise busy
        except (PreconditionError, FileNotFoundError):
            raise busy from None
        except BaseError as error:
            if not isinstance(error, NotSupportedError) and "NotImplemented" not in str(error):
                raise
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(*_ERRORS):  # the object is replaced; the next upload replaces the lock
                self._store.delete(lock)

    def _delete_stale(self, folder_id: str, name: str) -> None:
        """Deletes hidden objects of killed uploads; one younger than a day may be an upload of another host."""
        hidden = re.compile(re.escape(f"{folder_id}/.{name}.") + "[0-9a-f]{12}")
        with self._converted_errors("list the bucket"):
            for meta in self._store.list_with_delimiter(folder_id)["objects"]:
                is_old = datetime.now(UTC) - meta["last_modified"] > _STALE
                if is_old and hidden.fullmatch(meta["path"]):
                    self._store.delete(meta["path"])

    def _check_unchanged(self, folder_id: str, name: str, existing: StoredFile | None) -> None:
        now = self.find_file(folder_id, name)
        if existing is None and now:
            raise ArchiveConflictError(f"{name} is already on {self.place}", hint="Compare them, or use --force")
        if existing is not None and [file.revision for file in now] != [existing.revision]:
            raise ArchiveConflictError(
                f"{name} changed on {self.place} since it was compared", hint="Run the command again"
            )

    def _heads(self, keys: list[str]) -> list[StoredFile]:
        """The objects of these keys that exist, with their metadata."""

        def head(key: str) -> StoredFile | None:
            with contextlib.suppress(FileNotFoundError):
                return self._head(key)
            return None

        with ThreadPoolExecutor(min(8, max(1, len(keys)))) as pool:
            return [file for file in pool.map(head, keys) if file]

    def _record_verified(self, key: str) -> None:
        self._store.put(_record_key(key), (self._head(key).revision).encode(), use_multipart=False)

    def _is_verified(self, key: str, revision: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return bytes(obstore.get(self._store, _record_key(key)).bytes()) == revision.encode()
        return False

    def _head(self, key: str) -> StoredFile:
        answer = obstore.get(self._store, key, options={"head": True})
        meta, attributes = answer.meta, dict(answer.attributes)
        md5 = _MD5.fullmatch(meta["e_tag"] or "")
        properties = {name: unquote(value) for name, value in attributes.items() if name.islower()}
        sha256 = properties.pop("bytes_sha256", None)
        if sha256 and meta["size"] > _COPY_BYTES and not self._is_verified(key, meta["e_tag"] or ""):
            sha256 = None
        return StoredFile(
            id=key,
            name=key.rpartition("/")[2],
            folder=key.rpartition("/")[0],
            size=meta["size"],
            sha256=sha256,
            # The tag is the MD5 of an object uploaded in one part, without a customer's key (S3, "Object integrity").
            md5=md5[1] if md5 and not sha256 else None,
            app_properties=properties,
            created=meta["last_modified"].isoformat(),
            modified=meta["last_modified"].isoformat(),
            web_view_link="",
            revision=meta["e_tag"] or "",
        )

    def _put(self, key: str, content: LocalFile, attributes: dict[str, str], progress: Callable[[int], None]) -> None:
        piece = max(_PIECE, -(-content.size // _PARTS))
        if content.size <= _PIECE:
            obstore.put(self._store, key, content.path.read_bytes(), attributes=attributes, use_multipart=False)
            return

        def pieces() -> Iterator[bytes]:
            sent = 0
            with content.path.open("rb") as stream:
                while data := stream.read(_PIECE):
                    yield data
                    sent += len(data)
                    progress(sent)

        obstore.put(self._store, key, pieces(), attributes=attributes, chunk_size=piece, max_concurrency=_AT_ONCE)

    def _read_hash(self, key: str) -> str:
        digest = hashlib.sha256()
        for piece in obstore.get(self._store, key).stream(min_chunk_size=1 << 20):
            digest.update(memoryview(piece))
        return digest.hexdigest()

    def _fetch(self, file: StoredFile, part: Path, progress: Callable[[int], None]) -> None:
        failures = 0
        with part.open("ab") as stream:
            if stream.tell() > file.size:
                stream.truncate(0)
            at = stream.seek(0, os.SEEK_END)
            progress(at)
            while at < file.size:
                try:
                    with self._converted_errors(f"download {file.name}"):
                        data = self._range(file, at)
                except DestinationError:
                    failures += 1
                    if failures == _ATTEMPTS:
                        raise
                    self._sleep(2.0**failures)
                    continue
                failures = 0
                stream.write(data)
                at += len(data)
                progress(at)
            stream.flush()
            os.fsync(stream.fileno())

    def _range(self, file: StoredFile, at: int) -> bytes:
        last = min(at + _PIECE, file.size)
        answer = obstore.get(self._store, file.id, options={"range": (at, last)})
        if answer.meta["e_tag"] != file.revision:
            raise ArchiveConflictError(
                f"{file.name} changed on {self.place} while it was downloaded", hint="Run the command again"
            )
        return bytes(answer.bytes())

    def _converted_errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return store_errors(what, self.place, "LSE_ARCHIVE_URL")


@contextlib.contextmanager
def store_errors(what: str, place: str, setting: str) -> Generator[None]:
    """Converts the store's errors to ArchiveErrors `cannot <what>`.

    Args:
        place: The bucket's name in messages.
        setting: The name of the setting that names the bucket.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveConflictError(
            f"cannot {what}", why=f"it is no longer on {place}", hint="Run the command again"
        ) from error
    except _REFUSALS as error:
        hint = _hint(error) or _CREDENTIALS
        raise DestinationError(f"cannot {what}", why=f"{place} refused: {_brief(error)}", hint=hint) from error
    except _ERRORS as error:
        if "NoSuchBucket" in str(error):
            raise DestinationError(f"cannot {what}", why="there is no such bucket", hint=f"Check {setting}") from error
        hint = _hint(error) or "Run the command again later"
        raise DestinationError(f"cannot {what}", why=_brief(error), hint=hint) from error


def _hint(error: Exception) -> str:
    text = str(error)
    return next((hint for code, hint in _HINTS.items() if code in text), "")


class _Holder(msgspec.Struct, frozen=True):
    """The process that holds a lock object; `host` is its `pid_space`, and `token` makes the content unique."""

    host: str
    pid: int
    token: str


def _has_exited(lock: bytes, written: datetime) -> bool:
    """Whether the holder of a lock object has exited, or has held it for longer than any copy takes."""
    if datetime.now(UTC) - written > _LOCK_EXPIRES:
        return True
    try:
        holder = msgspec.json.decode(lock, type=_Holder)
    except UNDECODABLE:
        return False
    if not holder.host or holder.host != pid_space():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return holder.pid == os.getpid()  # the day's lock excludes the own threads: this one could not be deleted


def _record_key(key: str) -> str:
    """The key of the object that records which revision of a large object has been read back."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/.{name}.proven"


def _split(url: str, setting: str) -> SplitResult:
    """The parts of a URL; errors do not quote it, because it may contain a key. Raises SettingsError."""
    rest = url.partition("://")[2] or url
    # A key may contain slashes: then urlsplit would end the bucket inside the key.
    if "@" in rest.partition("/")[0] or re.search(":.*@", rest):
        raise SettingsError(
            f"{setting} contains credentials",
            why="they would appear in messages and records",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, and write the URL as in s3://bucket/folder",
        )
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in _SCHEMES and parts.netloc and not (parts.query or parts.fragment):
            return parts
    raise SettingsError(
        f"{setting} is not an object store",
        why="it is not s3://, gs:// or az:// with a bucket, or has a ? or #",
        hint="Set it as in s3://bucket/folder",
    )


def _brief(error: Exception) -> str:
    """The first line of the store's error; the other lines are requests with their headers."""
    return " ".join(str(error).partition("\n")[0].split())[:300] or type(error).__name__
