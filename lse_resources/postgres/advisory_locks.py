"""Advisory locks in Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import date

import psycopg

from lse_archive.cancellation import wait_for_lock
from lse_archive.errors import DayLockedError

OnWait = Callable[[str], None]
"""Called once with the holder, if another session holds the lock."""

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
    on_wait: OnWait | None = None,
) -> Generator[None]:
    """Waits for the lock of a project's day and holds it for the block. Postgres frees it when the connection ends.

    Batches are correct without it; it keeps two processes, on any hosts, from doing the same work.

    Raises:
        DayLockedError: Another session held the lock for ten minutes.
    """
    key = (lock_key(f"{project}/{day}"),)

    def busy() -> DayLockedError:
        holder, hint = _holder(connection, *key)
        return DayLockedError(
            f"{project} {day} is being loaded or verified", why=f"{holder} holds its lock in Postgres", hint=hint
        )

    wait_for_lock(
        lambda: connection.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() == (True,),
        busy,
        lambda: on_wait and on_wait(_holder(connection, *key)[0]),
    )
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
