"""Postgres: one URL, connections on use, and errors that say what to do without showing a password."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import conninfo, errors

from lse_archive.errors import DatabaseError, SettingsError

_DEFAULTS = {"connect_timeout": "10", "application_name": "lse"}
_URL_TODO = "Write LSE_DATABASE_URL as postgresql://user:password@host:5432/database, special characters as %XX"
# What a failed attempt may meet again a moment later (PostgreSQL manual, appendix A, "Error Codes").
_TRANSIENT = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable, errors.UniqueViolation)
_LOST = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.IdleInTransactionSessionTimeout)
_HINTS: dict[type[psycopg.Error], str] = {
    errors.InvalidPassword: "Check the user and password in LSE_DATABASE_URL, or in the password file",
    errors.InvalidAuthorizationSpecification: "Check the user in LSE_DATABASE_URL, and the server's pg_hba.conf",
    errors.InvalidCatalogName: "Create the database, or name another in LSE_DATABASE_URL",
    errors.TooManyConnections: "Wait, or raise max_connections on the server",
    errors.DiskFull: "Free space on the server's disk, then run the same command again: what is loaded stays",
    errors.InsufficientPrivilege: "Grant the role its rights: lse db grant",
    errors.UndefinedTable: "Prepare the database: lse db migrate",
    errors.UndefinedColumn: "Prepare the database: lse db migrate",
    errors.UndefinedFunction: "Prepare the database: lse db migrate",
    errors.ReadOnlySqlTransaction: "Point LSE_DATABASE_URL to the primary server",
    errors.QueryCanceled: "Raise the server's statement_timeout for this role",
}
_ROOT_TODO = "Let sslrootcert in LSE_DATABASE_URL name the certificate of the authority that signed the server's"
# Refusals while connecting carry no SQLSTATE (libpq: PQconnectPoll has no result): what is known by a part of the text.
_HINTS_WHILE_CONNECTING = (
    ("password authentication failed", _HINTS[errors.InvalidPassword]),
    (
        "no password supplied",
        "Give the password in LSE_DATABASE_URL, or in a password file (PGPASSFILE) that only its owner may read",
    ),
    ("no pg_hba.conf entry", _HINTS[errors.InvalidAuthorizationSpecification]),
    ("FATAL:  role", _HINTS[errors.InvalidAuthorizationSpecification]),
    ("FATAL:  database", _HINTS[errors.InvalidCatalogName]),
    ("too many", _HINTS[errors.TooManyConnections]),
    ("No space left on device", _HINTS[errors.DiskFull]),
    ("certificate verify failed", _ROOT_TODO),
    ("root certificate file", _ROOT_TODO),
    ("does not match host name", "Name the server in LSE_DATABASE_URL as its certificate does"),
    ("does not support SSL", "Switch TLS on at the server (ssl = on), or lower sslmode in LSE_DATABASE_URL"),
    ("invalid sslmode value", "In LSE_DATABASE_URL write disable, prefer, require, verify-ca or verify-full"),
)


@dataclass(frozen=True, slots=True)
class Database:
    """One PostgreSQL database, named by a libpq URL or connection string; what libpq reads besides (`PGPASSFILE`,
    `sslmode`, `sslrootcert`, services) works as it does there.

    Raises:
        SettingsError: The URL cannot be read.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        # Every complaint of the parser could quote a part of a password.
        if self.url.partition("://")[2].partition("?")[0].count("@") > 1:
            raise SettingsError("the database URL is malformed", why="it holds more than one @", hint=_URL_TODO)
        try:
            conninfo.conninfo_to_dict(self.url)
        except psycopg.ProgrammingError:
            raise SettingsError("the database URL is malformed", why="libpq cannot read it", hint=_URL_TODO) from None

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        """A connection, by default in autocommit mode: transactions are the blocks that ask for one.

        Raises:
            DatabaseError: The server cannot be reached, or does not let us in.
        """
        given = conninfo.conninfo_to_dict(self.url)
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
        try:
            parameters = conninfo.make_conninfo(self.url, **defaults, client_encoding="utf8")
            return psycopg.connect(parameters, autocommit=autocommit)
        except psycopg.Error as error:
            raise explain(error, "cannot connect to Postgres", password=given.get("password")) from None

    @contextmanager
    def session(self, doing: str) -> Generator[psycopg.Connection]:
        """A connection for the block; what Postgres refuses in it becomes a DatabaseError that begins with `doing`."""
        with self.connect() as connection, explained(doing):
            yield connection


@contextmanager
def explained(doing: str) -> Generator[None]:
    """Turns the errors of psycopg into a DatabaseError that begins with `doing`."""
    try:
        yield
    except psycopg.Error as error:
        raise explain(error, doing) from error


def explain(error: psycopg.Error, doing: str, *, password: object = None) -> DatabaseError:
    """What Postgres or libpq said, in one line, with what to do about it."""
    text = error.diag.message_primary or str(error)
    if isinstance(password, str) and password:
        text = text.replace(password, "***")
    # libpq tells of every address it tried, with hints in lines of their own: the last attempt's answer is enough.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("\t", "Multiple "))]
    lines = [line for line in lines if "connection to server " in line] or lines
    why = re.sub(r"^(?:- )?(?:connection (?:failed|is bad): )?", "", lines[-1] if lines else "no reason given")
    hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
    if not hint and error.sqlstate is None:
        hint = _hint_while_connecting(why)
    return DatabaseError(doing, why=why.rstrip("."), hint=hint)


def _hint_while_connecting(why: str) -> str:
    found = (hint for part, hint in _HINTS_WHILE_CONNECTING if part in why)
    return next(found, "Check that the server runs and that LSE_DATABASE_URL names it")


def is_lost(error: psycopg.Error, connection: psycopg.Connection) -> bool:
    """Whether the connection is gone, so that a new one may do."""
    return connection.closed or connection.broken or isinstance(error, _LOST)


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same transaction may pass when it is tried again."""
    return isinstance(error, _TRANSIENT)


def is_about_data(error: psycopg.Error) -> bool:
    """Whether a value is to blame rather than the server: SQLSTATE classes 22 (data), 23 (constraints), 54 (limits)."""
    return (error.sqlstate or "")[:2] in ("22", "23", "54")
