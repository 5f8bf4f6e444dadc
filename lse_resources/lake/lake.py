"""Queries on a lake by DuckDB, with the views that the database has."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args

from lse_archive.errors import ArchiveError, UsageError
from lse_resources.lake.place import LakePlace, open_place
from lse_resources.lake.schema import TABLES
from lse_resources.postgres.analysis.columns import COLUMNS, FEEDBACK_COLUMNS

if TYPE_CHECKING:
    import duckdb

Kind = Literal["arrow", "pandas", "polars"]

_DOING = "cannot run the statement on the lake"
_ROWS = 100  # that are read at once
_DIGITS = Context(prec=40)
# The columns of one kind are read from all files of a table; `project` and `run_date` come from the folders.
_TABLE = """
CREATE VIEW {name} AS SELECT project, run_date, * EXCLUDE (project, run_date)
FROM read_parquet({glob}, hive_partitioning = true, hive_types = {{'project': VARCHAR, 'run_date': DATE}})
"""
_EMPTY_TABLE = "CREATE VIEW {name} AS SELECT NULL::VARCHAR AS project, NULL::DATE AS run_date, * FROM {empty}"
# Each view returns what the database's view of the same name returns; tests compare the rows.
# A record that is filed under two days counts once: the newest, or else that of the earlier day.
_FEEDBACK_FACTS = """
CREATE VIEW feedback_facts AS SELECT {columns} FROM feedback
QUALIFY row_number() OVER (
    PARTITION BY id, project ORDER BY coalesce(modified_at, '-infinity'::TIMESTAMPTZ) DESC, run_date) = 1
"""
# DuckDB leaves out the join where `feedback_scores` is not selected.
_RUN_FACTS = """
CREATE VIEW run_facts AS SELECT {columns}, scores.feedback_scores
FROM runs LEFT JOIN (
    SELECT project, run_id, map_from_entries(list((key, mean) ORDER BY key)) AS feedback_scores
    FROM (SELECT project, run_id, key, round(favg(score), 12) AS mean FROM feedback_facts
          WHERE NOT deleted AND key IS NOT NULL AND score IS NOT NULL GROUP BY ALL)
    GROUP BY project, run_id
) AS scores ON scores.project = runs.project AND scores.run_id = runs.run_id
"""
# A trace is under the day of its first run, and has the runs of the 30 days after that. Only model calls are added up.
_TRACE_FACTS = """
CREATE VIEW trace_facts AS
WITH first AS (
    SELECT project, run_date, trace_id,
           lag(run_date) OVER (
               PARTITION BY trace_id ORDER BY run_date, coalesce(start_time, 'infinity'::TIMESTAMPTZ), run_id
           ) AS earlier
    FROM runs QUALIFY earlier IS NULL OR earlier < run_date - 30
)
SELECT first.project, first.run_date, first.trace_id,
       (array_agg(run_id ORDER BY start_time, run_id) FILTER (WHERE parent_run_id IS NULL))[1] AS root_run_id,
       (array_agg(name ORDER BY start_time, run_id) FILTER (WHERE parent_run_id IS NULL))[1] AS root_name,
       count(*) AS runs,
       count(*) FILTER (WHERE status = 'error') AS errors,
       count(*) FILTER (WHERE status = 'pending') AS pending,
       min(start_time) AS start_time,
       max(end_time) AS end_time,
       (epoch_us(max(end_time)) - epoch_us(min(start_time))) / 1e6 AS duration_seconds,
       sum(total_tokens) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_tokens,
       sum(total_cost) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_cost
FROM first JOIN runs
  ON runs.trace_id = first.trace_id AND runs.run_date BETWEEN first.run_date AND first.run_date + 30
GROUP BY first.project, first.run_date, first.trace_id
"""
_DAILY_FACTS = """
CREATE VIEW daily_facts AS
SELECT project, run_date, count(*) AS runs, count(DISTINCT trace_id) AS traces,
       count(*) FILTER (WHERE parent_run_id IS NULL) AS root_runs,
       count(*) FILTER (WHERE status = 'error') AS errors,
       count(*) FILTER (WHERE status = 'pending') AS pending,
       quantile_cont(latency_seconds, 0.5) FILTER (WHERE parent_run_id IS NULL) AS median_root_seconds,
       quantile_cont(latency_seconds, 0.95) FILTER (WHERE parent_run_id IS NULL) AS p95_root_seconds,
       sum(total_tokens) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_tokens,
       sum(total_cost) FILTER (WHERE run_type IN ('llm', 'embedding')) AS total_cost
FROM runs GROUP BY project, run_date
"""

_VIEWS = {
    "feedback_facts": _FEEDBACK_FACTS.format(columns=", ".join(FEEDBACK_COLUMNS)),
    "run_facts": _RUN_FACTS.format(columns=", ".join(f"runs.{name}" for name in COLUMNS if name != "feedback_scores")),
    "trace_facts": _TRACE_FACTS,
    "daily_facts": _DAILY_FACTS,
}
# In this order: what a view needs, and what that needs.
_BELOW = {
    "run_facts": {"runs", "feedback_facts"},
    "feedback_facts": {"feedback"},
    "trace_facts": {"runs"},
    "daily_facts": {"runs"},
}


class Lake:
    """A lake, for analysts: `Lake("s3://bucket/lake").frame("SELECT * FROM daily_facts")`.

    The views are `runs`, `run_facts`, `trace_facts`, `daily_facts`, `feedback_facts`, and the tables `feedback`,
    `attachments` and `raw`; docs/lake.md describes them.

    Args:
        url: A directory, or s3://…, gs://… or az://…
        config: Credentials, region and endpoint, by obstore's names; missing ones are read from the environment.

    Raises:
        SettingsError: The URL or the configuration is malformed.
    """

    def __init__(self, url: str, config: Mapping[str, str] | None = None) -> None:
        self._place = open_place(url, config or {})

    @classmethod
    def of(cls, place: LakePlace) -> Lake:
        """The lake of a place that is open already."""
        lake = cls.__new__(cls)
        lake._place = place
        return lake

    def frame(self, statement: str, kind: Kind = "arrow") -> Any:
        """Runs one SELECT; returns a pyarrow.Table, or a DataFrame of pandas or Polars.

        Raises:
            UsageError: The statement is not one SELECT, or there is no such kind of frame.
            ArchiveError: DuckDB refuses the statement, or the lake cannot be read.
        """
        if kind not in get_args(Kind):
            raise UsageError(f"there is no frame '{kind}'", hint=f"Choose one of {', '.join(get_args(Kind))}")
        with self._connected(statement) as (connection, selected):
            found = connection.sql(selected)
            if kind == "polars":
                return found.pl()
            return found.df() if kind == "pandas" else found.to_arrow_table()

    @contextlib.contextmanager
    def stream(self, statement: str) -> Generator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
        """Runs one SELECT; yields the names of the columns, and the rows one by one.

        Raises:
            UsageError, ArchiveError: See `frame`.
        """
        with self._connected(statement) as (connection, selected):
            result = connection.execute(selected)
            columns = [column[0] for column in result.description or ()]

            def rows() -> Iterator[tuple[Any, ...]]:
                while found := result.fetchmany(_ROWS):
                    yield from (tuple(map(_shortened, row)) for row in found)

            yield columns, rows()

    @contextlib.contextmanager
    def _connected(self, statement: str) -> Generator[tuple[duckdb.DuckDBPyConnection, duckdb.Statement]]:
        engine = _duckdb()
        try:
            # Nothing is downloaded: what the views need is part of the package.
            with engine.connect(config={"autoinstall_known_extensions": False}) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                selected = connection.extract_statements(statement)
                if len(selected) != 1 or selected[0].type != engine.StatementType.SELECT:
                    raise UsageError(
                        "the statement cannot be run on the lake",
                        why="it is not one SELECT",
                        hint="For example: SELECT * FROM daily_facts",
                    )
                self._create_views(connection, {name.lower() for name in connection.get_table_names(statement)})
                yield connection, selected[0]
        except engine.Error as error:
            raise ArchiveError(
                _DOING, why=_brief(error), hint="docs/lake.md describes the views and their columns"
            ) from error

    def _create_views(self, connection: duckdb.DuckDBPyConnection, named: set[str]) -> None:
        """Creates the views that a statement names, and those below them: each lists the files of its table."""
        from lse_resources.lake.pinned_files import ROOT, PinnedFiles

        connection.register_filesystem(PinnedFiles(self._place))
        for view, below in _BELOW.items():
            if view in named:
                named |= below
        for name, schema in TABLES.items():
            if name not in named:
                continue
            if self._place.folders(name):
                connection.execute(_TABLE.format(name=name, glob=f"'{ROOT}{name}/*/*/{name}.parquet'"))
            else:  # nothing was built yet
                connection.register(f"empty_{name}", schema.empty_table())
                connection.execute(_EMPTY_TABLE.format(name=name, empty=f"empty_{name}"))
        for view, definition in _VIEWS.items():
            if view in named:
                connection.execute(definition)


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise UsageError(
            "the lake cannot be queried",
            why="DuckDB is not installed",
            hint="Install it: pip install 'langsmith-archive[lake]'",
        ) from None
    return duckdb


def _shortened(value: Any) -> Any:
    """A decimal without the zeros at its end, which are those of the column's type."""
    if not isinstance(value, Decimal):
        return value
    normal = value.normalize(_DIGITS)
    return normal if normal.as_tuple().exponent <= 0 else value.to_integral_value()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
