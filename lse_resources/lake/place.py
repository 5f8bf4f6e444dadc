"""Where a lake is: a local directory, or the bucket and prefix of an object store."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lse_archive.files import absolute_path, disk_errors, publish_file, sync_directory

SETTING = "LSE_LAKE_URL"
_BUFFER = 8 << 20  # bytes of a part that is sent to an object store
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file of a lake; `modified` is ISO 8601 UTC."""

    key: str
    bytes: int
    modified: str


class LakePlace(Protocol):
    """Storage of files by keys such as `runs/project=…/run_date=…/runs.parquet`.

    Every method raises DestinationError, or ArchiveError of the disk, if the place refuses or cannot be reached.
    """

    @property
    def url(self) -> str:
        """Its name in messages, and the root of paths for DuckDB; contains no secret."""
        ...

    def replace(self, key: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A stream whose bytes become the file when the block succeeds; until then the former file stays.

        A reader gets the whole former file or the whole new one.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """The content of a small file; None if it is not there."""
        ...

    def open(self, key: str) -> contextlib.AbstractContextManager[Any]:
        """A seekable stream of a file. Raises FileNotFoundError if it is not there."""
        ...

    def stat(self, key: str) -> PlacedFile | None:
        """A file's size and time; None if it is not there."""
        ...

    def delete(self, key: str) -> None:
        """Deletes a file, if it is there. A bucket with versions keeps the former one."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """The names directly below a prefix that have files below them, sorted."""
        ...

    def register(self, connection: Any) -> None:
        """Lets a DuckDB connection read `url`."""
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

    @contextlib.contextmanager
    def open(self, key: str) -> Generator[BinaryIO]:
        with (self._directory / key).open("rb") as file:
            yield file

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

    def folders(self, prefix: str) -> list[str]:
        path = self._directory / prefix
        with disk_errors(f"cannot read {path}"):
            try:
                return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
            except FileNotFoundError:
                return []

    def register(self, connection: Any) -> None:
        """DuckDB reads the disk itself."""


class StorePlace:
    """The bucket and prefix of `s3://…`, `gs://…` or `az://…`.

    Args:
        config: Credentials, region and endpoint, by obstore's names; missing ones are read from the environment.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """

    def __init__(self, url: str, config: Mapping[str, str]) -> None:
        from lse_resources.destinations.object_store import open_store  # obstore is slow to import

        self._url, self._config = url.rstrip("/"), dict(config)
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
        stream: Any = _Stream(writer, functools.partial(self._errors, f"write {key}"))
        yield stream
        stream.close()

    def read(self, key: str) -> bytes | None:
        with self._errors(f"read {key}"):
            try:
                return bytes(self._store.get(key).bytes())
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def open(self, key: str) -> Generator[Any]:
        import obstore

        reader: Any = None
        with self._errors(f"read {key}"), contextlib.suppress(FileNotFoundError):
            reader = obstore.open_reader(self._store, key)
        if reader is None:
            raise FileNotFoundError(key)
        yield _Stream(reader, functools.partial(self._errors, f"read {key}"))

    def stat(self, key: str) -> PlacedFile | None:
        with self._errors(f"read the metadata of {key}"):
            try:
                meta = self._store.head(key)
            except FileNotFoundError:
                return None
        return PlacedFile(key, meta["size"], meta["last_modified"].isoformat())

    def delete(self, key: str) -> None:
        with self._errors(f"delete {key}"), contextlib.suppress(FileNotFoundError):
            self._store.delete(key)

    def folders(self, prefix: str) -> list[str]:
        with self._errors("list the lake"):
            found = self._store.list_with_delimiter(prefix)["common_prefixes"]
            return sorted(one.rstrip("/").rpartition("/")[2] for one in found)

    def register(self, connection: Any) -> None:
        """DuckDB's own extension for object stores is downloaded when it is first used; this one is installed."""
        from obstore.fsspec import FsspecStore

        from lse_resources.destinations.object_store import client_options

        store: Any = FsspecStore
        scheme, _, _ = self._url.partition("://")
        connection.register_filesystem(store(scheme, config=self._config, client_options=client_options(self._config)))

    def _errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        from lse_resources.destinations.object_store import store_errors

        return store_errors(what, self._place, SETTING)


class _Stream:
    """A reader or writer of obstore as Python's libraries expect one, with the errors of the place.

    Args:
        errors: Converts the errors of each call; can be entered repeatedly.
    """

    closed = False

    def __init__(self, stream: Any, errors: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._stream = stream
        self._errors = errors

    def read(self, size: int = -1) -> bytes:
        with self._errors():
            return bytes(self._stream.read(None if size < 0 else size))

    def write(self, content: bytes) -> int:
        with self._errors():
            return self._stream.write(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._errors():
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        with self._errors():
            self._stream.close()
        self.closed = True


def open_place(url: str, config: Mapping[str, str]) -> LakePlace:
    """Opens the lake of a directory or URL; see `StorePlace`.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """
    return StorePlace(url, config) if "://" in url else LocalPlace(Path(url))
