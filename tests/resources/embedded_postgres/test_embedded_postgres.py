"""The embedded PostgreSQL, with real servers: concurrent starts, kills, unusual homes and users."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from lse_archive.errors import EmbeddedServerError
from lse_resources.embedded_postgres.files import locked
from lse_resources.embedded_postgres.server import EmbeddedServer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
PACKAGES = Path(psycopg.__file__).parent.parent
PYTHONPATH = f"{REPOSITORY}:{PACKAGES}"
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can")

STARTER = """
import sys
from pathlib import Path
from lse_archive.errors import EmbeddedServerError
from lse_resources.embedded_postgres.server import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
try:
    url = server.start().url()
except EmbeddedServerError as error:
    sys.exit(f"refused: {error}")
if "stop" in sys.argv:
    sys.exit(0 if server.stop() and not server.is_running() else 1)
sys.stdout.write(url)
"""


def reachable_directory() -> Path:
    """Creates a directory that every user can reach, unlike tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="lse test ", dir="/tmp")).resolve()
    path.chmod(0o755)
    return path


def remove(base: Path) -> None:
    """Stops all servers with a home in a directory, and deletes the directory and their data."""
    for record in list(base.rglob("location")):
        EmbeddedServer(record.parent).stop()
        shutil.rmtree(json.loads(record.read_bytes())["place"], ignore_errors=True)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def base() -> Iterator[Path]:
    path = reachable_directory()
    yield path
    remove(path)


@pytest.fixture
def fresh(base: Path) -> EmbeddedServer:
    """A server that has not been started."""
    return EmbeddedServer(base / "postgres")


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedServer]:
    path = reachable_directory()
    yield EmbeddedServer(path / "postgres")
    remove(path)


@pytest.fixture
def server(shared: EmbeddedServer) -> EmbeddedServer:
    """A running server that other tests have used."""
    shared.start()
    return shared


def ask(server: EmbeddedServer, query: str, database: str = "lse") -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


def place(server: EmbeddedServer) -> Path:
    return Path(json.loads((server.home / "location").read_bytes())["place"])


def pid_file(server: EmbeddedServer) -> Path:
    return place(server) / "data" / "postmaster.pid"


def postmaster(server: EmbeddedServer) -> int:
    return int(pid_file(server).read_text().split()[0])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def spawn(home: Path, *options: str, user: int | None = None, path: str = PYTHONPATH) -> subprocess.Popen[str]:
    """Starts a server of `home` in another process, optionally as another user."""
    return subprocess.Popen(
        [sys.executable if user is None else interpreter_for(user), "-c", STARTER, str(home), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def interpreter_for(user: int) -> str:
    """Returns a Python with which the user can run this project: that of the tests, or the system's."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, system):
        command = ["/bin/sh", "-c", '"$0" -c "import lse_resources" 2>&-', python]
        env = {"PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"}
        if (
            subprocess.run(command, user=user, group=user, extra_groups=[], cwd="/", env=env, check=False).returncode
            == 0
        ):
            return python
    pytest.skip("other users cannot read the checkout or its Python")


def test_start_is_idempotent_and_creates_both_databases(fresh: EmbeddedServer) -> None:
    assert not fresh.is_running()
    address = fresh.start()
    first = postmaster(fresh)
    assert fresh.start() == address
    assert postmaster(fresh) == first
    assert fresh.is_running()
    assert address.url("dagster") == fresh.url("dagster")
    assert ask(fresh, "SELECT current_database()") == "lse"
    assert ask(fresh, "SELECT current_database()", "dagster") == "dagster"


def test_settings_are_durable_deterministic_and_local(server: EmbeddedServer) -> None:
    expected = {
        "data_checksums": "on",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "server_encoding": "UTF8",
        "listen_addresses": "",
        "TimeZone": "UTC",
        "jit": "off",
        "wal_compression": "pglz",
    }
    assert {name: ask(server, f"SHOW {name}") for name in expected} == expected
    assert ask(server, "SELECT 'a' > 'B' AND 'é' > 'z' AND upper('é') = 'É'") == "True"


def test_stop_is_clean_and_leaves_no_socket(fresh: EmbeddedServer) -> None:
    socket_dir = fresh.start().socket_dir
    assert fresh.stop()
    assert not fresh.is_running()
    assert not fresh.stop()
    assert not socket_dir.exists()
    assert not pid_file(fresh).exists()


def test_stop_without_a_server_changes_nothing(fresh: EmbeddedServer) -> None:
    assert not fresh.stop()
    assert not fresh.home.exists()


def test_four_concurrent_starts_give_one_server(fresh: EmbeddedServer) -> None:
    starters = [spawn(fresh.home) for _ in range(4)]
    urls = {starter.communicate(timeout=120)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 4
    assert urls == {fresh.url()}
    assert fresh.is_running()


def test_data_survives_a_killed_postmaster(server: EmbeddedServer) -> None:
    ask(server, "CREATE TABLE kept AS SELECT 7 AS value")
    os.kill(postmaster(server), signal.SIGKILL)
    server.start()
    assert ask(server, "SELECT value FROM kept") == "7"


def test_a_reused_process_id_is_not_signaled(server: EmbeddedServer) -> None:
    killed = postmaster(server)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not server.is_running())
    with subprocess.Popen(["sleep", "600"]) as bystander:
        text = pid_file(server).read_text().replace(str(killed), str(bystander.pid), 1)
        pid_file(server).write_text(text)
        assert not server.stop()
        server.start()
        assert server.is_running()
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("sign", ["data.new/PG_VERSION", "data/postmaster.pid"])
def test_start_works_after_a_killed_start(fresh: EmbeddedServer, sign: str) -> None:
    with spawn(fresh.home) as starter:
        wait_until(lambda: (fresh.home / "location").exists() and (place(fresh) / sign).exists())
        starter.kill()
    fresh.start()
    assert ask(fresh, "SELECT count(*) FROM pg_database WHERE datname IN ('lse', 'dagster')") == "2"


def test_a_server_keeps_running_after_its_starter_has_exited(server: EmbeddedServer) -> None:
    server.stop()
    spawn(server.home).communicate(timeout=60)
    before = postmaster(server)
    server.start()
    assert postmaster(server) == before


def test_a_deleted_socket_is_created_again(server: EmbeddedServer) -> None:
    shutil.rmtree(server.start().socket_dir)
    assert not server.is_running()
    server.start()
    assert ask(server, "SELECT 1") == "1"


def test_an_unsafe_socket_directory_is_not_used(server: EmbeddedServer) -> None:
    foreign = server.start().socket_dir
    server.stop()
    foreign.mkdir(mode=0o755)
    try:
        assert not server.is_running()
        assert server.start().socket_dir != foreign
        assert server.url() == server.start().url()
        assert server.is_running()
    finally:
        foreign.rmdir()


def test_a_dropped_database_is_created_again(server: EmbeddedServer) -> None:
    ask(server, "DROP DATABASE dagster")
    server.start()
    assert ask(server, "SELECT 1", "dagster") == "1"


@pytest.mark.parametrize("name", ['it\'s "home" $HOME `x` \\ é', "/".join(["long" * 30] * 5)])
def test_any_path_can_be_a_home(base: Path, name: str) -> None:
    server = EmbeddedServer(base / name)
    server.start()
    assert server.is_running()
    server.stop()
    server.start()
    assert ask(server, "SELECT 1") == "1"


def test_a_moved_home_keeps_its_data(base: Path, fresh: EmbeddedServer) -> None:
    fresh.start()
    ask(fresh, "CREATE TABLE kept ()")
    fresh.stop()
    moved = EmbeddedServer(fresh.home.rename(base / "moved"))
    moved.start()
    assert ask(moved, "SELECT count(*) FROM kept") == "0"


def test_a_copied_home_has_its_own_server(base: Path, fresh: EmbeddedServer) -> None:
    fresh.start()
    fresh.stop()
    copy = EmbeddedServer(base / "copy")
    subprocess.run(["cp", "-a", fresh.home, copy.home], check=True)
    fresh.start()
    assert not copy.is_running()
    copy.start()
    assert postmaster(copy) != postmaster(fresh)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_a_home_deleted_while_the_server_runs_starts_empty(fresh: EmbeddedServer) -> None:
    fresh.start()
    orphan = postmaster(fresh)
    shutil.rmtree(fresh.home)
    fresh.start()
    assert postmaster(fresh) != orphan
    wait_until(lambda: not Path(f"/proc/{orphan}").exists())
    assert ask(fresh, "SELECT 1") == "1"


def test_data_of_another_major_version_is_an_error(server: EmbeddedServer) -> None:
    server.stop()
    version = place(server) / "data" / "PG_VERSION"
    own_version = version.read_text()
    version.write_text("15\n")
    with pytest.raises(EmbeddedServerError, match="PostgreSQL 15 created it, and this is PostgreSQL") as caught:
        server.start()
    assert "pg_dumpall" in str(caught.value)
    version.write_text(own_version)


def test_the_error_of_a_failed_start_has_the_last_lines_of_the_log(server: EmbeddedServer) -> None:
    ask(server, "ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
    server.stop()
    with pytest.raises(EmbeddedServerError, match="no_such_library"):
        server.start()
    (place(server) / "data" / "postgresql.auto.conf").write_text("")


def test_a_home_that_cannot_be_created_is_a_clear_error(base: Path) -> None:
    (base / "file").touch()
    with pytest.raises(EmbeddedServerError, match="LSE_DATABASE_URL"):
        EmbeddedServer(base / "file" / "postgres").start()


def test_the_log_of_last_week_is_deleted(server: EmbeddedServer) -> None:
    server.stop()
    old = place(server) / "log" / "server-old.log"
    old.touch()
    os.utime(old, (0, 0))
    server.start()
    assert not old.exists()


@as_root
def test_root_stores_data_under_var_lib_if_nobody_cannot_reach_the_home(base: Path, fresh: EmbeddedServer) -> None:
    base.chmod(0o700)
    fresh.start()
    assert place(fresh).parent == Path("/var/lib/lse")
    assert not (fresh.home / "data").exists()
    ask(fresh, "CREATE TABLE kept ()")
    (fresh.home / "location").unlink()
    fresh.start()
    assert ask(fresh, "SELECT count(*) FROM kept") == "0"

    copy = EmbeddedServer(base / "copy")
    shutil.copytree(fresh.home, copy.home)
    with pytest.raises(EmbeddedServerError, match="copy of"):
        copy.start()
    (copy.home / "location").unlink()

    fresh.stop()
    shutil.rmtree(place(fresh))
    with pytest.raises(EmbeddedServerError, match="does not exist"):
        fresh.start()
    (fresh.home / "location").unlink()


@as_root
def test_root_copies_binaries_that_nobody_cannot_reach(base: Path, fresh: EmbeddedServer) -> None:
    hidden = base / "hidden"
    hidden.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(PACKAGES / name, hidden / name)
    starter = spawn(fresh.home, path=f"{hidden}:{PYTHONPATH}")
    assert starter.communicate(timeout=60)[1] == ""
    version = importlib.metadata.version("embedded-postgres")
    executable = Path(f"/proc/{postmaster(fresh)}/exe").resolve()
    assert executable.is_relative_to(f"/var/lib/lse/bin-{version}")


@as_root
def test_root_can_use_the_server_of_another_user(base: Path) -> None:
    user = pwd.getpwnam("daemon").pw_uid
    own = base / "own"
    own.mkdir()
    os.chown(own, user, user)
    server = EmbeddedServer(own / "postgres")
    assert spawn(server.home, user=user).communicate(timeout=60)[1] == ""
    assert pid_file(server).stat().st_uid == user
    assert ask(server, "SELECT 1") == "1"
    server.start()
    assert server.stop()
    server.start()
    assert pid_file(server).stat().st_uid == user
    with spawn(server.home, "stop", user=user) as stopper:
        assert stopper.wait(60) == 0


@as_root
def test_a_user_who_cannot_run_a_server_gets_a_clear_error(base: Path, fresh: EmbeddedServer) -> None:
    user = pwd.getpwnam("daemon").pw_uid
    base.chmod(0o777)
    stranger = spawn(base / "stranger", user=54321).communicate(timeout=60)[1]
    assert "54321 has no passwd entry" in stranger
    assert "LSE_DATABASE_URL" in stranger

    fresh.start()
    fresh.home.chmod(0o777)
    for name in ("lock", "location"):
        (fresh.home / name).chmod(0o666)
    assert "belongs to another user" in spawn(fresh.home, user=user).communicate(timeout=60)[1]


def test_a_full_disk_has_its_own_hint(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "home")
    with pytest.raises(EmbeddedServerError, match="Free space on the disk of LSE_HOME"), server._errors("start"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_start_waits_for_another_one_with_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lse_archive.cancellation._WAIT_SECONDS", 0)
    with (
        locked(tmp_path / "lock"),
        pytest.raises(EmbeddedServerError, match=f"process {os.getpid()} holds .*lock"),
        locked(tmp_path / "lock"),
    ):
        pass


def test_a_server_of_another_container_is_named(fresh: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lse_resources.embedded_postgres.server._START_TIMEOUT", 0)
    fresh.home.mkdir(parents=True)
    with (fresh.home / "alive").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)  # its processes are not visible here, and the lock is
        with pytest.raises(EmbeddedServerError, match="it runs in another container or on another host"):
            fresh.start()
    monkeypatch.undo()
    fresh.start()
