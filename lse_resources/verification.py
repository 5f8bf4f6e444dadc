"""Compares the run files of a day with its rows: ids, traces, the recorded hashes and the contents as they are now."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psycopg
from psycopg import sql

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder import RunFile, read_folder
from lse_archive.manifest import read_summary
from lse_archive.results import Inconsistency, VerificationResult
from lse_resources.content_check import Difference, compare_contents
from lse_resources.loads_table import begin_load, finish_load
from lse_resources.locks import day_advisory_lock
from lse_resources.postgres import Database, explained
from lse_resources.row_writer import Outcome
from lse_resources.runs_table import Progress, count_run_files, write_rows

FileSide = Iterable[tuple[str, str | None, bytes]]
"""What the rows must agree with: run id, trace id (None: not known) and the sha256 of the run file."""

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


def verify_day(
    database: Database,
    project: str,
    day: date,
    folder: Path,
    *,
    detailed: bool = False,
    fix_missing: bool = False,
    fix: bool = False,
    progress: Progress | None = None,
) -> VerificationResult:
    """Compares a day's folder with its rows.

    Every file is hashed now and compared with the hash recorded when its row was written; the server computes the
    hash of every row's content now and compares it with the one it computed then.

    Args:
        detailed: Compare contents with contents too, and name the JSON paths that differ.
        fix_missing: Load the runs that have no row.
        fix: Replace the rows that differ as well, from the files; rows without a file stay, and stay reported.

    Raises:
        UsageError: There is no such folder.
        DatabaseError: Postgres cannot be reached or cannot go on.
    """
    started = time.monotonic()
    total = count_run_files(folder)
    fixed: list[str] = []
    with _locked(database, project, day) as connection:
        side = _Folder(folder, day, total, progress)
        result = _verify(connection, database, project, day, side, detailed=detailed)
        if (fix_missing or fix) and (wanted := _to_fix(result, differing=fix)):
            fixed = _repair(database, project, day, folder, wanted)
            side = _Folder(folder, day, total, None)
            result = _verify(connection, database, project, day, side, detailed=detailed)
    result.fixed = fixed
    result.duration_seconds = time.monotonic() - started
    return result


def verify_against(database: Database, project: str, day: date, files: FileSide) -> VerificationResult:
    """Compares any listing of a day's run files, such as that of its zip, with its rows.

    Raises:
        DatabaseError: Postgres cannot be reached or cannot go on.
    """
    started = time.monotonic()
    with _locked(database, project, day) as connection:
        result = _compare(connection, database, project, day, files)
    result.duration_seconds = time.monotonic() - started
    return result


@contextmanager
def _locked(database: Database, project: str, day: date) -> Generator[psycopg.Connection]:
    with (
        database.session(f"cannot verify {project} {day}") as connection,
        day_advisory_lock(connection, project, day),
    ):
        yield connection


@dataclass
class _Folder:
    """The file side of a folder; what is unfit is put aside while it is read."""

    folder: Path
    day: date
    total: int
    progress: Progress | None
    unfit: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def runs(self) -> Iterator[RunFile]:
        self.unfit.clear()
        self.broken.clear()
        for done, file in enumerate(read_folder(self.folder, self.day), 1):
            if isinstance(file, RunFile):
                yield file
            else:
                self.unfit.append(file.name)
                self.broken.append(f"{file.name}: {file.reason}")
            if self.progress and (done % 500 == 0 or done == self.total):
                self.progress(done, self.total)

    def __iter__(self) -> Iterator[tuple[str, str | None, bytes]]:
        return ((file.facts.run_id, file.facts.trace_id, file.sha256) for file in self.runs())

    def damaged_since_published(self) -> bool:
        """Whether a file is unfit that was not so when the day was published; unknown for folders of other origin."""
        try:
            summary = read_summary(self.folder)
        except CorruptArchiveError:
            return True
        return summary is not None and not set(self.unfit) <= set(summary.unfit_files)


def _verify(
    connection: psycopg.Connection, database: Database, project: str, day: date, side: _Folder, *, detailed: bool
) -> VerificationResult:
    result = _compare(connection, database, project, day, side)
    result.total_files = side.total
    result.broken_files = list(side.broken)
    if detailed:
        with closing(compare_contents(database, project, day, side.runs())) as found:
            _merge(result, found)
    if side.damaged_since_published():
        result.is_consistent = False
    return result


def _compare(
    connection: psycopg.Connection, database: Database, project: str, day: date, files: FileSide
) -> VerificationResult:
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
                for row in files:
                    copy.write_row(row)
            connection.execute(_ANALYZE)
            changed = changed_rows.result()
        totals = connection.execute(_TOTALS, key).fetchone()
        assert totals is not None
        result.total_runs_in_files, result.total_traces_in_files = totals[:2]
        result.total_runs_in_db, result.total_traces_in_db = totals[2:]
        parameters = {"project": project, "day": day, "changed": changed}
        touched = set()
        for row in connection.execute(_DIFFERENCES, parameters):
            touched |= _note(result, frozenset(changed), *row)
        for trace_id, in_files in connection.execute(_TRACES, key):
            (result.missing_traces_in_db if in_files else result.missing_traces_in_files).append(trace_id)
        lost = touched.difference(result.missing_traces_in_db, result.missing_traces_in_files)
        result.inconsistent_traces = sorted(lost)
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
    result.is_consistent = not (result.missing_runs_in_db or result.missing_runs_in_files or result.inconsistent_runs)
    return result


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


def _merge(result: VerificationResult, differences: Iterable[Difference]) -> None:
    """Adds what the comparison of contents found to what the hashes told."""
    known = {one.run_id: one for one in result.inconsistent_runs}
    traces = set(result.inconsistent_traces)
    for found in differences:
        before = known.get(found.run_id)
        known[found.run_id] = Inconsistency(
            run_id=found.run_id,
            trace_id=found.trace_id,
            what=", ".join(dict.fromkeys([*(before.what.split(", ") if before else ()), *found.what.split(", ")])),
            expected=before.expected if before else "what the file holds",
            found=before.found if before else "other content, with the hashes of the file",
            paths=list(found.paths),
        )
        traces.add(found.trace_id)
        result.is_consistent = False
    result.inconsistent_runs = [known[run_id] for run_id in sorted(known)]
    result.inconsistent_traces = sorted(traces.difference(result.missing_traces_in_db))


def _to_fix(result: VerificationResult, *, differing: bool) -> set[str]:
    elsewhere = {one.run_id for one in result.filed_elsewhere}
    if not differing:
        return set(result.missing_runs_in_db) - elsewhere
    return set(result.missing_runs_in_db) | {one.run_id for one in result.inconsistent_runs}


def _repair(database: Database, project: str, day: date, folder: Path, wanted: set[str]) -> list[str]:
    """Writes the rows of some runs anew from their files. Returns the runs that were written."""
    files = (f for f in read_folder(folder, day) if isinstance(f, RunFile) and f.facts.run_id in wanted)
    done = Outcome()
    with database.session(f"cannot repair {project} {day}") as connection:
        load_id = begin_load(connection, "repair", project, day)
        for outcome in write_rows(database, project, day, files, "repair", load_id):
            done += outcome
        finish_load(connection, load_id, inserted=done.inserted, replaced=done.replaced, failed=done.failed)
        written = connection.execute(
            "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s AND load_id = %s ORDER BY 1",
            (project, day, load_id),
        )
        return [run_id for (run_id,) in written]
