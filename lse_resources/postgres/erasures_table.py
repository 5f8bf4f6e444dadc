"""The tables `tombstones` and `erasures`: runs that must never come back, and the certificates of erasures.

Neither holds anything of what was erased: a run id is only known by its SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg

from lse_resources.postgres.database import Database


def run_digest(run_id: str) -> bytes:
    """The key of a tombstone: SHA-256 of the run id, a UUID in lower case with hyphens."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Erasure:
    """The certificate of an erasure.

    Attributes:
        erasure_id: UUID.
        requested_by: Role and client, or any name.
        selection_sha256: Hex digest of the selection that was asked for.
        counts: Numbers of what was erased, by place and kind.
        checked: What was looked at afterwards, and the results.
        left: What could not be erased.
        finished_at: None until the erasure is complete.
    """

    erasure_id: str
    project: str
    requested_by: str
    reason: str
    selection_sha256: str
    started_at: datetime
    finished_at: datetime | None = None
    counts: Mapping[str, Any] | None = None
    checked: Mapping[str, Any] | None = None
    left: Iterable[Any] | None = None


def write_erasure(database: Database, erasure: Erasure) -> None:
    """Inserts the certificate, or replaces that of the same id.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    raise NotImplementedError


def read_erasures(database: Database, erasure_id: str | None = None) -> list[Erasure]:
    """Reads the certificates, oldest first, or only that of an id.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    raise NotImplementedError


def add_tombstones(
    database: Database, project: str, erasure_id: str, runs: Iterable[tuple[date, bytes]], *, erased_at: datetime
) -> int:
    """Adds tombstones that are not there yet; returns the number of new ones.

    Args:
        runs: The day and the `run_digest` of each run.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    raise NotImplementedError


def read_tombstones(connection: psycopg.Connection, project: str, first: date, last: date) -> set[bytes]:
    """The digests of a project's forgotten runs of these days."""
    raise NotImplementedError
