"""Loads the records beside a day's runs into their tables. The rows follow the files, and no row is deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from uuid import UUID

import psycopg
from psycopg import sql

from lse_archive.folder.records import InvalidRecord, Record, RecordKind, record_run
from lse_archive.folder.tombstones import Tombstones
from lse_resources.postgres.database import Database, explain, explained
from lse_resources.postgres.jsonb import render
from lse_resources.postgres.load.batches import Refused, Rendered, batch_parameters, batches, is_refused, send_batch
from lse_resources.postgres.load.connection import RetryingConnection

_SELECT_KNOWN = sql.SQL("SELECT uuid_send(id), line_sha256 FROM {} WHERE project = %s AND run_date = %s")
# The load that inserted the row stays its load: undoing a later one must not delete the row.
_UPSERT = sql.SQL("""
INSERT INTO {} (id, project, run_date, data, line_sha256, row_sha256, mark, load_id)
SELECT id, %(project)s, %(day)s, data, line_sha256, sha256(convert_to(data::text, 'UTF8')),
       string_to_array(nullif(mark, ''), ' '), %(load)s
FROM unnest(%(ids)b::uuid[], %(data)b::jsonb[], %(files)b::bytea[], %(marks)b::text[])
     AS batch(id, data, line_sha256, mark)
ON CONFLICT (id, project, run_date) DO UPDATE
SET data = excluded.data, line_sha256 = excluded.line_sha256, row_sha256 = excluded.row_sha256, mark = excluded.mark,
    loaded_at = excluded.loaded_at
""")


@dataclass(slots=True)
class RecordOutcome:
    """What was done with the records of one kind.

    Attributes:
        total: Records in the files.
        written: Rows inserted or replaced.
        forgotten: Of the total, records of runs that were erased on request; they are not written.
        marked: Of those written, rows with a rendering of what JSONB cannot hold.
        refused: One line for each record that the server refused.
        invalid: Lines and files that were not read.
    """

    total: int = 0
    written: int = 0
    forgotten: int = 0
    marked: int = 0
    refused: list[str] = field(default_factory=list)
    invalid: list[InvalidRecord] = field(default_factory=list)


def load_records(
    database: Database,
    kind: RecordKind,
    project: str,
    day: date,
    records: Iterable[Record | InvalidRecord],
    load_id: int | None,
    tombstones: Tombstones,
    *,
    rewrite: bool = False,
) -> RecordOutcome:
    """Writes the records whose row is missing or has other content, in batches of one transaction each.

    Args:
        load_id: The load's entry in the audit table. None: rows are counted and not written.
        tombstones: Runs of which no record is written.
        rewrite: Write all of them: a row may have been changed since it was loaded.

    Raises:
        DatabaseError: Postgres cannot be reached, or refuses more than single records.
    """
    outcome = RecordOutcome()
    key = (project, day)
    table = sql.Identifier(kind)
    known: dict[bytes, bytes | None] = {}

    def select_known(connection: psycopg.Connection) -> dict[bytes, bytes | None]:
        return dict(connection.cursor(binary=True).execute(_SELECT_KNOWN.format(table), key))

    def upsert(batch: Sequence[Rendered[Record]], connection: psycopg.Connection) -> Sequence[Rendered[Record]]:
        parameters = batch_parameters(batch) | {"project": project, "day": day, "load": load_id}
        connection.execute(_UPSERT.format(table), parameters)
        return batch

    def to_write() -> Iterator[Record | None]:
        for record in records:
            if isinstance(record, InvalidRecord):
                outcome.invalid.append(record)
                continue
            outcome.total += 1
            if tombstones.digests and record_run(record.document) in tombstones:
                outcome.forgotten += 1
                yield None
                continue
            yield None if known.get(UUID(record.key).bytes) == record.sha256 else record

    with explained(f"cannot load {project} {day} into Postgres"), closing(RetryingConnection(database)) as connection:
        if not rewrite:
            known = connection.repeat(select_known)
        if load_id is None:
            outcome.written = sum(record is not None for record in to_write())
            return outcome
        for batch in batches(to_write()):
            for result in send_batch(
                lambda rows: connection.repeat(partial(upsert, rows)),
                lambda content: connection.repeat(partial(is_refused, content)),
                [Rendered(record, render(record.document)) for record in batch],
            ):
                if isinstance(result, Refused):
                    error = explain(result.error, f"{kind}: the record {result.file.key} was not loaded")
                    outcome.refused.append(f"{error.what}: {error.why}")
                else:
                    outcome.written += len(result)
                    outcome.marked += sum(bool(row.rendering.mark) for row in result)
    return outcome
