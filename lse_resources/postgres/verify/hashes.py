"""Compares ids, traces and hashes of run files with those of the rows, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import starmap

import psycopg
from psycopg import sql

from lse_archive.results import Inconsistency, VerificationResult
from lse_resources.postgres.database import Database, explained

CopyExpected = Callable[[psycopg.Copy], None]
"""Writes one expected row per run file: run id, trace id (None: unknown), and the sha256 of the file."""

_CREATE_EXPECTED = """
CREATE TEMPORARY TABLE expected (run_id uuid, trace_id uuid, file_sha256 bytea) ON COMMIT DROP
"""
# Without statistics the planner may choose a nested loop for a join of two large tables.
_ANALYZE = "ANALYZE expected"
# Executed on a second connection, in the same snapshot, while the first one receives the hashes of the files.
_SELECT_CHANGED = """
SELECT run_id::text FROM runs
WHERE project = %s AND run_date = %s
  AND row_sha256 IS DISTINCT FROM sha256(convert_to(data::text, 'UTF8'))
"""
_SELECT_DIFFERENT = """
WITH actual AS (
    SELECT run_id, trace_id, file_sha256, mark FROM runs WHERE project = %(project)s AND run_date = %(day)s
)
SELECT coalesce(expected.run_id, actual.run_id)::text, expected.run_id IS NOT NULL, actual.run_id IS NOT NULL,
       expected.trace_id::text, actual.trace_id::text, expected.file_sha256, actual.file_sha256,
       coalesce(actual.run_id = ANY(%(changed)s::uuid[]), false), actual.mark IS NOT NULL
FROM expected FULL JOIN actual USING (run_id)
WHERE expected.run_id IS NULL OR actual.run_id IS NULL
   OR expected.trace_id <> actual.trace_id
   OR expected.file_sha256 IS DISTINCT FROM actual.file_sha256
   OR actual.mark IS NOT NULL
   OR actual.run_id = ANY(%(changed)s::uuid[])
ORDER BY 1
"""
_COUNT = """
SELECT (SELECT count(*) FROM expected), (SELECT count(DISTINCT trace_id) FROM expected),
       count(*), count(DISTINCT trace_id)
FROM runs WHERE project = %s AND run_date = %s
"""
_SELECT_MISSING_TRACES = """
SELECT coalesce(e.trace_id, a.trace_id)::text, e.trace_id IS NOT NULL
FROM (SELECT DISTINCT trace_id FROM expected WHERE trace_id IS NOT NULL) AS e
FULL JOIN (SELECT DISTINCT trace_id FROM runs WHERE project = %s AND run_date = %s) AS a USING (trace_id)
WHERE e.trace_id IS NULL OR a.trace_id IS NULL
ORDER BY 1
"""
_SELECT_ELSEWHERE = """
SELECT run_id::text, trace_id::text, project, run_date FROM runs
WHERE run_id = ANY(%s::uuid[]) AND (project, run_date) <> (%s, %s)
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class _ComparedRun:
    """A row of `_SELECT_DIFFERENT`: a run in the files, in the database, or in both."""

    run_id: str
    in_files: bool
    in_db: bool
    file_trace: str | None
    row_trace: str | None
    file_sha256: bytes | None
    loaded_sha256: bytes | None
    content_changed: bool
    marked: bool

    def differences(self) -> Iterator[tuple[str, str, str]]:
        """Yields what differs between file and row, the expected value, and the value found."""
        if self.file_trace and self.file_trace != self.row_trace:
            yield "trace_id", self.file_trace, str(self.row_trace)
        if self.file_sha256 != self.loaded_sha256:
            yield "file", _hex(self.file_sha256), _hex(self.loaded_sha256)
        if self.content_changed:
            yield "content", "the content as loaded", "content changed in the database"


def compare_hashes(
    connection: psycopg.Connection, database: Database, project: str, day: date, copy_expected: CopyExpected
) -> VerificationResult:
    """Compares the rows that `copy_expected` writes with the rows of a day, all in one snapshot.

    The server recomputes the hash of every row's content on a second connection while `copy_expected` reads files.
    """
    result = VerificationResult(project=project, date=str(day))
    key = (project, day)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        [(snapshot,)] = connection.execute("SELECT pg_export_snapshot()").fetchall()
        with ThreadPoolExecutor(1) as pool:
            changed_rows = pool.submit(_find_changed_rows, database, snapshot, key)
            connection.execute(_CREATE_EXPECTED)
            with connection.cursor().copy("COPY expected FROM STDIN") as copy:
                copy_expected(copy)
            connection.execute(_ANALYZE)
            changed = changed_rows.result()
        [totals] = connection.execute(_COUNT, key).fetchall()
        result.total_runs_in_files, result.total_traces_in_files = totals[:2]
        result.total_runs_in_db, result.total_traces_in_db = totals[2:]
        _compare_runs(result, connection, key, changed)
        _compare_traces(result, connection, key)
        _find_elsewhere(result, connection, key)
    result.is_consistent = not (result.missing_runs_in_db or result.missing_runs_in_files or result.inconsistent_runs)
    return result


def _find_changed_rows(database: Database, snapshot: str, key: tuple[str, date]) -> list[str]:
    doing = "cannot compute the hashes of the rows"
    with database.connect() as connection, explained(doing), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        return [run_id for (run_id,) in connection.execute(_SELECT_CHANGED, key)]


def _compare_runs(
    result: VerificationResult, connection: psycopg.Connection, key: tuple[str, date], changed: list[str]
) -> None:
    """Fills the lists of runs, and `inconsistent_traces` with the traces of all runs that are missing or differ."""
    traces: set[str | None] = set()
    parameters = {"project": key[0], "day": key[1], "changed": changed}
    for run in starmap(_ComparedRun, connection.execute(_SELECT_DIFFERENT, parameters)):
        differences = list(run.differences())
        if not run.in_db:
            result.missing_runs_in_db.append(run.run_id)
        elif not run.in_files:
            result.missing_runs_in_files.append(run.run_id)
        else:
            if run.marked:
                result.marked_runs.append(run.run_id)
            if not differences:
                continue
            what, expected, found = zip(*differences, strict=True)
            result.inconsistent_runs.append(
                Inconsistency(
                    run_id=run.run_id,
                    trace_id=run.file_trace or str(run.row_trace),
                    what=", ".join(what),
                    expected="; ".join(expected),
                    found="; ".join(found),
                )
            )
        traces |= {run.file_trace, run.row_trace}
    result.inconsistent_traces = sorted(trace for trace in traces if trace)


def _compare_traces(result: VerificationResult, connection: psycopg.Connection, key: tuple[str, date]) -> None:
    """Fills the lists of missing traces; these do not count as inconsistent as well."""
    for trace_id, in_files in connection.execute(_SELECT_MISSING_TRACES, key):
        (result.missing_traces_in_db if in_files else result.missing_traces_in_files).append(trace_id)
    missing = {*result.missing_traces_in_db, *result.missing_traces_in_files}
    result.inconsistent_traces = [trace for trace in result.inconsistent_traces if trace not in missing]


def _find_elsewhere(result: VerificationResult, connection: psycopg.Connection, key: tuple[str, date]) -> None:
    for run_id, trace_id, *place in connection.execute(_SELECT_ELSEWHERE, (result.missing_runs_in_db, *key)):
        result.filed_elsewhere.append(
            Inconsistency(
                run_id=run_id,
                trace_id=trace_id,
                what="filed under another project or day",
                expected="{} {}".format(*key),
                found="{} {}".format(*place),
            )
        )


def _hex(digest: bytes | None) -> str:
    return digest.hex() if digest else "no recorded hash"
