"""Advisory locks in Postgres."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import date

import psycopg

from lse_archive.cancellation import cancellable_sleep
from lse_archive.errors import DayLockedError

OnWait = Callable[[str], None]
"""Called once with the holder, if another session holds the lock."""

_POLL_SECONDS = 0.1
# A 64-bit key is split over two columns (PostgreSQL manual, view pg_locks). Of other roles' sessions only some columns
# are visible.
_SELECT_HOLDER = """
SELECT a.pid, a.usename, coalesce(a.client_hostname, host(a.client_addr)), a.application_name
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.classid::bigint = (%(key)s::bigint >> 32) & 4294967295 AND l.objid::bigint = %(key)s::bigint & 4294967295
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def day_advisory_lock(
    connection: psycopg.Connection,
    project: str,
    day: date,
    *,
    wait_seconds: float = 600.0,
    on_wait: OnWait | None = None,
) -> Generator[None]:
    """Waits for the lock of a project's day and holds it for the block. Postgres frees it when the connection ends.

    Batches are correct without it; it keeps two processes, on any hosts, from doing the same work.

    Args:
        wait_seconds: How long to wait for another session.

    Raises:
        DayLockedError: Another session held the lock for all that time.
    """
    key = (lock_key(f"{project}/{day}"),)
    deadline = time.monotonic() + wait_seconds
    waiting = False
    while connection.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() != (True,):
        if not waiting and on_wait:
            on_wait(_holder(connection, *key)[0])
        waiting = True
        if time.monotonic() >= deadline:
            holder, hint = _holder(connection, *key)
            raise DayLockedError(
                f"{project} {day} is being loaded or verified", why=f"{holder} holds its lock in Postgres", hint=hint
            )
        cancellable_sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection holds no lock
            connection.execute("SELECT pg_advisory_unlock(%s)", key)


def _holder(connection: psycopg.Connection, key: int) -> tuple[str, str]:
    """Returns who holds a lock, and how to end that session."""
    found = connection.execute(_SELECT_HOLDER, {"key": key}).fetchone()
    if found is None:  # it has just ended
        return "another session", "Run the command again"
    pid, role, host, application = found
    holder = f"{application or 'a session'} of the role {role}" + (f" on {host}" if host else "")
    return f"{holder} (Postgres process {pid})", f"Wait until it is done, or end it: SELECT pg_terminate_backend({pid})"


def lock_key(name: str) -> int:
    """Returns the 64-bit key of a named advisory lock of LSE."""
    return int.from_bytes(hashlib.sha256(f"lse/{name}".encode(errors="surrogatepass")).digest()[:8], signed=True)
