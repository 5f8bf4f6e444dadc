"""Which destination is set up: Google Drive, or the object store of `LSE_ARCHIVE_URL`; encrypted or not."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from lse_resources.destination import Destination
from lse_resources.google_drive import GoogleDrive
from lse_resources.settings import Settings


@contextlib.contextmanager
def open_destination(settings: Settings) -> Generator[Destination]:
    """The place to which archives go, closed at the end.

    Raises:
        SettingsError: None is set up, or one of its settings is malformed.
        DriveError: Its credentials cannot be used.
    """
    with contextlib.closing(GoogleDrive(settings.drive)) as destination:
        yield destination
