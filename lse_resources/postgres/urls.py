"""URLs of the databases: LSE's own and Dagster's, on the server of `LSE_DATABASE_URL` or on the embedded one."""

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
    """Returns the embedded server of a home; does not start it."""
    return EmbeddedServer(settings.home / "postgres")


def application_url(settings: Settings) -> str:
    """Returns the libpq URL of LSE's database; starts the embedded server if no other is configured.

    Raises:
        DatabaseError: The embedded server cannot be started.
    """
    if settings.lse_database_url:
        return settings.lse_database_url.get_secret_value()
    return embedded_server(settings).start().url("lse")


def running_url(settings: Settings) -> str:
    """Returns the libpq URL of LSE's database, as `application_url`, but starts no server.

    Raises:
        DatabaseError: The embedded server is not running.
    """
    if settings.lse_database_url:
        return settings.lse_database_url.get_secret_value()
    server = embedded_server(settings)
    if not server.is_running():
        raise DatabaseError("the embedded database is not running", hint="Start it: lse up")
    return server.url("lse")


def dagster_url(settings: Settings) -> str:
    """Returns the SQLAlchemy URL of Dagster's database; LSE's cannot serve, since both have a table `runs`.

    The URL names psycopg2, which dagster-postgres needs: SQLAlchemy 2.1 uses psycopg 3 for `postgresql://`.

    Raises:
        DatabaseError: The database does not exist and cannot be created.
    """
    if settings.lse_dagster_database_url:
        url = settings.lse_dagster_database_url.get_secret_value()
    elif settings.lse_database_url:
        url = _create_beside(settings.lse_database_url.get_secret_value())
    else:
        url = embedded_server(settings).start().url("dagster")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise DatabaseError(
            "cannot derive the URL of Dagster's database",
            why="the database is not configured as a URL (postgresql://…)",
            hint="Set LSE_DAGSTER_DATABASE_URL to a URL",
        )
    return f"postgresql+psycopg2://{rest}"


def libpq_url(url: str) -> str:
    """Returns a SQLAlchemy URL without the name of its driver, as libpq reads it."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def _create_beside(url: str) -> str:
    """Returns the URL of the database `<name>_dagster` on the same server; creates the database if it is missing."""
    with Database(url).connect() as connection:
        name = f"{connection.info.dbname}{_DAGSTER_SUFFIX}"
        connection.autocommit = True
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            try:
                # Explicit: the server's template may have an encoding that cannot hold the names of projects.
                statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
            except psycopg.errors.DuplicateDatabase:
                pass  # another process has just created it
            except psycopg.Error as error:
                reason = explain(error, f"cannot create Dagster's database {name}")
                raise DatabaseError(
                    reason.what,
                    why=reason.why,
                    hint=f"Create the database {name} by hand, or set LSE_DAGSTER_DATABASE_URL",
                ) from error
    # urlunsplit would drop the slashes of a URL without a host.
    address, question, options = url.partition("?")
    scheme, _, server = address.partition("://")
    return f"{scheme}://{server.partition('/')[0]}/{quote(name, safe='')}{question}{options}"
