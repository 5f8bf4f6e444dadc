"""Opens the configured destination: Google Drive, or the object store of `LSE_ARCHIVE_URL`; encrypted or not."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from lse_archive.cancellation import cancellable_sleep
from lse_resources.destinations.encryption import EncryptedDestination, Keys, read_keys
from lse_resources.destinations.protocol import Destination
from lse_resources.settings import Settings


@contextlib.contextmanager
def open_destination(settings: Settings) -> Generator[Destination]:
    """Opens the destination for the block.

    Raises:
        SettingsError: None is configured, or one of its settings is malformed.
        DestinationError: Its credentials cannot be used.
    """
    destination: Destination
    if settings.lse_archive_url:
        # obstore is slow to import, and needed only here.
        from lse_resources.destinations.object_store import ObjectStore

        destination = ObjectStore(settings.lse_archive_url, settings.object_store, sleep=cancellable_sleep)
    else:
        from lse_resources.destinations.google_drive.client import GoogleDrive

        destination = GoogleDrive(settings.drive)
    with contextlib.closing(destination):
        yield EncryptedDestination(destination, encryption_keys(settings), settings.layout.archive_dir)


def encryption_keys(settings: Settings) -> Keys | None:
    """Reads the keys that encrypt and decrypt zips; None: zips are uploaded unencrypted.

    Raises:
        SettingsError: A setting is malformed, or a key cannot be read.
    """
    passphrase = settings.lse_age_passphrase.get_secret_value() if settings.lse_age_passphrase else None
    return read_keys(settings.lse_age_recipient, settings.lse_age_identity_file, passphrase)
