"""The table `days`: what is known of each archived day, for `status` and the sensors. Rebuilt from disk and Drive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime

from psycopg import sql
from psycopg.rows import class_row

from lse_resources.postgres.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRow:
    """What is known of one day; None: not known yet.

    Attributes:
        content_sha256: Identity of the day's files (`lse_archive.folder.manifest.content_hash`), hexadecimal.
        runs, traces, bytes, pending: Of the run files.
        langsmith_count, proof: As in `FetchResult`.
        zip_sha256, zip_bytes: Of the day archive.
        drive_file_id, drive_sha256: Of the copy on Drive.
        rows: Rows of the day after its last load.
        loaded_at, last_fetched_at: When rows were last written; when LangSmith was last asked.
        verified_at, consistent: The last proof and its answer.
        files_pruned_at, zip_pruned_at: When the local copies were given up.
    """

    project: str
    run_date: date
    content_sha256: str | None = None
    runs: int | None = None
    traces: int | None = None
    bytes: int | None = None
    pending: int | None = None
    langsmith_count: int | None = None
    proof: str | None = None
    zip_sha256: str | None = None
    zip_bytes: int | None = None
    drive_file_id: str | None = None
    drive_sha256: str | None = None
    rows: int | None = None
    loaded_at: datetime | None = None
    looked_at: datetime | None = None
    verified_at: datetime | None = None
    consistent: bool | None = None
    files_pruned_at: datetime | None = None
    zip_pruned_at: datetime | None = None


_COLUMNS = tuple(field.name for field in fields(DayRow))
_STATE = frozenset(_COLUMNS[2:])
_SELECT = sql.SQL("SELECT {} FROM days").format(sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))


class DaysTable:
    """Reads and writes the states of days."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def update(self, project: str, day: date, state: Mapping[str, object]) -> None:
        """Notes some facts of a day, by the names of `DayRow`; the others stay as they are.

        Raises:
            ValueError: There is no fact of this name.
            DatabaseError: Postgres cannot be reached or refuses.
        """
        if unknown := set(state) - _STATE:
            raise ValueError(f"no state of a day: {', '.join(sorted(unknown))}")
        if not state:
            return
        names = list(state)
        statement = sql.SQL(
            "INSERT INTO days (project, run_date, {names}) VALUES (%s, %s, {values})"
            " ON CONFLICT (project, run_date) DO UPDATE SET {assignments}"
        ).format(
            names=sql.SQL(", ").join(map(sql.Identifier, names)),
            values=sql.SQL(", ").join([sql.Placeholder()] * len(names)),
            assignments=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names
            ),
        )
        with self._database.session(f"cannot note the state of {project} {day}") as connection:
            connection.execute(statement, (project, day, *state.values()))

    def get(self, project: str, day: date) -> DayRow | None:
        """What is known of a day."""
        found = self.find(project, day, day)
        return found[0] if found else None

    def find(self, project: str | None = None, first: date | None = None, last: date | None = None) -> list[DayRow]:
        """The states of all days, or of one project, or within a range, by project and day.

        Raises:
            DatabaseError: Postgres cannot be reached or refuses.
        """
        statement = _SELECT + sql.SQL(
            " WHERE (%(project)s::text IS NULL OR project = %(project)s)"
            " AND run_date BETWEEN coalesce(%(first)s, '-infinity'::date) AND coalesce(%(last)s, 'infinity'::date)"
            " ORDER BY project, run_date"
        )
        with self._database.session("cannot read the states of days") as connection:
            cursor = connection.cursor(row_factory=class_row(DayRow))
            return cursor.execute(statement, {"project": project, "first": first, "last": last}).fetchall()
