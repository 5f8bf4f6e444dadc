"""The audit table `loads`: who loaded, overwrote, repaired, took back or deleted which day, when, and how much."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import date
from typing import Literal

import psycopg

Kind = Literal["load", "overwrite", "repair", "rollback", "deletion"]


def begin_load(connection: psycopg.Connection, kind: Kind, project: str | None, day: date | None) -> int:
    """Writes the load down before its first row, so that a killed one is known too. Returns its id."""
    row = connection.execute(
        "INSERT INTO loads (kind, project, run_date, client) VALUES (%s, %s, %s, %s) RETURNING load_id",
        (kind, project, day, _client()),
    ).fetchone()
    assert row is not None
    return row[0]


def finish_load(
    connection: psycopg.Connection,
    load_id: int,
    *,
    inserted: int = 0,
    replaced: int = 0,
    deleted: int = 0,
    failed: int = 0,
) -> None:
    """Completes the entry with what was done, in rows."""
    connection.execute(
        "UPDATE loads SET finished_at = clock_timestamp(), inserted = %s, replaced = %s, deleted = %s, failed = %s"
        " WHERE load_id = %s",
        (inserted, replaced, deleted, failed, load_id),
    )


def _client() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name: KeyError before Python 3.13, OSError since
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
