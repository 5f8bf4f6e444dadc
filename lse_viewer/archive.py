"""What the pages read: the settings, the database, and the values of a request's address."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import date

import psycopg
from starlette.requests import Request

from lse_archive.days import parse_day
from lse_archive.errors import ArchiveError, UsageError
from lse_operations.restore.kept_copy import KeptCopy
from lse_resources.open_destination import open_destination
from lse_resources.postgres.database import Database
from lse_resources.postgres.pages.session import reading
from lse_resources.postgres.pages.traces import TraceCache
from lse_resources.postgres.pages.trends import DayCache
from lse_resources.postgres.urls import running_url
from lse_resources.settings import Settings

_SESSIONS = 4
"""Connections of all pages together: they must not take those that loads need."""
_DOWNLOADS = 2
"""Downloads at once, beside the pages."""
_PATIENCE = 10.0
"""Seconds for which a failing request to the destination is retried: somebody waits for the page."""


class NotFoundError(ArchiveError):
    """What the address names is not in the archive."""


class Archive:
    """The archive of these settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.day_cache = DayCache()
        self.traces = TraceCache()
        hasty = settings.model_copy(update={"lse_patience": min(_PATIENCE, settings.lse_patience)})
        self.copy = KeptCopy(lambda: open_destination(hasty))
        self._sessions = threading.BoundedSemaphore(_SESSIONS)
        self._downloads = threading.BoundedSemaphore(_DOWNLOADS)

    @property
    def database(self) -> Database:
        """The database.

        Raises:
            DatabaseError: The embedded server is not running.
        """
        return Database(running_url(self.settings))

    @contextmanager
    def reading(self) -> Generator[psycopg.Connection]:
        """A read-only transaction, see `reading`; waits while as many pages as may read do so."""
        with self._sessions, reading(self.database) as connection:
            yield connection

    def limited(self, parts: Generator[bytes]) -> Generator[bytes]:
        """The parts of a download, of which only so many are open at once; the others wait."""
        with self._downloads:
            yield from parts


def archive_of(request: Request) -> Archive:
    """The archive that a request reads."""
    return request.app.state.archive


def text_of(request: Request, name: str) -> str:
    """A value of the request's address; empty if it has none.

    Raises:
        UsageError: It contains a NUL character, which Postgres cannot compare.
    """
    value = request.query_params.get(name, "")
    if "\0" in value:
        raise UsageError(f"{name} cannot be compared", why="it contains a NUL character")
    return value


def project_of(request: Request) -> str:
    """The project that the address names.

    Raises:
        UsageError: It names none.
    """
    if not (project := text_of(request, "project")):
        raise UsageError("the address names no project", hint="Choose one on the first page")
    return project


def day_of_address(request: Request, name: str, default: date) -> date:
    """A day of the address, such as 2026-01-31.

    Raises:
        UsageError: It is no day.
    """
    value = text_of(request, name)
    return parse_day(value) if value else default
