"""Where a lake is: a local directory, or the bucket and prefix of an object store."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lse_archive.files import absolute_path, disk_errors, publish_file, sync_directory
from lse_resources.destinations.history import ErasedHistory

SETTING = "LSE_LAKE_URL"
_BUFFER = 8 << 20  # bytes of a part that is sent to an object store
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file of a lake; `modified` is ISO 8601 UTC."""

    key: str
    bytes: int
    modified: str


class FileVersion(Protocol):
    """A file as it was when it was opened, whatever is written to its key; threads may share it.

    Attributes:
        size: In bytes.
        modified: ISO 8601 UTC.
    """

    size: int
    modified: str

    def read(self, start: int, end: int) -> bytes:
        """The bytes from start to end. Raises ArchiveConflictError if an object was replaced meanwhile."""
        ...


class LakePlace(Protocol):
    """Storage of files by keys such as `runs/project=…/run_date=…/runs.parquet`.

    Every method raises DestinationError, or ArchiveError of the disk, if the place refuses or cannot be reached.
    """

    @property
    def url(self) -> str:
        """Its name in messages; contains no secret."""
        ...

    def replace(self, key: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A stream whose bytes become the file when the block succeeds; until then the former file stays.

        A reader gets the whole former file or the whole new one.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """The content of a small file; None if it is not there."""
        ...

    def version(self, key: str) -> FileVersion:
        """The file as it is now. Raises FileNotFoundError."""
        ...

    def stat(self, key: str) -> PlacedFile | None:
        """A file's size and time; None if it is not there."""
        ...

    def delete(self, key: str) -> None:
        """Deletes a file, if it is there. A bucket with versions keeps the former one."""
        ...

    def erase_history(self, keys: Iterable[str]) -> ErasedHistory:
        """Erases finally every version of these files but the current ones, see `Destination.erase_history`."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """The names directly below a prefix that have files below them, sorted."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """The keys of all files below a prefix that ends in a slash."""
        ...


class LocalPlace:
    """A directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = absolute_path(directory)

    @property
    def url(self) -> str:
        return str(self._directory)

    @contextlib.contextmanager
    def replace(self, key: str) -> Generator[BinaryIO]:
        """See `LakePlace`. What a killed process left beside the file is removed."""
        target = self._directory / key
        with disk_errors(f"cannot write {target}"):
            with contextlib.suppress(FileNotFoundError):
                for left in target.parent.glob(f".{target.name}.*.tmp"):
                    left.unlink(missing_ok=True)
            with publish_file(target) as file:
                yield file

    def read(self, key: str) -> bytes | None:
        path = self._directory / key
        with disk_errors(f"cannot read {path}"):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def version(self, key: str) -> FileVersion:
        return _LocalVersion(self._directory / key)

    def stat(self, key: str) -> PlacedFile | None:
        path = self._directory / key
        with disk_errors(f"cannot read {path}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
        modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat()
        return PlacedFile(key, status.st_size, modified)

    def delete(self, key: str) -> None:
        path = self._directory / key
        with disk_errors(f"cannot delete {path}"), contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_directory(path.parent)

    def erase_history(self, keys: Iterable[str]) -> ErasedHistory:
        return ErasedHistory()

    def folders(self, prefix: str) -> list[str]:
        path = self._directory / prefix
        with disk_errors(f"cannot read {path}"):
            try:
                return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
            except FileNotFoundError:
                return []

    def keys(self, prefix: str) -> list[str]:
        found, folders = list[str](), [prefix]
        with disk_errors(f"cannot read {self._directory}"), contextlib.suppress(FileNotFoundError):
            while folders:  # without paths as objects: a lake may have tens of thousands of folders
                folder = folders.pop()
                with os.scandir(f"{self._directory}/{folder}") as entries:
                    for entry in entries:
                        if entry.is_dir():
                            folders.append(f"{folder}{entry.name}/")
                        else:
                            found.append(f"{folder}{entry.name}")
        return found


class _LocalVersion:
    """An open file: a rename over its path does not change it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self.modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat()

    def read(self, start: int, end: int) -> bytes:
        with disk_errors(f"cannot read {self._path}"):
            content = os.pread(self._descriptor, end - start, start)
            while len(content) < end - start and (
                more := os.pread(self._descriptor, end - start, start + len(content))
            ):
                content += more  # one call reads at most 2 GB
            return content[: end - start]


class StorePlace:
    """The bucket and prefix of `s3://…`, `gs://…` or `az://…`.

    Args:
        config: Credentials, region and endpoint, by obstore's names; missing ones are read from the environment.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """

    def __init__(self, url: str, config: Mapping[str, str]) -> None:
        from lse_resources.destinations.object_store import open_store  # obstore is slow to import

        self._url, self._config = url.rstrip("/"), config
        self._store, self._place = open_store(url, config, SETTING)

    @property
    def url(self) -> str:
        return self._url

    @contextlib.contextmanager
    def replace(self, key: str) -> Generator[BinaryIO]:
        import obstore

        with self._errors(f"write {key}"):
            # Not used as a context manager: that would complete the file of a block that failed.
            writer: Any = obstore.open_writer(self._store, key, buffer_size=_BUFFER, max_concurrency=_AT_ONCE)
        stream: Any = _Writer(writer, functools.partial(self._errors, f"write {key}"))
        yield stream
        stream.close()

    def read(self, key: str) -> bytes | None:
        with self._errors(f"read {key}"):
            try:
                return bytes(self._store.get(key).bytes())
            except FileNotFoundError:
                return None

    def stat(self, key: str) -> PlacedFile | None:
        with self._errors(f"read the metadata of {key}"):
            try:
                return _placed(self._store.head(key))
            except FileNotFoundError:
                return None

    def delete(self, key: str) -> None:
        with self._errors(f"delete {key}"), contextlib.suppress(FileNotFoundError):
            self._store.delete(key)

    def erase_history(self, keys: Iterable[str]) -> ErasedHistory:
        from lse_resources.destinations.object_store import ObjectStore

        erased = ErasedHistory()
        with contextlib.closing(ObjectStore(self._url, self._config)) as store:
            for key in keys:
                folder, _, name = key.rpartition("/")
                erased += store.erase_history(folder, name, store.read(key))
        return erased

    def folders(self, prefix: str) -> list[str]:
        with self._errors("list the lake"):
            found = self._store.list_with_delimiter(prefix)["common_prefixes"]
            return sorted(one.rstrip("/").rpartition("/")[2] for one in found)

    def keys(self, prefix: str) -> list[str]:
        with self._errors("list the lake"):
            return [meta["path"] for page in self._store.list(prefix or None) for meta in page]

    def version(self, key: str) -> FileVersion:
        meta = None
        with self._errors(f"read {key}"), contextlib.suppress(FileNotFoundError):
            meta = self._store.head(key)
        if meta is None:
            raise FileNotFoundError(key)
        return _StoreVersion(self._store, meta, functools.partial(self._errors, f"read {key}"))

    def _errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        from lse_resources.destinations.object_store import store_errors

        return store_errors(what, self._place, SETTING)


class _Writer:
    """A writer of obstore, with the errors of the place."""

    def __init__(self, writer: Any, errors: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._writer = writer
        self._errors = errors

    def write(self, content: bytes) -> int:
        with self._errors():
            return self._writer.write(content)

    def close(self) -> None:
        with self._errors():
            self._writer.close()


class _StoreVersion:
    """A version of an object: every range is requested with its ETag."""

    def __init__(self, store: Any, meta: Any, errors: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._store, self._errors = store, errors
        self._key, self._tag = meta["path"], meta["e_tag"]
        self.size, self.modified = meta["size"], meta["last_modified"].isoformat()

    def read(self, start: int, end: int) -> bytes:
        import obstore

        options: Any = {"range": (start, end)} | ({"if_match": self._tag} if self._tag else {})
        with self._errors():
            return bytes(obstore.get(self._store, self._key, options=options).bytes())


def _placed(meta: Any) -> PlacedFile:
    return PlacedFile(meta["path"], meta["size"], meta["last_modified"].isoformat())


class FileReader(io.RawIOBase):
    """A position in a version of a file."""

    def __init__(self, version: FileVersion) -> None:
        self._version = version
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._version.size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._version.size if size is None or size < 0 else min(self._version.size, self._at + size)
        content = self._version.read(self._at, end) if end > self._at else b""
        self._at += len(content)
        return content


def open_place(url: str, config: Mapping[str, str]) -> LakePlace:
    """Opens the lake of a directory or URL; see `StorePlace`.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """
    return StorePlace(url, config) if "://" in url else LocalPlace(Path(url))
