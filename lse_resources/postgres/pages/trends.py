"""The numbers of each day: runs, traces, errors, latency, tokens and cost by model, feedback by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import LiteralString

import psycopg

MAX_DAYS = 366
_REMEMBERED = 20_000

_LOADS = """
SELECT project, run_date, max(load_id), (array_agg(finished_at IS NOT NULL ORDER BY load_id DESC))[1]
FROM loads WHERE project = ANY (%s) AND run_date BETWEEN %s AND %s GROUP BY project, run_date
"""
# A trace may have thousands of runs on a day: distinct traces are counted without sorting the runs.
_COUNTS = """
SELECT run_date, sum(runs)::bigint, count(*), sum(errors)::bigint
FROM (SELECT run_date, trace_id, count(*) AS runs, count(*) FILTER (WHERE status = 'error') AS errors
      FROM runs WHERE project = %s AND run_date = ANY (%s) GROUP BY run_date, trace_id) AS trace
GROUP BY run_date
"""
_LATENCIES = """
SELECT run_date, percentile_cont(ARRAY[0.5, 0.95, 0.99])
                     WITHIN GROUP (ORDER BY extract(epoch FROM end_time - start_time)::double precision)
FROM runs WHERE project = %s AND run_date = ANY (%s) AND parent_run_id IS NULL AND end_time IS NOT NULL
GROUP BY run_date
"""
_MODELS = """
SELECT run_date, coalesce(model, ''), sum(total_tokens)::bigint, sum(total_cost)
FROM runs WHERE project = %s AND run_date = ANY (%s) AND run_type IN ('llm', 'embedding')
GROUP BY run_date, coalesce(model, '')
"""
_SCORES = """
SELECT run_date, key, avg(score)::double precision
FROM feedback_facts
WHERE project = %s AND run_date = ANY (%s) AND NOT deleted AND key IS NOT NULL AND score IS NOT NULL
GROUP BY run_date, key
"""


@dataclass(slots=True)
class DayNumbers:
    """The numbers of a project's day, as in `daily_facts`.

    Attributes:
        seconds: 50th, 95th and 99th percentile of the latency of root runs; empty: no root run has ended.
        tokens, cost: Of model calls, by model; the cost in USD. An empty name: no model is recorded.
        scores: Mean score by the key of feedback.
    """

    runs: int = 0
    traces: int = 0
    errors: int = 0
    seconds: list[float] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    cost: dict[str, Decimal] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


class DayCache:
    """Remembers the numbers of days until the next load, repair, rollback or deletion of the day."""

    def __init__(self) -> None:
        self._days: OrderedDict[tuple[str, date], tuple[int, DayNumbers]] = OrderedDict()

    def get(self, key: tuple[str, date], load_id: int) -> DayNumbers | None:
        """The numbers of a day after this load, which is its last one; None: not known."""
        known = self._days.get(key)
        return known[1] if known and known[0] == load_id else None

    def put(self, key: tuple[str, date], load_id: int, numbers: DayNumbers) -> None:
        self._days[key] = (load_id, numbers)
        while len(self._days) > _REMEMBERED:
            self._days.popitem(last=False)


def read_trends(
    connection: psycopg.Connection, cache: DayCache, projects: Sequence[str], first: date, last: date
) -> dict[tuple[str, date], DayNumbers]:
    """Reads the numbers of the days that have rows, by project and day. Call it in one snapshot (`reading`)."""
    found: dict[tuple[str, date], DayNumbers] = {}
    missing: dict[str, list[date]] = {}
    loads = {}
    for project, day, load_id, is_finished in connection.execute(_LOADS, (list(projects), first, last)):
        key = (project, day)
        if is_finished:
            loads[key] = load_id
        if is_finished and (known := cache.get(key, load_id)) is not None:
            found[key] = known
        else:
            missing.setdefault(project, []).append(day)
    for project, days in missing.items():
        for day, numbers in _read_days(connection, project, days).items():
            found[project, day] = numbers
            if (project, day) in loads:
                cache.put((project, day), loads[project, day], numbers)
    return found


def _read_days(connection: psycopg.Connection, project: str, days: list[date]) -> dict[date, DayNumbers]:
    found: dict[date, DayNumbers] = {day: DayNumbers() for day in days}

    def read(statement: LiteralString) -> psycopg.Cursor:
        return connection.execute(statement, (project, days))

    for day, runs, traces, errors in read(_COUNTS):
        found[day].runs, found[day].traces, found[day].errors = runs, traces, errors
    for day, seconds in read(_LATENCIES):
        found[day].seconds = seconds
    for day, model, tokens, cost in read(_MODELS):
        if tokens is not None:
            found[day].tokens[model] = tokens
        if cost is not None:
            found[day].cost[model] = cost
    for day, key, score in read(_SCORES):
        found[day].scores[key] = score
    return found
