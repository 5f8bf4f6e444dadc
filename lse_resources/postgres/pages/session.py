"""Sessions of the pages: they cannot write, see one snapshot, and end a statement that takes too long."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg.types.json import set_json_loads

from lse_archive.errors import DatabaseError
from lse_resources.postgres.analysis.json_values import load_exact_json
from lse_resources.postgres.database import Database

STATEMENT_SECONDS = 10
"""After this time, a statement of a page ends with a SlowStatementError."""

# Compiling a statement takes longer than most of them.
_SET_LIMITS = "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true)"


class SlowStatementError(DatabaseError):
    """A statement of a page took too long."""


@contextmanager
def reading(database: Database, seconds: float | None = None) -> Generator[psycopg.Connection]:
    """Opens a read-only transaction for the block; jsonb values are read with all their digits.

    Args:
        seconds: Limit of a statement; default: STATEMENT_SECONDS.

    Raises:
        SlowStatementError: A statement takes longer.
        DatabaseError: Postgres cannot be reached, or refuses.
    """
    seconds = seconds or STATEMENT_SECONDS
    try:
        with database.session("cannot read the archive") as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(_SET_LIMITS, (f"{seconds}s",))
            set_json_loads(load_exact_json, connection)
            yield connection
    except DatabaseError as error:
        if isinstance(error.__cause__, errors.QueryCanceled):
            raise SlowStatementError(
                "this takes too long",
                why=f"Postgres did not finish within {seconds:g} s",
                hint="Choose fewer days, or filter by project, day, status or root first; lse sql has no limit",
            ) from None
        raise
