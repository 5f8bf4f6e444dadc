"""Opens the lake of the settings."""

from __future__ import annotations

from lse_archive.errors import SettingsError
from lse_resources.lake.place import SETTING, LakePlace, open_place
from lse_resources.settings import Settings


def open_lake_place(settings: Settings) -> LakePlace:
    """Opens the place of `LSE_LAKE_URL`.

    Raises:
        SettingsError: It is not set, or malformed.
    """
    if not settings.lake_url:
        raise SettingsError(
            "there is no lake", why=f"{SETTING} is not set", hint="Set it to a directory or s3://bucket/folder"
        )
    return open_place(settings.lake_url, settings.object_store)
