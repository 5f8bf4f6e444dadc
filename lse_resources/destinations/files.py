"""Descriptions of a file at the destination and of a local file, and their comparison."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lse_archive.files import disk_errors, file_sha256


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at a destination. Times are RFC 3339, hashes lower-case hex; "" or None if unknown.

    `folder` is the id of its folder, `sha256` is confirmed by the destination, `app_properties` are properties that the
    archive set.
    """

    id: str
    name: str
    folder: str
    size: int  # bytes
    sha256: str | None
    md5: str | None
    app_properties: Mapping[str, str]
    created: str
    modified: str
    web_view_link: str
    revision: str
    trashed: bool = False

    @property
    def content(self) -> str | None:
        """The content hash of its day, from the properties; None if they belong to other bytes."""
        is_current = self.sha256 is not None and self.app_properties.get("sha256") == self.sha256
        return self.app_properties.get("content") if is_current else None


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file: its size in bytes and SHA-256."""

    path: Path
    size: int
    sha256: str

    @classmethod
    def read(cls, path: Path) -> "LocalFile":
        """Reads the whole file, see `file_sha256`. Raises ArchiveError."""
        with disk_errors(f"cannot read {path}"):
            return cls(path, *file_sha256(path))

    def equals(self, file: StoredFile) -> bool:
        """Whether size and checksum are the same. False for a file without a checksum."""
        if file.size != self.size:
            return False
        if file.sha256 is not None:
            return file.sha256 == self.sha256
        return file.md5 is not None and file.md5 == _md5(self.path)


def _md5(path: Path) -> str:
    with disk_errors(f"cannot read {path}"), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
