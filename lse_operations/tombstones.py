"""Brings the tombstones that the database has to the files: a new disk has none."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date

from lse_archive.errors import ArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.tombstones import add_tombstones
from lse_archive.layout import Layout
from lse_resources.postgres.database import Database
from lse_resources.postgres.erasures_table import tombstones_by_day


def recall_tombstones(
    open_database: Callable[[], Database | None],
    layout: Layout,
    project: str,
    days: Collection[date],
    *,
    warn: Callable[[str], object],
) -> None:
    """Adds the tombstones of the table `tombstones` beside these days, so that no step brings their runs back.

    Args:
        open_database: Returns None if there has never been one.
        warn: Called if the database cannot be read: then only the tombstones of the files are honored.

    Raises:
        CorruptArchiveError: The tombstones beside a day cannot be read.
        ArchiveError: They cannot be written.
    """
    try:
        database = open_database()
        found = tombstones_by_day(database, project, days) if database is not None else {}
    except ArchiveError as error:
        warn(f"{project}: erased runs may come back; when the database is there: lse forget --replay. {error}")
        return
    with disk_errors(f"the tombstones of {project} cannot be written under {layout.data_dir}"):
        for day, tombstones in found.items():
            add_tombstones(layout.day(project, day), tombstones)
