"""Erasing runs: no row, no file of the database and no later load has them, and all else stays as it was."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, attachment, feedback, run_id
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from lse_archive.errors import DatabaseError
from lse_archive.folder.tombstones import tombstone
from lse_cli.terminal.texts import describe
from lse_resources.postgres import erase
from lse_resources.postgres.database import Database
from lse_resources.postgres.erase import RowsFound, erase_rows, find_forgotten_rows, find_rows, pending_rewrite, rewrite
from lse_resources.postgres.erasures_table import Erasure, add_tombstones, write_erasure
from lse_resources.postgres.grants import grant
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_day

MARKER = "Marker-of-Ada-7c1e"
ERASURE = str(uuid.UUID(int=16))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
FORGOTTEN = [run_id(0), run_id(1)]
TABLES = ("runs", "replaced_runs", "feedback", "attachments", "old_month", "elsewhere.copied", "names")
# Every file of the database but the write-ahead log, read by the server.
READ_FILES = """
SELECT file, pg_read_binary_file(directory || '/' || file, 0, 1 << 29, true)
FROM (SELECT 'base/' || oid AS directory FROM pg_database WHERE datname = current_database()) AS here,
     pg_ls_dir(directory) AS file
"""


def certificate(**results: Any) -> Erasure:
    return Erasure(
        erasure_id=ERASURE,
        project=PROJECT,
        requested_by="dpo",
        reason="asked by letter",
        selection_sha256="0" * 64,
        started_at=NOW,
        **results,
    )


@pytest.fixture
def loaded(database: Database, run_folder: RunFolder) -> Database:
    """Two runs with the marker, replaced once, with feedback and an attachment; copied into other tables, too."""
    run_folder.fill(8)
    run_folder.write_feedback(feedback(1, run=0, comment=MARKER), feedback(2, run=5, comment="good"))
    run_folder.write_attachments(attachment(1, MARKER), attachment(6, "other"))
    for name in (f"{MARKER}-before", MARKER):
        run_folder.write(0, name=name, inputs={"text": name})
        run_folder.write(1, name=name)
        load_day(database, PROJECT, DAY, run_folder.path, overwrite=True)
    other = RunFolder(run_folder.path.parent / "2025-12-31", date(2025, 12, 31)).fill(2)
    other.write(0, name=MARKER)
    with database.connect() as connection:
        connection.execute("SELECT lse_ensure_month('2025-12-31')")
        columns = "run_id, trace_id, project, run_date, data"
        moved = "SELECT run_id, trace_id, project, '2025-12-31', data FROM runs WHERE run_id IN (%s, %s)"
        connection.execute(f"INSERT INTO runs ({columns}) {moved}", (run_id(0), run_id(4)))
        connection.execute("ALTER TABLE runs DETACH PARTITION runs_2025_12")
        connection.execute("ALTER TABLE runs_2025_12 RENAME TO old_month")
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute("CREATE TABLE elsewhere.copied AS SELECT * FROM runs")
        connection.execute("CREATE MATERIALIZED VIEW names AS SELECT run_id, project, name FROM run_facts")
        connection.execute("ANALYZE")
    write_erasure(database, certificate())
    return database


def files_with(database: Database, text: str) -> list[str]:
    with database.connect() as connection:
        connection.execute("CHECKPOINT")
        rows = connection.cursor(binary=True).execute(READ_FILES)
        return [file for file, content in rows if content and text.encode() in content]


def others(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    with database.connect() as connection:
        select = "SELECT * FROM {} AS row WHERE run_id <> ALL(%s::uuid[]) ORDER BY row::text"
        return {table: connection.execute(erase._on(select, table), (FORGOTTEN,)).fetchall() for table in TABLES}


def test_erased_runs_are_in_no_table_and_no_file_of_the_database(loaded: Database) -> None:
    before, sizes = others(loaded), len(files_with(loaded, MARKER))
    assert sizes >= 8  # their tables, the copies, and the statistics

    done = erase_rows(loaded, ERASURE, PROJECT, DAY, FORGOTTEN)

    assert done.left == ()
    rows = {"runs_2026_01": 2, "replaced_runs": 2, "feedback": 1, "attachments": 1}
    assert done.rows == rows | {"old_month": 1, "elsewhere.copied": 2}
    assert find_rows(loaded, FORGOTTEN) == ([], [])
    # A process that is killed here leaves the rest to the next one.
    assert erase_rows(loaded, ERASURE, PROJECT, DAY, FORGOTTEN).rows == {}
    pending = pending_rewrite(loaded, ERASURE)
    assert set(pending.tables) == {*done.rows, "names", "pg_statistic", "run_search_2026_01"}
    assert pending.needs == max(pending.tables.values()) > 0
    assert files_with(loaded, MARKER)

    announced: list[str] = []
    assert rewrite(loaded, ERASURE, progress=announced.append) == []

    assert announced == [*sorted(pending.tables.keys() - {"pg_statistic"}), "pg_statistic"]
    assert files_with(loaded, MARKER) == []
    assert files_with(loaded, run_id(1)) == []
    assert others(loaded) == before
    assert pending_rewrite(loaded, ERASURE).tables == {}
    with loaded.connect() as connection:
        deletions = connection.execute("SELECT deleted FROM loads WHERE kind = 'deletion'").fetchall()
    assert deletions == [(9,)]


def test_rows_are_counted_wherever_they_are(loaded: Database) -> None:
    with loaded.connect() as connection:
        connection.execute("UPDATE elsewhere.copied SET project = 'renamed'")
    found, unread = find_rows(loaded, [run_id(0), str(uuid.uuid4())])
    assert RowsFound("elsewhere.copied", "renamed", DAY, 1) in found
    assert {rows.table for rows in found} == {*TABLES} - {"names", "attachments"}
    assert unread == []
    # Another project's rows stay: the erasure is of one project.
    assert "elsewhere.copied" not in erase_rows(loaded, ERASURE, PROJECT, DAY, FORGOTTEN).rows


def test_rows_that_a_transaction_still_sees_stay_pending(loaded: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "_RETRY_DELAYS", ())
    with loaded.connect() as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT FROM days")
        erase_rows(loaded, ERASURE, PROJECT, DAY, FORGOTTEN)
        with pytest.raises(DatabaseError, match=r"deleted row.* of attachments cannot be removed .* still sees them"):
            rewrite(loaded, ERASURE)
    assert "runs_2026_01" in pending_rewrite(loaded, ERASURE).tables
    rewrite(loaded, ERASURE)
    assert files_with(loaded, MARKER) == []


@pytest.fixture
def role(database: Database) -> Iterator[Database]:
    name = "lse_test_eraser"
    with database.connect() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield Database(make_conninfo(database.url, user=name, password="x"))
    with database.connect() as connection:
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


def test_what_a_role_may_not_erase_is_named(loaded: Database, role: Database) -> None:
    grant(loaded, "lse_test_eraser", "application")
    with loaded.connect() as connection:
        connection.execute("GRANT USAGE ON SCHEMA elsewhere TO lse_test_eraser")
        connection.execute("GRANT SELECT ON elsewhere.copied TO lse_test_eraser")

    done = erase_rows(role, ERASURE, PROJECT, DAY, FORGOTTEN)

    assert done.left == (
        "elsewhere.copied: this role may not delete its rows",
        "old_month: this role may not read it",
    )
    assert find_rows(role, FORGOTTEN) == ([RowsFound("elsewhere.copied", PROJECT, DAY, 2)], ["old_month"])
    refused = rewrite(role, ERASURE)
    assert "runs_2026_01: only its owner may rewrite it (VACUUM FULL)" in refused
    assert len(refused) == len(pending_rewrite(role, ERASURE).tables) == 7

    erase_rows(loaded, ERASURE, PROJECT, DAY, FORGOTTEN)
    assert rewrite(loaded, ERASURE) == []
    assert files_with(loaded, MARKER) == []


def test_a_load_and_a_repair_refuse_forgotten_runs(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(6)
    run_folder.write_feedback(feedback(1, run=0), feedback(2, run=5), feedback(3))
    run_folder.write_attachments(attachment(1, "a"), attachment(5, "b"))
    tombstones = [(DAY, tombstone(run_id(0).upper())), (DAY.replace(day=1), tombstone(run_id(1)))]
    assert add_tombstones(database, PROJECT, ERASURE, tombstones, erased_at=NOW) == 2
    assert add_tombstones(database, PROJECT, ERASURE, tombstones, erased_at=NOW) == 0

    for overwrite in (False, True):
        done = load_day(database, PROJECT, DAY, run_folder.path, overwrite=overwrite)
        assert (done.forgotten, done.forgotten_records, done.rows, done.refused) == (2, 2, 4, 0)
        assert "2 not loaded: erased on request" in describe(done)
    repaired = verify_day(database, PROJECT, DAY, run_folder.path, fix=True)

    assert repaired.missing_runs_in_db == FORGOTTEN
    assert (repaired.fixed, repaired.fixed_records) == ([], 0)
    assert find_rows(database, FORGOTTEN) == find_forgotten_rows(database, PROJECT) == ([], [])
    # They are of one project; under another name, its rows are found.
    assert load_day(database, "renamed", DAY.replace(day=2), run_folder.path).forgotten_records == 0
    names = {rows.table for rows in find_forgotten_rows(database, PROJECT)[0] if rows.project == "renamed"}
    assert names == {"attachments", "feedback"}


def test_a_certificate_keeps_its_request_and_gets_its_results(database: Database) -> None:
    write_erasure(database, certificate())
    results = {"counts": {"rows": {"runs": 2}}, "checked": {"rows": 0}, "left_behind": [{"what": "x"}]}
    write_erasure(database, certificate(finished_at=NOW, **results))

    with database.connect() as connection:
        [found] = connection.cursor(row_factory=dict_row).execute("SELECT * FROM erasures").fetchall()
    assert (found["reason"], found["finished_at"]) == ("asked by letter", NOW)
    assert {name: found[name] for name in results} == results
    with pytest.raises(DatabaseError, match="there is no erasure"):
        erase.note_rewrite_of_events(database, str(uuid.UUID(int=1)), ["event_logs"])
