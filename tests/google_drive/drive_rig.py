"""What the fault tests share: the content, the requests to strike, and the proof at the end."""

import random
from pathlib import Path
from typing import Any

from lse_demo.drive_server import DriveServer
from lse_demo.faults import on
from lse_resources.google_drive import DriveFile, GoogleDrive
from lse_resources.stored_files import StoredFile

UNIT = 256 * 1024
CONTENT = random.Random(7).randbytes(9 * UNIT + 12_345)
UPLOAD = on("PUT", "/upload/")


def media(request: Any) -> bool:
    """Downloads."""
    return request.query.get("alt") == "media"


class Waits:
    """Instead of sleeping: what would have been slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def proven(server: DriveServer, content: bytes = CONTENT) -> DriveFile:
    """There is exactly one file of the name, and it holds `content`."""
    [doc] = server.store.named("day.zip")
    assert server.store.content(doc).read_bytes() == content
    return DriveFile.of(doc)


def back(drive: GoogleDrive, file: StoredFile, target: Path) -> bool:
    drive.download(file, target)
    return target.read_bytes() == CONTENT and not list(target.parent.glob("*.part"))
