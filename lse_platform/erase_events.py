"""Erases ids of runs, and the texts that name them, from Dagster's storage and from the logs of the platform.

Checks and errors name runs, and the table of a check may have what differs in them. An entry of such a table is removed
if it names the run, and of any other text the whole line. Dagster keeps everything in its database: what a step prints
is not stored (dagster.yaml), but an older home may have files of it.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import sql

from lse_archive.files import disk_errors
from lse_platform.home import Home
from lse_resources.postgres.database import Database
from lse_resources.postgres.erase import note_rewrite_of_events
from lse_resources.postgres.urls import libpq_url

ERASED = "(erased)"
"""What stands in the place of a line that named an erased run."""

# A UUID from its first hyphen on, before which there are eight digits: a literal is searched ten times as fast.
_ID = re.compile("-(?<=[0-9a-fA-F]{8}-)(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_ID_BYTES = re.compile(_ID.pattern.encode())
_TEXT_COLUMNS = """
SELECT c.table_name, array_agg(c.column_name::text ORDER BY c.ordinal_position)
FROM information_schema.columns AS c JOIN information_schema.tables AS t USING (table_schema, table_name)
WHERE table_schema = current_schema() AND t.table_type = 'BASE TABLE'
  AND c.data_type IN ('text', 'character varying')
GROUP BY c.table_name ORDER BY c.table_name
"""
_ROUNDS = 3  # a row that Dagster has changed meanwhile is read again
_LOGS = ("logs/*.log", "dagster/**/*.out", "dagster/**/*.err")


@dataclass(frozen=True, slots=True)
class EventsNaming:
    """Numbers of rows of Dagster's database, by table, and of lines in log files, by path, that name given runs."""

    rows: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    """The columns of a row that name a run, and the row's place in its table."""

    table: str
    place: str
    texts: Mapping[str, str]


def events_database(home: Home) -> Database:
    """Dagster's database, for `pending_rewrite` and `rewrite` of `lse_resources.postgres.erase`."""
    return Database(libpq_url(home.dagster_url))


def find_events(home: Home, ids: Collection[str]) -> EventsNaming:
    """Searches all tables of Dagster's database, and the log files under the home.

    Args:
        ids: UUIDs of runs, and of their feedback records and attachments (the column `id` of their tables), which
            checks name, too. Pass all at once, any number: everything is read once.

    Raises:
        DatabaseError: Dagster's database cannot be reached or refuses.
        ArchiveError: A log file cannot be read.
    """
    wanted, rows = _lower(ids), Counter[str]()
    with events_database(home).session("cannot search the events of Dagster") as connection:
        for row in _rows_naming(connection, wanted):
            rows[row.table] += 1
    return EventsNaming(rows, {str(path): found for path in _logs(home) if (found := _lines_naming(path, wanted))})


def erase_events(home: Home, erasure_id: str, ids: Collection[str]) -> EventsNaming:
    """Removes what `find_events` finds: entries of tables that name such a run, and lines of other texts that do.

    Everything else, in the same event too, stays as it is. Can be repeated. Afterwards the changed tables have to be
    rewritten (`rewrite` of `lse_resources.postgres.erase`, with `events_database`): the erasure records which.

    Args:
        erasure_id: An id that `write_erasure` has recorded.
        ids: See `find_events`.

    Raises:
        DatabaseError: A database cannot be reached or refuses.
        ArchiveError: A log file cannot be changed.
    """
    wanted, changed = _lower(ids), Counter[str]()
    events = events_database(home)
    doing = "cannot erase events of Dagster"
    with events.session(doing) as reader, events.session(doing) as writer:
        for _ in range(_ROUNDS):
            found = False
            for row in _rows_naming(reader, wanted):
                found = True
                if not changed[row.table]:  # before the change: a process that is killed after it leaves its traces
                    note_rewrite_of_events(home.database, erasure_id, [row.table])
                new = {name: _without(text, wanted) for name, text in row.texts.items()}
                changed[row.table] += _update(writer, row, new)
            if not found:
                break
    lines = {str(path): erased for path in _logs(home) if (erased := _erase_lines(path, wanted))}
    return EventsNaming(+changed, lines)


def _lower(ids: Collection[str]) -> frozenset[str]:
    return frozenset(one.lower() for one in ids)


def _names(text: str, ids: frozenset[str]) -> bool:
    return any(text[found.start() - 8 : found.end()].lower() in ids for found in _ID.finditer(text))


def _rows_naming(connection: psycopg.Connection, ids: frozenset[str]) -> Iterator[_Row]:
    """Reads all texts of all tables, one row in memory at a time."""
    for table, columns in connection.execute(_TEXT_COLUMNS).fetchall():
        select = sql.SQL("SELECT ctid::text, {} FROM {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
        )
        with connection.transaction(), connection.cursor("events") as cursor:
            cursor.itersize = 200
            for place, *texts in cursor.execute(select):
                named = {name: text for name, text in zip(columns, texts, strict=True) if text and _names(text, ids)}
                if named:
                    yield _Row(table, place, named)


def _update(connection: psycopg.Connection, row: _Row, new: Mapping[str, str]) -> int:
    """Replaces the texts if the row has not changed since; returns the number of changed rows."""
    changes = [(sql.Identifier(name), row.texts[name], text) for name, text in new.items()]
    statement = sql.SQL("UPDATE {} SET {} WHERE ctid = %s::tid AND {}").format(
        sql.Identifier(row.table),
        sql.SQL(", ").join(sql.SQL("{} = %s").format(name) for name, _, _ in changes),
        sql.SQL(" AND ").join(sql.SQL("{} = %s").format(name) for name, _, _ in changes),
    )
    parameters = [*(text for _, _, text in changes), row.place, *(before for _, before, _ in changes)]
    return connection.execute(statement, parameters).rowcount


def _without(text: str, ids: frozenset[str]) -> str:
    """The text without what names a run: see the module. JSON, as Dagster stores it, stays JSON of the same kind."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            document = json.loads(text)
        except ValueError:
            pass
        else:
            return json.dumps(_edited(document, ids))
    return "".join(_line_without(line, ids) for line in text.splitlines(keepends=True))


def _line_without(line: str, ids: frozenset[str]) -> str:
    if not _names(line, ids):
        return line
    content = line.rstrip("\r\n")
    return ERASED + line[len(content) :]


def _edited(value: Any, ids: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {_edited(key, ids): _edited(entry, ids) for key, entry in value.items()}
    if isinstance(value, list):
        return [_edited(entry, ids) for entry in value if not (_is_record(entry) and _names(json.dumps(entry), ids))]
    return _without(value, ids) if isinstance(value, str) and _names(value, ids) else value


def _is_record(value: object) -> bool:
    """Whether it is a row of a table of metadata."""
    return isinstance(value, dict) and cast(dict[str, Any], value).get("__class__") == "TableRecord"


def _logs(home: Home) -> list[Path]:
    root = home.dagster_home.parent
    return sorted(path for pattern in _LOGS for path in root.glob(pattern) if path.is_file())


def _lines_naming(path: Path, ids: frozenset[str]) -> int:
    with disk_errors(f"cannot read {path}"), path.open("rb") as file:
        return sum(_is_named(line, ids) for line in file)


def _erase_lines(path: Path, ids: frozenset[str]) -> int:
    """Overwrites lines in their place: the process that appends to the file keeps it open."""
    erased = 0
    with disk_errors(f"cannot change {path}"), path.open("r+b") as file:
        while line := file.readline():
            if not _is_named(line, ids):
                continue
            after, content = file.tell(), line.rstrip(b"\r\n")
            file.seek(after - len(line))
            file.write(ERASED.encode().ljust(len(content)))
            file.seek(after)
            erased += 1
        if erased:
            file.flush()
            os.fsync(file.fileno())
    return erased


def _is_named(line: bytes, ids: frozenset[str]) -> bool:
    found = (line[match.start() - 8 : match.end()] for match in _ID_BYTES.finditer(line))
    return any(one.decode().lower() in ids for one in found)
