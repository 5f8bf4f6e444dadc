"""Advisory locks in Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import date

import psycopg


@contextmanager
def day_advisory_lock(connection: psycopg.Connection, project: str, day: date) -> Generator[None]:
    """Waits for the lock of a project's day and holds it for the block. Postgres frees it when the connection ends.

    Batches are correct without it; it keeps two processes, on any hosts, from doing the same work.
    """
    key = (lock_key(f"{project}/{day}"),)
    connection.execute("SELECT pg_advisory_lock(%s)", key)
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection holds no lock
            connection.execute("SELECT pg_advisory_unlock(%s)", key)


def lock_key(name: str) -> int:
    """Returns the 64-bit key of a named advisory lock of LSE."""
    return int.from_bytes(hashlib.sha256(f"lse/{name}".encode(errors="surrogatepass")).digest()[:8], signed=True)
