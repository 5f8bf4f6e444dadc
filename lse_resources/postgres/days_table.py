"""The table `days`: the state of each archived day, for queries. It can be rebuilt from disk and Drive.

=============================== ==========================================================================
column                          value; NULL: unknown
=============================== ==========================================================================
content_sha256                  hash of the day's files (`lse_archive.folder.manifest.content_hash`)
runs, traces, bytes, pending    of the run files
langsmith_count, proof          `langsmith_count` and `count_check` of `FetchResult`
zip_bytes                       size of the day archive
zip_sha256                      unused
drive_file_id, drive_sha256     of the copy on Drive
rows                            rows of the day after its last load
loaded_at, looked_at            time of the last load, and of the last fetch
indexed_at                      time at which the search index had all rows of the day
verified_at, verdict            time and result of the last verification: `proven`, `not_provable` or `wrong`
files_pruned_at, zip_pruned_at  time at which the local files and the local zip were pruned
=============================== ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from psycopg import sql

from lse_resources.postgres.database import Database


def update_day(database: Database, project: str, day: date, values: Mapping[str, object]) -> None:
    """Sets columns of a day's row, at least one; the others stay unchanged.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    names = [sql.Identifier(name) for name in values]
    statement = sql.SQL(
        "INSERT INTO days (project, run_date, {names}) VALUES (%s, %s, {values})"
        " ON CONFLICT (project, run_date) DO UPDATE SET {assignments}"
    ).format(
        names=sql.SQL(", ").join(names),
        values=sql.SQL(", ").join([sql.Placeholder()] * len(names)),
        assignments=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in names),
    )
    with database.session(f"cannot record the state of {project} {day}") as connection:
        connection.execute(statement, (project, day, *values.values()))
