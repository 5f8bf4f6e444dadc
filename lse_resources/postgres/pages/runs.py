"""Lists of runs: filters that combine, an order, and pages by keyset, so that every page is as quick as the first."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from lse_resources.postgres.analysis.export import COPY_LINES, csv_columns
from lse_resources.postgres.analysis.facts import RUNS
from lse_resources.postgres.database import Database
from lse_resources.postgres.pages.session import reading

Sort = Literal["start", "latency", "cost", "tokens"]
Download = Literal["csv", "jsonl"]
PAGE_ROWS = 50
DOWNLOAD_SECONDS = 600
"""After this time a download ends incomplete."""

_VALUES = {"latency": "latency_seconds", "cost": "total_cost", "tokens": "total_tokens"}
# The order of the index runs_day, backward: a run without a start, of which the database holds no content, comes first.
_NEWEST_FIRST = sql.SQL("run_date DESC, start_time DESC, run_id DESC")
_COLUMNS = sql.SQL(
    "run_id, run_date, trace_id, is_root, name, run_type, status, start_time, latency_seconds, total_tokens,"
    " total_cost, model, left(error, 300) AS error, feedback_scores, mark"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """The conditions that all runs of a list meet, and its order.

    Attributes:
        first, last: Range of days; None: no bound.
        roots: Only root runs.
        name: Part of the name, in any case.
        metadata: A key and the text of its value.
        seconds, cost, tokens: The least latency, cost in USD, and number of tokens.
        feedback: A key of feedback that the run has, with a score from `score_from` to `score_to` if they are given.
        text: Part of the name, the error, the inputs or the outputs, in any case.
        run_ids: Only these runs.
        sort: `start`: newest first; others: highest first, unknown last.
    """

    project: str
    first: date | None = None
    last: date | None = None
    roots: bool = False
    name: str = ""
    run_type: str = ""
    status: str = ""
    model: str = ""
    tag: str = ""
    metadata: tuple[str, str] | None = None
    thread: str = ""
    seconds: float | None = None
    cost: Decimal | None = None
    tokens: int | None = None
    feedback: str = ""
    score_from: float | None = None
    score_to: float | None = None
    text: str = ""
    run_ids: tuple[UUID, ...] = ()
    sort: Sort = "start"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last run of a page, after which the next one begins.

    Attributes:
        value: What the list is sorted by; None: unknown.
    """

    run_date: date
    value: datetime | float | Decimal | int | None
    run_id: UUID


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run of a list, with the columns of `run_facts`; the error is cut."""

    run_id: UUID
    run_date: date
    trace_id: UUID
    is_root: bool
    name: str | None
    run_type: str | None
    status: str | None
    start_time: datetime | None
    latency_seconds: float | None
    total_tokens: int | None
    total_cost: Decimal | None
    model: str | None
    error: str | None
    feedback_scores: dict[str, Any] | None
    mark: list[str] | None


def as_sql(wanted: RunFilter) -> str:
    """The statement that selects all runs of a list, for `lse sql` and psql."""
    return _select([sql.SQL("*")], wanted).as_string(None)


def read_page(
    connection: psycopg.Connection, wanted: RunFilter, after: Cursor | None
) -> tuple[list[RunRow], Cursor | None]:
    """Reads a page of at most PAGE_ROWS runs, and where the next one begins; None: this is the last one."""
    conditions = _conditions(wanted)
    if after:
        conditions = [*_conditions(_from_cursor(wanted, after)), _after(wanted.sort, after)]
    # The keys first: the order can then be read from an index alone, and other columns of the page's runs only.
    statement = sql.SQL(
        "SELECT {} FROM (SELECT run_id, run_date FROM run_facts WHERE {} ORDER BY {} LIMIT {}) AS page"
        " JOIN run_facts USING (run_id, run_date) ORDER BY {}"
    ).format(_COLUMNS, sql.SQL(" AND ").join(conditions), _order(wanted), PAGE_ROWS + 1, _order(wanted))
    rows = connection.cursor(row_factory=class_row(RunRow)).execute(statement).fetchall()
    if len(rows) <= PAGE_ROWS:
        return rows, None
    last = rows[PAGE_ROWS - 1]
    value = last.start_time if wanted.sort == "start" else getattr(last, _VALUES[wanted.sort])
    return rows[:PAGE_ROWS], Cursor(last.run_date, value, last.run_id)


def download(database: Database, wanted: RunFilter, format: Download) -> Generator[bytes]:
    """Yields all runs of a list: `csv` has the columns of `run_facts`, `jsonl` the runs as LangSmith sent them.

    Raises:
        DatabaseError: Postgres cannot be reached, or does not finish within DOWNLOAD_SECONDS.
    """
    if format == "csv":
        copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(_select(csv_columns(RUNS), wanted))
    else:
        keys = sql.SQL("run_id AS key, run_date AS day, row_number() OVER (ORDER BY {}) AS place").format(
            _order(wanted)
        )
        lines = sql.SQL(
            "SELECT coalesce(data::text, jsonb_build_object('id', run_id, 'mark', mark)::text)"
            " FROM ({}) AS chosen JOIN runs ON run_id = key AND run_date = day ORDER BY place"
        ).format(_select([keys], wanted))
        copy = sql.SQL(COPY_LINES).format(lines)
    with reading(database, seconds=DOWNLOAD_SECONDS) as connection, connection.cursor().copy(copy) as parts:
        for part in parts:
            yield bytes(part)


def _select(columns: list[sql.Composable] | list[sql.SQL], wanted: RunFilter) -> sql.Composed:
    return sql.SQL("SELECT {} FROM run_facts WHERE {} ORDER BY {}").format(
        sql.SQL(", ").join(columns), sql.SQL(" AND ").join(_conditions(wanted)), _order(wanted)
    )


def _order(wanted: RunFilter) -> sql.Composable:
    if wanted.sort == "start":
        return _NEWEST_FIRST
    return sql.SQL("{} DESC NULLS LAST, run_id DESC").format(sql.Identifier(_VALUES[wanted.sort]))


def _from_cursor(wanted: RunFilter, after: Cursor) -> RunFilter:
    """The filter without the bound that a cursor replaces: with both, Postgres reads the index from the other on."""
    return replace(wanted, last=None) if wanted.sort == "start" and after.value is not None else wanted


def _after(sort: Sort, after: Cursor) -> sql.Composed:
    if sort == "start":
        if after.value is None:
            return sql.SQL("run_date <= {0} AND (run_date < {0} OR start_time IS NOT NULL OR run_id < {1})").format(
                after.run_date, after.run_id
            )
        # A start that is unknown comes first on its day: the comparison with it is NULL, so that it is left out.
        return sql.SQL("(run_date, start_time, run_id) < ({}, {}, {})").format(
            after.run_date, after.value, after.run_id
        )
    value = sql.Identifier(_VALUES[sort])
    if after.value is None:
        return sql.SQL("{} IS NULL AND run_id < {}").format(value, after.run_id)
    return sql.SQL("({0} IS NULL OR ({0}, run_id) < ({1}, {2}))").format(value, after.value, after.run_id)


def _conditions(wanted: RunFilter) -> list[sql.Composable]:
    found: list[sql.Composable] = [sql.SQL("project = {}").format(wanted.project)]
    if wanted.first and wanted.first == wanted.last:
        found.append(sql.SQL("run_date = {}").format(wanted.first))
    else:
        bounds: dict[LiteralString, date | None] = {">=": wanted.first, "<=": wanted.last}
        found += [sql.SQL("run_date {} {}").format(sql.SQL(sign), day) for sign, day in bounds.items() if day]
    if wanted.run_ids:
        found.append(sql.SQL("run_id = ANY ({})").format(list(wanted.run_ids)))
    if wanted.roots:
        found.append(sql.SQL("is_root"))
    if wanted.name:
        found.append(sql.SQL("name ILIKE {}").format(_part(wanted.name)))
    equal = {"run_type": wanted.run_type, "status": wanted.status, "model": wanted.model, "thread_id": wanted.thread}
    found += [sql.SQL("{} = {}").format(sql.Identifier(column), text) for column, text in equal.items() if text]
    if wanted.tag:
        found.append(sql.SQL("{} = ANY (tags)").format(wanted.tag))
    if wanted.metadata:
        found.append(sql.SQL("metadata ->> {} = {}").format(*wanted.metadata))
    least = {"latency_seconds": wanted.seconds, "total_cost": wanted.cost, "total_tokens": wanted.tokens}
    found += [
        sql.SQL("{} >= {}").format(sql.Identifier(name), value) for name, value in least.items() if value is not None
    ]
    if wanted.feedback:
        found.append(_has_feedback(wanted))
    if wanted.text:
        # Texts inside of JSON are escaped there.
        quoted = json.dumps(wanted.text, ensure_ascii=False)[1:-1]
        found.append(
            sql.SQL(
                "(name ILIKE {0} OR error ILIKE {0} OR EXISTS (SELECT FROM runs WHERE runs.run_id = run_facts.run_id"
                " AND runs.run_date = run_facts.run_date AND ((data -> 'inputs')::text ILIKE {1}"
                " OR (data -> 'outputs')::text ILIKE {1})))"
            ).format(_part(wanted.text), _part(quoted))
        )
    return found


def _has_feedback(wanted: RunFilter) -> sql.Composed:
    bounds: dict[LiteralString, float | None] = {">=": wanted.score_from, "<=": wanted.score_to}
    scores = [
        sql.SQL(" AND given.score {} {}").format(sql.SQL(sign), value)
        for sign, value in bounds.items()
        if value is not None
    ]
    return sql.SQL(
        "EXISTS (SELECT FROM feedback_facts AS given WHERE given.run_id = run_facts.run_id AND given.project ="
        " run_facts.project AND NOT given.deleted AND given.key = {}{})"
    ).format(wanted.feedback, sql.Composed(scores))


def _part(text: str) -> str:
    """The pattern of a text that contains this one."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
