"""Loads with failures: lost connections, killed servers and loaders, concurrent loads of a day, full disks."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
from database_fixtures import DAY, PROJECT, RunFolder
from home_fixtures import DAY as HOME_DAY
from home_fixtures import PROJECT as HOME_PROJECT
from home_fixtures import Installation
from psycopg.conninfo import make_conninfo

from lse_archive.cancellation import cancellable_sleep, set_cancel_event
from lse_archive.errors import DatabaseAccessError, DatabaseError, DayLockedError
from lse_archive.folder.reader import RunFile, read_folder
from lse_platform.home import open_home
from lse_resources.embedded_postgres.place import find_location
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.postgres.advisory_locks import day_advisory_lock
from lse_resources.postgres.database import Database, explained
from lse_resources.postgres.load.day import load_day, write_rows
from lse_resources.postgres.schema import migrate
from lse_resources.postgres.verify.day import verify_day
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

RUNS = 300
BATCH = 20
LOADER = """
import sys
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
def print_progress(done, total):
    sys.stdout.write(f"{done}\\n")
    sys.stdout.flush()
url, project, day, folder, batch = sys.argv[1:]
load_day(Database(url), project, date.fromisoformat(day), Path(folder), batch_size=int(batch), progress=print_progress)
"""


def rows_equal_files(database: Database, folder: RunFolder) -> bool:
    result = verify_day(database, PROJECT, DAY, folder.path, detailed=True)
    return result.is_consistent and result.total_runs_in_db == RUNS


def test_lost_connections_are_replaced_and_no_batch_is_lost(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(RUNS)
    lost = 0

    def cut(done: int, total: int) -> None:
        nonlocal lost
        with database.connect() as connection:
            cursor = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            lost += cursor.rowcount

    result = load_day(database, PROJECT, DAY, run_folder.path, batch_size=BATCH * 3, progress=cut)

    assert lost > 2
    assert (result.successful_inserts, result.replaced, result.failed_inserts) == (RUNS, 0, 0)
    assert rows_equal_files(database, run_folder)


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that the test may kill."""
    base = Path(tempfile.mkdtemp(prefix="lse-db-", dir="/tmp")).resolve()
    base.chmod(0o755)
    server = EmbeddedServer(base / "postgres")
    try:
        migrate(Database(server.start().url()))
        yield server
    finally:
        server.remove()
        shutil.rmtree(base, ignore_errors=True)


def kill_server(server: EmbeddedServer) -> None:
    pid = int((find_location(server.home).data / "postmaster.pid").read_text().split()[0])

    os.kill(pid, signal.SIGKILL)


def test_a_load_survives_a_restart_of_a_killed_server(own_server: EmbeddedServer, run_folder: RunFolder) -> None:
    database = Database(own_server.url())
    run_folder.fill(RUNS)
    moments = random.Random(7).sample(range(1, RUNS // BATCH), 3)
    steps = 0

    def disturb(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps in moments:
            kill_server(own_server)
            own_server.start()

    result = load_day(database, PROJECT, DAY, run_folder.path, batch_size=BATCH, progress=disturb)

    assert result.successful_inserts == RUNS
    assert rows_equal_files(database, run_folder)


def test_a_stopped_server_fails_the_load_and_the_next_load_completes_it(
    own_server: EmbeddedServer, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lse_resources.postgres.load.connection._RETRY_DELAYS", (0.01, 0.01))
    database = Database(own_server.url())
    run_folder.fill(RUNS)

    def kill(done: int, total: int) -> None:
        if done >= RUNS // 3:
            own_server.stop()

    with pytest.raises(DatabaseError, match="Check that the server runs"):
        load_day(database, PROJECT, DAY, run_folder.path, batch_size=BATCH, progress=kill)
    own_server.start()

    result = load_day(database, PROJECT, DAY, run_folder.path, batch_size=BATCH)
    assert result.left + result.successful_inserts == RUNS
    assert result.left % BATCH == 0
    assert 0 < result.left < RUNS
    assert rows_equal_files(database, run_folder)


def test_a_refused_login_fails_the_load_at_once(
    own_server: EmbeddedServer, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password changes while the first connection is open."""
    with Database(own_server.url()).connect() as connection:
        connection.execute("CREATE ROLE loader LOGIN SUPERUSER PASSWORD 'first'")
        access = find_location(own_server.home).data / "pg_hba.conf"
        access.write_text(f"local all loader scram-sha-256\n{access.read_text()}")
        connection.execute("SELECT pg_reload_conf()")
    database = Database(make_conninfo(own_server.url(), user="loader", password="first"))
    delays: list[float] = []
    monkeypatch.setattr("lse_resources.postgres.load.connection.cancellable_sleep", delays.append)

    def change_password(done: int, total: int) -> None:
        with Database(own_server.url()).connect() as connection:
            connection.execute("ALTER ROLE loader PASSWORD 'second'")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'loader' AND query NOT LIKE '%advisory%'"
            )

    with pytest.raises(DatabaseAccessError, match=r"password authentication failed.*Check the user and password"):
        load_day(database, PROJECT, DAY, run_folder.fill(RUNS).path, batch_size=BATCH, progress=change_password)
    assert sum(delays) < 1


def test_an_interrupt_ends_the_wait_for_the_server(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    endings, main = SimpleQueue[str](), threading.get_ident()

    def interrupted_sleep(seconds: float) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        try:
            cancellable_sleep(seconds)
        except KeyboardInterrupt:
            endings.put("interrupted")
            raise
        endings.put("slept")

    monkeypatch.setattr("lse_resources.postgres.load.connection._RETRY_DELAYS", (5.0,))
    monkeypatch.setattr("lse_resources.postgres.load.connection.cancellable_sleep", interrupted_sleep)
    monkeypatch.setattr("lse_resources.postgres.load.day.CONNECTIONS", 1)
    nowhere = Database("postgresql://127.0.0.1:1/none")
    files = [file for file in read_folder(run_folder.fill(3).path, DAY) if isinstance(file, RunFile)]
    with pytest.raises(KeyboardInterrupt):
        list(write_rows(nowhere, PROJECT, DAY, files, "keep", None))

    # Not joined if the signal arrived while its thread was starting: ThreadPoolExecutor does not know it then.
    assert endings.get(timeout=60) == "interrupted"


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_loader_leaves_whole_batches_and_the_next_completes(
    database: Database, run_folder: RunFolder, seed: int
) -> None:
    run_folder.fill(RUNS)
    arguments = [database.url, PROJECT, str(DAY), str(run_folder.path), str(BATCH)]
    moment = random.Random(seed).randrange(1, RUNS // BATCH)
    with subprocess.Popen([sys.executable, "-c", LOADER, *arguments], stdout=subprocess.PIPE) as loader:
        assert loader.stdout is not None
        for _ in range(moment):
            loader.stdout.readline()
        loader.kill()

    with database.connect() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while connection.execute(others).fetchone() != (0,):
            pass  # the server has not yet noticed that its client has exited
        found = connection.execute("SELECT count(*) FROM runs").fetchone()
        unfinished = connection.execute("SELECT count(*) FROM loads WHERE finished_at IS NULL").fetchone()
    assert found is not None
    assert found[0] % BATCH == 0
    assert unfinished == (1,) or found == (RUNS,)
    result = load_day(database, PROJECT, DAY, run_folder.path)
    assert (result.left, result.successful_inserts) == (found[0], RUNS - found[0])
    assert rows_equal_files(database, run_folder)


def test_the_second_of_two_loads_of_a_day_says_what_it_waits_for(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(RUNS)
    held, go_on = threading.Event(), threading.Event()
    holders: SimpleQueue[str] = SimpleQueue()

    def hold(done: int, total: int) -> None:
        held.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load_day, database, PROJECT, DAY, run_folder.path, batch_size=BATCH, progress=hold)
        assert held.wait(60)
        second = pool.submit(load_day, database, PROJECT, DAY, run_folder.path, on_wait=holders.put)
        holder = holders.get(timeout=60)
        go_on.set()
        results = first.result(60), second.result(60)

    assert re.fullmatch(r"lse of the role postgres \(Postgres process \d+\)", holder)
    assert holders.empty()
    assert [result.successful_inserts for result in results] == [RUNS, 0]
    assert [result.left for result in results] == [0, RUNS]


def test_the_wait_for_a_day_ends_with_the_name_of_its_holder(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
    with database.connect() as holder, database.connect() as other, day_advisory_lock(holder, PROJECT, DAY):
        with (
            pytest.raises(DayLockedError, match=rf"Postgres process {holder.info.backend_pid}\) holds.*pg_terminate"),
            day_advisory_lock(other, PROJECT, DAY),
        ):
            pass
        with day_advisory_lock(other, PROJECT, DAY + timedelta(days=1)):
            pass  # another day has its own lock


def test_the_wait_for_a_day_can_be_interrupted_in_a_thread(database: Database) -> None:
    cancel = threading.Event()

    def wait() -> None:
        set_cancel_event(cancel)
        with database.connect() as other, day_advisory_lock(other, PROJECT, DAY, on_wait=lambda _: cancel.set()):
            pass

    with database.connect() as holder, day_advisory_lock(holder, PROJECT, DAY), ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(wait).exception(60), KeyboardInterrupt)


def test_every_wait_for_a_lock_is_bounded(database: Database) -> None:
    with database.connect() as holder, holder.transaction(), database.connect() as connection:
        holder.execute("LOCK TABLE runs")
        assert connection.execute("SHOW lock_timeout").fetchone() == ("10min",)
        connection.execute("SET lock_timeout = '10ms'")
        with (
            pytest.raises(DatabaseError, match=r"lock timeout.*pg_stat_activity lists sessions"),
            explained("cannot read the runs"),
        ):
            connection.execute("SELECT count(*) FROM runs")


def test_a_day_that_is_locked_is_unknown_and_the_other_checks_go_on(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fill(runs=2)
    assert installation.lse("archive", "full-sweep", "--project", HOME_PROJECT, "--date", str(HOME_DAY)).code == 0
    database = open_home(Settings.load()).database
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)

    with database.connect() as holder, day_advisory_lock(holder, HOME_PROJECT, HOME_DAY):
        ended = installation.lse("archive", "verify", "--project", HOME_PROJECT, "--date", str(HOME_DAY))

    assert ended.code == 1
    assert "Postgres process" in ended.out
    assert "waiting: lse of the role" in ended.err


def test_a_full_disk_is_a_one_line_error(database: Database, run_folder: RunFolder, tmp_path: Path) -> None:
    """A trigger raises the error of a full disk, SQLSTATE 53100."""
    run_folder.fill(RUNS)
    with database.connect() as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF (SELECT count(*) FROM runs) > 100 THEN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';"
            " END IF; RETURN NULL; END $$;"
            "CREATE TRIGGER full_disk AFTER INSERT ON runs EXECUTE FUNCTION full_disk()"
        )

    with pytest.raises(DatabaseError, match=r"No space left on device. Free space on the server's disk") as refusal:
        load_day(database, PROJECT, DAY, run_folder.path, batch_size=BATCH)

    assert "\n" not in str(refusal.value)
    with database.connect() as connection:
        connection.execute("DROP TRIGGER full_disk ON runs")
        assert connection.execute("SELECT count(*) % 20 FROM runs").fetchone() == (0,)
    load_day(database, PROJECT, DAY, run_folder.path)
    assert rows_equal_files(database, run_folder)


def test_a_serialization_failure_is_retried(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(RUNS)
    with database.connect() as connection:
        connection.execute(
            "CREATE SEQUENCE attempts;"
            "CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('attempts') IN (2, 5) THEN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END IF;"
            " RETURN NULL; END $$;"
            "CREATE TRIGGER unlucky AFTER INSERT ON runs EXECUTE FUNCTION unlucky()"
        )

    assert load_day(database, PROJECT, DAY, run_folder.path, batch_size=BATCH).successful_inserts == RUNS
    assert rows_equal_files(database, run_folder)


def test_only_the_refused_run_fails(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(RUNS)
    with database.connect() as connection:
        connection.execute("ALTER TABLE runs ADD CONSTRAINT fussy CHECK (trace_id::text NOT LIKE '%%00028')")

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.successful_inserts, result.failed_inserts) == (RUNS - 4, 4)
    assert all('violates check constraint "fussy"' in line for line in result.errors)


def test_no_message_contains_a_password(database: Database) -> None:
    url = make_conninfo(database.url, password="very secret", port="1", host="127.0.0.1")
    with pytest.raises(DatabaseError) as refusal:
        Database(url).connect()
    assert "secret" not in f"{refusal.value}{refusal.value!r}{Database(url)!r}"
