"""Loading a day: inserted, kept and replaced rows, invalid files, and errors of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import LiteralString

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id, trace_id
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lse_archive.errors import DatabaseError, UsageError
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_day

pytestmark = pytest.mark.slow


def rows(database: Database, columns: LiteralString = "run_id::text") -> list[tuple]:
    with database.connect() as connection:
        return connection.execute(sql.SQL("SELECT {} FROM runs ORDER BY run_id").format(sql.SQL(columns))).fetchall()


def test_every_run_becomes_a_row_with_its_content(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(10)

    result = load_day(database, PROJECT, DAY, run_folder.path, batch_size=3)

    assert (result.total_files, result.total_runs, result.successful_inserts) == (10, 10, 10)
    assert (result.batches_processed, result.left, result.failed_inserts) == (4, 0, 0)
    loaded = rows(database, "run_id::text, trace_id::text, project, run_date, data, mark")
    assert loaded == [(run_id(n), trace_id(n), PROJECT, DAY, run_folder.run(n), None) for n in range(10)]


def test_numbers_keep_all_their_digits(database: Database, run_folder: RunFolder) -> None:
    text = "[123456789012345678901234567890, 0.1000000000000000055511151231257827, 1.50]"
    run_folder.write(0, run_folder.with_text(0, text))

    load_day(database, PROJECT, DAY, run_folder.path)

    assert rows(database, "data->>'odd'") == [(text,)]


def test_a_second_load_changes_nothing(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(10)
    load_day(database, PROJECT, DAY, run_folder.path)
    before = rows(database, "runs.*, xmin::text, ctid::text")

    result = load_day(database, PROJECT, DAY, run_folder.path, overwrite=True)

    assert (result.successful_inserts, result.replaced, result.left) == (0, 0, 10)
    assert rows(database, "runs.*, xmin::text, ctid::text") == before


def test_changed_rows_stay_and_are_reported(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(4)
    load_day(database, PROJECT, DAY, run_folder.path)
    before = rows(database, "runs.*")
    run_folder.write(2, name="other")

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.left, result.changed_not_replaced, result.replaced) == (4, 1, 0)
    assert rows(database, "runs.*") == before


def test_overwrite_replaces_changed_rows_and_sets_created_at(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(4)
    load_day(database, PROJECT, DAY, run_folder.path)
    with database.connect() as connection:
        connection.execute("UPDATE runs SET created_at = '2020-01-01'")
    run_folder.write(2, name="other")

    result = load_day(database, PROJECT, DAY, run_folder.path, overwrite=True)

    assert (result.left, result.changed_not_replaced, result.replaced) == (3, 0, 1)
    found = rows(database, "data->>'name', created_at > '2021-01-01'")
    assert found == [("run 0", False), ("run 1", False), ("other", True), ("run 3", False)]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_dry_run_reports_and_writes_nothing(database: Database, run_folder: RunFolder, overwrite: bool) -> None:
    run_folder.fill(4)
    load_day(database, PROJECT, DAY, run_folder.path)
    run_folder.fill(2, first=4)
    run_folder.write(0, name="other")
    before = rows(database, "runs.*")

    result = load_day(database, PROJECT, DAY, run_folder.path, overwrite=overwrite, dry_run=True)

    assert (result.successful_inserts, result.replaced, result.left) == (2, int(overwrite), 4 - overwrite)
    assert result.dry_run
    assert result.load_id is None
    assert rows(database, "runs.*") == before
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM loads").fetchone() == (1,)


def test_a_run_filed_elsewhere_is_reported_and_not_moved(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(4)
    load_day(database, PROJECT, DAY, run_folder.path)
    with database.connect() as connection:
        connection.execute("UPDATE runs SET project = 'q' WHERE run_id = %s", (run_id(1),))
        connection.execute("SELECT lse_ensure_month('2026-02-01')")
        connection.execute("UPDATE runs SET run_date = '2026-02-01' WHERE run_id = %s", (run_id(2),))
    before = rows(database, "runs.*")

    result = load_day(database, PROJECT, DAY, run_folder.path, overwrite=True)

    assert (result.failed_inserts, result.left, result.successful_inserts) == (2, 2, 0)
    assert "is filed under q 2026-01-31 already" in result.errors[0]
    assert f"is filed under {PROJECT} 2026-02-01 already" in result.errors[1]
    assert rows(database, "runs.*") == before


def test_invalid_files_are_reported_and_the_others_loaded(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(3)
    run_folder.write(1, b'{"id": ')
    wrapped = json.dumps({"trace": run_folder.run(7), "fetched_by": "an older tool"}).encode()
    (run_folder.path / "7.json").write_bytes(wrapped)

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.total_files, result.total_runs, result.failed_inserts) == (4, 3, 1)
    assert "it is not JSON" in result.errors[0]
    assert rows(database, "data->>'name'") == [("run 0",), ("run 2",), ("run 7",)]


def test_a_refused_run_is_marked_and_the_others_are_loaded(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(20)
    run_folder.write(3, run_folder.with_text(3, r'"a\u0000b"'))
    run_folder.write(4, run_folder.with_text(4, r'"\ud800"'))
    run_folder.write(5, run_folder.with_text(5, "1e-20000"))  # valid for every parser, but PostgreSQL refuses it

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.successful_inserts, result.marked, result.failed_inserts) == (20, 3, 0)
    marked = [row for row in rows(database, "run_id::text, mark, data->>'odd'") if row[1]]
    assert marked == [
        (run_id(3), ["nul"], "a\ufffdb"),
        (run_id(4), ["lone_surrogate"], "\ufffd"),
        (run_id(5), ["number_range"], "1e-20000"),
    ]


def test_a_run_refused_in_every_rendering_is_a_row_without_content(database: Database, run_folder: RunFolder) -> None:
    with database.connect() as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET max_stack_depth = '100kB'").format(sql.Identifier(connection.info.dbname))
        )
    run_folder.fill(3)
    run_folder.write(1, run_folder.with_text(1, "[" * 1900 + "]" * 1900))

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.successful_inserts, result.marked, result.failed_inserts) == (3, 1, 0)
    assert rows(database, "data IS NULL, mark") == [(False, None), (True, ["refused"]), (False, None)]
    assert verify_day(database, PROJECT, DAY, run_folder.path, detailed=True).is_consistent


def test_progress_counts_files_up_to_all(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(7).write(3, b"broken")
    seen: list[tuple[int, int]] = []

    load_day(database, PROJECT, DAY, run_folder.path, batch_size=2, progress=lambda *step: seen.append(step))

    assert seen[-1] == (7, 7)
    assert seen == sorted(seen)


def test_every_load_is_in_the_audit_table(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(3)
    first = load_day(database, PROJECT, DAY, run_folder.path)
    run_folder.write(1, name="other")
    second = load_day(database, PROJECT, DAY, run_folder.path, overwrite=True)

    with database.connect() as connection:
        found = connection.execute(
            "SELECT load_id, kind, project, run_date, inserted, replaced, finished_at IS NOT NULL FROM loads ORDER BY 1"
        ).fetchall()
    assert found == [
        (first.load_id, "load", PROJECT, DAY, 3, 0, True),
        (second.load_id, "overwrite", PROJECT, DAY, 0, 1, True),
    ]


def test_a_load_creates_the_partition_of_its_month(database: Database, tmp_path: Path) -> None:
    for day in (date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 2)):
        folder = RunFolder(tmp_path / str(day), day)
        folder.write((day - date(2025, 12, 30)).days)
        load_day(database, PROJECT, day, folder.path)

    assert rows(database, "tableoid::regclass::text, run_date") == [
        ("runs_2025_12", date(2025, 12, 31)),
        ("runs_2026_01", date(2026, 1, 1)),
        ("runs_2026_01", date(2026, 1, 2)),
    ]


def test_a_missing_folder_is_a_usage_error(database: Database, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no run files"):
        load_day(database, PROJECT, DAY, tmp_path / "nowhere")


def test_a_database_without_tables_is_a_one_line_error(empty_database: Database, run_folder: RunFolder) -> None:
    with pytest.raises(DatabaseError, match="Prepare the database: lse db migrate"):
        load_day(empty_database, PROJECT, DAY, run_folder.fill(1).path)


@pytest.fixture
def reader(database: Database) -> Iterator[Database]:
    """The database as a role that may only read."""
    with database.connect() as connection:
        connection.execute("CREATE ROLE lse_test_reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO lse_test_reader")
        yield Database(make_conninfo(database.url, user="lse_test_reader"))
        connection.execute("DROP OWNED BY lse_test_reader")
        connection.execute("DROP ROLE lse_test_reader")


def test_a_missing_right_is_a_one_line_error(reader: Database, run_folder: RunFolder) -> None:
    with pytest.raises(DatabaseError, match=r"permission denied for table loads. Grant the role its rights"):
        load_day(reader, PROJECT, DAY, run_folder.fill(1).path)


def test_days_and_projects_are_independent(database: Database, tmp_path: Path) -> None:
    today = RunFolder(tmp_path / "a").fill(2)
    tomorrow = RunFolder(tmp_path / "b", DAY + timedelta(days=1)).fill(2, first=10)
    load_day(database, PROJECT, DAY, today.path)
    load_day(database, PROJECT, tomorrow.day, tomorrow.path)
    load_day(database, "other", DAY, RunFolder(tmp_path / "c").fill(2, first=20).path)

    result = load_day(database, PROJECT, DAY, today.path, overwrite=True)

    assert (result.left, result.total_runs) == (2, 2)
    assert len(rows(database)) == 6
