"""The set-based half of a verification: ids, traces and hashes of the files against those of the rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import psycopg
from psycopg import sql

from lse_archive.results import Inconsistency, VerificationResult
from lse_resources.postgres.database import Database, explained

Feed = Callable[[psycopg.Copy], None]
"""Writes what the rows must agree with: run id, trace id (None: not known) and the sha256 of the run file."""

_EXPECTED = """
CREATE TEMPORARY TABLE expected (run_id uuid, trace_id uuid, file_sha256 bytea) ON COMMIT DROP
"""
# Without statistics a join of two large sides could be planned as a loop.
_ANALYZE = "ANALYZE expected"
# Runs on a second connection, in the same snapshot, while the first one is fed with files.
_CHANGED = """
SELECT run_id::text FROM runs
WHERE project = %s AND run_date = %s
  AND row_sha256 IS DISTINCT FROM sha256(convert_to(data::text, 'UTF8'))
"""
_DIFFERENCES = """
WITH actual AS (
    SELECT run_id, trace_id, file_sha256, mark FROM runs WHERE project = %(project)s AND run_date = %(day)s
)
SELECT coalesce(expected.run_id, actual.run_id)::text, expected.run_id IS NOT NULL, actual.run_id IS NOT NULL,
       expected.trace_id::text, actual.trace_id::text, expected.file_sha256, actual.file_sha256,
       actual.mark IS NOT NULL
FROM expected FULL JOIN actual USING (run_id)
WHERE expected.run_id IS NULL OR actual.run_id IS NULL
   OR expected.trace_id <> actual.trace_id
   OR expected.file_sha256 IS DISTINCT FROM actual.file_sha256
   OR actual.mark IS NOT NULL
   OR actual.run_id = ANY(%(changed)s::uuid[])
ORDER BY 1
"""
_TOTALS = """
SELECT (SELECT count(*) FROM expected), (SELECT count(DISTINCT trace_id) FROM expected),
       count(*), count(DISTINCT trace_id)
FROM runs WHERE project = %s AND run_date = %s
"""
_TRACES = """
SELECT coalesce(e.trace_id, a.trace_id)::text, e.trace_id IS NOT NULL
FROM (SELECT DISTINCT trace_id FROM expected WHERE trace_id IS NOT NULL) AS e
FULL JOIN (SELECT DISTINCT trace_id FROM runs WHERE project = %s AND run_date = %s) AS a USING (trace_id)
WHERE e.trace_id IS NULL OR a.trace_id IS NULL
ORDER BY 1
"""
_ELSEWHERE = """
SELECT run_id::text, trace_id::text, project, run_date FROM runs
WHERE run_id = ANY(%s::uuid[]) AND (project, run_date) <> (%s, %s)
ORDER BY 1
"""


def compare_hashes(
    connection: psycopg.Connection, database: Database, project: str, day: date, feed: Feed
) -> VerificationResult:
    """Compares what `feed` writes with the rows of a day, all in one snapshot.

    The server computes the hash of every row's content now, on a second connection, while `feed` reads files.
    """
    result = VerificationResult(project=project, date=str(day))
    key = (project, day)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert snapshot is not None
        with ThreadPoolExecutor(1) as pool:
            changed_rows = pool.submit(_changed_rows, database, snapshot[0], key)
            connection.execute(_EXPECTED)
            with connection.cursor().copy("COPY expected FROM STDIN") as copy:
                feed(copy)
            connection.execute(_ANALYZE)
            changed = changed_rows.result()
        _count(result, connection, key)
        touched = _sort_differences(result, connection, key, changed)
        for trace_id, in_files in connection.execute(_TRACES, key):
            (result.missing_traces_in_db if in_files else result.missing_traces_in_files).append(trace_id)
        touched.difference_update(result.missing_traces_in_db, result.missing_traces_in_files)
        result.inconsistent_traces = sorted(touched)
        _find_elsewhere(result, connection, key)
    result.is_consistent = not (result.missing_runs_in_db or result.missing_runs_in_files or result.inconsistent_runs)
    return result


def _count(result: VerificationResult, connection: psycopg.Connection, key: tuple[str, date]) -> None:
    totals = connection.execute(_TOTALS, key).fetchone()
    assert totals is not None
    result.total_runs_in_files, result.total_traces_in_files = totals[:2]
    result.total_runs_in_db, result.total_traces_in_db = totals[2:]


def _sort_differences(
    result: VerificationResult, connection: psycopg.Connection, key: tuple[str, date], changed: list[str]
) -> set[str]:
    """Fills the lists of runs; returns the traces that are touched."""
    touched: set[str] = set()
    parameters = {"project": key[0], "day": key[1], "changed": changed}
    for row in connection.execute(_DIFFERENCES, parameters):
        touched |= _note(result, frozenset(changed), *row)
    return touched


def _find_elsewhere(result: VerificationResult, connection: psycopg.Connection, key: tuple[str, date]) -> None:
    project, day = key
    for run_id, trace_id, other, date_there in connection.execute(_ELSEWHERE, (result.missing_runs_in_db, *key)):
        result.filed_elsewhere.append(
            Inconsistency(
                run_id=run_id,
                trace_id=trace_id,
                what="filed under another project or day",
                expected=f"{project} {day}",
                found=f"{other} {date_there}",
            )
        )


def _changed_rows(database: Database, snapshot: str, key: tuple[str, date]) -> list[str]:
    doing = "cannot compute the hashes of the rows"
    with database.connect() as connection, explained(doing), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        return [row[0] for row in connection.execute(_CHANGED, key)]


def _note(
    result: VerificationResult,
    changed: frozenset[str],
    run_id: str,
    in_files: bool,
    in_db: bool,
    file_trace: str | None,
    row_trace: str,
    file_sha256: bytes,
    recorded: bytes | None,
    marked: bool,
) -> set[str]:
    """Sorts one row of the comparison into the result; returns the traces that are touched by a difference."""
    if not in_db:
        result.missing_runs_in_db.append(run_id)
        return {file_trace} if file_trace else set()
    if not in_files:
        result.missing_runs_in_files.append(run_id)
        return {row_trace}
    found = []
    if file_trace is not None and file_trace != row_trace:
        found.append(("trace_id", file_trace, row_trace))
    if file_sha256 != recorded:
        found.append(("file", file_sha256.hex(), recorded.hex() if recorded else "no recorded hash"))
    if run_id in changed:
        found.append(("content", "the content that was loaded", "content changed in the database"))
    if marked:
        result.marked_runs.append(run_id)
    if not found:
        return set()
    result.inconsistent_runs.append(
        Inconsistency(
            run_id=run_id,
            trace_id=file_trace or row_trace,
            what=", ".join(what for what, _, _ in found),
            expected="; ".join(expected for _, expected, _ in found),
            found="; ".join(there for _, _, there in found),
        )
    )
    return {file_trace or row_trace, row_trace}
