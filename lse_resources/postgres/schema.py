"""Migrates the database schema with Alembic, in one transaction, in one process at a time."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import errors

from lse_archive.errors import DatabaseError
from lse_resources.postgres.advisory_locks import lock_key
from lse_resources.postgres.database import Database, explained, require_utf8

SCHEMA_VERSION = "0003"
"""The schema revision that this code needs: the newest in `migrations/versions`."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_OLDEST_SERVER = 150000


class UnpreparedError(DatabaseError):
    """The schema is missing or too old: call `migrate`."""


def migrate(database: Database) -> None:
    """Migrates the schema to SCHEMA_VERSION.

    Raises:
        DatabaseError: Not reachable, no right to create tables, PostgreSQL before 15, no tables yet and an
            encoding other than UTF-8, or a newer schema.
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
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            with explained(doing):
                raise error.orig from None
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


def _newer(found: str) -> DatabaseError:
    return DatabaseError(
        "the database is too new",
        why=f"its schema is {found}, this version supports {SCHEMA_VERSION}",
        hint="Update lse on this machine",
    )
