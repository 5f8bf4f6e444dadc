"""Classifies Drive's errors: retryable or final, the delay before the next attempt, and the message for the user.

https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

import http.client
import json
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httplib2
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from googleapiclient.errors import Error as GoogleError
from googleapiclient.errors import HttpError

from lse_archive.cancellation import cancellable_sleep
from lse_archive.errors import CLOCK_HINT, DestinationError
from lse_resources.backoff import WARN_AFTER, Backoff, retry_after_seconds

# Everything that a call to Google may raise. Local files are read outside of such calls.
CALL_ERRORS = (
    GoogleError,
    GoogleAuthError,
    httplib2.HttpLib2Error,
    http.client.HTTPException,
    OSError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)
_RETRYABLE_403 = {"userRateLimitExceeded", "rateLimitExceeded", "backendError"}
_ADMINISTRATOR = "Ask the administrator of your Google Workspace to allow this application to use Drive"
_HINTS = {
    "cannotDownloadAbusiveFile": "Google takes the file for malware or spam. If you trust it, and this account owns it,"
    " set GOOGLE_DRIVE_ACKNOWLEDGE_ABUSE=true, and run the command again. Or its owner downloads it in the browser, and"
    " you unpack it, and import its run files: lse archive import",
    "cannotDownloadFile": "Ask the folder's owner to allow downloads",
    "downloadQuotaExceeded": "Run the command again tomorrow",
    "domainPolicy": _ADMINISTRATOR,
    "appNotAuthorizedToFile": "Run: lse drive login",
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": "Run: lse drive login",
    "teamDriveMembershipRequired": "Ask for this account to become a member of the shared drive",
    "teamDriveHierarchyTooDeep": "Use a folder nearer to the root of the shared drive",
    "myDriveHierarchyDepthLimitExceeded": "Use a folder nearer to the root of My Drive",
    "activeItemCreationLimitExceeded": "Delete files of this account, or use another account",
    "teamDriveFileLimitExceeded": "Remove files from the shared drive, or use another one",
    "numChildrenInNonRootLimitExceeded": "Move old projects to another folder",
    "insufficientFilePermissions": "Ask the folder's owner to make this account an editor",
    "insufficientParentPermissions": "Ask the folder's owner to make this account an editor",
    "insufficientPermissions": "Run: lse drive login",
    "accessNotConfigured": "Enable the Google Drive API for the credentials' project in Google's console",
    "SERVICE_DISABLED": "Enable the Google Drive API for the credentials' project in Google's console",
    "dailyLimitExceeded": "Run the command again tomorrow",
    "notFound": "Check GOOGLE_DRIVE_FOLDER_URL, and that the folder is shared with this account",
}
STORAGE_HINT = "Free space, or use a folder in a shared drive"
NO_STORAGE_HINT = (
    "A service account has no storage of its own: use a folder in a shared drive, set GOOGLE_DRIVE_SUBJECT to a user,"
    " or sign in as a user (GOOGLE_DRIVE_AUTH_TYPE=oauth2)"
)
# By a part of the answer to a request for an access token; any other refusal needs a new sign-in.
_TOKEN_HINTS = {
    # The token request of a service account has the time, which may differ by minutes only.
    "Invalid JWT: Token must be": CLOCK_HINT,
    "Token has been expired or revoked": "Run: lse drive login. If that happens every 7 days, the OAuth app is in the"
    " status Testing: publish it (docs/destinations.md)",
    "Invalid email or User ID": "Check GOOGLE_DRIVE_SUBJECT",
    "unauthorized_client": "In the Admin console, allow the service account's client id the scope"
    " https://www.googleapis.com/auth/drive (domain-wide delegation), or unset GOOGLE_DRIVE_SUBJECT",
    "invalid_client": "Download the credentials again from Google's console, then run: lse drive login",
    "deleted_client": "Make new credentials in Google's console, then run: lse drive login",
    "admin_policy_enforced": _ADMINISTRATOR,
    "org_internal": _ADMINISTRATOR,
}
# OpenSSL's results of the verification of a certificate: not valid yet, expired.
_CERTIFICATE_TIMES = (9, 10)
# The patience of requests that are sent before the work begins, while a user waits.
_IMPATIENT_SECONDS = 4.0
T = TypeVar("T")

_log = logging.getLogger(__name__)


class DriveRefusalError(DestinationError):
    """Drive's answer is final: the same request never succeeds. `status` and `reason` are Drive's."""

    def __init__(self, what: str, *, why: str, hint: str, status: int, reason: str) -> None:
        super().__init__(what, why=why, hint=hint)
        self.status = status
        self.reason = reason

    @property
    def is_denied(self) -> bool:
        """Whether this account may not do it, or the file does not allow it."""
        return self.status in (400, 403) and self.reason not in _RETRYABLE_403


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a failing call is retried, and how it waits.

    Attributes:
        patience: Seconds without progress; see `Backoff`.
        sign_in: The hint when the credentials are no longer accepted.
        storage: The hint when there is no room.
    """

    patience: float = 300.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = cancellable_sleep
    jitter: Callable[[], float] = random.random
    sign_in: str = "Run: lse drive login"
    storage: str = STORAGE_HINT

    def call(self, what: str, function: Callable[[], T]) -> T:
        """Returns the result of `function`, which is repeated while it fails with a retryable error.

        Raises:
            DestinationError: "cannot <what>": the error is final, or the patience is over.
        """
        attempts = self.attempts(what)
        while True:
            try:
                return function()
            except CALL_ERRORS as error:
                attempts.wait_or_raise(error)

    def attempts(self, what: str) -> "Attempts":
        """The state of an operation that repeats its own requests."""
        return Attempts(self, what)

    def impatient(self) -> "Retries":
        """The same with a short patience, for requests before the work begins."""
        return replace(self, patience=min(_IMPATIENT_SECONDS, self.patience))


class Attempts(Backoff):
    """The attempts of one operation on Drive."""

    def __init__(self, retries: Retries, what: str) -> None:
        super().__init__(retries.patience, clock=retries.clock, jitter=retries.jitter)
        self._retries = retries
        self._what = what

    def wait_or_raise(self, error: Exception) -> None:
        """Sleeps until the next attempt. Raises DestinationError if the error is final or the patience is over."""
        header = error.resp.get("retry-after") if isinstance(error, HttpError) else None
        delay = self.fail(retry_after_seconds(header) or 0.0) if is_retryable(error) else None
        if delay is None:
            raise explain(self._what, error, self._retries) from error
        if self.failures == WARN_AFTER:
            _log.warning("  waiting for Drive: %s", explain(self._what, error, self._retries).why)
        self._retries.sleep(delay)


def status_of(error: Exception) -> int | None:
    """The HTTP status of Drive's answer, None if there was none."""
    return int(error.resp.status) if isinstance(error, HttpError) else None


def reason_of(error: HttpError) -> tuple[str, str]:
    """Drive's reason ("storageQuotaExceeded") and message, each "" if the body has none."""
    try:
        body: Any = json.loads(error.content)["error"]
        first = (body.get("errors") or [{}])[0]
        return first.get("reason") or body.get("status", ""), first.get("message") or body.get("message", "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", ""


def json_answer(answer: Any) -> dict[str, Any]:
    """The answer, if it is JSON: Google's client returns any other body as text. Raises JSONDecodeError."""
    if not isinstance(answer, dict):
        raise json.JSONDecodeError("the answer is not JSON", "", 0)
    return answer


def is_retryable(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if isinstance(error, HttpError) and status is not None:
        if status < 400:  # an answer to the start of an upload that has no session URL
            return True
        return status in (408, 429) or status >= 500 or (status == 403 and reason_of(error)[0] in _RETRYABLE_403)
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or bool(error.retryable)
    return not isinstance(error, ssl.SSLCertVerificationError)


def explain(what: str, error: Exception, retries: Retries) -> DestinationError:
    """The error for the user, without the URL of a session and without tokens; `retries` has the hints."""
    what = f"cannot {what}"
    if isinstance(error, HttpError):
        status = int(error.resp.status)
        reason, message = reason_of(error)
        why = (
            f"Drive answered {status}"
            + (f" {reason}" if reason else "")
            + (f", {message.rstrip('.')}" if message else "")
        )
        if status == 401:
            hint = retries.sign_in
        elif reason == "storageQuotaExceeded":
            hint = NO_STORAGE_HINT if message.startswith("Service Accounts") else retries.storage
        else:
            hint = _HINTS.get(reason, "Run the command again later" if is_retryable(error) else "")
        return DriveRefusalError(what, why=why, hint=hint, status=status, reason=reason)
    if isinstance(error, GoogleAuthError) and not is_retryable(error):
        reason, hint = explain_token_refusal(_token_answer(error), retries.sign_in)
        return DestinationError(what, why=f"Google no longer accepts the sign-in ({reason})", hint=hint)
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _CERTIFICATE_TIMES:
        return DestinationError(what, why=f"Google's certificate: {error.verify_message}", hint=CLOCK_HINT)
    return DestinationError(
        what, why=f"Google Drive cannot be reached ({_kind(error)})", hint="Check the network and run the command again"
    )


def explain_token_refusal(answer: Mapping[str, Any], otherwise: str) -> tuple[str, str]:
    """The reason in an answer of Google's token endpoint (RFC 6749, 5.2), and the hint: by default `otherwise`."""
    parts = [str(answer[key])[:200].rstrip(".") for key in ("error", "error_description") if answer.get(key)]
    reason = ": ".join(parts) or "refused"
    return reason, next((hint for part, hint in _TOKEN_HINTS.items() if part in reason), otherwise)


def _token_answer(error: GoogleAuthError) -> Mapping[str, Any]:
    """The answer of the token endpoint, which google-auth keeps; else what it says itself."""
    kept = error.args[1] if len(error.args) > 1 else None
    return kept if isinstance(kept, dict) else {"error": error.args[0] if error.args else ""}


def _kind(error: Exception) -> str:
    if isinstance(error, RefreshError):
        return explain_token_refusal(_token_answer(error), "")[0]
    return getattr(error, "strerror", None) or type(error).__name__
