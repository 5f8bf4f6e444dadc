"""What the server brings along: its encoding, time zone, formats and locale do not change what is stored and read."""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from database_fixtures import DAY, PROJECT, CreateDatabase, RunFolder, run_id
from pandas.testing import assert_frame_equal
from psycopg import sql
from pyarrow import parquet

from lse_archive.errors import DatabaseAccessError, DatabaseError
from lse_archive.folder.reader import RunFile, read_folder
from lse_resources.postgres.analysis.export import export_facts
from lse_resources.postgres.analysis.frames import Runs, load_runs_from_files
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day, write_rows
from lse_resources.postgres.schema import check_schema, migrate
from lse_resources.postgres.verify.day import verify_day

pytestmark = pytest.mark.slow

ENCODINGS: dict[str, LiteralString] = {
    "LATIN1": "ENCODING 'LATIN1' LOCALE_PROVIDER libc",
    "SQL_ASCII": "ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc",
    "EUC_JP": "ENCODING 'EUC_JP' LOCALE_PROVIDER libc",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_new_database_of_another_encoding_is_refused(create_database: CreateDatabase, encoding: str) -> None:
    database = Database(create_database(ENCODINGS[encoding]))

    with pytest.raises(DatabaseAccessError, match=f"has the encoding {encoding}.*--encoding=UTF8"):
        migrate(database)

    with database.connect() as connection:
        assert connection.execute("SELECT to_regclass('runs')").fetchone() == (None,)


@pytest.fixture
def allow_any_encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes databases as older versions made them: in any encoding."""
    return lambda: monkeypatch.setattr("lse_resources.postgres.schema.require_utf8", lambda *_: None)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_old_database_of_another_encoding_is_read_and_not_written(
    create_database: CreateDatabase, encoding: str, run_folder: RunFolder, allow_any_encoding: Callable[[], None]
) -> None:
    database = Database(create_database(ENCODINGS[encoding]))
    allow_any_encoding()
    migrate(database)
    run_folder.write(0, name="\u6771\U0001f600")

    for use in (load_day, verify_day):
        with pytest.raises(DatabaseAccessError, match=f"has the encoding {encoding}"):
            use(database, PROJECT, DAY, run_folder.path)

    check_schema(database)
    assert Runs(database).get_run_ids(PROJECT, DAY) == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_server_that_refuses_usual_runs_fails_the_load_and_marks_none(
    create_database: CreateDatabase,
    encoding: str,
    run_folder: RunFolder,
    allow_any_encoding: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the encoding that the server reports counts, but what it does."""
    database = Database(create_database(ENCODINGS[encoding]))
    allow_any_encoding()
    migrate(database)
    monkeypatch.setattr("lse_resources.postgres.load.day.require_utf8", lambda *_: None)
    run_folder.fill(5).write(3, run_folder.with_text(3, r'"\u6771 \ud83d\ude00"'))

    with pytest.raises(DatabaseError):
        load_day(database, PROJECT, DAY, run_folder.path, batch_size=2)

    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE data IS NULL").fetchone() == (0,)


def test_a_run_that_only_the_table_refuses_is_a_failure_and_no_row_without_content(
    database: Database, run_folder: RunFolder
) -> None:
    with database.connect() as connection:
        connection.execute("ALTER TABLE runs ADD CONSTRAINT short CHECK (length(name) < 20)")
    run_folder.fill(5).write(3, name="a name of more than twenty characters")

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.successful_inserts, result.failed_inserts, result.marked) == (4, 1, 0)
    assert 'violates check constraint "short"' in result.errors[0]


@pytest.fixture
def elsewhere(database: Database) -> Database:
    """A database whose sessions begin with a time zone and formats of their own."""
    settings = {"timezone": "America/New_York", "datestyle": "SQL, DMY", "intervalstyle": "iso_8601"}
    with database.connect() as connection:
        for name, value in (settings | {"extra_float_digits": "-3"}).items():
            statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
            connection.execute(
                statement.format(sql.Identifier(connection.info.dbname), sql.Identifier(name), sql.Literal(value))
            )
    return database


def test_readers_show_utc_and_iso_whatever_the_servers_defaults_are(
    elsewhere: Database, run_folder: RunFolder, tmp_path: Path
) -> None:
    load_day(elsewhere, PROJECT, DAY, run_folder.fill(1, first=3).path)

    export_facts(elsewhere, PROJECT, DAY, DAY, tmp_path / "out.csv", "csv")

    with (tmp_path / "out.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["run_date"] == "2026-01-31"
    assert row["start_time"] == "2026-01-31 12:00:00.000003+00"
    assert_frame_equal(Runs(elsewhere).load_runs(PROJECT, DAY), load_runs_from_files(PROJECT, [run_folder.path]))
    _, rows = Runs(elsewhere).query(
        "SELECT start_time, end_time - start_time, now() IS NOT NULL, 0.1::float8 + 0.2 FROM runs"
    )
    start = datetime(2026, 1, 31, 12, 0, 0, 3, tzinfo=UTC)
    assert rows == [(start, timedelta(seconds=1.5), True, 0.1 + 0.2)]
    assert rows[0][0].utcoffset() == timedelta(0)


ODD_TIMES = {
    "2026-02-01T05:00:00+16:30": datetime(2026, 1, 31, 12, 30, tzinfo=UTC),
    "2026-02-01T05:00:00-23:59": datetime(2026, 2, 2, 4, 59, tzinfo=UTC),
    "2026-01-31t13:00:00z": datetime(2026, 1, 31, 13, tzinfo=UTC),
    "2026-01-31T13:00:00+00": datetime(2026, 1, 31, 13, tzinfo=UTC),
    "2026-01-31T13:00:00.25+0000": datetime(2026, 1, 31, 13, 0, 0, 250000, tzinfo=UTC),
    "2026-01-31T13:00:00-0130": datetime(2026, 1, 31, 14, 30, tzinfo=UTC),
    "2026-01-31 13:00:00.9999999Z": datetime(2026, 1, 31, 13, 0, 0, 999999, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
}


@pytest.fixture
def odd_times(elsewhere: Database, run_folder: RunFolder) -> RunFolder:
    for number, text in enumerate(ODD_TIMES):
        run_folder.write(number, end_time=text)
    return run_folder


def test_odd_times_are_columns_in_utc(elsewhere: Database, odd_times: RunFolder) -> None:
    result = load_day(elsewhere, PROJECT, DAY, odd_times.path)

    assert (result.successful_inserts, result.marked, result.failed_inserts) == (len(ODD_TIMES), 0, 0)
    _, rows = Runs(elsewhere).query("SELECT data ->> 'end_time', end_time FROM runs ORDER BY run_id")
    assert rows == list(ODD_TIMES.items())
    assert verify_day(elsewhere, PROJECT, DAY, odd_times.path, detailed=True).is_consistent


def test_no_time_breaks_a_reader(elsewhere: Database, odd_times: RunFolder, tmp_path: Path) -> None:
    load_day(elsewhere, PROJECT, DAY, odd_times.path)

    frame = Runs(elsewhere).load_runs(PROJECT, DAY)
    export_facts(elsewhere, PROJECT, DAY, DAY, tmp_path / "out.parquet", "parquet")

    assert_frame_equal(load_runs_from_files(PROJECT, [odd_times.path]), frame)
    assert frame["end_time"].tolist() == list(ODD_TIMES.values())
    assert parquet.read_table(tmp_path / "out.parquet").column("end_time").to_pylist() == list(ODD_TIMES.values())


def test_a_value_that_psycopg_cannot_read_does_not_blame_the_server(database: Database) -> None:
    with pytest.raises(DatabaseError, match="after year 10K") as refusal:
        Runs(database).query("SELECT '10000-01-01 00:00:00Z'::timestamptz")

    assert "server" not in refusal.value.hint


NO_TIMES = (
    "Invalid date",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",  # year 0 in UTC
    "9999-12-31T23:59:59-01:00",  # year 10000
    "10000-01-01T00:00:00Z",
    "\u0662\u0660\u0662\u0666-01-31T12:00:00Z",
    "2026-01-31T12:00:00.\u0663Z",
    "2026-01-31T12:00:00..5Z",
    "2026-01-31T12:00:00+25:00",
    "2026-01-31T12:00:00+1:2:3",
    "2026-01-31T12:00:00Z9Z",
    "2026-01-31T12:00:00" + "9" * 1000,
)


def test_a_time_that_cannot_be_a_column_is_null_and_its_run_keeps_its_content(
    database: Database, run_folder: RunFolder
) -> None:
    load_day(database, PROJECT, DAY, run_folder.fill(len(NO_TIMES)).path)
    for number, text in enumerate(NO_TIMES):
        with database.connect() as connection:
            connection.execute(
                "UPDATE runs SET data = data || jsonb_build_object('end_time', %s::text) WHERE run_id = %s",
                (text, run_id(number)),
            )

    _, rows = Runs(database).query("SELECT data ->> 'end_time', end_time FROM runs ORDER BY run_id")
    assert rows == [(text, None) for text in NO_TIMES]


@contextmanager
def migrated_from(database: Database, version: str, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Migrates an empty database to an older version before the block, and to this one after it."""
    with monkeypatch.context() as older:
        older.setattr("lse_resources.postgres.schema.SCHEMA_VERSION", version)
        migrate(database)
    yield
    migrate(database)


def test_migration_computes_times_again_and_doubts_rows_without_content(
    empty_database: Database, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 0002 made BC times, rounded ones, no times of `+00`, and rows without content for `+16:30`."""
    run_folder.fill(4)
    run_folder.write(1, end_time="2026-01-31T13:00:00+00")
    run_folder.write(2, end_time="2026-02-01T05:00:00+16:30")
    run_folder.write(3, start_time="2026-01-31T12:00:00.1234567Z", end_time="2026-01-31T12:00:01.1234567Z")
    with migrated_from(empty_database, "0002", monkeypatch):
        files = (file for file in read_folder(run_folder.path, DAY) if isinstance(file, RunFile))
        list(write_rows(empty_database, PROJECT, DAY, files, "keep", load_id=1))
        with empty_database.connect() as connection:
            connection.execute(
                "UPDATE runs SET data = NULL, row_sha256 = NULL, mark = '{refused}' WHERE run_id = %s", (run_id(2),)
            )
            connection.execute(
                """UPDATE runs SET data = data || '{"end_time": "0001-01-01T00:00:00+01:00"}' WHERE run_id = %s""",
                (run_id(0),),
            )

    _, rows = Runs(empty_database).query("SELECT end_time FROM runs ORDER BY run_id LIMIT 2")
    assert rows == [(None,), (datetime(2026, 1, 31, 13, tzinfo=UTC),)]
    _, [times] = Runs(empty_database).query(f"SELECT start_time, end_time FROM runs WHERE run_id = '{run_id(3)}'")
    assert times == tuple(datetime(2026, 1, 31, 12, 0, second, 123456, tzinfo=UTC) for second in (0, 1))
    assert run_id(2) in verify_day(empty_database, PROJECT, DAY, run_folder.path, fix=True).fixed
    assert Runs(empty_database).get_run(run_id(2)) == run_folder.run(2) | {"end_time": "2026-02-01T05:00:00+16:30"}


@pytest.fixture
def icu(postgres_server: Callable[[str], str]) -> None:
    with psycopg.connect(postgres_server("postgres")) as connection:
        if connection.execute("SELECT to_regcollation('\"en-x-icu\"')").fetchone() == (None,):
            pytest.skip("the server has no ICU")


@pytest.mark.usefixtures("icu")
def test_a_new_database_of_a_turkish_locale_is_refused(create_database: CreateDatabase) -> None:
    """There, lower('CHAIN') is not 'chain'."""
    database = Database(create_database("ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'"))

    with pytest.raises(DatabaseAccessError, match=r"the small letter of I is not i.*--locale=C"):
        migrate(database)

    with database.connect() as connection:
        assert connection.execute("SELECT to_regclass('runs')").fetchone() == (None,)


ODD_FIELDS: dict[str, Any] = {
    "run_type": "CHAIN",
    "status": "PENDING",
    "total_tokens": "\u0663",
    "prompt_tokens": "12",
    "total_cost": "\u0661.\u0665",
    "parent_run_id": "\u0660" * 8 + "-0000-0000-0000-000000000000",
}


@pytest.mark.usefixtures("icu")
@pytest.mark.parametrize("locale", ["en-US", "ar-EG"])
def test_typed_columns_do_not_depend_on_the_locale_of_icu(
    create_database: CreateDatabase, run_folder: RunFolder, locale: str
) -> None:
    options: dict[str, LiteralString] = {
        "en-US": "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
        "ar-EG": "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'ar-EG'",
    }
    database = Database(create_database(options[locale]))
    migrate(database)
    run_folder.write(0, **ODD_FIELDS)

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.successful_inserts, result.marked) == (1, 0)
    columns = "run_type, status, total_tokens, prompt_tokens, total_cost, data ->> 'total_tokens'"
    assert Runs(database).query(f"SELECT {columns} FROM runs")[1] == [("chain", "pending", None, 12, None, "\u0663")]
    assert_frame_equal(Runs(database).load_runs(PROJECT, DAY), load_runs_from_files(PROJECT, [run_folder.path]))
