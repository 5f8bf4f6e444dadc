"""`lse drive login`: a user allows access in the browser, and the token is saved."""

import webbrowser
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from google.auth.exceptions import GoogleAuthError
from google.auth.external_account_authorized_user import Credentials as ExternalCredentials
from google.oauth2.credentials import Credentials
from google_auth_oauthlib.flow import InstalledAppFlow
from oauthlib.oauth2 import OAuth2Error

from lse_archive.errors import DestinationError, SettingsError
from lse_archive.files import file_lock, publish_file
from lse_resources.destinations.google_drive.credentials import SCOPE
from lse_resources.destinations.google_drive.settings import DriveSettings


def login(settings: DriveSettings, *, paste: Callable[[str], str] | None = None) -> None:
    """Signs a user in and saves the token at `settings.token_path`.

    Args:
        settings: With the client-secrets JSON of a desktop application as `credentials_path`.
        paste: For hosts without a browser: called with Google's link; returns the address of the page to which the
            browser was redirected. The page fails to load, but its address has the code. None: opens a browser on this
            host, which is redirected to a local port.

    Raises:
        SettingsError: The file is not a client-secrets JSON.
        DestinationError: Access was denied or the code was not accepted.
    """
    try:
        flow = InstalledAppFlow.from_client_secrets_file(str(settings.credentials_path), scopes=[SCOPE])
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{settings.credentials_path} is not the credentials file of a desktop application",
            why=type(error).__name__,
            hint="In Google's console, create an OAuth client of type 'Desktop app' and download its JSON",
        ) from None
    try:
        if paste is None:
            credentials = flow.run_local_server(port=0, authorization_prompt_message=None, prompt="consent")
        else:
            credentials = _pasted(flow, paste)
    except webbrowser.Error:
        raise DestinationError("no browser can be opened on this host", hint="Run: lse drive login --paste") from None
    except (OAuth2Error, GoogleAuthError, OSError) as error:
        raise DestinationError(
            "Google did not sign you in", why=type(error).__name__, hint="Run: lse drive login"
        ) from None
    with file_lock(settings.token_path), publish_file(settings.token_path, mode=0o600) as file:
        file.write(credentials.to_json().encode())


def _pasted(flow: InstalledAppFlow, paste: Callable[[str], str]) -> Credentials | ExternalCredentials:
    flow.redirect_uri = "http://localhost:1/"  # no server listens there; the browser still shows the address
    url, state = flow.authorization_url(access_type="offline", prompt="consent")
    try:
        answer = parse_qs(urlsplit(paste(url).strip()).query)
    except ValueError:  # the text is no address
        answer = {}
    if "code" not in answer or answer.get("state") != [state]:
        reason = answer.get("error", ["the address has no code for this request"])[0]
        raise DestinationError("Google did not sign you in", why=reason, hint="Run: lse drive login")
    flow.fetch_token(code=answer["code"][0])
    return flow.credentials
