"""Erases the rows of runs from every table of the database, and from the database's own files.

A deleted row stays in the table's file until that is rewritten, and values of it in the statistics of the planner. The
write-ahead log has them until its segments are recycled: docs/database.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import LiteralString, cast

import psycopg
from psycopg import errors, sql

from lse_archive.cancellation import cancellable_sleep
from lse_archive.errors import DatabaseError
from lse_archive.texts import counted
from lse_resources.postgres.advisory_locks import OnWait, day_advisory_lock
from lse_resources.postgres.database import Database
from lse_resources.postgres.loads_table import begin_load, finish_load

# Detached partitions, copies of a table that somebody made, and tables of other schemas have these columns, too; the
# search index has keys instead of contents. Only temporary tables of other sessions cannot be read.
_TABLES = """
SELECT c.oid::regclass::text, has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'DELETE')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND 4 <= (SELECT count(*) FROM pg_attribute AS a
           WHERE a.attrelid = c.oid AND NOT a.attisdropped
             AND (a.attname, a.atttypid) IN (('run_id', 'uuid'::regtype), ('project', 'text'::regtype),
                                             ('run_date', 'date'::regtype), ('data', 'jsonb'::regtype),
                                             ('keys', 'integer[]'::regtype)))
ORDER BY c.oid::regclass::text COLLATE "C"  -- run_search before runs, whose trigger would delete its rows uncounted
"""
# Materialized views over these tables, and over views of them.
_MATERIALIZED = """
WITH RECURSIVE reading(oid) AS (
    SELECT name::regclass::oid FROM unnest(%s::text[]) AS name
    UNION
    SELECT r.ev_class FROM reading JOIN pg_depend AS d ON d.refobjid = reading.oid
    JOIN pg_rewrite AS r ON r.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_rewrite'::regclass
)
SELECT c.oid::regclass::text FROM reading JOIN pg_class AS c USING (oid) WHERE c.relkind = 'm' ORDER BY 1
"""
_FIND = "SELECT project, run_date, count(*) FROM {} WHERE run_id = ANY(%s::uuid[]) GROUP BY 1, 2 ORDER BY 1, 2"
# A hash join: each table is read once.
_FIND_FORGOTTEN = """
SELECT found.project, found.run_date, count(*) FROM {} AS found
JOIN (SELECT DISTINCT run_sha256 FROM tombstones WHERE project = %s) AS forgotten
  ON forgotten.run_sha256 = sha256(convert_to(found.run_id::text, 'UTF8'))
GROUP BY 1, 2 ORDER BY 1, 2
"""
_DELETE = """
WITH deleted AS (
    DELETE FROM {} WHERE run_id = ANY(%s::uuid[]) AND project = %s RETURNING tableoid
)
SELECT tableoid::regclass::text, count(*) FROM deleted GROUP BY tableoid ORDER BY 1
"""
_ADD_REWRITE = """
UPDATE erasures SET {0} = ARRAY(SELECT DISTINCT name FROM unnest({0} || %s::text[]) AS name ORDER BY name)
WHERE erasure_id = %s
"""
_REMOVE_REWRITE = "UPDATE erasures SET {0} = array_remove({0}, %s) WHERE erasure_id = %s"
# Tables that may hold remnants of rows which were replaced, undone or deleted before.
_REMNANTS = ("attachments", "feedback", "replaced_runs")
_WAS_LOADED = "SELECT FROM loads WHERE project = %s AND run_date = %s AND kind <> 'deletion' LIMIT 1"
_IDS = 10_000  # in one query
_STATISTICS = "pg_statistic"
_PARENTS = """
SELECT DISTINCT i.inhparent::regclass::text FROM unnest(%s::text[]) AS name
JOIN pg_inherits AS i ON i.inhrelid = to_regclass(name)
JOIN pg_stats AS s ON s.inherited AND format('%%I.%%I', s.schemaname, s.tablename)::regclass = i.inhparent
"""
_STATE = "SELECT c.relkind, pg_relation_filenode(c.oid) FROM pg_class AS c WHERE c.oid = to_regclass(%s)"
# ANALYZE keeps the statistics of a table without rows. Before PostgreSQL 18, only a superuser can remove them.
_CLEAR_STATISTICS = (
    "SELECT pg_clear_attribute_stats(schemaname, tablename, attname, inherited) FROM pg_stats"
    " WHERE format('%%I.%%I', schemaname, tablename)::regclass = %s::regclass"
)
_DELETE_STATISTICS = "DELETE FROM pg_statistic WHERE starelid = %s::regclass"
# Seconds between attempts: the transaction that still sees the rows may be an ANALYZE of the server itself.
_RETRY_DELAYS = (1.0, 3.0, 10.0)


@dataclass(frozen=True, slots=True)
class RowsFound:
    """Rows of given runs: their number in a table, by the project and day of the rows.

    `table` is qualified by its schema if that is not in the search path.
    """

    table: str
    project: str
    run_date: date
    rows: int


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """What `erase_rows` did.

    Attributes:
        rows: Numbers of erased rows by table or partition.
        left: One sentence for each table that could not be read or changed.
    """

    rows: Mapping[str, int]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PendingRewrite:
    """What an erasure has to rewrite still.

    Attributes:
        tables: Size in bytes, with indexes and TOAST, of each table. It is locked exclusively while it is rewritten.
    """

    tables: Mapping[str, int]

    @property
    def needs(self) -> int:
        """The free bytes that are needed on the server's disk at once: the largest table is there twice."""
        return max(self.tables.values(), default=0)


def find_rows(database: Database, run_ids: Collection[str]) -> tuple[list[RowsFound], list[str]]:
    """Counts the rows of runs, of their feedback and attachments, in all tables, projects and days.

    Tables with the same columns are searched too: detached partitions, and copies of `runs` that somebody made.

    Args:
        run_ids: Any number of UUIDs.

    Returns:
        The rows, and the names of the tables that this role may not read.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    ids = sorted(run_ids)
    parts = [(ids[first : first + _IDS],) for first in range(0, len(ids), _IDS)]
    return _find(database, _FIND, parts)


def find_forgotten_rows(database: Database, project: str) -> tuple[list[RowsFound], list[str]]:
    """Counts the rows of all runs of which the project has a tombstone, as `find_rows` does. Reads all rows' ids.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    return _find(database, _FIND_FORGOTTEN, [(project,)])


def _find(
    database: Database, statement: LiteralString, parameters: Sequence[tuple[object]]
) -> tuple[list[RowsFound], list[str]]:
    found: Counter[tuple[str, str, date]] = Counter()
    unread: list[str] = []
    with database.session("cannot search the database for runs") as connection:
        for table, readable, _ in connection.execute(_TABLES).fetchall():
            if not readable:
                unread.append(table)
                continue
            for part in parameters:
                for project, day, rows in connection.execute(_on(statement, table), part):
                    found[table, project, day] += rows
    return [RowsFound(*key, rows) for key, rows in sorted(found.items())], unread


def erase_rows(
    database: Database,
    erasure_id: str,
    project: str,
    day: date,
    run_ids: Collection[str],
    *,
    on_wait: OnWait | None = None,
) -> ErasedRows:
    """Deletes the rows of a project's runs, of their feedback and attachments, in all tables and under all days.

    One transaction, under the day's advisory lock; an entry `deletion` in the table `loads` has the number. The
    erasure records which tables have to be rewritten, so that a killed one can go on: see `rewrite`.

    Args:
        erasure_id: An id that `write_erasure` has recorded.
        day: The day of the runs.
        run_ids: UUIDs; all runs of a day at most. Call `add_tombstones` first: a load could bring them back.
        on_wait: Called once with the holder, if another session loads or verifies the day.

    Raises:
        DayLockedError: Another session loads or verifies the day for more than ten minutes.
        DatabaseError: Postgres cannot be reached or refuses, or has no such erasure.
    """
    erased: dict[str, int] = {}
    left: list[str] = []
    key = (sorted(run_ids), project)
    with (
        database.session(f"cannot erase rows of {project} {day}") as connection,
        day_advisory_lock(connection, project, day, on_wait=on_wait),
        connection.transaction(),
    ):
        tables = connection.execute(_TABLES).fetchall()
        for table, readable, deletable in tables:
            if not readable:
                left.append(f"{table}: this role may not read it")
            elif deletable:
                erased |= dict(connection.execute(_on(_DELETE, table), key).fetchall())
            elif connection.execute(_on(_FIND, table), key[:1]).fetchone():
                left.append(f"{table}: this role may not delete its rows")
        if erased:
            load_id = begin_load(connection, "deletion", project, day)
            finish_load(connection, load_id, deleted=sum(erased.values()))
        if erased or connection.execute(_WAS_LOADED, (project, day)).fetchone() is not None:
            views = connection.execute(_MATERIALIZED, ([table for table, *_ in tables],)).fetchall() if erased else []
            names = [*erased, *_REMNANTS, f"runs_{day:%Y_%m}", f"run_search_{day:%Y_%m}", *(view for (view,) in views)]
            _add_rewrite(connection, erasure_id, "rewrite", names)
    return ErasedRows(erased, tuple(left))


def note_rewrite_of_events(database: Database, erasure_id: str, tables: Collection[str]) -> None:
    """Records, before they are changed, tables of Dagster's database that the erasure has to rewrite.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses, or has no such erasure.
    """
    with database.session("cannot record what has to be rewritten") as connection:
        _add_rewrite(connection, erasure_id, "rewrite_events", list(tables))


def pending_rewrite(database: Database, erasure_id: str, *, events: Database | None = None) -> PendingRewrite:
    """What the erasure has to rewrite still: announce it, and then call `rewrite`.

    Args:
        events: The database of Dagster, for its tables. None: those of LSE's.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    names = _read_rewrite(database, erasure_id, _column(events))
    sizes = "SELECT name, coalesce(pg_total_relation_size(to_regclass(name)), 0) FROM unnest(%s::text[]) AS name"
    with (events or database).session("cannot read the sizes of tables") as connection:
        return PendingRewrite(dict(connection.execute(sizes, (names,)).fetchall()))


def rewrite(
    database: Database,
    erasure_id: str,
    *,
    events: Database | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Rewrites what `pending_rewrite` names, with TOAST and indexes, and the statistics of the values.

    Each table is locked exclusively while it is rewritten (VACUUM FULL): no session reads or writes it. A materialized
    view is refreshed. The write-ahead log keeps deleted bytes until its segments are recycled.

    Args:
        events: See `pending_rewrite`.
        progress: Called with the name of each table before it is locked.

    Returns:
        One sentence for each table that this role may not rewrite; it stays pending.

    Raises:
        DatabaseError: Postgres cannot be reached or has no room, or a session still sees the deleted rows. Tables that
            were rewritten are no longer pending.
    """
    column, left = _column(events), list[str]()
    names = _read_rewrite(database, erasure_id, column)
    doing = "cannot rewrite the tables of erased rows"
    with database.session(doing) as records, (events or database).session(doing) as connection:
        parents = connection.execute(_PARENTS, (names,)).fetchall()
        for name in sorted(names, key=lambda name: (name == _STATISTICS, name)):
            if name == _STATISTICS:  # of the parents, too: they have values of all partitions
                for (parent,) in parents:
                    _analyze(connection, parent)
            progress(name)
            if _rewrite_table(connection, name):
                records.execute(_on(_REMOVE_REWRITE, column), (name, erasure_id))
            else:
                left.append(f"{name}: only its owner may rewrite it (VACUUM FULL)")
        with suppress(errors.InsufficientPrivilege):  # the old files are empty already, and deleted at the next one
            connection.execute("CHECKPOINT")
    return left


def _rewrite_table(connection: psycopg.Connection, name: str) -> bool:
    """Whether the table has no file with deleted rows any more; False if the role may not rewrite it."""
    for delay in (*_RETRY_DELAYS, None):
        before = connection.execute(_STATE, (name,)).fetchone()
        if before is None:  # dropped
            return True
        try:
            if before[0] == "m":
                connection.execute(_on("REFRESH MATERIALIZED VIEW {}", name))
                dead = 0
            else:
                dead = _vacuum(connection, name)
            _analyze(connection, name)
        except errors.InsufficientPrivilege:
            return False
        if connection.execute(_STATE, (name,)).fetchone() == before:  # only a warning: permission denied
            return False
        if not dead:
            return True
        if delay is not None:
            cancellable_sleep(delay)
    raise DatabaseError(
        f"{counted(dead, 'deleted row')} of {name} cannot be removed from its file yet",
        why="an open transaction, a prepared one, or a replication slot still sees them",
        hint="End it (see pg_stat_activity, pg_prepared_xacts, pg_replication_slots), then run the same command again",
    )


def _analyze(connection: psycopg.Connection, name: str) -> None:
    connection.execute(_on("ANALYZE {}", name))
    if connection.execute(_on("SELECT FROM {} LIMIT 1", name)).fetchone() is None:
        clear = _CLEAR_STATISTICS if connection.info.server_version >= 180000 else _DELETE_STATISTICS
        connection.execute(clear, (name,))


def _vacuum(connection: psycopg.Connection, name: str) -> int:
    """Rewrites a table; returns the number of deleted rows that had to be kept, because a transaction sees them."""
    details: list[str] = []

    def note(message: errors.Diagnostic) -> None:
        details.append(message.message_detail or "")

    connection.add_notice_handler(note)
    try:
        connection.execute(_on("VACUUM (FULL, VERBOSE) {}", name))
    finally:
        connection.remove_notice_handler(note)
    # "2 dead row versions cannot be removed yet.", in the language of the server.
    return max((int(number[0]) for detail in details if (number := re.search(r"\d+", detail))), default=0)


def _on(statement: LiteralString, name: str) -> sql.Composed:
    """The statement with a name that the server has quoted, or that is of this module."""
    return sql.SQL(statement).format(sql.SQL(cast(LiteralString, name)))


def _column(events: Database | None) -> str:
    return "rewrite" if events is None else "rewrite_events"


def _read_rewrite(database: Database, erasure_id: str, column: str) -> list[str]:
    with database.session("cannot read what has to be rewritten") as connection:
        found = connection.execute(_on("SELECT {} FROM erasures WHERE erasure_id = %s", column), (erasure_id,))
        return next(iter(found), ([],))[0]


def _add_rewrite(connection: psycopg.Connection, erasure_id: str, column: str, tables: Sequence[str]) -> None:
    names = [*tables, _STATISTICS]
    if not connection.execute(_on(_ADD_REWRITE, column), (names, erasure_id)).rowcount:
        raise DatabaseError(f"there is no erasure {erasure_id}", hint="Record it before anything is erased")
