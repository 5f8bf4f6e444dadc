"""Undoing loads: inserted rows are deleted, replaced rows are restored."""

from __future__ import annotations

from typing import Any

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id

from lse_archive.errors import ArchiveConflictError, UsageError
from lse_archive.results import LoadResult
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.load.rollback import rollback_load
from lse_resources.postgres.verify.day import verify_day


def snapshot(database: Database) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute("SELECT * FROM runs ORDER BY run_id, run_date").fetchall()


def load(database: Database, folder: RunFolder) -> int:
    result: LoadResult = load_day(database, PROJECT, DAY, folder.path, overwrite=True)
    assert result.load_id is not None
    return result.load_id


def test_an_undone_first_load_leaves_no_row(database: Database, run_folder: RunFolder) -> None:
    load_id = load(database, run_folder.fill(5))

    done = rollback_load(database, load_id)

    assert (done.project, done.date, done.deleted, done.restored) == (PROJECT, DAY, 5, 0)
    assert snapshot(database) == []


def test_an_undone_overwrite_restores_the_former_rows(database: Database, run_folder: RunFolder) -> None:
    load(database, run_folder.fill(5))
    before = snapshot(database)
    run_folder.fill(2, first=5).write(1, name="other")
    run_folder.write(2, name="other")

    done = rollback_load(database, load(database, run_folder))

    assert (done.deleted, done.restored) == (4, 2)
    assert snapshot(database) == before


def test_an_undone_repair_moves_a_row_back(database: Database, run_folder: RunFolder) -> None:
    load(database, run_folder.fill(5))
    with database.connect() as connection:
        connection.execute("UPDATE runs SET project = 'q', data = '{}' WHERE run_id = %s", (run_id(1),))
    before = snapshot(database)
    assert verify_day(database, PROJECT, DAY, run_folder.path, fix=True).is_consistent
    with database.connect() as connection:
        repair = connection.execute("SELECT load_id FROM loads WHERE kind = 'repair'").fetchone()
    assert repair is not None

    rollback_load(database, repair[0])

    assert snapshot(database) == before


def test_loads_are_undone_newest_first(database: Database, run_folder: RunFolder) -> None:
    first = load(database, run_folder.fill(5))
    run_folder.write(1, name="second")
    second = load(database, run_folder)

    with pytest.raises(ArchiveConflictError, match=f"load {second} has replaced some of its rows"):
        rollback_load(database, first)
    rollback_load(database, second)
    rollback_load(database, first)

    assert snapshot(database) == []


def test_an_undone_load_can_be_repeated(database: Database, run_folder: RunFolder) -> None:
    rollback_load(database, load(database, run_folder.fill(5)))

    assert load_day(database, PROJECT, DAY, run_folder.path).successful_inserts == 5


def test_a_rollback_is_in_the_audit_table(database: Database, run_folder: RunFolder) -> None:
    load_id = load(database, run_folder.fill(5))
    done = rollback_load(database, load_id)

    with database.connect() as connection:
        kept = connection.execute("SELECT load_id, kind, deleted, undone_by FROM loads ORDER BY 1").fetchall()
    assert kept == [(load_id, "overwrite", 0, done.rollback_id), (done.rollback_id, "rollback", 5, None)]


def test_a_load_that_cannot_be_undone_is_an_error(database: Database, run_folder: RunFolder) -> None:
    load_id = load(database, run_folder.fill(5))
    done = rollback_load(database, load_id)

    with pytest.raises(UsageError, match=f"load {done.rollback_id} has undone it already"):
        rollback_load(database, load_id)
    with pytest.raises(UsageError, match="it is a rollback"):
        rollback_load(database, done.rollback_id)
    with pytest.raises(UsageError, match="there is no load 99"):
        rollback_load(database, 99)


def test_old_replaced_rows_are_deleted_and_their_load_stays(database: Database, run_folder: RunFolder) -> None:
    load(database, run_folder.fill(5))
    run_folder.write(1, name="second")
    second = load(database, run_folder)
    with database.connect() as connection:
        connection.execute("UPDATE replaced_runs SET replaced_at = now() - interval '31 days'")
    run_folder.write(2, name="third")
    load(database, run_folder)

    with pytest.raises(ArchiveConflictError, match="were kept for 30 days"):
        rollback_load(database, second)
