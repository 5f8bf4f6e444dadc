"""Erases the rows of runs from every table of the database, and from the database's own files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from lse_resources.postgres.database import Database


@dataclass(frozen=True, slots=True)
class RowsFound:
    """Rows of given runs: their number in a table, by the project and day of the rows.

    `table` is qualified by its schema if that is not the current one.
    """

    table: str
    project: str
    run_date: date
    rows: int


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """What `erase_rows` did.

    Attributes:
        rows: Numbers of erased rows by table.
        rewrite: The tables and partitions to pass to `rewrite`: until then their files still hold the bytes.
        left: One sentence for each table that could not be changed.
    """

    rows: Mapping[str, int]
    rewrite: tuple[str, ...]
    left: tuple[str, ...]


def find_rows(database: Database, run_ids: Collection[str]) -> list[RowsFound]:
    """Counts the rows of runs, of their feedback and attachments, in all tables, projects and days.

    Tables of the same columns are searched too: detached partitions, and copies of `runs` that somebody made.

    Args:
        run_ids: Any number of UUIDs.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    raise NotImplementedError


def erase_rows(database: Database, project: str, run_ids: Collection[str]) -> ErasedRows:
    """Deletes the rows of a project's runs, of their feedback and attachments, in all tables and under all days.

    One transaction. Call it with the day's advisory lock held, after `add_tombstones`. `rewrite` is named even for
    tables that had no such row any more if their statistics may have values of them: a repetition ends in the same.

    Args:
        run_ids: UUIDs; all runs of a day at most.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    raise NotImplementedError


def rewrite_bytes(database: Database, tables: Sequence[str]) -> int:
    """The free bytes that `rewrite` needs on the server's disk at once: the size of the largest of the tables.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    raise NotImplementedError


def rewrite(database: Database, tables: Sequence[str], *, progress: Callable[[str], None] = lambda _: None) -> None:
    """Rewrites tables with TOAST and indexes, and the statistics of their values: VACUUM FULL, ANALYZE, CHECKPOINT.

    Each table is locked exclusively while it is rewritten: no session reads or writes it. The write-ahead log keeps
    deleted bytes until its segments are recycled.

    Args:
        progress: Called with the name of each table before it is locked.

    Raises:
        DatabaseError: Postgres cannot be reached, has no room, or refuses; the tables rewritten so far stay so.
    """
    raise NotImplementedError
