"""A Postgres database: connections, and errors with a cause and a hint, without passwords."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import conninfo, errors, sql

from lse_archive.errors import DatabaseAccessError, DatabaseError, SettingsError

NEW_DATABASE = "createdb --template=template0 --encoding=UTF8 --locale-provider=libc --locale=C NAME"
"""The command that creates a database which can hold every run."""

_DEFAULTS = {"connect_timeout": "10", "application_name": "lse"}
# The server, the database or the role may have other defaults. They change what is read: the text of times and numbers,
# the day on which a time falls, and whether psycopg can read times and intervals at all.
# By default, a wait for a lock has no end.
_SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "lock_timeout": "10min",
}
_SET_SESSION = sql.SQL("SELECT {}").format(
    sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
        for name, value in _SESSION.items()
    )
)
_URL_HINT = "Write LSE_DATABASE_URL as postgresql://user:password@host:5432/database, special characters as %XX"
# Errors after which the same transaction may succeed (PostgreSQL manual, appendix A, "Error Codes").
_TRANSIENT = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)
_LOST = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.IdleInTransactionSessionTimeout)
_HINTS: dict[type[psycopg.Error], str] = {
    errors.InvalidPassword: "Check the user and password in LSE_DATABASE_URL, or in the password file",
    errors.InvalidAuthorizationSpecification: "Check the user in LSE_DATABASE_URL, and the server's pg_hba.conf",
    errors.InvalidCatalogName: "Create the database, or name another in LSE_DATABASE_URL",
    errors.TooManyConnections: "Wait, or raise max_connections on the server",
    errors.DiskFull: "Free space on the server's disk, then run the same command again: committed batches stay loaded",
    errors.InsufficientPrivilege: "Grant the role its rights: lse db grant",
    errors.UndefinedTable: "Prepare the database: lse db migrate",
    errors.UndefinedColumn: "Prepare the database: lse db migrate",
    errors.UndefinedFunction: "Prepare the database: lse db migrate",
    errors.ReadOnlySqlTransaction: "Point LSE_DATABASE_URL to the primary server",
    errors.LockNotAvailable: "Another session holds a lock: wait for it, or end it (pg_stat_activity lists sessions)",
    errors.QueryCanceled: "Raise the server's statement_timeout for this role",
}
_FINAL = (
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
    errors.InsufficientPrivilege,
)
_ROOT_HINT = "Set sslrootcert in LSE_DATABASE_URL to the certificate of the authority that signed the server's"
# Errors while connecting have no SQLSTATE (libpq: PQconnectPoll has no result): a part of the text identifies them.
_FINAL_WHILE_CONNECTING = (
    ("password authentication failed", _HINTS[errors.InvalidPassword]),
    (
        "no password supplied",
        "Give the password in LSE_DATABASE_URL, or in a password file (PGPASSFILE) that only its owner may read",
    ),
    ("no pg_hba.conf entry", _HINTS[errors.InvalidAuthorizationSpecification]),
    ("FATAL:  role", _HINTS[errors.InvalidAuthorizationSpecification]),
    ("FATAL:  database", _HINTS[errors.InvalidCatalogName]),
    ("permission denied for database", _HINTS[errors.InsufficientPrivilege]),
    ("certificate verify failed", _ROOT_HINT),
    ("root certificate file", _ROOT_HINT),
    ("does not match host name", "In LSE_DATABASE_URL use the host name of the server's certificate"),
    ("does not support SSL", "Enable TLS on the server (ssl = on), or lower sslmode in LSE_DATABASE_URL"),
    ("invalid sslmode value", "In LSE_DATABASE_URL write disable, prefer, require, verify-ca or verify-full"),
)
_TRANSIENT_WHILE_CONNECTING = (
    ("too many", _HINTS[errors.TooManyConnections]),
    ("No space left on device", _HINTS[errors.DiskFull]),
    ("", "Check that the server runs and that LSE_DATABASE_URL names it"),
)


@dataclass(frozen=True, slots=True)
class Database:
    """One PostgreSQL database, given by a libpq URL or connection string.

    All other settings of libpq apply: `PGPASSFILE`, `sslmode`, `sslrootcert`, services.

    Raises:
        SettingsError: The URL is malformed.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        # No message of the parser is shown: it could quote a part of the password.
        if self.url.partition("://")[2].partition("?")[0].count("@") > 1:
            raise SettingsError("the database URL is malformed", why="it contains more than one @", hint=_URL_HINT)
        try:
            conninfo.conninfo_to_dict(self.url)
        except psycopg.ProgrammingError:
            raise SettingsError("the database URL is malformed", why="libpq cannot read it", hint=_URL_HINT) from None

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        """Opens a connection, by default in autocommit mode: a transaction is an explicit block.

        The session uses UTF-8 and UTC, and waits ten minutes at most for a lock, whatever the server's defaults are.

        Raises:
            DatabaseAccessError: The server refuses the login, or its certificate is not accepted.
            DatabaseError: The server cannot be reached.
        """
        configured = conninfo.conninfo_to_dict(self.url)
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in configured}
        try:
            parameters = conninfo.make_conninfo(self.url, **defaults, client_encoding="utf8")
            connection = psycopg.connect(parameters, autocommit=True)
            try:
                connection.execute(_SET_SESSION)
            except psycopg.Error:
                connection.close()
                raise
            connection.autocommit = autocommit
            return connection
        except psycopg.Error as error:
            raise explain(error, "cannot connect to Postgres", password=configured.get("password")) from None

    @contextmanager
    def session(self, doing: str) -> Generator[psycopg.Connection]:
        """Opens a connection for the block, and turns errors in it into a DatabaseError that begins with `doing`."""
        with explained(doing), self.connect() as connection:  # the end of the transaction can fail, too
            yield connection


@contextmanager
def explained(doing: str) -> Generator[None]:
    """Turns the errors of psycopg into a DatabaseError that begins with `doing`."""
    try:
        yield
    except psycopg.Error as error:
        raise explain(error, doing) from error


def explain(error: psycopg.Error, doing: str, *, password: object = None) -> DatabaseError:
    """Returns an error of Postgres or libpq in one line, with a hint: a DatabaseAccessError if no retry helps."""
    text = error.diag.message_primary or str(error)
    if isinstance(password, str) and password:
        text = text.replace(password, "***")
    # libpq reports every address that it tried, with hints on separate lines: the last attempt is enough.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("\t", "Multiple "))]
    lines = [line for line in lines if "connection to server " in line] or lines
    why = re.sub(r"^(?:- )?(?:connection (?:failed|is bad): )?", "", lines[-1] if lines else "no reason given")
    hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
    final = isinstance(error, _FINAL)
    # psycopg raises other classes for values that it cannot convert: the server is not the cause.
    if error.sqlstate is None and isinstance(error, errors.OperationalError):
        final_hint = next((hint for part, hint in _FINAL_WHILE_CONNECTING if part in why), "")
        final = bool(final_hint)
        hint = final_hint or next(hint for part, hint in _TRANSIENT_WHILE_CONNECTING if part in why)
    return (DatabaseAccessError if final else DatabaseError)(doing, why=why.rstrip("."), hint=hint)


def other_encoding(connection: psycopg.Connection) -> str | None:
    """Returns the database's encoding if it is not UTF-8: it cannot hold every run. None: it can."""
    encoding = connection.info.parameter_status("server_encoding")
    return None if encoding == "UTF8" else encoding


def require_utf8(connection: psycopg.Connection, doing: str) -> None:
    """Checks that the database stores UTF-8; every other encoding lacks characters that runs contain.

    Raises:
        DatabaseAccessError: It has another encoding.
    """
    if encoding := other_encoding(connection):
        name = connection.info.dbname
        raise DatabaseAccessError(
            doing,
            why=f"the database {name} has the encoding {encoding}, which cannot hold every character of a run",
            hint=f"Create one with: {NEW_DATABASE}, name it in LSE_DATABASE_URL, and load the days again: lse archive"
            " to-db",
        )


def is_lost(error: psycopg.Error, connection: psycopg.Connection) -> bool:
    """Whether the connection is lost, so that a new one may succeed."""
    return connection.closed or connection.broken or isinstance(error, _LOST)


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same transaction may succeed when it is repeated."""
    return isinstance(error, _TRANSIENT)


def is_about_data(error: psycopg.Error) -> bool:
    """Whether a value caused the error: SQLSTATE classes 22 (data), 23 (constraints), 54 (limits)."""
    return (error.sqlstate or "")[:2] in ("22", "23", "54")
