"""Migrates the database schema with Alembic, in one transaction, in one process at a time."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import errors

from lse_archive.errors import DatabaseAccessError, DatabaseError
from lse_resources.postgres.advisory_locks import lock_key
from lse_resources.postgres.database import NEW_DATABASE, Database, explain, require_utf8

SCHEMA_VERSION = "0008"
"""The schema revision that this code needs: the newest in `migrations/versions`."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_OLDEST_SERVER = 150000
_OWNER_HINT = (
    "Only the owner of the tables and functions may migrate them, and only a role with CREATE on the schema may make"
    " new ones: run lse db migrate with that role in LSE_DATABASE_URL"
)


class UnpreparedError(DatabaseError):
    """The schema is missing or too old: call `migrate`."""


def migrate(database: Database) -> None:
    """Migrates the schema to SCHEMA_VERSION.

    Raises:
        DatabaseError: Not reachable, no right to change the schema, PostgreSQL before 15, no tables yet and an
            encoding other than UTF-8 or a Turkish locale, or a newer schema.
    """
    # Alembic and SQLAlchemy are slow to import, and only this function needs them.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    doing = "cannot prepare the database"
    with database.session(doing) as connection:
        if connection.info.server_version < _OLDEST_SERVER:
            version = connection.info.parameter_status("server_version")
            raise DatabaseError(doing, why=f"it runs PostgreSQL {version}", hint="Version 15 or newer is needed")
        found = _version(connection)
        if found is None:
            require_utf8(connection, doing)
            _require_latin_case(connection, doing)
        if found is not None and found > SCHEMA_VERSION:
            raise _newer(found)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    # libpq parses the URL: SQLAlchemy does not support all of its syntax.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: database.connect(autocommit=False), poolclass=NullPool
    )
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (lock_key("migrations"),))
            config.attributes["connection"] = connection
            command.upgrade(config, SCHEMA_VERSION)
    except (DBAPIError, psycopg.Error) as error:  # migrations use psycopg's connection directly
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, errors.InsufficientPrivilege):
            raise DatabaseAccessError(doing, why=explain(cause, doing).why, hint=_OWNER_HINT) from None
        if isinstance(cause, psycopg.Error):
            raise explain(cause, doing) from None
        raise


def check_schema(database: Database) -> None:
    """Checks that the schema is the one that this code needs.

    Raises:
        UnpreparedError: The schema is missing or older.
        DatabaseError: Not reachable, or the schema is newer.
    """
    with database.session("cannot read the database") as connection:
        found = _version(connection)
    if found is None or found < SCHEMA_VERSION:
        why = "it has no tables yet" if found is None else f"its schema is {found}, this version needs {SCHEMA_VERSION}"
        raise UnpreparedError("the database is not prepared", why=why, hint="Prepare it: lse up, or lse db migrate")
    if found > SCHEMA_VERSION:
        raise _newer(found)


def _version(connection: psycopg.Connection) -> str | None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except errors.UndefinedTable:
        return None
    return row[0] if row else None


def _require_latin_case(connection: psycopg.Connection, doing: str) -> None:
    """Refuses a Turkish or Azeri locale: lower('CHAIN') would not be 'chain' in the typed columns."""
    if connection.execute("SELECT lower('I')").fetchone() != ("i",):
        raise DatabaseAccessError(
            doing,
            why=f"in the locale of the database {connection.info.dbname}, the small letter of I is not i",
            hint=f"Create one with: {NEW_DATABASE}, and name it in LSE_DATABASE_URL",
        )


def _newer(found: str) -> DatabaseError:
    return DatabaseError(
        "the database is too new",
        why=f"its schema is {found}, this version supports {SCHEMA_VERSION}",
        hint="Update lse on this machine",
    )
