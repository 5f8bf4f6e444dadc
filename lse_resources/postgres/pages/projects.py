"""The projects that have days in the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg.rows import class_row

_SELECT = """
SELECT project, min(run_date) AS first, max(run_date) AS last, count(*) AS days, sum(rows)::bigint AS runs,
       count(*) FILTER (WHERE verdict = 'proven') AS proven,
       count(*) FILTER (WHERE verdict = 'not_provable') AS not_provable,
       count(*) FILTER (WHERE verdict = 'wrong') AS wrong
FROM days GROUP BY project ORDER BY project
"""


@dataclass(frozen=True, slots=True)
class ProjectDays:
    """The days of a project that the table `days` has, and how many of them have each verdict.

    Attributes:
        runs: Rows in the database after the last load of each day; None: no day was loaded.
    """

    project: str
    first: date
    last: date
    days: int
    runs: int | None
    proven: int
    not_provable: int
    wrong: int


def read_projects_with_days(connection: psycopg.Connection) -> list[ProjectDays]:
    """Reads the projects, sorted by name."""
    return connection.cursor(row_factory=class_row(ProjectDays)).execute(_SELECT).fetchall()


def last_day_of(connection: psycopg.Connection, project: str) -> date | None:
    """The last day of a project that the table `days` has; None: it has none."""
    [(last,)] = connection.execute("SELECT max(run_date) FROM days WHERE project = %s", (project,)).fetchall()
    return last
