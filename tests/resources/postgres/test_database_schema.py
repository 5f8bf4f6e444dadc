"""The schema: migration, concurrent migration, and other versions; malformed URLs; the table `days`."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from database_fixtures import DAY, PROJECT
from psycopg.conninfo import make_conninfo

from lse_archive.errors import DatabaseAccessError, DatabaseError, SettingsError
from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.schema import SCHEMA_VERSION, check_schema, migrate


def test_migrate_prepares_an_empty_database_once(empty_database: Database) -> None:
    with pytest.raises(DatabaseError, match="it has no tables yet"):
        check_schema(empty_database)

    migrate(empty_database)
    migrate(empty_database)

    check_schema(empty_database)


def test_migrate_runs_concurrently(empty_database: Database) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate, [empty_database] * 3))

    check_schema(empty_database)


@pytest.mark.parametrize(("version", "why"), [("0000", "this version needs"), ("9999", "Update lse")])
def test_a_schema_of_another_version_is_an_error(database: Database, version: str, why: str) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (version,))

    with pytest.raises(DatabaseError, match=why):
        check_schema(database)


def test_a_newer_schema_is_not_migrated(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(DatabaseError, match="the database is too new"):
        migrate(database)


def test_schema_version_is_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    from lse_resources.postgres.schema import _MIGRATIONS

    assert ScriptDirectory(str(_MIGRATIONS)).get_heads() == [SCHEMA_VERSION]


def test_results_of_older_verifications_become_verdicts(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("lse_resources.postgres.schema.SCHEMA_VERSION", "0003")
        migrate(empty_database)
    former = [(True, "equal"), (True, "unproven"), (True, None), (False, "equal"), (None, "equal")]
    with empty_database.connect() as connection:
        for number, (consistent, proof) in enumerate(former, start=1):
            insert = "INSERT INTO days (project, run_date, consistent, proof) VALUES (%s, %s, %s, %s)"
            connection.execute(insert, (PROJECT, DAY.replace(day=number), consistent, proof))
    migrate(empty_database)
    with empty_database.connect() as connection:
        found = connection.execute("SELECT verdict FROM days ORDER BY run_date").fetchall()
    assert found == [("proven",), ("not_provable",), ("not_provable",), ("wrong",), (None,)]


def test_a_role_without_the_right_to_create_tables_gets_a_clear_error(
    database: Database, empty_database: Database
) -> None:
    with empty_database.connect() as connection:
        connection.execute("CREATE ROLE lse_test_guest LOGIN")
        try:
            with pytest.raises(DatabaseError, match="permission denied for schema public"):
                migrate(Database(make_conninfo(empty_database.url, user="lse_test_guest")))
        finally:
            connection.execute("DROP ROLE lse_test_guest")


def test_a_role_that_is_not_the_owner_gets_a_clear_error(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("lse_resources.postgres.schema.SCHEMA_VERSION", "0002")
        migrate(empty_database)
    with empty_database.connect() as connection:
        connection.execute("CREATE ROLE lse_test_guest LOGIN")
        try:
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO lse_test_guest")
            connection.execute("GRANT CREATE ON SCHEMA public TO lse_test_guest")
            with pytest.raises(DatabaseAccessError, match=r"must be owner of function lse_time\. Only the owner"):
                migrate(Database(make_conninfo(empty_database.url, user="lse_test_guest")))
        finally:
            connection.execute("DROP OWNED BY lse_test_guest")
            connection.execute("DROP ROLE lse_test_guest")


def test_check_schema_does_not_import_alembic() -> None:
    modules = "lse_resources.postgres.schema, lse_resources.postgres.verify.day"
    program = f"import sys, {modules}; sys.exit('sqlalchemy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hid@den@h/d", "nonsense:hidden", "postgresql://u:hidden@h:port/d?x=y", "postgresql://[hidden"],
)
def test_the_error_for_a_malformed_url_does_not_quote_it(url: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Database(url)
    assert "hid" not in str(refusal.value)


def test_detaching_a_month_keeps_the_others(database: Database) -> None:
    with database.connect() as connection:
        for day in ("2025-12-31", "2026-01-01", "2026-01-31"):
            connection.execute("SELECT lse_ensure_month(%s)", (day,))
        names = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'runs'::regclass ORDER BY 1"
        assert connection.execute(names).fetchall() == [("runs_2025_12",), ("runs_2026_01",)]
        connection.execute("ALTER TABLE runs DETACH PARTITION runs_2025_12")
        assert connection.execute(names).fetchall() == [("runs_2026_01",)]


def test_updates_of_a_day_add_up(database: Database) -> None:
    fetched = datetime(2026, 2, 1, tzinfo=UTC)
    update_day(database, PROJECT, DAY, {"runs": 3, "zip_bytes": 7})
    update_day(database, PROJECT, DAY, {"looked_at": fetched, "runs": 4})

    with database.connect() as connection:
        rows = connection.execute("SELECT project, run_date, runs, zip_bytes, looked_at, proof FROM days").fetchall()
    assert rows == [(PROJECT, DAY, 4, 7, fetched, None)]
