"""Contents against contents: what the files hold now, as JSONB, against what the rows hold now."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from queue import SimpleQueue

import psycopg

from lse_archive.folder.reader import RunFile
from lse_resources.postgres.database import Database, explain, is_about_data
from lse_resources.postgres.jsonb import Rendering, render, render_refused
from lse_resources.postgres.load.batches import CONNECTIONS, batches
from lse_resources.postgres.load.writer import as_jsonb
from lse_resources.postgres.parallel import in_parallel

MAX_PATHS = 20
"""Paths named for one run."""

# Rendered closely from the start, as their rows were.
_MARKED = "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s AND mark IS NOT NULL"
_COMPARE = """
SELECT position, runs.data::text, batch.data::text, runs.mark
FROM unnest(%(runs)s::uuid[], %(data)b::jsonb[], %(marks)b::text[]) WITH ORDINALITY
     AS batch(run_id, data, mark, position)
JOIN runs ON runs.run_id = batch.run_id AND runs.run_date = %(day)s AND runs.project = %(project)s
WHERE runs.data IS DISTINCT FROM batch.data
   OR runs.mark IS DISTINCT FROM string_to_array(nullif(batch.mark, ''), ' ')
"""


@dataclass(frozen=True, slots=True)
class ContentDifference:
    """A run whose row does not hold what its file holds; `paths` are JSON paths, at most MAX_PATHS."""

    run_id: str
    trace_id: str
    what: str
    paths: tuple[str, ...]


def compare_contents(
    database: Database, project: str, day: date, files: Iterable[RunFile]
) -> Generator[ContentDifference]:
    """Sends every file's content to the server, which compares it with the row, and yields the runs that differ.

    Runs without a row are passed over.

    Raises:
        DatabaseError: Postgres cannot be reached or cannot go on.
    """
    doing = f"cannot verify {project} {day}"
    with database.session(doing) as connection:
        marked = frozenset(run for (run,) in connection.execute(_MARKED, (project, day)))

    def compare(batch: Sequence[RunFile]) -> list[ContentDifference]:
        renderings = [render(file.document, closely=file.header.run_id in marked) for file in batch]
        connection = idle.get()
        try:
            return list(_compare(connection, project, day, batch, renderings))
        except psycopg.Error as error:
            raise explain(error, doing) from error
        finally:
            idle.put(connection)

    idle: SimpleQueue[psycopg.Connection] = SimpleQueue()
    with ExitStack() as connections:
        for _ in range(CONNECTIONS):
            idle.put(connections.enter_context(database.connect()))
        for differences in in_parallel(compare, batches(files), CONNECTIONS):
            yield from differences


def _compare(
    connection: psycopg.Connection,
    project: str,
    day: date,
    files: Sequence[RunFile],
    renderings: Sequence[Rendering],
) -> Iterator[ContentDifference]:
    parameters = {
        "project": project,
        "day": day,
        "runs": [file.header.run_id for file in files],
        "data": as_jsonb(renderings),
        "marks": [" ".join(rendering.mark) for rendering in renderings],
    }
    try:
        rows = connection.execute(_COMPARE, parameters).fetchall()
    except psycopg.Error as error:
        if not is_about_data(error):
            raise
        yield from _compare_refused(connection, project, day, files, renderings)
        return
    for position, there, here, mark in rows:
        yield _difference(files[position - 1], renderings[position - 1], here, there, mark)


def _compare_refused(
    connection: psycopg.Connection,
    project: str,
    day: date,
    files: Sequence[RunFile],
    renderings: Sequence[Rendering],
) -> Iterator[ContentDifference]:
    if len(files) == 1:
        if other := render_refused(files[0].document, renderings[0]):
            yield from _compare(connection, project, day, files, [other])
        return
    middle = len(files) // 2
    yield from _compare(connection, project, day, files[:middle], renderings[:middle])
    yield from _compare(connection, project, day, files[middle:], renderings[middle:])


def _difference(
    file: RunFile, rendering: Rendering, here: str | None, there: str | None, mark: list[str] | None
) -> ContentDifference:
    marks_differ = tuple(mark or ()) != rendering.mark
    paths = tuple(differing_paths(here, there)) if here != there else ()
    what = ", ".join(["content"] * bool(paths) + ["mark"] * marks_differ)
    return ContentDifference(file.header.run_id, file.header.trace_id, what, paths)


def differing_paths(here: str | None, there: str | None) -> Iterator[str]:
    """The JSON paths at which two documents differ, numbers compared exactly; at most MAX_PATHS."""
    try:
        left, right = (json.loads(text or "null", parse_float=Decimal, parse_int=Decimal) for text in (here, there))
    except RecursionError:
        yield "$ (nested too deeply to say where)"
        return
    found = 0
    stack = [("$", left, right)]
    while stack and found < MAX_PATHS:
        path, one, other = stack.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            shared = [key for key in one if key in other]
            stack += [(path + _step(key), one[key], other[key]) for key in reversed(shared)]
            differing = [path + _step(key) for key in (*one, *other) if not (key in one and key in other)]
        elif isinstance(one, list) and isinstance(other, list):
            pairs = list(enumerate(zip(one, other)))  # noqa: B905 - the longer one's rest follows
            stack += [(f"{path}[{index}]", *pair) for index, pair in reversed(pairs)]
            differing = [f"{path}[{index}]" for index in range(len(pairs), max(len(one), len(other)))]
        else:
            differing = [path] if type(one) is not type(other) or one != other else []
        for one_path in differing[: MAX_PATHS - found]:
            found += 1
            yield one_path


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f".{json.dumps(key, ensure_ascii=False)}"
