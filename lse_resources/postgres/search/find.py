"""Finds the runs that have the words and phrases of a query, newest first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from lse_archive.runs.words import Excerpt, Query, run_texts
from lse_resources.postgres.pages.runs import Cursor
from lse_resources.postgres.search.index import load_text
from lse_resources.postgres.search.keys import day_key, word_key

_SECONDS = 5.0
"""After this time, the hits that were found are returned, with where to continue."""
_WIDEST = 32
"""Days that one statement searches at most: a search reads newer days first, and stops when it has enough."""
_FIRST_LIMIT, _LARGEST_LIMIT = 100, 2000
"""Runs that a statement reads from the index: more, if few of the first match."""
_MAX_BEHIND = 1000

_CANDIDATES = sql.SQL(
    "SELECT run_date, start_time, run_id FROM run_search WHERE {}"
    " ORDER BY run_date DESC, start_time DESC, run_id DESC LIMIT {}"
)
_RUN = """
SELECT run_id, trace_id, project, run_date, name, run_type, status, start_time, data ->> 'error' AS error,
       (data -> 'inputs')::text AS inputs, (data -> 'outputs')::text AS outputs
FROM runs WHERE run_id = %s AND run_date = %s
"""
_DAYS = """
SELECT min(run_date), max(run_date) FROM days
WHERE rows > 0 AND (%(project)s::text IS NULL OR project = %(project)s)
"""
_BEHIND = """
SELECT project, run_date FROM days
WHERE rows > 0 AND run_date BETWEEN %(first)s AND %(last)s AND (%(project)s::text IS NULL OR project = %(project)s)
  AND (indexed_at IS NULL OR EXISTS (
    SELECT FROM loads WHERE loads.project = days.project AND loads.run_date = days.run_date AND kind <> 'deletion'
      AND started_at > indexed_at AND (finished_at IS NULL OR inserted + replaced > 0)))
ORDER BY project, run_date LIMIT %(limit)s
"""
_COUNT_CUT = """
SELECT count(*) FROM run_search
WHERE is_cut AND run_date BETWEEN %(first)s AND %(last)s AND (%(project)s::text IS NULL OR project = %(project)s)
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where is searched.

    Attributes:
        project: None: all projects.
        first, last: Range of days; None: no bound.
    """

    project: str | None = None
    first: date | None = None
    last: date | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A run that matches, and where."""

    run_id: UUID
    trace_id: UUID
    project: str
    run_date: date
    name: str | None
    run_type: str | None
    status: str | None
    start_time: datetime | None
    excerpt: Excerpt


@dataclass(slots=True)
class Found:
    """Hits, newest first.

    Attributes:
        following: Where the search continues; None: there are no others.
        behind: Projects and days whose rows are not, or not all, in the index; at most 1,000.
        cut: Runs in scope of which the index has only a part.
    """

    hits: list[Hit] = field(default_factory=list)
    following: Cursor | None = None
    behind: list[tuple[str, date]] = field(default_factory=list)
    cut: int = 0


def search(
    connection: psycopg.Connection, query: Query, scope: Scope, limit: int, after: Cursor | None = None
) -> Found:
    """Finds at most `limit` runs. A search that takes long returns fewer, and where it continues.

    Raises:
        psycopg.Error: Postgres does not answer in time, or refuses.
    """
    found = Found()
    ends = time.monotonic() + _SECONDS
    [(oldest, newest)] = connection.execute(_DAYS, {"project": scope.project}).fetchall()
    if oldest is None:
        return found
    first, last = max(oldest, scope.first or oldest), min(newest, scope.last or newest)
    in_scope = {"project": scope.project, "first": first, "last": last, "limit": _MAX_BEHIND}
    found.behind = connection.execute(_BEHIND, in_scope).fetchall()
    [(found.cut,)] = connection.execute(_COUNT_CUT, in_scope).fetchall()
    last = min(last, after.run_date) if after else last
    for place in _candidates(connection, query, scope.project, first, last, after):
        if hit := _read_hit(connection, query, place):
            if len(found.hits) == limit:
                break
            found.hits.append(hit)
        found.following = place
        if time.monotonic() > ends:
            break
    else:
        found.following = None
    return found


def _candidates(
    connection: psycopg.Connection, query: Query, project: str | None, first: date, last: date, after: Cursor | None
) -> Iterator[Cursor]:
    """Yields the runs that the index has for the query, newest first, and a place before each range of days."""
    words = [word_key(word) for word in query.index_words]
    upper, width, limit = last, 1, _FIRST_LIMIT
    while upper >= first:
        days = [upper - timedelta(days=back) for back in range(min(width, (upper - first).days + 1))]
        full = True
        while full:
            conditions = [
                sql.SQL("run_date BETWEEN {} AND {}").format(days[-1], upper),
                sql.SQL("keys @> {}::integer[]").format(words),
                sql.SQL("keys && {}::integer[]").format([day_key(day, project) for day in days]),
            ]
            if project is not None:
                conditions.append(sql.SQL("project = {}").format(project))
            if after:
                place = (after.run_date, after.value, after.run_id)
                conditions.append(sql.SQL("(run_date, start_time, run_id) < ({}, {}, {})").format(*place))
            statement = _CANDIDATES.format(sql.SQL(" AND ").join(conditions), limit)
            rows = connection.execute(statement).fetchall()
            for row in rows:
                yield (after := Cursor(*row))
            full = len(rows) == limit
            limit = min(2 * limit, _LARGEST_LIMIT)
        yield Cursor(days[-1], datetime.min.replace(tzinfo=UTC), UUID(int=0))
        if days[-1] == first:
            return
        upper, width = days[-1] - timedelta(days=1), min(2 * width, _WIDEST)


def _read_hit(connection: psycopg.Connection, query: Query, place: Cursor) -> Hit | None:
    """Reads the texts of a run; None if they do not match: a phrase is not in them, or only the hash of a word is."""
    row = connection.cursor(row_factory=dict_row).execute(_RUN, (place.run_id, place.run_date)).fetchone()
    if row is None:
        return None
    error, inputs, outputs = (row.pop(name) for name in ("error", "inputs", "outputs"))
    texts, _ = run_texts(row["name"], error, load_text(inputs), load_text(outputs))
    excerpt = query.excerpt(texts)
    return Hit(**row, excerpt=excerpt) if excerpt else None
