"""A trace with all its runs, a run with all that is known of it, and the turns of a thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row

MAX_RUNS = 100_000
"""Runs of a trace that are read; a larger trace is cut, and says so."""
MAX_TURNS = 200
THREAD_DAYS = 30
"""Days before and after the day of a run in which the turns of its thread are searched."""

_TRACE = """
SELECT run_id, parent_run_id, project, run_date, name, run_type, status, start_time, end_time, total_tokens, total_cost
FROM runs WHERE trace_id = %s ORDER BY start_time, run_id LIMIT %s
"""
_TRACE_OF = """
SELECT trace_id FROM runs WHERE trace_id = %(id)s OR run_id = %(id)s ORDER BY trace_id <> %(id)s LIMIT 1
"""
_DOCUMENTS = """
SELECT coalesce(data::text, jsonb_build_object('id', run_id, 'mark', mark)::text)
FROM runs WHERE trace_id = %s ORDER BY start_time, run_id
"""
_LAST_LOAD = "SELECT max(load_id) FROM loads"
_RUN = """
SELECT project, run_date, run_id, trace_id, parent_run_id, is_root, name, run_type, status, start_time, end_time,
       latency_seconds, prompt_tokens, completion_tokens, total_tokens, prompt_cost, completion_cost, total_cost, error,
       model, tags, thread_id, mark,
       (SELECT data FROM runs WHERE runs.run_id = f.run_id AND runs.run_date = f.run_date) AS data
FROM run_facts AS f WHERE run_id = %s
"""
_VERDICT = "SELECT verdict, verified_at FROM days WHERE project = %s AND run_date = %s"
_FEEDBACK = """
SELECT key, score, value, comment, correction, source_type, created_at, deleted
FROM feedback_facts WHERE run_id = %s AND project = %s ORDER BY created_at, id LIMIT 200
"""
_ATTACHMENTS = """
SELECT id, name, media_type, bytes, sha256, project, run_date FROM attachments
WHERE run_id = %s AND (%s::uuid IS NULL OR id = %s) ORDER BY name COLLATE "C", id LIMIT 200
"""
_TURNS = """
SELECT f.run_id, f.trace_id, f.run_date, f.name, f.status, f.start_time, f.latency_seconds, f.error,
       data -> 'inputs' AS inputs, data -> 'outputs' AS outputs
FROM run_facts AS f JOIN runs USING (run_id, run_date)
WHERE f.project = %s AND f.run_date BETWEEN %s AND %s AND f.is_root AND f.thread_id = %s
ORDER BY f.run_date, f.start_time, f.run_id LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class TraceRun:
    """A run of a trace, without its content."""

    run_id: UUID
    parent_run_id: UUID | None
    project: str
    run_date: date
    name: str | None
    run_type: str | None
    status: str | None
    start_time: datetime | None
    end_time: datetime | None
    total_tokens: int | None
    total_cost: Decimal | None


@dataclass(slots=True)
class TreeRow:
    """A run at its place in the tree.

    Attributes:
        level: 0 for a root.
        is_orphan: Whether its parent is not in the archive.
    """

    run: TraceRun
    level: int
    is_orphan: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """The runs of a trace over all its days, in the order of the tree: each run before those below it."""

    trace_id: UUID
    rows: list[TreeRow] = field(repr=False)
    is_cut: bool

    @property
    def root(self) -> TraceRun:
        return self.rows[0].run

    @property
    def start(self) -> datetime | None:
        return min((row.run.start_time for row in self.rows if row.run.start_time), default=None)

    @property
    def end(self) -> datetime | None:
        """The last time that any run names."""
        times = (row.run.end_time or row.run.start_time for row in self.rows)
        return max(filter(None, times), default=None)

    @property
    def errors(self) -> int:
        return sum(row.run.status == "error" for row in self.rows)

    @property
    def tokens(self) -> int | None:
        """Of the model calls: a chain reports the sum of those below it."""
        found = list(self._of_models("total_tokens"))
        return sum(found) if found else None

    @property
    def cost(self) -> Decimal | None:
        """Of the model calls, in USD."""
        found = list(self._of_models("total_cost"))
        return sum(found, start=Decimal()) if found else None

    def _of_models(self, name: str) -> Iterator[Any]:
        for row in self.rows:
            if row.run.run_type in ("llm", "embedding") and (value := getattr(row.run, name)) is not None:
                yield value


def read_trace(connection: psycopg.Connection, trace_id: UUID) -> Trace | None:
    """Reads a trace; None: it has no run in the database."""
    runs = connection.cursor(row_factory=class_row(TraceRun)).execute(_TRACE, (trace_id, MAX_RUNS + 1)).fetchall()
    if not runs:
        return None
    return Trace(trace_id, tree_order(runs[:MAX_RUNS]), is_cut=len(runs) > MAX_RUNS)


class TraceCache:
    """The traces that were read last, until the next load, repair, rollback or deletion of any day.

    At most MAX_RUNS runs are kept.
    """

    def __init__(self) -> None:
        self._traces: OrderedDict[UUID, tuple[int | None, Trace]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, connection: psycopg.Connection, trace_id: UUID) -> Trace | None:
        """The trace as it was read last, so that the places of its runs stay the same; else as `read_trace`."""
        with self._lock:
            load_id, trace = self._traces.get(trace_id, (None, None))
        return trace if trace and load_id == _last_load(connection) else self.read_again(connection, trace_id)

    def read_again(self, connection: psycopg.Connection, trace_id: UUID) -> Trace | None:
        """Reads a trace, see `read_trace`, and keeps it."""
        trace = read_trace(connection, trace_id)
        with self._lock:
            self._traces.pop(trace_id, None)
            if trace:
                self._traces[trace_id] = (_last_load(connection), trace)
            while sum(len(kept.rows) for _, kept in self._traces.values()) > MAX_RUNS:
                self._traces.popitem(last=False)
        return trace


def _last_load(connection: psycopg.Connection) -> int | None:
    [(load_id,)] = connection.execute(_LAST_LOAD).fetchall()
    return load_id


def find_trace(connection: psycopg.Connection, key: UUID) -> UUID | None:
    """The id of the trace that has this id, or has a run of this id; None: the database has neither."""
    row = connection.execute(_TRACE_OF, {"id": key}).fetchone()
    return row[0] if row else None


def read_documents(connection: psycopg.Connection, trace_id: UUID) -> Iterator[str]:
    """Yields the JSON of a trace's runs as stored, the oldest first; of a run without content, its id and mark."""
    for (document,) in connection.cursor().stream(_DOCUMENTS, (trace_id,)):
        yield document


def tree_order(runs: list[TraceRun]) -> list[TreeRow]:
    """Puts each run before those below it, in the given order among equals. Runs in a circle are there, too."""
    children: dict[UUID, list[TraceRun]] = {}
    known = {run.run_id for run in runs}
    tops, rest = [], []
    for run in runs:
        if run.parent_run_id is None or run.parent_run_id not in known:
            (tops if run.parent_run_id is None else rest).append(run)
        else:
            children.setdefault(run.parent_run_id, []).append(run)
    rows, seen = list[TreeRow](), set[UUID]()
    # Roots, runs without their parent, and what is left: a circle, which is opened at its first run.
    for top in (*tops, *rest, *runs):
        stack = [(top, 0)]
        while stack:
            run, level = stack.pop()
            if run.run_id in seen:
                continue
            seen.add(run.run_id)
            is_orphan = run.parent_run_id is not None and run.parent_run_id not in known
            rows.append(TreeRow(run, level, is_orphan))
            stack += [(child, level + 1) for child in reversed(children.get(run.run_id, ()))]
    return rows


def read_run(connection: psycopg.Connection, run_id: UUID) -> dict[str, Any] | None:
    """Reads the columns of `run_facts` of a run, and its content as `data`; None: it is not in the database."""
    return connection.cursor(row_factory=dict_row).execute(_RUN, (run_id,)).fetchone()


def read_verdict(connection: psycopg.Connection, project: str, day: date) -> tuple[str | None, datetime | None]:
    """What the last verification of a day showed, see the table `days`, and when; None: not known."""
    return connection.execute(_VERDICT, (project, day)).fetchone() or (None, None)


def read_feedback(connection: psycopg.Connection, run_id: UUID, project: str) -> list[dict[str, Any]]:
    """Reads the feedback on a run, at most 200 records."""
    return connection.cursor(row_factory=dict_row).execute(_FEEDBACK, (run_id, project)).fetchall()


def read_attachments_of(
    connection: psycopg.Connection, run_id: UUID, attachment: UUID | None = None
) -> list[dict[str, Any]]:
    """Reads the entries of a run's attachments, at most 200, or the one with this id."""
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(_ATTACHMENTS, (run_id, attachment, attachment)).fetchall()


def read_turns(connection: psycopg.Connection, project: str, thread: str, day: date) -> list[dict[str, Any]]:
    """Reads the root runs of a thread within THREAD_DAYS of a day, the oldest first: at most MAX_TURNS and one more."""
    around = timedelta(days=THREAD_DAYS)
    first = day - around if day - date.min > around else date.min
    last = day + around if date.max - day > around else date.max
    values = (project, first, last, thread, MAX_TURNS + 1)
    return connection.cursor(row_factory=dict_row).execute(_TURNS, values).fetchall()
