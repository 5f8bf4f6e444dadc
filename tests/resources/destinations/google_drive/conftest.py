"""A local Drive with faults, and a client that does not sleep."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drive_rig import CONTENT, FakeSleep

from lse_demo.faults import Faults
from lse_demo.google_drive.server import USER, DriveServer
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.client import DriveSettings, GoogleDrive


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DriveServer]:
    with DriveServer(tmp_path / "drive", faults=Faults(seed=3)) as running:
        yield running
        assert running.violations == []


@pytest.fixture
def settings(server: DriveServer, tmp_path: Path) -> DriveSettings:
    server.accounts.write_authorized_user(tmp_path / "user.json", USER, url=server.url)
    folder = server.store.add_folder("Archive", USER)
    return DriveSettings(folder, "oauth2", tmp_path / "user.json", tmp_path / "token.json", server.url)


@pytest.fixture
def fake_sleep() -> FakeSleep:
    return FakeSleep()


@pytest.fixture
def drive(settings: DriveSettings, fake_sleep: FakeSleep) -> Iterator[GoogleDrive]:
    with GoogleDrive(settings, retries=fake_sleep.retries()) as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "day.zip").write_bytes(CONTENT)
    return tmp_path / "day.zip"


@pytest.fixture
def send(drive: GoogleDrive, settings: DriveSettings, path: Path) -> Callable[..., StoredFile]:
    def upload(**changes: Any) -> StoredFile:
        keep: dict[str, Any] = {"session_file": path.with_name("day.zip.upload"), **changes}
        return drive.upload(path, "day.zip", settings.folder, {"day": "x"}, **keep)

    return upload
