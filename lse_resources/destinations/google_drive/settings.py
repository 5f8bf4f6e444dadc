"""The settings of the Drive client: folder and sign-in."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from lse_archive.errors import SettingsError

AuthType = Literal["oauth2", "service_account", "adc"]
_ID = re.compile(r"[A-Za-z0-9_-]{10,}|root")
_RESOURCE_KEY = re.compile(r"[?&]resourcekey=([A-Za-z0-9_-]+)")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class DriveSettings:
    """The settings of `GoogleDrive`. Raises SettingsError for invalid values.

    Args:
        folder_url: The archive's folder, as `folder_id` reads it.
        auth_type: "oauth2" (a user), "service_account", or "adc" (Google's application-default credentials).
        credentials_path: The JSON file from Google's console; not used with "adc".
        token_path: The file of the user's token, of mode 0600.
        api_root: Replaces `https://www.googleapis.com/`; https, or http on this host.
        subject: The user for whom a service account acts (domain-wide delegation).
        acknowledge_abuse: Download files that Google takes for malware or spam.
        patience: Seconds for which a failing request is retried.
        folders_path: The file of the ids of project folders. Default: beside the token.
    """

    folder_url: str
    auth_type: AuthType
    credentials_path: Path | None
    token_path: Path
    api_root: str | None = None
    subject: str | None = None
    patience: float = 300.0
    folders_path: Path | None = None
    acknowledge_abuse: bool = False

    def __post_init__(self) -> None:
        folder_id(self.folder_url)
        if self.auth_type not in ("oauth2", "service_account", "adc"):
            raise SettingsError(
                "GOOGLE_DRIVE_AUTH_TYPE is invalid",
                why=repr(self.auth_type),
                hint="Set it to oauth2, service_account or adc",
            )
        if self.auth_type != "adc" and self.credentials_path is None:
            raise SettingsError(
                "GOOGLE_DRIVE_CREDENTIALS_PATH is not set", hint="Point it to the JSON file from Google's console"
            )
        if self.subject and self.auth_type != "service_account":
            raise SettingsError(
                "GOOGLE_DRIVE_SUBJECT needs a service account", why=f"GOOGLE_DRIVE_AUTH_TYPE is {self.auth_type}"
            )
        if self.api_root is not None:
            parts = urlsplit(self.api_root)
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
                raise SettingsError(
                    "GOOGLE_DRIVE_API_ROOT is not safe", why="access tokens would be sent unencrypted", hint="Use https"
                )

    @property
    def root_url(self) -> str | None:
        """`api_root` with exactly one slash at the end."""
        return None if self.api_root is None else self.api_root.rstrip("/") + "/"

    @property
    def folder(self) -> str:
        """The id of the archive's folder."""
        return folder_id(self.folder_url)

    @property
    def resource_key(self) -> str | None:
        """The resource key in the folder's link, None if there is none.

        With it, an account may use a folder that was shared by its link before September 2021:
        https://developers.google.com/workspace/drive/api/guides/resource-keys
        """
        found = _RESOURCE_KEY.search(self.folder_url)
        return found[1] if found else None


def folder_id(url: str) -> str:
    """The folder's id in a link from Drive's address bar or "Share" menu, or in a bare id. Raises SettingsError."""
    text = url.strip()
    if _ID.fullmatch(text):
        return text
    with contextlib.suppress(ValueError):  # of urlsplit
        parts = urlsplit(text if "://" in text else f"https://{text}")
        found = re.search(r"/(?:folders|folderview|d)/([^/]+)", parts.path)
        candidate = found[1] if found else parse_qs(parts.query).get("id", [""])[0]
        if (parts.hostname or "").endswith(".google.com") and _ID.fullmatch(candidate):
            return candidate
    raise SettingsError(
        "GOOGLE_DRIVE_FOLDER_URL is not a Drive folder",
        why=repr(text) if text else "it is empty",
        hint="Open the folder in the browser and copy its address: https://drive.google.com/drive/folders/…",
    )
