"""Erases run ids, and the texts that name them, from Dagster's storage and from the logs of the platform."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lse_platform.home import Home


@dataclass(frozen=True, slots=True)
class EventsNaming:
    """Numbers of rows of Dagster's database, by table, and of lines in log files, by path, that name given runs.

    `rewrite` are the tables of Dagster's database to rewrite (`lse_resources.postgres.erase.rewrite`).
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    rewrite: tuple[str, ...] = ()


def find_events(home: Home, run_ids: Collection[str]) -> EventsNaming:
    """Searches all tables of Dagster's database, and the log files under the home, for run ids.

    Raises:
        DatabaseError: Dagster's database cannot be reached or refuses.
        ArchiveError: A log file cannot be read.
    """
    raise NotImplementedError


def erase_events(home: Home, run_ids: Collection[str]) -> EventsNaming:
    """Removes what `find_events` finds: entries of tables that name such a run, and the lines of texts that do.

    Everything else, in the same event too, stays as it is. Can be repeated. `rewrite` the tables afterwards.

    Raises:
        DatabaseError: Dagster's database cannot be reached or refuses.
        ArchiveError: A log file cannot be changed.
    """
    raise NotImplementedError
