"""The advisory lock of a project's day: one writer of its rows at a time, whatever process or host it is on."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import date

import psycopg

from lse_archive.errors import DayLockedError


@contextmanager
def day_advisory_lock(connection: psycopg.Connection, project: str, day: date, *, wait: bool = True) -> Generator[None]:
    """Holds the day's lock for the block. It belongs to the connection: where that ends, the lock is free.

    Loads stay right without it, batch by batch; it spares two of them from doing the same work.

    Raises:
        DayLockedError: Another holds it, and `wait` is false.
    """
    key = (lock_key(f"{project}/{day}"),)
    if wait:
        connection.execute("SELECT pg_advisory_lock(%s)", key)
    elif connection.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() == (False,):
        raise DayLockedError(
            f"cannot load {project} {day}", why="another process is loading or verifying it", hint="Try again later"
        )
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection has taken the lock with it
            connection.execute("SELECT pg_advisory_unlock(%s)", key)


def lock_key(name: str) -> int:
    """The 64-bit key under which Postgres knows a lock of ours."""
    return int.from_bytes(hashlib.sha256(f"lse/{name}".encode(errors="surrogatepass")).digest()[:8], signed=True)
