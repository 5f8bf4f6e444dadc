"""Rights of the roles, and detached months."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, attachment, feedback
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lse_archive.errors import DatabaseError
from lse_resources.postgres.analysis.frames import Runs
from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.grants import Access, grant
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.load.rollback import rollback_load
from lse_resources.postgres.schema import check_schema, migrate
from lse_resources.postgres.verify.day import verify_day

ROLE = 'lse "test" role'
DETACH = "ALTER TABLE runs DETACH PARTITION runs_2026_01"


@pytest.fixture
def role(database: Database) -> Iterator[Database]:
    """The database as ROLE, which the test creates."""
    yield Database(make_conninfo(database.url, user=ROLE, password="it's secret"))
    with database.connect() as connection:
        for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
            connection.execute(sql.SQL(statement).format(sql.Identifier(ROLE)))


def test_the_application_role_has_exactly_its_rights(database: Database, role: Database, tmp_path: Path) -> None:
    assert grant(database, ROLE, "application", password="it's secret")
    assert not grant(database, ROLE, "application")
    folder = RunFolder(tmp_path / "day").fill(5)
    folder.write_feedback(feedback(1, run=0))
    folder.write_attachments(attachment(0, "a"))

    check_schema(role)
    first = load_day(role, PROJECT, DAY, folder.path)
    folder.write(2, name="other")
    folder.write_feedback(feedback(1, run=0, score=0))
    load_day(role, PROJECT, DAY, folder.path, overwrite=True)
    folder.write(3, name="other")
    assert verify_day(role, PROJECT, DAY, folder.path, detailed=True, fix=True).is_consistent
    update_day(role, PROJECT, DAY, {"runs": 5})
    assert first.load_id is not None
    with role.connect() as connection:
        newest = connection.execute("SELECT max(load_id) FROM loads").fetchone()
    assert newest is not None
    assert rollback_load(role, newest[0]).restored == 1
    with role.connect() as connection, pytest.raises(Exception, match="must be owner of"):
        connection.execute(DETACH)
    with role.connect() as connection, pytest.raises(Exception, match="permission denied"):
        connection.execute("CREATE TABLE mine ()")


@pytest.mark.parametrize("access", ["application", "reader"])
def test_a_role_of_an_older_schema_may_use_the_new_tables(
    empty_database: Database, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch, access: Access
) -> None:
    role = Database(make_conninfo(empty_database.url, user=ROLE, password="it's secret"))
    run_folder.write_feedback(feedback(1, run=0))
    with monkeypatch.context() as older:
        older.setattr("lse_resources.postgres.schema.SCHEMA_VERSION", "0003")
        migrate(empty_database)
    tables = "runs, run_facts, loads, days, replaced_runs" if access == "application" else "runs, run_facts"
    rights = "SELECT, INSERT, UPDATE, DELETE" if access == "application" else "SELECT"
    with empty_database.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'it''s secret'").format(sql.Identifier(ROLE)))
    try:
        with empty_database.connect() as connection:
            statement = sql.SQL(f"GRANT {rights} ON {tables} TO {{}}")
            connection.execute(statement.format(sql.Identifier(ROLE)))
            execute = "GRANT EXECUTE ON FUNCTION lse_ensure_month(date) TO {}"
            connection.execute(sql.SQL(execute).format(sql.Identifier(ROLE)))

        migrate(empty_database)

        if access == "application":
            assert load_day(role, PROJECT, DAY, run_folder.path).feedback_written == 1
        else:
            load_day(empty_database, PROJECT, DAY, run_folder.path)
            with role.connect() as connection, pytest.raises(Exception, match="permission denied"):
                connection.execute("DELETE FROM feedback")
        for table in ("feedback", "feedback_facts", "attachments", "thread_facts"):
            assert Runs(role).query(f"SELECT count(*) FROM {table}")[1] == [(int("feedback" in table),)]
    finally:
        with empty_database.connect() as connection:
            for drop in ("DROP OWNED BY {}", "DROP ROLE {}"):
                connection.execute(sql.SQL(drop).format(sql.Identifier(ROLE)))


def test_a_reader_cannot_write(database: Database, role: Database, run_folder: RunFolder) -> None:
    run_folder.write_feedback(feedback(1, run=0))
    load_day(database, PROJECT, DAY, run_folder.fill(5).path)
    grant(database, ROLE, "reader", password="it's secret")

    for table, rows in {"feedback": 1, "attachments": 0, "feedback_facts": 1, "tombstones": 0, "erasures": 0}.items():
        assert Runs(role).query(f"SELECT count(*) FROM {table}")[1] == [(rows,)]
    assert len(Runs(role).get_run_ids(PROJECT, DAY)) == 5
    assert Runs(role).query("SELECT runs FROM daily_facts")[1] == [(5,)]
    assert Runs(role).query("SELECT count(error) FROM run_facts")[1] == [(0,)]
    with pytest.raises(DatabaseError, match="read-only transaction"):
        load_day(role, PROJECT, DAY, run_folder.path)
    with role.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(Exception, match="permission denied"):
            connection.execute("DELETE FROM runs")


def test_the_password_is_stored_as_a_verifier(database: Database, role: Database) -> None:
    grant(database, ROLE, "reader", password="it's secret")

    with database.connect() as connection:
        stored = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (ROLE,)).fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$")


def test_a_role_without_the_right_to_grant_gets_a_clear_error(database: Database, role: Database) -> None:
    grant(database, ROLE, "reader")

    with pytest.raises(DatabaseError, match="cannot grant other its rights"):
        grant(role, "other", "reader")


def test_a_load_into_a_detached_month_is_refused(database: Database, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "day").fill(3)
    load_day(database, PROJECT, DAY, folder.path)
    with database.connect() as connection:
        connection.execute(DETACH)

    with pytest.raises(DatabaseError, match=r"runs_2026_01.*detached"):
        load_day(database, PROJECT, DAY, folder.path)


def test_the_search_path_selects_the_schema(empty_database: Database) -> None:
    with empty_database.connect() as connection:
        connection.execute("CREATE SCHEMA archive")
    inside = Database(make_conninfo(empty_database.url, options="-c search_path=archive"))

    migrate(inside)

    check_schema(inside)
    with pytest.raises(DatabaseError, match="no tables yet"):
        check_schema(empty_database)
