"""A connection of a load that is opened again after it is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg

from lse_archive.cancellation import cancellable_sleep
from lse_archive.errors import DatabaseAccessError, DatabaseError
from lse_resources.postgres.database import Database, is_lost, is_transient

_Result = TypeVar("_Result")

# Together longer than the restart of a server.
_RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class RetryingConnection:
    """One connection, opened on first use and again after it is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def repeat(self, work: Callable[[psycopg.Connection], _Result]) -> _Result:
        """Calls `work` with the connection, and repeats it while the server restarts.

        Raises:
            DatabaseError: The server stays unreachable, or refuses the login.
            psycopg.Error: Another error than one that passes.
        """
        for delay in _RETRY_DELAYS:
            try:
                return work(self._connected())
            except DatabaseAccessError:
                raise
            except DatabaseError:
                pass  # the server does not accept connections yet
            except psycopg.Error as error:
                if self._connection is not None and is_lost(error, self._connection):
                    self.close()
                elif not is_transient(error):
                    raise
            cancellable_sleep(delay)
        return work(self._connected())

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = self._database.connect()
        return self._connection
