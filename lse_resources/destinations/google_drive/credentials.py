"""Credentials for Google: a user's token, a service account's key, or application-default credentials.

The scope is `drive`. The narrower `drive.file` gives access only to files that the application created: a
folder created in the browser (GOOGLE_DRIVE_FOLDER_URL) and zips uploaded by a user or another tool would be "not
found". A stored token is used with the scopes it was granted.
"""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import google.auth
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport import Request
from google.oauth2 import credentials as oauth2
from google.oauth2 import service_account

from lse_archive.errors import DestinationError, SettingsError
from lse_archive.files import file_lock, publish_file
from lse_resources.destinations.google_drive.settings import DriveSettings

SCOPE = "https://www.googleapis.com/auth/drive"
T = TypeVar("T")
_CONSOLE = "Download it again from Google's console"
_LOGIN = "Run: lse drive login"


class StoredCredentials(oauth2.Credentials):
    """A user's credentials, saved to a file after every refresh; threads may share them."""

    def save_to(self, path: Path, stored: str | None) -> Self:
        """Sets the file to which refreshed tokens are saved; `stored` is the refresh token that it holds now."""
        self._path = path
        self._known = {stored, self.refresh_token}
        self._refreshing = threading.Lock()
        return self

    def refresh(self, request: Request) -> None:
        """Fetches an access token unless another thread just did. Raises google.auth's errors, SettingsError."""
        before = self.token
        with self._refreshing:
            if self.token != before and self.valid:
                return
            super().refresh(request)
            self._save()

    def _save(self) -> None:
        try:
            with file_lock(self._path):
                stored = _read(self._path, _LOGIN).get("refresh_token") if self._path.exists() else None
                if stored is None or stored in self._known:  # else somebody has signed in since
                    with publish_file(self._path, mode=0o600) as file:
                        file.write(self.to_json().encode())
                    self._known.add(self.refresh_token)
        except OSError as error:
            raise SettingsError(f"cannot write {self._path}", why=error.strerror or str(error)) from error


def load_credentials(settings: DriveSettings) -> Credentials:
    """Reads the credentials of the settings; sends nothing.

    Raises SettingsError for a file that is missing or of another kind, DestinationError without a stored token.
    """
    if settings.auth_type == "adc":
        return _adc()
    path = settings.credentials_path
    if path is None:
        raise SettingsError("GOOGLE_DRIVE_CREDENTIALS_PATH is not set")
    content = _read(path)
    if settings.auth_type == "service_account":
        return _parsed(path, _service_account, content, settings.subject)
    if content.get("type") == "service_account":
        raise SettingsError(f"{path} is a service account's key", hint="Set GOOGLE_DRIVE_AUTH_TYPE=service_account")
    stored = _read(settings.token_path, _LOGIN) if settings.token_path.exists() else None
    former = stored.get("refresh_token") if stored else None
    if content.get("type") == "authorized_user":
        # The stored token is newer, unless the file has another refresh token.
        if stored is None or stored.get("refresh_token") != content.get("refresh_token"):
            stored = content
    else:
        _require_desktop(path, content)
    if stored is None:
        raise DestinationError("nobody has signed in to Google Drive", hint=_LOGIN)
    return _parsed(settings.token_path, _user, stored).save_to(settings.token_path, former)


def read_client(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """What `parse` makes of the client-secrets JSON of a desktop application. Raises SettingsError."""
    content = _read(path)
    _require_desktop(path, content)
    return _parsed(path, parse, content)


def _require_desktop(path: Path, content: dict[str, Any]) -> None:
    if "installed" not in content:
        raise SettingsError(
            f"{path} is not the credentials file of a desktop application",
            why="it is that of a web application, which Google redirects to registered addresses only"
            if "web" in content
            else "",
            hint="In Google's console, create an OAuth client of type 'Desktop app' and download its JSON",
        )


def _adc() -> Credentials:
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except GoogleAuthError as error:
        raise DestinationError(
            "no application-default credentials", why=str(error), hint="Run: gcloud auth application-default login"
        ) from error
    return credentials


def _service_account(content: dict[str, Any], subject: str | None) -> service_account.Credentials:
    return service_account.Credentials.from_service_account_info(content, scopes=[SCOPE], subject=subject)


def _user(content: dict[str, Any]) -> StoredCredentials:
    # from_authorized_user_info would ignore the file's token_uri.
    expiry = content.get("expiry")
    return StoredCredentials(
        token=content.get("token"),
        refresh_token=content["refresh_token"],
        token_uri=content.get("token_uri", "https://oauth2.googleapis.com/token"),
        client_id=content["client_id"],
        client_secret=content["client_secret"],
        scopes=content.get("scopes"),
        expiry=datetime.fromisoformat(expiry).astimezone(UTC).replace(tzinfo=None) if expiry else None,
    )


def _parsed(path: Path, parse: Callable[..., T], *content: Any) -> T:
    try:
        return parse(*content)
    except (ValueError, KeyError, GoogleAuthError) as error:
        # The error's text may contain the key: only its type is shown.
        raise SettingsError(f"cannot use {path}", why=type(error).__name__, hint=_CONSOLE) from None


def _read(path: Path, hint: str = _CONSOLE) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {path}", why=error.strerror or str(error)) from error
    except ValueError:
        raise SettingsError(f"{path} is not JSON", hint=hint) from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} is not a credentials file", hint=hint)
    return content
