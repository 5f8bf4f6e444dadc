"""The places of this installation from which a forget erases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from lse_archive.errors import UNDECODABLE
from lse_archive.files import disk_errors, file_lock, publish_file
from lse_archive.runs.header import CANONICAL_UUID
from lse_operations.forget.places import Places
from lse_platform.erase_events import EventsNaming, erase_events, events_database, find_events
from lse_platform.home import Home, find_home
from lse_resources.lake.open_lake import open_lake_place
from lse_resources.open_destination import open_destination
from lse_resources.postgres.erase import rewrite
from lse_resources.settings import Settings


def open_places(settings: Settings) -> Places:
    """Opens the database; an installation that has never had one has no rows to erase.

    Raises:
        DatabaseError: Postgres cannot be reached.
    """
    home = find_home(settings)

    def find(run_ids: Collection[str]) -> Mapping[str, int]:
        return {**(_entries(find_events(home, run_ids)) if home else {}), **_alerts(settings, run_ids)}

    def erase(erasure_id: str, run_ids: Collection[str]) -> tuple[Mapping[str, int], list[str]]:
        alerts = _alerts(settings, run_ids, erase=True)
        erased, left = _erase(home, erasure_id, run_ids) if home else ({}, [])
        return {**erased, **alerts}, left

    return Places(
        layout=settings.layout,
        open_destination=lambda: open_destination(settings),
        has_destination=settings.has_destination,
        database=home.database if home else None,
        lake=open_lake_place(settings) if settings.lake_url else None,
        find_events=find,
        erase_events=erase,
    )


def _entries(found: EventsNaming) -> dict[str, int]:
    return {**found.rows, **found.lines}


def _erase(home: Home, erasure_id: str, ids: Collection[str]) -> tuple[dict[str, int], list[str]]:
    erased = erase_events(home, erasure_id, ids)
    return _entries(erased), rewrite(home.database, erasure_id, events=events_database(home))


def _alerts(settings: Settings, ids: Collection[str], *, erase: bool = False) -> dict[str, int]:
    """The lines of alerts that wait for delivery and name one of the ids, by file; erases them from the alerts."""
    found: dict[str, int] = {}
    directory, wanted = settings.home / "alerts", frozenset(ids)
    for path in sorted(directory.glob("*.json*")) if directory.is_dir() else ():
        with disk_errors(f"cannot change {path}"), file_lock(directory), suppress(FileNotFoundError, *UNDECODABLE):
            message = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            lines = message["alert"].get("lines", [])
            kept = [line for line in lines if wanted.isdisjoint(CANONICAL_UUID.findall(line))]
            if len(kept) < len(lines):
                found[str(path)] = len(lines) - len(kept)
                if erase:
                    message["alert"]["lines"] = kept
                    with publish_file(path) as file:
                        file.write(msgspec.json.encode(message))
    return found
