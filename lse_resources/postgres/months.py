"""Months of rows: each is a partition, so giving one up costs the same whether it holds ten rows or ten million."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from psycopg import sql

from lse_archive.errors import UsageError
from lse_resources.postgres.database import Database
from lse_resources.postgres.loads_table import begin_load, finish_load

_MONTHS = """
SELECT to_date(right(relname, 7), 'YYYY_MM'), relname, pg_total_relation_size(pg_class.oid)
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'runs'::regclass ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the table `runs`: its first day, the partition's name, and its bytes with indexes and all."""

    first: date
    partition: str
    bytes: int


def list_months(database: Database) -> list[Month]:
    """The months that have a partition, oldest first.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    with database.session("cannot list the months") as connection:
        return [Month(*row) for row in connection.execute(_MONTHS)]


def detach_month(database: Database, month: date, *, drop: bool = False) -> int:
    """Takes a month's rows out of `runs`; the detached table stays, unless `drop` says so. Returns its rows.

    Only the table's owner may. `verify` will call these days missing in the database until they are loaded again.

    Raises:
        UsageError: The month has no partition.
        DatabaseError: Postgres cannot be reached or refuses.
    """
    first = month.replace(day=1)
    found = next((one for one in list_months(database) if one.first == first), None)
    if found is None:
        raise UsageError(f"there are no rows of {first:%Y-%m}")
    partition = sql.Identifier(found.partition)
    with database.session(f"cannot detach {first:%Y-%m}") as connection, connection.transaction():
        load_id = begin_load(connection, "deletion", None, first)
        connection.execute(sql.SQL("ALTER TABLE runs DETACH PARTITION {}").format(partition))
        count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(partition)).fetchone()
        assert count is not None
        if drop:
            connection.execute(sql.SQL("DROP TABLE {}").format(partition))
        finish_load(connection, load_id, deleted=count[0])
    return count[0]
