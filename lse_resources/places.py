"""The places of a home: the directories and the file that its first start used, and every later start must use.

Their defaults depend on the working directory. Started in another one, a command would begin a second archive, or find
none.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

from lse_archive.errors import SettingsError, UsageError
from lse_archive.files import file_lock, publish_file
from lse_archive.layout import Layout

_SETTINGS = ("LSE_DATA_DIR", "LSE_ARCHIVE_DIR", "LSE_PROJECTS_FILE")
_RELOCATE = "lse relocate"


class Settings(Protocol):
    """What of the settings is compared; all paths are absolute."""

    @property
    def home(self) -> Path: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def projects_file(self) -> Path: ...


def record_places(settings: Settings) -> None:
    """Records the places in the home, if it has no record: for commands that write there.

    Raises:
        UsageError: Another process has just recorded others.
        SettingsError: The record is damaged.
        OSError: It cannot be written.
    """
    if not _record(settings).exists():
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(_record(settings)):
            if not _record(settings).exists():
                _write(settings)
    check_places(settings)


def check_places(settings: Settings) -> None:
    """Compares the places of the settings with the record of the home, if there is one.

    Raises:
        UsageError: They differ. Places that moved together with the home do not.
        SettingsError: The record is damaged.
    """
    recorded = _read(settings)
    if recorded is None:
        return
    now, home = _places(settings), settings.home
    differing = [
        f"{name} was {_shown(recorded[name])}, and would be {place}"
        for name, place in now.items()
        if os.path.realpath(place) != os.path.realpath(recorded[name])
        and os.path.relpath(place, home) != os.path.relpath(recorded[name], recorded["LSE_HOME"])
    ]
    if differing:
        raise UsageError(
            f"the archive of the home {home} is in another place",
            why="; ".join(differing),
            hint="Start the command in the directory of before, or set LSE_HOME to another home for another archive."
            f" If the files were moved: {_RELOCATE}",
        )


def relocate(settings: Settings) -> list[tuple[str, Path | None, Path]]:
    """Records the places of the settings as those of the home; moves no files.

    Returns:
        Name of the setting, the place of before if it is known, and the new one, of each that changed.

    Raises:
        UsageError: A place does not exist, and the one of before does: the files were not moved.
        OSError: The record cannot be written.
    """
    try:
        recorded = _read(settings) or {}
    except SettingsError:
        recorded = {}
    changed = [(name, recorded.get(name), place) for name, place in _places(settings).items()]
    changed = [(name, before, place) for name, before, place in changed if before != place]
    for name, before, place in changed:
        if before and before.exists() and not place.exists():
            raise UsageError(
                f"{name} cannot become {place}", why=f"it does not exist, and {before} does", hint="Move it first"
            )
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file_lock(_record(settings)):
        _write(settings)
    return changed


def _places(settings: Settings) -> dict[str, Path]:
    layout = settings.layout
    return dict(zip(_SETTINGS, (layout.data_dir, layout.archive_dir, settings.projects_file), strict=True))


def _record(settings: Settings) -> Path:
    return settings.home / "places.json"


def _read(settings: Settings) -> dict[str, Path] | None:
    try:
        recorded = json.loads(_record(settings).read_bytes())
        return {name: Path(recorded[name]) for name in ("LSE_HOME", *_SETTINGS)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{_record(settings)} is damaged", hint=f"Write it again: {_RELOCATE}") from None


def _write(settings: Settings) -> None:
    record = {"LSE_HOME": settings.home} | _places(settings)
    with publish_file(_record(settings)) as file:
        file.write(json.dumps({name: str(place) for name, place in record.items()}, indent=2).encode())


def _shown(place: Path) -> str:
    return f"{place}" if place.exists() else f"{place} (which does not exist)"
