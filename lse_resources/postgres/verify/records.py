"""Compares the records beside a day's runs with their rows: hashes of both sides, and contents on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial

import psycopg
from psycopg import sql

from lse_archive.folder.records import InvalidRecord, Record, RecordKind
from lse_archive.results import RecordDifference
from lse_resources.postgres.jsonb import render
from lse_resources.postgres.load.batches import Refused, Rendered, batch_parameters, batches, is_refused, send_batch
from lse_resources.postgres.verify.contents import differing_paths

MISSING_IN_DB = "missing in the database"
MISSING_IN_FILES = "missing in the files"

_CREATE_EXPECTED = "CREATE TEMPORARY TABLE expected_records (id uuid, line_sha256 bytea) ON COMMIT DROP"
_SELECT_DIFFERENT = sql.SQL("""
WITH actual AS (
    SELECT id, line_sha256, row_sha256 IS DISTINCT FROM sha256(convert_to(data::text, 'UTF8')) AS changed
    FROM {} WHERE project = %s AND run_date = %s
)
SELECT coalesce(expected.id, actual.id)::text, expected.id IS NOT NULL, actual.id IS NOT NULL,
       encode(expected.line_sha256, 'hex'), encode(actual.line_sha256, 'hex')
FROM expected_records AS expected FULL JOIN actual USING (id)
WHERE expected.id IS NULL OR actual.id IS NULL OR actual.changed
   OR expected.line_sha256 IS DISTINCT FROM actual.line_sha256
ORDER BY 1
""")
_COUNT = sql.SQL(
    "SELECT (SELECT count(*) FROM expected_records), count(*) FROM {} WHERE project = %s AND run_date = %s"
)
_SELECT_MARKED = sql.SQL("SELECT id::text FROM {} WHERE project = %s AND run_date = %s AND mark IS NOT NULL")
_SELECT_OTHER_CONTENT = sql.SQL("""
SELECT actual.id::text, actual.data::text, batch.data::text
FROM unnest(%(ids)s::uuid[], %(data)b::jsonb[], %(marks)b::text[]) AS batch(id, data, mark)
JOIN {} AS actual ON actual.id = batch.id AND actual.run_date = %(day)s AND actual.project = %(project)s
WHERE actual.data IS DISTINCT FROM batch.data
   OR actual.mark IS DISTINCT FROM string_to_array(nullif(batch.mark, ''), ' ')
ORDER BY 1
""")


@dataclass(slots=True)
class RecordComparison:
    """The records of one kind in files and rows: their numbers, the differences, and what was not read."""

    in_files: int = 0
    in_db: int = 0
    differences: list[RecordDifference] = field(default_factory=list)
    invalid: list[InvalidRecord] = field(default_factory=list)


def compare_records(
    connection: psycopg.Connection,
    kind: RecordKind,
    project: str,
    day: date,
    read: Callable[[], Iterable[Record | InvalidRecord]],
    *,
    detailed: bool,
) -> RecordComparison:
    """Compares the hashes of records and rows in one snapshot; with `detailed` the server compares contents, too.

    Args:
        read: Reads the records from their beginning.

    Raises:
        psycopg.Error: The server fails.
    """
    result = RecordComparison()
    key, table = (project, day), sql.Identifier(kind)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute(_CREATE_EXPECTED)
        with connection.cursor().copy("COPY expected_records FROM STDIN") as copy:
            for record in read():
                if isinstance(record, InvalidRecord):
                    result.invalid.append(record)
                else:
                    copy.write_row((record.key, record.sha256))
        connection.execute("ANALYZE expected_records")
        [(result.in_files, result.in_db)] = connection.execute(_COUNT.format(table), key).fetchall()
        found = {
            record_id: _difference(kind, record_id, *rest)
            for record_id, *rest in connection.execute(_SELECT_DIFFERENT.format(table), key)
        }
    if detailed and result.in_db:
        for difference in _compare_contents(connection, kind, key, read):
            found.setdefault(difference.id, difference)
    result.differences = list(found.values())
    return result


def _difference(
    kind: RecordKind,
    record_id: str,
    in_files: bool,
    in_db: bool,
    expected: str | None,
    loaded: str | None,
) -> RecordDifference:
    if not (in_files and in_db):
        return RecordDifference(table=kind, id=record_id, what=MISSING_IN_DB if in_files else MISSING_IN_FILES)
    if expected != loaded:
        found = loaded or "no recorded hash"
        return RecordDifference(table=kind, id=record_id, what="file", expected=expected or "", found=found)
    found = "content changed in the database"
    return RecordDifference(table=kind, id=record_id, what="content", expected="the content as loaded", found=found)


def _compare_contents(
    connection: psycopg.Connection,
    kind: RecordKind,
    key: tuple[str, date],
    read: Callable[[], Iterable[Record | InvalidRecord]],
) -> Iterator[RecordDifference]:
    table = sql.Identifier(kind)
    # Their rows hold the close rendering: the quick one may differ from it.
    marked = {record_id for (record_id,) in connection.execute(_SELECT_MARKED.format(table), key)}
    records = (record for record in read() if isinstance(record, Record))

    def send(batch: Sequence[Rendered[Record]]) -> list[tuple[str, str | None, str | None]]:
        parameters = batch_parameters(batch) | {"project": key[0], "day": key[1]}
        return connection.execute(_SELECT_OTHER_CONTENT.format(table), parameters).fetchall()

    for batch in batches(records):
        rows = [Rendered(record, render(record.document, closely=record.key in marked)) for record in batch]
        for result in send_batch(send, partial(is_refused, connection=connection), rows):
            if isinstance(result, Refused):
                raise result.error
            for record_id, in_row, in_file in result:
                yield RecordDifference(
                    table=kind,
                    id=record_id,
                    what="content",
                    expected="the content of the file",
                    found="other content, although the hashes agree",
                    paths=list(differing_paths(in_file, in_row)),
                )
