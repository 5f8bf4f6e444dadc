"""`lse drive login`: with a browser, with another machine's browser, and without one; by Google's own client."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from lse_archive.errors import ArchiveError, DestinationError, SettingsError, UsageError
from lse_demo.faults import Fault, on
from lse_demo.google_drive.server import USER, DriveServer
from lse_resources.destinations.google_drive.client import DriveSettings, GoogleDrive, Retries
from lse_resources.destinations.google_drive.credentials import SCOPE
from lse_resources.destinations.google_drive.login import login


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DriveServer]:
    with DriveServer(tmp_path / "drive") as running:
        yield running
        assert running.violations == []


@pytest.fixture
def settings(server: DriveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DriveSettings:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")  # the token endpoint of the demo has no TLS
    for variable in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    server.accounts.write_client_secrets(tmp_path / "client.json", url=server.url)
    folder = server.store.add_folder("Archive", USER)
    return DriveSettings(folder, "oauth2", tmp_path / "client.json", tmp_path / "home" / "token.json", server.url)


def browse(url: str, *_: object, **__: object) -> None:
    """Opens Google's link as a browser does, and follows the redirect to the local port."""
    threading.Thread(target=httpx.get, args=(url,), kwargs={"follow_redirects": True}, daemon=True).start()


def address(url: str) -> str:
    """The address to which Google redirects the browser."""
    return httpx.get(url).headers["location"]


def assert_signed_in(settings: DriveSettings) -> None:
    assert stat.S_IMODE(settings.token_path.stat().st_mode) == 0o600
    with GoogleDrive(settings, retries=Retries(0.0)) as drive:
        assert drive.about().email == USER


def test_the_link_is_announced_though_no_browser_can_be_opened(
    settings: DriveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda *_, **__: pytest.fail("there is no screen"))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    seen: list[tuple[str, int]] = []

    def announce(url: str, port: int) -> None:
        seen.append((url, port))
        browse(url)

    login(settings, port=port, announce=announce)
    [(url, announced)] = seen
    assert announced == port
    assert parse_qs(urlsplit(url).query)["redirect_uri"] == [f"http://127.0.0.1:{port}/"]
    assert_signed_in(settings)


def test_a_browser_is_opened_where_there_is_a_screen(settings: DriveSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", browse)
    login(settings)
    assert_signed_in(settings)


def test_the_address_can_be_pasted(settings: DriveSettings) -> None:
    login(settings, paste=lambda url: f" {address(url)}\n")
    assert_signed_in(settings)


@pytest.mark.parametrize(
    ("pasted", "why"),
    [
        ("http://localhost:1/?error=access_denied", "access_denied"),
        ("http://localhost:1/?code=4/secret-code&state=another", "no code for this request"),
        ("http://[", "no code for this request"),
        ("", "no code for this request"),
    ],
)
def test_another_address_is_refused(settings: DriveSettings, pasted: str, why: str) -> None:
    with pytest.raises(DestinationError, match=rf"did not sign you in: .*{why}.*lse drive login") as refused:
        login(settings, paste=lambda _: pasted)
    assert "secret-code" not in str(refused.value)
    assert not settings.token_path.exists()


def test_requests_of_others_do_not_end_the_wait(settings: DriveSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lse_resources.destinations.google_drive.login._Redirect.timeout", 0.05)
    answers: list[int] = []

    def announce(url: str, port: int) -> None:
        def others() -> None:
            socket.create_connection(("127.0.0.1", port)).close()
            with socket.create_connection(("127.0.0.1", port)):  # a browser opens it in advance, and sends nothing
                for path in ("/favicon.ico", "/", "//[", "/?code=4/secret-code&state=another"):
                    with socket.create_connection(("127.0.0.1", port)) as other:
                        other.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                        answers.append(int(other.makefile("rb").readline().split()[1]))
                answers.append(httpx.get(url, follow_redirects=True).status_code)

        threading.Thread(target=others, daemon=True).start()

    login(settings, announce=announce)
    assert answers[:4] == [404] * 4
    assert_signed_in(settings)


def test_the_wait_ends_and_says_what_to_do(settings: DriveSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lse_resources.destinations.google_drive.login.MINUTES", 0.001)
    with pytest.raises(DestinationError, match=r"nobody allowed access within .*lse drive login --paste"):
        login(settings)


def test_a_port_that_is_taken(settings: DriveSettings) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match=r"port \d+ of this machine cannot be used: Address already in use.*--port"),
    ):
        login(settings, port=taken.getsockname()[1])


def web(content: dict[str, Any]) -> dict[str, Any]:
    return {"web": content["installed"]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (web, r"that of a web application.*'Desktop app'"),
        (lambda _: {"type": "service_account"}, "'Desktop app'"),
        (lambda content: {"installed": {"client_id": "x"}}, "cannot use .*client.json"),
    ],
)
def test_another_credentials_file_is_refused_at_once(
    settings: DriveSettings, change: Callable[[dict[str, Any]], dict[str, Any]], match: str
) -> None:
    assert settings.credentials_path is not None
    content = json.loads(settings.credentials_path.read_bytes())
    settings.credentials_path.write_text(json.dumps(change(content)))
    for sign_in in (lambda: login(settings, announce=browse), lambda: login(settings, paste=address)):
        with pytest.raises(SettingsError, match=match):
            sign_in()


@pytest.mark.parametrize("kind", ["service_account", "adc"])
def test_only_a_user_signs_in(settings: DriveSettings, kind: Any) -> None:
    with pytest.raises(SettingsError, match=f"GOOGLE_DRIVE_AUTH_TYPE is {kind}.*lse doctor"):
        login(replace(settings, auth_type=kind))


@pytest.mark.parametrize(
    ("status", "answer", "match"),
    [
        (400, {"error": "invalid_grant", "error_description": "Malformed auth code."}, "invalid_grant: Malformed auth"),
        (401, {"error": "invalid_client", "error_description": "Unauthorized"}, "invalid_client: Unauthorized.*again"),
        (403, {"error": "org_internal"}, "org_internal.*administrator"),
        (200, {"access_token": "ya29.secret", "scope": f"{SCOPE}.readonly"}, "Scope has changed"),
        (500, {}, "did not sign you in"),
    ],
)
def test_googles_reason_reaches_the_person(
    server: DriveServer, settings: DriveSettings, status: int, answer: dict[str, str], match: str
) -> None:
    server.faults.add(Fault("status", on("POST", "/token"), status=status, body=json.dumps(answer).encode()))
    with pytest.raises(ArchiveError, match=match) as refused:
        login(settings, paste=address)
    for secret in ("ya29", "4/demo", "demo-secret"):
        assert secret not in str(refused.value)


def test_the_command_prints_the_link_before_it_waits(settings: DriveSettings, tmp_path: Path) -> None:
    environment = os.environ | {
        "GOOGLE_DRIVE_FOLDER_URL": settings.folder_url,
        "GOOGLE_DRIVE_CREDENTIALS_PATH": str(settings.credentials_path),
        "GOOGLE_DRIVE_API_ROOT": str(settings.api_root),
        "LSE_HOME": str(tmp_path / "home"),
    }
    command = [Path(sys.executable).with_name("lse"), "drive", "login"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert "ssh -L" in lines[-1]
        assert "--paste" in lines[-1]
        browse(lines[2].strip())
        assert f"signed in as {USER}" in process.stdout.read()
    assert process.returncode == 0
