"""The places that a forget erases from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from datetime import date

from lse_archive.layout import Layout
from lse_operations.checks import OpenDestination
from lse_operations.restore.copies import RemoteArchive, copies
from lse_resources.destinations.protocol import Destination
from lse_resources.lake.place import LakePlace
from lse_resources.postgres.database import Database

FindEvents = Callable[[Collection[str]], Mapping[str, int]]
"""Called with ids of runs and records: how many entries name one, by place of Dagster's storage, logs and alerts."""
EraseEvents = Callable[[str, Collection[str]], tuple[Mapping[str, int], list[str]]]
"""Called with the id of an erasure and such ids: the numbers of what was erased, and what is left."""


@dataclass(frozen=True, slots=True)
class Places:
    """What an installation has.

    Attributes:
        open_destination: Raises SettingsError if no destination is set up.
        has_destination: Whether one is set up.
        database: None if there has never been one.
        lake: None if none is set up.
        find_events, erase_events: Search and erase ids in Dagster's storage and the logs under the home.
    """

    layout: Layout
    open_destination: OpenDestination
    has_destination: bool
    database: Database | None
    lake: LakePlace | None = None
    find_events: FindEvents = lambda _: {}
    erase_events: EraseEvents = lambda _id, _runs: ({}, [])

    @contextlib.contextmanager
    def destination(self) -> Generator[Destination | None]:
        """Opens the destination; None if none is set up."""
        if not self.has_destination:
            yield None
        else:
            with self.open_destination() as destination:
                yield destination


def remote_days(places: Places, destination: Destination | None, project: str) -> dict[date, RemoteArchive]:
    """The project's days at the destination. Raises DestinationError."""
    if destination is None:
        return {}
    return {copy.day: copy for copy in copies(destination, project, layout=places.layout)}
