"""The audit table `loads`: one entry per load, overwrite, repair, rollback and deletion."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import date
from typing import Literal

import psycopg

Kind = Literal["load", "overwrite", "repair", "rollback", "deletion"]


def begin_load(connection: psycopg.Connection, kind: Kind, project: str, day: date) -> int:
    """Inserts the entry before the first row is written, so that a killed load has one too. Returns its id."""
    [(load_id,)] = connection.execute(
        "INSERT INTO loads (kind, project, run_date, client) VALUES (%s, %s, %s, %s) RETURNING load_id",
        (kind, project, day, user_and_host()),
    ).fetchall()
    return load_id


def finish_load(
    connection: psycopg.Connection,
    load_id: int,
    *,
    inserted: int = 0,
    replaced: int = 0,
    deleted: int = 0,
    failed: int = 0,
) -> None:
    """Completes the entry with the numbers of rows."""
    connection.execute(
        "UPDATE loads SET finished_at = clock_timestamp(), inserted = %s, replaced = %s, deleted = %s, failed = %s"
        " WHERE load_id = %s",
        (inserted, replaced, deleted, failed, load_id),
    )


def user_and_host() -> str:
    """The user and the host of this process, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name: KeyError before Python 3.13, OSError from 3.13 on
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
