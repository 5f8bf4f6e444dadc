"""An archive with a destination: days that are zipped and uploaded, lost, and brought back."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from day_fixtures import DAY, fill, run

from lse_archive.days import day_window
from lse_archive.layout import DayPaths, Layout
from lse_archive.results import RestoreResult
from lse_archive.zips import zip_day
from lse_demo.drive_server import USER, DriveServer
from lse_demo.faults import Faults
from lse_resources.destination import Destination
from lse_resources.drive_archive import upload_day
from lse_resources.drive_settings import DriveSettings
from lse_resources.google_drive import GoogleDrive, Retries
from lse_resources.restoring import RestoreOptions, copies, restore_day

PROJECT = "shop / EMEA"


@dataclass
class Archive:
    """The archive of a test; days hold a few small runs."""

    directory: Path
    destination: Destination
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.directory / "data", self.directory / "archives")

    def paths(self, day: date = DAY, project: str = PROJECT) -> DayPaths:
        return self.layout.day(project, day)

    def write(self, day: date = DAY, project: str = PROJECT, runs: int = 5, **fields: Any) -> DayPaths:
        """Writes run files of a day; no two days share an id."""
        paths, start = self.paths(day, project), day_window(day).start
        first = 0 if (day, project) == (DAY, PROJECT) else zlib.crc32(f"{project} {day}".encode()) * 1000
        fill(paths.folder, *(run(first + number, start + number, **fields) for number in range(1, runs + 1)))
        return paths

    def add(self, day: date = DAY, project: str = PROJECT, runs: int = 5, **fields: Any) -> DayPaths:
        """Writes, zips and uploads a day."""
        paths = self.write(day, project, runs, **fields)
        zip_day(paths)
        upload_day(self.destination, paths)
        return paths

    def lose(self) -> None:
        """The disk dies."""
        shutil.rmtree(self.layout.data_dir)
        shutil.rmtree(self.layout.archive_dir)

    def restore(self, day: date = DAY, project: str = PROJECT, **options: Any) -> RestoreResult:
        [copy] = copies(self.destination, project, day, day)
        return restore_day(self.destination, self.paths(day, project), copy, RestoreOptions(**options))


def snapshot(directory: Path) -> dict[str, bytes]:
    """The bytes of every file that readers see: not what lies in work folders, or is hidden beside a zip."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    }


def left_over(archive: Archive) -> list[str]:
    """What work left behind that nobody needs: everything hidden but locks, states and young temporary files."""
    return sorted(
        str(path.relative_to(archive.directory))
        for path in (*archive.layout.data_dir.rglob(".lse/*"), *archive.layout.archive_dir.glob(".*"))
        if path.suffix not in (".lock", ".pruned", ".tmp") and not path.name.endswith(".state.json")
    )


@pytest.fixture
def drive_server(tmp_path: Path) -> Iterator[DriveServer]:
    """A local Drive that can misbehave."""
    with DriveServer(tmp_path / "drive", faults=Faults(seed=3)) as running:
        yield running
        assert running.violations == []


@pytest.fixture
def drive_settings(drive_server: DriveServer, tmp_path: Path) -> DriveSettings:
    drive_server.accounts.write_authorized_user(tmp_path / "user.json", USER, url=drive_server.url)
    folder = drive_server.store.add_folder("Archive", USER)
    return DriveSettings(folder, "oauth2", tmp_path / "user.json", tmp_path / "token.json", drive_server.url)


@pytest.fixture
def drive_archive(drive_settings: DriveSettings, tmp_path: Path) -> Iterator[Archive]:
    """An archive on a local Drive, whose client does not sleep."""
    with GoogleDrive(drive_settings, retries=Retries(sleep=lambda _: None, jitter=lambda: 0.5)) as drive:
        yield Archive(tmp_path, drive)
