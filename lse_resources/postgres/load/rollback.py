"""Undoes a load: deletes its rows, and restores the rows of runs that it replaced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import sql

from lse_archive.errors import ArchiveConflictError, UsageError
from lse_archive.folder.records import RECORD_FILES
from lse_resources.postgres.advisory_locks import OnWait, day_advisory_lock
from lse_resources.postgres.database import Database
from lse_resources.postgres.loads_table import begin_load, finish_load

KEEP_REPLACED_DAYS = 30
"""Days for which replaced rows are kept, so that the load can be undone."""

_SELECT_LOAD = "SELECT kind, project, run_date FROM loads WHERE load_id = %s"
_SELECT_STATE = "SELECT replaced, undone_by FROM loads WHERE load_id = %s"
# Rows of this load that a later load replaced: undoing this load first would leave the later rows in place.
_SELECT_LATER = "SELECT min(replaced_by) FROM replaced_runs WHERE load_id = %s"
_COUNT_KEPT = "SELECT count(*) FROM replaced_runs WHERE replaced_by = %s"
_DELETE = sql.SQL("DELETE FROM {} WHERE project = %s AND run_date = %s AND load_id = %s")
_COLUMNS = "run_id, trace_id, project, run_date, data, created_at, file_sha256, row_sha256, mark, load_id"
_RESTORE = f"""
WITH kept AS (DELETE FROM replaced_runs WHERE replaced_by = %s RETURNING *)
INSERT INTO runs ({_COLUMNS}) SELECT {_COLUMNS} FROM kept ON CONFLICT DO NOTHING
"""
_SET_UNDONE = "UPDATE loads SET undone_by = %s WHERE load_id = %s"
_DELETE_OLD = "DELETE FROM replaced_runs WHERE replaced_at < now() - make_interval(days => %s)"


@dataclass(frozen=True, slots=True)
class Rollback:
    """An undone load: numbers of rows deleted, and of rows restored to their state before the load."""

    load_id: int
    rollback_id: int
    project: str
    date: date
    deleted: int
    restored: int


def rollback_load(database: Database, load_id: int, *, on_wait: OnWait | None = None) -> Rollback:
    """Undoes a load, an overwrite or a repair, complete or interrupted, in one transaction.

    Of feedback and attachments, the rows that it inserted are deleted; those that it replaced stay as they are.

    Raises:
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        UsageError: The load does not exist, is undone already, or is an entry of another kind.
        ArchiveConflictError: A later load replaced rows of this one, or the rows that it replaced are deleted.
        DatabaseError: Postgres cannot be reached or refuses.
    """
    with database.session(f"cannot undo load {load_id}") as connection:
        project, day = _day_of(connection, load_id)
        with day_advisory_lock(connection, project, day, on_wait=on_wait), connection.transaction():
            _require_undoable(connection, load_id)
            rollback_id = begin_load(connection, "rollback", project, day)
            deleted = sum(
                connection.execute(_DELETE.format(sql.Identifier(table)), (project, day, load_id)).rowcount
                for table in ("runs", *RECORD_FILES)
            )
            restored = connection.execute(_RESTORE, (load_id,)).rowcount
            connection.execute(_SET_UNDONE, (rollback_id, load_id))
            finish_load(connection, rollback_id, deleted=deleted, replaced=restored)
    return Rollback(load_id, rollback_id, project, day, deleted, restored)


def delete_old_replaced_rows(connection: psycopg.Connection) -> None:
    """Deletes the replaced rows that are older than KEEP_REPLACED_DAYS."""
    connection.execute(_DELETE_OLD, (KEEP_REPLACED_DAYS,))


def _day_of(connection: psycopg.Connection, load_id: int) -> tuple[str, date]:
    load = connection.execute(_SELECT_LOAD, (load_id,)).fetchone()
    if load is None:
        raise UsageError(f"there is no load {load_id}", hint="See the table loads")
    kind, project, day = load
    if kind not in ("load", "overwrite", "repair"):
        raise UsageError(f"{load_id} cannot be undone", why=f"it is a {kind}")
    return project, day


def _require_undoable(connection: psycopg.Connection, load_id: int) -> None:
    [(replaced, undone_by)] = connection.execute(_SELECT_STATE, (load_id,)).fetchall()
    [(later,)] = connection.execute(_SELECT_LATER, (load_id,)).fetchall()
    [(kept,)] = connection.execute(_COUNT_KEPT, (load_id,)).fetchall()
    doing = f"load {load_id} cannot be undone"
    if undone_by is not None:
        raise UsageError(doing, why=f"load {undone_by} has undone it already")
    if later is not None:
        why = f"load {later} has replaced some of its rows"
        raise ArchiveConflictError(doing, why=why, hint=f"Undo load {later} first")
    if kept < replaced:
        why = f"the rows that it replaced were kept for {KEEP_REPLACED_DAYS} days only, or erased on request"
        raise ArchiveConflictError(doing, why=why, hint="Restore the day's older files, and load them with --overwrite")
