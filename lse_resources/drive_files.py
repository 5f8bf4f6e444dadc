"""Facts about files: one on Drive, one here, and whether they have the same content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lse_archive.errors import ArchiveError, CorruptArchiveError

FOLDER_TYPE = "application/vnd.google-apps.folder"
FIELDS = (
    "id,name,size,sha256Checksum,md5Checksum,appProperties,createdTime,modifiedTime,webViewLink,headRevisionId,trashed"
)


@dataclass(frozen=True, slots=True)
class DriveFile:
    """A file on Drive. Times are RFC 3339 as Drive sends them, hashes lower-case hex.

    Drive computes both hashes for every binary file, but does not promise `sha256`.
    https://developers.google.com/workspace/drive/api/reference/rest/v3/files
    """

    id: str
    name: str
    size: int  # bytes
    sha256: str | None
    md5: str | None
    app_properties: Mapping[str, str]  # only those that this OAuth client or service account set itself
    created: str
    modified: str
    web_view_link: str
    revision: str
    trashed: bool = False

    @classmethod
    def of(cls, resource: Mapping[str, Any]) -> "DriveFile":
        """From an answer that was asked for `FIELDS`."""
        return cls(
            id=resource["id"],
            name=resource["name"],
            size=int(resource.get("size", 0)),
            sha256=resource.get("sha256Checksum"),
            md5=resource.get("md5Checksum"),
            app_properties=dict(resource.get("appProperties", {})),
            created=resource.get("createdTime", ""),
            modified=resource.get("modifiedTime", ""),
            web_view_link=resource.get("webViewLink", ""),
            revision=resource.get("headRevisionId", ""),
            trashed=bool(resource.get("trashed")),
        )


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file here, read once: its size in bytes and SHA-256."""

    path: Path
    size: int
    sha256: str

    @classmethod
    def read(cls, path: Path) -> "LocalFile":
        """Reads the whole file. Raises ArchiveError."""
        return cls(path, *digest(path, "sha256"))

    def equals(self, file: DriveFile) -> bool:
        """Whether Drive's checksum and size are ours. Raises CorruptArchiveError if Drive tells no checksum."""
        if file.size != self.size:
            return False
        if file.sha256 is not None:
            return file.sha256 == self.sha256
        if file.md5 is None:
            raise CorruptArchiveError(f"cannot prove {file.name} on Drive", why="Drive tells no checksum of it")
        return file.md5 == digest(self.path, "md5")[1]


def digest(path: Path, algorithm: str) -> tuple[int, str]:
    """Size in bytes and hash in hex of a local file. Raises ArchiveError."""
    try:
        with path.open("rb") as stream:
            result = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
            return stream.tell(), result.hexdigest()
    except OSError as error:
        raise ArchiveError(f"cannot read {path}", why=error.strerror or str(error)) from error
