"""The files of a lake as DuckDB reads them, through fsspec.

DuckDB opens a file several times during a query: for its metadata, and again in each thread. A file that is replaced in
between would be read by the metadata of another. Here a query keeps the version of each file that it opened first. Nor
does DuckDB download an extension for object stores.
"""

from __future__ import annotations

import fnmatch
import re
from collections import OrderedDict
from datetime import datetime
from threading import Lock
from typing import Any

import fsspec

from lse_resources.lake.place import FileReader, FileVersion, LakePlace

ROOT = "lake://"
"""What stands before a key in a path."""
_OPEN_VERSIONS = 500  # each is an open file of the disk, of which a process may often have 1,024


class PinnedFiles(fsspec.AbstractFileSystem):
    """The files of a place, for one query."""

    protocol = "lake"
    cachable = False

    def __init__(self, place: LakePlace) -> None:
        super().__init__()
        self._place = place
        self._versions: OrderedDict[str, FileVersion] = OrderedDict()
        self._keys: dict[str, list[str]] = {}
        self._lock = Lock()

    def glob(self, path: str, *_: Any, **options: Any) -> Any:
        """The keys that match a pattern, sorted. The files of a table are listed once in a query."""
        pattern = self._strip_protocol(path)
        table, _, _ = pattern.partition("/")
        if table not in self._keys:
            self._keys[table] = sorted(self._place.keys(f"{table}/"))
        matches = re.compile(fnmatch.translate(pattern)).match
        return [key for key in self._keys[table] if matches(key)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and type of a file. Raises FileNotFoundError."""
        return _info(path, self._version(path).size)

    def modified(self, path: str) -> datetime:
        """When the file was written. Raises FileNotFoundError."""
        return datetime.fromisoformat(self._version(path).modified)

    def open(self, path: Any, *_: Any, **options: Any) -> Any:
        """The version of the file that the query has opened first. Raises FileNotFoundError."""
        return FileReader(self._version(path))

    def _version(self, path: str) -> FileVersion:
        key = self._strip_protocol(path)
        with self._lock:
            if key not in self._versions:
                self._versions[key] = self._place.version(key)
            self._versions.move_to_end(key)
            while len(self._versions) > _OPEN_VERSIONS:
                self._versions.popitem(last=False)
            return self._versions[key]


def _info(key: str, size: int) -> dict[str, Any]:
    return {"name": key, "size": size, "type": "file"}
