"""The tables `tombstones` and `erasures`: runs that must never come back, and the certificates of erasures.

Neither holds anything of what was erased: of a run there is only the SHA-256 of its id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from lse_archive.folder.tombstones import Tombstones
from lse_resources.postgres.database import Database

_WRITE = """
INSERT INTO erasures (erasure_id, project, requested_by, reason, selection_sha256, started_at, finished_at, counts,
                      checked, left_behind)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (erasure_id) DO UPDATE
SET finished_at = excluded.finished_at, counts = excluded.counts, checked = excluded.checked,
    left_behind = excluded.left_behind
"""
_BY_DAY = """
SELECT run_date, run_sha256 FROM tombstones WHERE project = %s AND run_date = ANY(coalesce(%s, ARRAY[run_date]))
"""
# As for existing rows, see `load/writer.py`: a run may have been filed under a neighboring day.
_NEIGHBORS = timedelta(days=31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """The certificate of an erasure.

    Attributes:
        erasure_id: UUID.
        requested_by: Who asked for it.
        selection_sha256: Hex digest of what was asked for.
        counts: Numbers of what was erased, by place and kind.
        checked: What was looked at afterwards, and the results.
        left_behind: What could not be erased, why, and until when.
        finished_at: None until the erasure is complete.
    """

    erasure_id: str
    project: str
    requested_by: str
    reason: str
    selection_sha256: str
    started_at: datetime
    finished_at: datetime | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    checked: Mapping[str, Any] = field(default_factory=dict)
    left_behind: Sequence[Any] = ()


def write_erasure(database: Database, erasure: Erasure) -> None:
    """Inserts the certificate before anything is erased; later, replaces its results.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    with database.session(f"cannot record the erasure {erasure.erasure_id}") as connection:
        connection.execute(
            _WRITE,
            (
                erasure.erasure_id,
                erasure.project,
                erasure.requested_by,
                erasure.reason,
                erasure.selection_sha256,
                erasure.started_at,
                erasure.finished_at,
                Jsonb(dict(erasure.counts)),
                Jsonb(dict(erasure.checked)),
                Jsonb(list(erasure.left_behind)),
            ),
        )


def add_tombstones(
    database: Database, project: str, erasure_id: str, runs: Iterable[tuple[date, bytes]], *, erased_at: datetime
) -> int:
    """Adds the tombstones that are not there yet; returns their number.

    Args:
        runs: The day and the tombstone of each run; any number.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    insert = "INSERT INTO tombstones SELECT run_sha256, %s, run_date, %s, %s FROM new ON CONFLICT DO NOTHING"
    with database.session(f"cannot add the tombstones of {project}") as connection, connection.transaction():
        connection.execute("CREATE TEMPORARY TABLE new (run_date date, run_sha256 bytea) ON COMMIT DROP")
        with connection.cursor().copy("COPY new FROM STDIN") as copy:
            for run in runs:
                copy.write_row(run)
        return connection.execute(insert, (project, erasure_id, erased_at)).rowcount


def read_tombstones(connection: psycopg.Connection, project: str, day: date) -> Tombstones:
    """Reads the tombstones that a load of the day must honor: those of the project within a month."""
    select = "SELECT run_sha256 FROM tombstones WHERE project = %s AND run_date BETWEEN %s AND %s"
    cursor = connection.cursor(binary=True).execute(select, (project, day - _NEIGHBORS, day + _NEIGHBORS))
    return Tombstones(frozenset(digest for (digest,) in cursor))


def tombstones_by_day(database: Database, project: str, days: Collection[date] | None = None) -> dict[date, Tombstones]:
    """Reads the tombstones of a project by day: of these days, or of all that have some.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    found = defaultdict[date, set[bytes]](set)
    with database.session(f"cannot read the tombstones of {project}") as connection:
        wanted = None if days is None else list(days)
        for day, digest in connection.cursor(binary=True).execute(_BY_DAY, (project, wanted)):
            found[day].add(digest)
    return {day: Tombstones(frozenset(digests)) for day, digests in found.items()}
