"""`lse drive login`: a user allows access in a browser, and the token is saved.

Google sends a desktop application's code to an address of the browser's own machine only; typing a code
("out of band") is no longer possible: https://developers.google.com/identity/protocols/oauth2/native-app
"""

import os
import socketserver
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from google.auth.exceptions import GoogleAuthError
from google_auth_oauthlib.flow import InstalledAppFlow
from oauthlib.oauth2 import OAuth2Error

from lse_archive.errors import CLOCK_HINT, DestinationError, SettingsError, UsageError
from lse_archive.files import file_lock, publish_file
from lse_resources.destinations.google_drive.credentials import SCOPE, read_client
from lse_resources.destinations.google_drive.retry import explain_token_refusal
from lse_resources.destinations.google_drive.settings import DriveSettings

MINUTES = 10
"""How long a sign-in waits for the browser."""

_AGAIN = "Run: lse drive login"
_LOOPBACK = "127.0.0.1"
_SILENT_SECONDS = 5.0  # browsers open connections that they may never use


def login(
    settings: DriveSettings,
    *,
    port: int = 0,
    announce: Callable[[str, int], None] = lambda _url, _port: None,
    paste: Callable[[str], str] | None = None,
) -> None:
    """Signs a user in and saves the token at `settings.token_path`.

    Args:
        settings: With the client-secrets JSON of a desktop application as `credentials_path`.
        port: The local port to which the browser is redirected; 0: any free one.
        announce: Called with Google's link and the port, before the wait of `MINUTES` minutes begins.
        paste: For hosts without a browser: called with Google's link; returns the address of the page to which the
            browser was redirected. The page fails to load, but its address has the code.

    Raises:
        SettingsError: The file is not a client-secrets JSON, or the settings need no sign-in.
        UsageError: The port cannot be used.
        DestinationError: Access was denied, the code was not accepted, or nobody opened the link in time.
    """
    if settings.auth_type != "oauth2" or settings.credentials_path is None:
        raise SettingsError(
            "there is nothing to sign in to",
            why=f"GOOGLE_DRIVE_AUTH_TYPE is {settings.auth_type}",
            hint="Check the access: lse doctor",
        )
    flow = read_client(settings.credentials_path, lambda content: InstalledAppFlow.from_client_config(content, [SCOPE]))
    code = _redirected_code(flow, port, announce) if paste is None else _pasted_code(flow, paste)
    try:
        flow.fetch_token(code=code)
    except OAuth2Error as error:
        raise _refused(
            *explain_token_refusal({"error": error.error, "error_description": error.description}, _AGAIN)
        ) from None
    except (GoogleAuthError, OSError, Warning) as error:  # oauthlib raises a Warning if other rights were granted
        hint = CLOCK_HINT if "certificate" in str(error) else _AGAIN
        raise _refused(f"{type(error).__name__}: {str(error)[:300]}", hint) from None
    with file_lock(settings.token_path), publish_file(settings.token_path, mode=0o600) as file:
        file.write(flow.credentials.to_json().encode())


def _redirected_code(flow: InstalledAppFlow, port: int, announce: Callable[[str, int], None]) -> str:
    with _listen(port) as listener:
        url, state = _link(flow, listener.server_address[1])
        announce(url, listener.server_address[1])
        _open_browser(url)
        return _code(listener.wait(state), state)


def _pasted_code(flow: InstalledAppFlow, paste: Callable[[str], str]) -> str:
    url, state = _link(flow, 1)  # nothing listens there; the browser still shows the address
    return _code(_parse(paste(url).strip()), state)


def _link(flow: InstalledAppFlow, port: int) -> tuple[str, str]:
    """Google's link with a redirect to this port, and the state that identifies the answer."""
    flow.redirect_uri = f"http://{_LOOPBACK}:{port}/"
    return flow.authorization_url(access_type="offline", prompt="consent")


def _code(answer: dict[str, list[str]], state: str) -> str:
    if "code" not in answer or answer.get("state") != [state]:
        raise _refused(answer.get("error", ["the address has no code for this request"])[0], _AGAIN)
    return answer["code"][0]


def _refused(why: str, hint: str) -> DestinationError:
    return DestinationError("Google did not sign you in", why=why, hint=hint)


def _parse(address: str) -> dict[str, list[str]]:
    """The parameters of an address; empty if the text is none."""
    try:
        return parse_qs(urlsplit(address).query)
    except ValueError:
        return {}


def _open_browser(url: str) -> None:
    """Opens the link, if there is a screen: a browser of the terminal would take it, and not return."""
    if sys.platform == "darwin" or not {"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"}.isdisjoint(os.environ):
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


class _Listener(socketserver.TCPServer):
    """The local address to which Google redirects the browser."""

    allow_reuse_address = True
    state = ""
    answer: dict[str, list[str]] | None = None

    def wait(self, state: str) -> dict[str, list[str]]:
        """The parameters of the redirect to this sign-in; other requests do not count. Raises DestinationError."""
        self.state = state
        end = time.monotonic() + MINUTES * 60
        while self.answer is None:
            self.timeout = end - time.monotonic()
            if self.timeout <= 0:
                hint = f"{_AGAIN}. If the link cannot reach this machine: lse drive login --paste"
                raise _refused(f"nobody allowed access within {MINUTES} minutes", hint)
            self.handle_request()
        return self.answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a broken connection."""


class _Redirect(BaseHTTPRequestHandler):
    server: _Listener  # ty: ignore[incompatible-mutable-override]
    timeout = _SILENT_SECONDS

    def do_GET(self) -> None:
        answer = _parse(self.path)
        ours = answer.get("state") == [self.server.state]
        if ours:
            self.server.answer = answer
        text = "You can close this page, and return to the terminal." if ours else "This page belongs to no sign-in."
        self.send_response(200 if ours else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing: the address holds the code."""


def _listen(port: int) -> _Listener:
    try:
        return _Listener((_LOOPBACK, port), _Redirect)
    except OSError as error:
        raise UsageError(
            f"port {port} of this machine cannot be used", why=error.strerror or str(error), hint="Name another: --port"
        ) from None
