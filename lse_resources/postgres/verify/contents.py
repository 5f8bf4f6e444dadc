"""Compares the contents of run files with the contents of rows, both as JSONB."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import date
from decimal import Decimal
from functools import partial

import psycopg

from lse_archive.folder.reader import RunFile
from lse_archive.results import Inconsistency
from lse_resources.postgres.database import Database, explained
from lse_resources.postgres.jsonb import render
from lse_resources.postgres.load.batches import (
    CONNECTIONS,
    Refused,
    Rendered,
    batch_parameters,
    batches,
    is_refused,
    send_batch,
)
from lse_resources.postgres.parallel import in_parallel

MAX_PATHS = 20
"""The most paths that are reported for one run."""

_SELECT_MARKED = "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s AND mark IS NOT NULL"
_SELECT_DIFFERENT = """
SELECT position, runs.data::text, batch.data::text, runs.mark
FROM unnest(%(ids)s::uuid[], %(data)b::jsonb[], %(marks)b::text[]) WITH ORDINALITY
     AS batch(run_id, data, mark, position)
JOIN runs ON runs.run_id = batch.run_id AND runs.run_date = %(day)s AND runs.project = %(project)s
WHERE runs.data IS DISTINCT FROM batch.data
   OR runs.mark IS DISTINCT FROM string_to_array(nullif(batch.mark, ''), ' ')
"""


def compare_contents(database: Database, project: str, day: date, files: Iterable[RunFile]) -> Generator[Inconsistency]:
    """Sends the content of every file to the server, which compares it with the row, and yields the runs that differ.

    Runs without a row are skipped.

    Raises:
        DatabaseError: Postgres cannot be reached or fails.
    """
    doing = f"cannot verify {project} {day}"
    with database.session(doing) as connection:
        marked = frozenset(run_id for (run_id,) in connection.execute(_SELECT_MARKED, (project, day)))

    def compare(connection: psycopg.Connection, batch: Sequence[RunFile]) -> list[Inconsistency]:
        # The rows of marked runs hold the close rendering: the quick one may differ from it.
        runs = [Rendered(file, render(file.document, closely=file.header.run_id in marked)) for file in batch]
        with explained(doing):
            results = send_batch(
                partial(_compare, connection, project, day), partial(is_refused, connection=connection), runs
            )
            found: list[Inconsistency] = []
            for result in results:
                if isinstance(result, Refused):
                    raise result.error
                found += result
        return found

    with ExitStack() as stack:
        connections = [stack.enter_context(database.connect()) for _ in range(CONNECTIONS)]
        for differences in in_parallel(compare, connections, batches(files)):
            yield from differences


def _compare(
    connection: psycopg.Connection, project: str, day: date, batch: Sequence[Rendered[RunFile]]
) -> list[Inconsistency]:
    parameters = batch_parameters(batch) | {"project": project, "day": day}
    rows = connection.execute(_SELECT_DIFFERENT, parameters).fetchall()
    return [_inconsistency(batch[position - 1], in_file, in_row, mark) for position, in_row, in_file, mark in rows]


def _inconsistency(
    run: Rendered[RunFile], in_file: str | None, in_row: str | None, row_mark: list[str] | None
) -> Inconsistency:
    paths = list(differing_paths(in_file, in_row)) if in_file != in_row else []
    marks_differ = tuple(row_mark or ()) != run.rendering.mark
    return Inconsistency(
        run_id=run.file.header.run_id,
        trace_id=run.file.header.trace_id,
        what=", ".join(["content"] * bool(paths) + ["mark"] * marks_differ),
        expected="the content of the file",
        found="other content, although the hashes agree",
        paths=paths,
    )


def differing_paths(one_text: str | None, other_text: str | None) -> Iterator[str]:
    """Yields the JSON paths at which two documents differ, at most MAX_PATHS. Numbers are compared exactly."""
    try:
        documents = [
            json.loads(text or "null", parse_float=Decimal, parse_int=Decimal) for text in (one_text, other_text)
        ]
    except RecursionError:
        yield "$ (nested too deeply to name the path)"
        return
    found = 0
    stack = [("$", *documents)]
    while stack and found < MAX_PATHS:
        path, one, other = stack.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            shared = [key for key in one if key in other]
            stack += [(path + _step(key), one[key], other[key]) for key in reversed(shared)]
            differing = [path + _step(key) for key in (*one, *other) if not (key in one and key in other)]
        elif isinstance(one, list) and isinstance(other, list):
            pairs = list(enumerate(zip(one, other)))  # noqa: B905 - the rest of the longer list is added below
            stack += [(f"{path}[{index}]", *pair) for index, pair in reversed(pairs)]
            differing = [f"{path}[{index}]" for index in range(len(pairs), max(len(one), len(other)))]
        else:
            differing = [path] if type(one) is not type(other) or one != other else []
        for one_path in differing[: MAX_PATHS - found]:
            found += 1
            yield one_path


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f".{json.dumps(key, ensure_ascii=False)}"
