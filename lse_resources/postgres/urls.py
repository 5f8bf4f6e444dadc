"""Which Postgres is used: the one of `LSE_DATABASE_URL`, or the embedded server; and Dagster's database beside ours."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
from psycopg import sql

from lse_archive.errors import DatabaseError
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.postgres.database import Database, explain
from lse_resources.settings import Settings

_DAGSTER_SUFFIX = "_dagster"


def embedded_server(settings: Settings) -> EmbeddedServer:
    """The embedded server of a home; it is not started by this."""
    return EmbeddedServer(settings.home / "postgres")


def application_url(settings: Settings) -> str:
    """The libpq URL of the application's database; starts the embedded server if that is the one.

    Raises:
        DatabaseError: The embedded server cannot be started.
    """
    if settings.lse_database_url:
        return settings.lse_database_url.get_secret_value()
    return embedded_server(settings).start().url("lse")


def dagster_url(settings: Settings) -> str:
    """The SQLAlchemy URL of Dagster's own database, which has a table `runs` too.

    dagster-postgres needs psycopg2 by name: SQLAlchemy 2.1 would take psycopg 3 for `postgresql://`.

    Raises:
        DatabaseError: It does not exist and cannot be made.
    """
    if settings.lse_dagster_database_url:
        url = settings.lse_dagster_database_url.get_secret_value()
    elif settings.lse_database_url:
        url = _beside(settings.lse_database_url.get_secret_value())
    else:
        url = embedded_server(settings).start().url("dagster")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise DatabaseError(
            "Dagster's database cannot be named",
            why="the database is not given as a URL (postgresql://…)",
            hint="Set LSE_DAGSTER_DATABASE_URL to one",
        )
    return f"postgresql+psycopg2://{rest}"


def _beside(url: str) -> str:
    """The URL of the database `<name>_dagster` on the same server; it is made if it is missing."""
    with Database(url).connect() as connection:
        name = f"{connection.info.dbname}{_DAGSTER_SUFFIX}"
        connection.autocommit = True
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            except psycopg.errors.DuplicateDatabase:
                pass  # made by another process in this moment
            except psycopg.Error as error:
                explained = explain(error, f"cannot make Dagster's database {name}")
                raise DatabaseError(
                    explained.what,
                    why=explained.why,
                    hint=f"Make the database {name} by hand, or set LSE_DAGSTER_DATABASE_URL",
                ) from error
    # Not urlunsplit: it drops the slashes of a URL without a host.
    address, question, options = url.partition("?")
    scheme, _, place = address.partition("://")
    return f"{scheme}://{place.partition('/')[0]}/{quote(name, safe='')}{question}{options}"
