"""Rights and months: what each role can and cannot do, and what giving up a month leaves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lse_archive.errors import DatabaseError, UsageError
from lse_resources.postgres.analysis.frames import Runs
from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import DaysTable
from lse_resources.postgres.grants import grant
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.load.rollback import rollback_load
from lse_resources.postgres.months import detach_month, list_months
from lse_resources.postgres.schema import check_schema, migrate
from lse_resources.postgres.verify.day import verify_day

ROLE = 'lse "test" role'


@pytest.fixture
def role(database: Database) -> Iterator[Database]:
    """The database as ROLE, which a test makes."""
    yield Database(make_conninfo(database.url, user=ROLE, password="it's secret"))
    with database.connect() as connection:
        for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
            connection.execute(sql.SQL(statement).format(sql.Identifier(ROLE)))


def test_the_application_can_do_its_work_and_no_more(database: Database, role: Database, tmp_path: Path) -> None:
    assert grant(database, ROLE, "application", password="it's secret")
    assert not grant(database, ROLE, "application")
    folder = RunFolder(tmp_path / "day").fill(5)

    check_schema(role)
    first = load_day(role, PROJECT, DAY, folder.path)
    folder.write(2, name="other")
    load_day(role, PROJECT, DAY, folder.path, overwrite=True)
    folder.write(3, name="other")
    assert verify_day(role, PROJECT, DAY, folder.path, detailed=True, fix=True).is_consistent
    DaysTable(role).update(PROJECT, DAY, {"runs": 5})
    assert first.load_id is not None
    with role.connect() as connection:
        newest = connection.execute("SELECT max(load_id) FROM loads").fetchone()
    assert newest is not None
    assert rollback_load(role, newest[0]).restored == 1
    with pytest.raises(DatabaseError, match="must be owner of"):
        detach_month(role, DAY)
    with role.connect() as connection, pytest.raises(Exception, match="permission denied"):
        connection.execute("CREATE TABLE mine ()")


def test_a_reader_reads_and_cannot_write(database: Database, role: Database, run_folder: RunFolder) -> None:
    load_day(database, PROJECT, DAY, run_folder.fill(5).path)
    grant(database, ROLE, "reader", password="it's secret")

    assert len(Runs(role).get_run_ids(PROJECT, DAY)) == 5
    assert Runs(role).query("SELECT runs FROM daily_facts")[1] == [(5,)]
    assert Runs(role).query("SELECT count(error) FROM run_facts")[1] == [(0,)]
    with pytest.raises(DatabaseError, match="read-only transaction"):
        load_day(role, PROJECT, DAY, run_folder.path)
    with role.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(Exception, match="permission denied"):
            connection.execute("DELETE FROM runs")


def test_the_password_is_kept_as_a_verifier(database: Database, role: Database) -> None:
    grant(database, ROLE, "reader", password="it's secret")

    with database.connect() as connection:
        stored = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (ROLE,)).fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$")


def test_who_may_not_grant_is_told(database: Database, role: Database) -> None:
    grant(database, ROLE, "reader")

    with pytest.raises(DatabaseError, match="cannot grant other its rights"):
        grant(role, "other", "reader")


def test_a_month_is_given_up_alone_and_written_down(database: Database, tmp_path: Path) -> None:
    for day in (date(2025, 12, 31), DAY):
        folder = RunFolder(tmp_path / str(day), day).fill(3, first=day.month)
        load_day(database, PROJECT, day, folder.path)
    assert [month.first for month in list_months(database)] == [date(2025, 12, 1), date(2026, 1, 1)]

    assert detach_month(database, date(2025, 12, 31)) == 3

    assert Runs(database).get_run_ids(PROJECT, date(2025, 1, 1), date(2026, 12, 31)) == [run_id(n) for n in (1, 2, 3)]
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM runs_2025_12").fetchone() == (3,)
        audit = "SELECT run_date, deleted FROM loads WHERE kind = 'deletion'"
        assert connection.execute(audit).fetchall() == [(date(2025, 12, 1), 3)]
    detach_month(database, DAY, drop=True)
    with pytest.raises(UsageError, match=r"there are no rows of 2026-01"):
        detach_month(database, DAY)
    load_day(database, PROJECT, DAY, tmp_path / str(DAY))
    assert len(list_months(database)) == 1


def test_a_detached_month_does_not_hinder_a_later_load(database: Database, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "day").fill(3)
    load_day(database, PROJECT, DAY, folder.path)
    detach_month(database, DAY)

    with pytest.raises(DatabaseError, match=r"runs_2026_01.*detached"):
        load_day(database, PROJECT, DAY, folder.path)


def test_the_schema_of_another_owner_is_found_by_the_search_path(empty_database: Database) -> None:
    with empty_database.connect() as connection:
        connection.execute("CREATE SCHEMA archive")
    inside = Database(make_conninfo(empty_database.url, options="-c search_path=archive"))

    migrate(inside)

    check_schema(inside)
    with pytest.raises(DatabaseError, match="no tables yet"):
        check_schema(empty_database)
