"""Which of Drive's refusals pass by themselves, how long to wait for that, and what the others say to a person.

https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

import http.client
import json
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httplib2
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from googleapiclient.errors import Error as GoogleError
from googleapiclient.errors import HttpError

from lse_archive.cancellation import cancellable_sleep
from lse_archive.errors import DestinationError

# All that a call to Google may raise. Local files are read elsewhere, so that their OSError is not mistaken for one.
CALL_ERRORS = (
    GoogleError,
    GoogleAuthError,
    httplib2.HttpLib2Error,
    http.client.HTTPException,
    OSError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)
_PASSING_403 = {"userRateLimitExceeded", "rateLimitExceeded", "backendError"}
_HINTS = {
    "storageQuotaExceeded": "Free some space, or use a folder in a shared drive",
    "teamDriveFileLimitExceeded": "Remove files from the shared drive, or use another one",
    "numChildrenInNonRootLimitExceeded": "Move old projects to another folder",
    "insufficientFilePermissions": "Ask the folder's owner to make this account an editor",
    "insufficientParentPermissions": "Ask the folder's owner to make this account an editor",
    "insufficientPermissions": "Run: lse drive login",
    "accessNotConfigured": "Enable the Google Drive API for the credentials' project in Google's console",
    "dailyLimitExceeded": "Run the command again tomorrow",
    "notFound": "Check GOOGLE_DRIVE_FOLDER_URL, and that the folder is shared with this account",
}
_TOLD_AT = 3  # the failure in a row from which on people want to know
T = TypeVar("T")

_log = logging.getLogger(__name__)


class DriveRefusalError(DestinationError):
    """Drive answered with an error that waiting does not heal. `status` and `reason` are Drive's."""

    def __init__(self, what: str, *, why: str, hint: str, status: int, reason: str) -> None:
        super().__init__(what, why=why, hint=hint)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long to wait: `attempts` in a row without progress, 1, 2, 4, … s apart with jitter.

    `sign_in` is what to do when the credentials are no longer accepted.
    """

    attempts: int = 7
    sleep: Callable[[float], None] = cancellable_sleep
    jitter: Callable[[], float] = random.random
    sign_in: str = "Run: lse drive login"

    def call(self, what: str, function: Callable[[], T]) -> T:
        """What `function` returns, tried again while Drive asks to wait. Raises DestinationError "cannot <what>"."""
        backoff = self.patience(what)
        while True:
            try:
                return function()
            except CALL_ERRORS as error:
                backoff.wait_or_raise(error)

    def patience(self, what: str) -> "Backoff":
        """For loops of one's own."""
        return Backoff(self, what)

    def impatient(self) -> "Retries":
        """The same with few attempts, for questions asked before the work begins."""
        return replace(self, attempts=min(3, self.attempts))


class Backoff:
    """The failures of one operation in a row."""

    def __init__(self, retries: Retries, what: str) -> None:
        self._retries = retries
        self._what = what
        self._failures = 0

    def reset(self) -> None:
        """There was progress: counting begins anew."""
        self._failures = 0

    def wait_or_raise(self, error: Exception) -> None:
        """Waits for the next attempt. Raises DestinationError if there is no point in it."""
        self._failures += 1
        if not passes(error) or self._failures >= self._retries.attempts:
            raise explain(self._what, error, self._retries.sign_in) from error
        if self._failures == _TOLD_AT:
            _log.warning("  waiting for Drive: %s", explain(self._what, error, self._retries.sign_in).why)
        seconds = 2.0 ** (self._failures - 1) + self._retries.jitter()
        self._retries.sleep(min(max(seconds, retry_after(error)), 300.0))


def status_of(error: Exception) -> int | None:
    """The HTTP status of Drive's answer, None if there was none."""
    return int(error.resp.status) if isinstance(error, HttpError) else None


def reason_of(error: HttpError) -> tuple[str, str]:
    """Drive's reason ("storageQuotaExceeded") and message, each "" if the body does not say."""
    try:
        body: Any = json.loads(error.content)["error"]
        first = (body.get("errors") or [{}])[0]
        return first.get("reason") or body.get("status", ""), first.get("message") or body.get("message", "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", ""


def retry_after(error: Exception) -> float:
    """The seconds that the server asks to wait, 0 if it does not say."""
    value = error.resp.get("retry-after", "") if isinstance(error, HttpError) else ""
    return float(value) if value.isdecimal() else 0.0


def legible(answer: Any) -> dict[str, Any]:
    """The answer, if it is one: Google's client hands on a body that is not JSON as text. Raises JSONDecodeError."""
    if not isinstance(answer, dict):
        raise json.JSONDecodeError("the answer is not JSON", "", 0)
    return answer


def passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if isinstance(error, HttpError) and status is not None:
        if status < 400:  # the start of an upload without the address of its session
            return True
        return status in (408, 429) or status >= 500 or (status == 403 and reason_of(error)[0] in _PASSING_403)
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or bool(error.retryable)
    return not isinstance(error, ssl.SSLCertVerificationError)


def explain(what: str, error: Exception, sign_in: str) -> DestinationError:
    """The error for a person: no URL of a session, no token."""
    what = f"cannot {what}"
    if isinstance(error, HttpError):
        status = int(error.resp.status)
        reason, message = reason_of(error)
        why = (
            f"Drive answered {status}"
            + (f" {reason}" if reason else "")
            + (f", {message.rstrip('.')}" if message else "")
        )
        hint = sign_in if status == 401 else _HINTS.get(reason, "Run the command again later" if passes(error) else "")
        return DriveRefusalError(what, why=why, hint=hint, status=status, reason=reason)
    if isinstance(error, RefreshError) and not passes(error):
        code = error.args[1].get("error", "") if len(error.args) > 1 and isinstance(error.args[1], dict) else ""
        return DestinationError(what, why=f"Google no longer accepts the sign-in ({code or 'refused'})", hint=sign_in)
    return DestinationError(
        what, why=f"Google Drive cannot be reached ({_kind(error)})", hint="Check the network and run the command again"
    )


def _kind(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
