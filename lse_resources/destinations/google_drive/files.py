"""A file on Drive, read from Drive's answers."""

from collections.abc import Mapping
from typing import Any

from lse_resources.destinations.files import LocalFile, StoredFile

__all__ = ["FIELDS", "FOLDER_TYPE", "SHORTCUT_TYPE", "DriveFile", "LocalFile"]

FOLDER_TYPE = "application/vnd.google-apps.folder"
SHORTCUT_TYPE = "application/vnd.google-apps.shortcut"
FIELDS = (
    "id,name,parents,size,sha256Checksum,md5Checksum,appProperties,createdTime,modifiedTime,webViewLink,headRevisionId,"
    "trashed,resourceKey,shortcutDetails"
)


class DriveFile(StoredFile):
    """A file on Drive. `app_properties` are only those that this OAuth client or service account set itself.

    Drive computes both hashes for every binary file, but `sha256` is not guaranteed.
    https://developers.google.com/workspace/drive/api/reference/rest/v3/files
    """

    __slots__ = ()

    @classmethod
    def of(cls, resource: Mapping[str, Any]) -> "DriveFile":
        """Reads an answer with the fields `FIELDS`."""
        return cls(
            id=resource["id"],
            name=resource["name"],
            folder=next(iter(resource.get("parents", ())), ""),
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
