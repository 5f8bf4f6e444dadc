"""Writes run files as rows: a batch is one transaction; one that fails is halved until one run is to blame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import psycopg
from psycopg.types.json import Jsonb

from lse_archive.errors import DatabaseError
from lse_archive.folder.reader import RunFile
from lse_resources.postgres.database import Database, explain, is_about_data, is_lost, is_transient
from lse_resources.postgres.jsonb import Rendering, render, render_refused

Existing = Literal["keep", "replace", "repair"]
"""What happens to rows that are there: all stay; those whose file changed are replaced; all are, also those that are
filed under another project or another day within a month."""

# A server that restarts is back within these seconds.
_RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)

# A month around: every partition more would cost each run a look into its index.
_LOOK = """
SELECT run_id::text, run_date, project, file_sha256, load_id FROM runs
WHERE run_id = ANY(%s::uuid[]) AND run_date BETWEEN %s::date - 31 AND %s::date + 31
"""
_SET_ASIDE = """
WITH gone AS (
    DELETE FROM runs USING unnest(%s::uuid[], %s::date[]) AS key(run_id, run_date)
    WHERE runs.run_id = key.run_id AND runs.run_date = key.run_date
    RETURNING runs.*
)
INSERT INTO replaced_runs (replaced_by, run_id, trace_id, project, run_date, data, created_at,
                           file_sha256, row_sha256, mark, load_id)
SELECT %s, run_id, trace_id, project, run_date, data, created_at, file_sha256, row_sha256, mark, load_id FROM gone
"""
# Arrays, not a staging table: measured a quarter faster, as nothing is stored twice, and without temporary tables.
_INSERT = """
INSERT INTO runs (run_id, trace_id, project, run_date, data, file_sha256, row_sha256, mark, load_id)
SELECT run_id, trace_id, %(project)s, %(day)s, data, file_sha256, sha256(convert_to(data::text, 'UTF8')),
       string_to_array(nullif(mark, ''), ' '), %(load)s
FROM unnest(%(runs)b::uuid[], %(traces)b::uuid[], %(data)b::jsonb[], %(files)b::bytea[], %(marks)b::text[])
     AS batch(run_id, trace_id, data, file_sha256, mark)
"""
_COUNT_REPLACED = "SELECT count(*) FROM replaced_runs WHERE replaced_by = %s AND run_id = ANY(%s::uuid[])"


@dataclass(slots=True)
class Outcome:
    """What became of some run files; `errors` has a line for each that failed."""

    batches: int = 0
    inserted: int = 0
    replaced: int = 0
    left: int = 0
    changed: int = 0
    marked: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)

    def __iadd__(self, other: Outcome) -> Outcome:
        for name in ("batches", "inserted", "replaced", "left", "changed", "marked", "failed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors += other.errors
        return self


@dataclass(slots=True)
class _Plan:
    insert: list[RunFile] = field(default_factory=list)
    replaced: list[tuple[str, date]] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome(batches=1))


class RowWriter:
    """Writes batches of one project's day over one connection, which it opens when needed and again when it is lost."""

    def __init__(self, database: Database, project: str, day: date, existing: Existing, load_id: int | None) -> None:
        """`load_id` is the load's entry in the audit table; None: nothing is written, only counted."""
        self._database = database
        self._project = project
        self._day = day
        self._existing = existing
        self._load_id = load_id
        self._connection: psycopg.Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, batch: Sequence[RunFile]) -> Outcome:
        """Makes rows of a batch.

        Raises:
            DatabaseError: The server is gone for good, its disk is full, or it refuses the statement as such.
        """
        return self._write(batch, [render(file.document) for file in batch])

    def _write(self, batch: Sequence[RunFile], renderings: Sequence[Rendering]) -> Outcome:
        try:
            return self._persist(batch, renderings)
        except psycopg.Error as error:
            if not is_about_data(error):
                raise explain(error, self._doing) from error
            refusal = error
        if len(batch) == 1:
            return self._write_refused(batch[0], renderings[0], refusal)
        middle = len(batch) // 2
        outcome = self._write(batch[:middle], renderings[:middle])
        outcome += self._write(batch[middle:], renderings[middle:])
        return outcome

    def _write_refused(self, file: RunFile, tried: Rendering, refusal: psycopg.Error) -> Outcome:
        if other := render_refused(file.document, tried):
            return self._write([file], [other])
        why = explain(refusal, f"run {file.header.run_id} ({file.name}) was not loaded")
        return Outcome(failed=1, errors=[f"{why.what}: {why.why}"])

    @property
    def _doing(self) -> str:
        return f"cannot load {self._project} {self._day} into Postgres"

    def _persist(self, batch: Sequence[RunFile], renderings: Sequence[Rendering]) -> Outcome:
        """One transaction, tried again while the server comes back."""
        for delay in _RETRY_DELAYS:
            try:
                return self._transact(batch, renderings)
            except DatabaseError:
                pass  # no new connection yet
            except psycopg.Error as error:
                if self._connection is not None and is_lost(error, self._connection):
                    self.close()
                elif not is_transient(error):
                    raise
            time.sleep(delay)
        return self._transact(batch, renderings)

    def _transact(self, batch: Sequence[RunFile], renderings: Sequence[Rendering]) -> Outcome:
        if self._connection is None:
            self._connection = self._database.connect()
        connection = self._connection
        with connection.transaction():
            plan = self._plan(connection, batch)
            if self._load_id is None:
                return _count_marks(plan, batch, renderings)
            if plan.ours:  # the attempt before this one was committed, but its connection lost the news
                row = connection.execute(_COUNT_REPLACED, (self._load_id, plan.ours)).fetchone()
                plan.outcome.replaced += row[0] if row else 0
                plan.outcome.inserted += len(plan.ours) - (row[0] if row else 0)
            if plan.replaced:
                keys = [run for run, _ in plan.replaced], [day for _, day in plan.replaced]
                connection.execute(_SET_ASIDE, (*keys, self._load_id))
            if plan.insert:
                self._insert(connection, plan.insert, dict(zip((f.name for f in batch), renderings, strict=True)))
        return _count_marks(plan, batch, renderings)

    def _plan(self, connection: psycopg.Connection, batch: Sequence[RunFile]) -> _Plan:
        """Looks at the rows that are there, all with one query, and decides what is sent."""
        plan = _Plan()
        here: dict[str, tuple[bytes | None, int | None]] = {}
        elsewhere: dict[str, tuple[date, str]] = {}
        with connection.cursor(binary=True) as cursor:
            ids = [file.header.run_id for file in batch]
            for run, day, project, digest, load in cursor.execute(_LOOK, (ids, self._day, self._day)):
                if (project, day) == (self._project, self._day):
                    here[run] = digest, load
                else:
                    elsewhere[run] = day, project
        for file in batch:
            run = file.header.run_id
            self._place(plan, file, here.get(run), elsewhere.get(run))
        return plan

    def _place(
        self,
        plan: _Plan,
        file: RunFile,
        here: tuple[bytes | None, int | None] | None,
        elsewhere: tuple[date, str] | None,
    ) -> None:
        run, outcome = file.header.run_id, plan.outcome
        repair = self._existing == "repair"
        if self._load_id is not None and here == (file.sha256, self._load_id):
            plan.ours.append(run)
        elif here is not None and (repair or (here[0] != file.sha256 and self._existing == "replace")):
            plan.replaced.append((run, self._day))
            plan.insert.append(file)
            outcome.replaced += 1
        elif here is not None:
            outcome.left += 1
            outcome.changed += here[0] != file.sha256
        elif elsewhere is not None and not repair:
            day, project = elsewhere
            outcome.failed += 1
            outcome.errors.append(f"run {run} ({file.name}) is filed under {project} {day} already")
        else:
            plan.insert.append(file)
            if elsewhere is not None:
                plan.replaced.append((run, elsewhere[0]))
                outcome.replaced += 1
            else:
                outcome.inserted += 1

    def _insert(
        self, connection: psycopg.Connection, files: Sequence[RunFile], renderings: dict[str, Rendering]
    ) -> None:
        chosen = [renderings[file.name] for file in files]
        connection.execute(
            _INSERT,
            {
                "project": self._project,
                "day": self._day,
                "load": self._load_id,
                "runs": [file.header.run_id for file in files],
                "traces": [file.header.trace_id for file in files],
                "data": as_jsonb(chosen),
                "files": [file.sha256 for file in files],
                "marks": [" ".join(rendering.mark) for rendering in chosen],
            },
        )


def as_jsonb(renderings: Sequence[Rendering]) -> list[Jsonb | None]:
    """Parameters that send the bytes as they are: parsing and writing JSON again would round numbers."""
    return [None if one.data is None else Jsonb(one.data, dumps=_as_it_is) for one in renderings]


def _as_it_is(data: bytes) -> bytes:
    return data


def _count_marks(plan: _Plan, batch: Sequence[RunFile], renderings: Sequence[Rendering]) -> Outcome:
    written = {file.name for file in plan.insert}
    plan.outcome.marked = sum(
        bool(rendering.mark) and file.name in written for file, rendering in zip(batch, renderings, strict=True)
    )
    return plan.outcome
