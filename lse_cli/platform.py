"""The platform's processes: Dagster's webserver and daemon over the house of LSE_HOME."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path

from lse_archive.errors import ArchiveError
from lse_resources.databases import embedded_server
from lse_resources.house import given_file, open_house, program
from lse_resources.processes import Registry, terminate
from lse_resources.settings import Settings

_HOST = "127.0.0.1"
_NAMES = ("webserver", "daemon")
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_LOG_BYTES = 10_000_000


def run_platform(settings: Settings, *, port: int, say: Callable[[str], object]) -> None:
    """Runs until Ctrl-C or SIGTERM, then stops all that it started.

    Raises:
        ArchiveError: It runs already, the port is taken, or one of its processes died.
    """
    registry = Registry(settings.home / "run")
    if running := [name for name in ("up", *_NAMES) if name in registry.alive()]:
        raise ArchiveError(
            f"the platform of {settings.home} is running already",
            why=f"process {registry.alive()[running[0]].pid} ({running[0]})",
            todo="Use that one, or stop it: lse down",
        )
    _check_port(port)
    say("starting the database …")
    house = open_house(settings)
    _fail_dead_runs(house.environment())
    environment = settings.as_environment() | house.environment()
    stop = threading.Event()
    with _stop_on_signals(stop), contextlib.ExitStack() as exits:
        if not settings.lse_database_url:
            exits.callback(embedded_server(settings).stop)
        registry.add("up", os.getpid())
        exits.callback(registry.remove, "up")
        workspace = ["-w", str(given_file("workspace.yaml"))]
        webserver = [program("dagster-webserver"), "-h", _HOST, "-p", str(port), *workspace]
        children = {
            "webserver": exits.enter_context(_child(registry, "webserver", webserver, environment, settings)),
            "daemon": exits.enter_context(
                _child(registry, "daemon", [program("dagster-daemon"), "run", *workspace], environment, settings)
            ),
        }
        url = f"http://{_HOST}:{port}"
        say("starting the UI and the daemon …")
        _until_ready(url, children, stop, settings)
        if not stop.is_set():
            say(f"LSE is up: {url}  (logs in {settings.home / 'logs'}; Ctrl-C stops it)")
        while not stop.wait(1.0):
            _check_children(children, settings)
        say("stopping …")


def stop_platform(settings: Settings) -> list[str]:
    """Stops everything that runs under the home; returns what was stopped."""
    registry = Registry(settings.home / "run")
    stopped = []
    for name in ("up", *_NAMES):
        record = registry.get(name)
        if record and terminate(record, _STOP_SECONDS):
            stopped.append(name)
        registry.remove(name)
    if not settings.lse_database_url and embedded_server(settings).stop():
        stopped.append("embedded PostgreSQL")
    return stopped


def _fail_dead_runs(environment: dict[str, str]) -> None:
    import dagster as dg

    from lse_assets.dead_runs import fail_dead_runs

    os.environ.update(environment)
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        fail_dead_runs(instance, platform_starts=True)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ArchiveError(
                f"port {port} cannot be used", why=error.strerror or str(error), todo="Choose another: lse up --port N"
            ) from error


@contextlib.contextmanager
def _child(
    registry: Registry, name: str, command: list[str], environment: dict[str, str], settings: Settings
) -> Generator[subprocess.Popen[bytes]]:
    log = _log_path(settings, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".1.log"))
    with log.open("ab") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the children in order.
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    record = registry.add(name, child.pid)
    try:
        yield child
    finally:
        terminate(record, _STOP_SECONDS)
        child.wait()
        registry.remove(name)


@contextlib.contextmanager
def _stop_on_signals(stop: threading.Event) -> Generator[None]:
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _until_ready(
    url: str, children: dict[str, subprocess.Popen[bytes]], stop: threading.Event, settings: Settings
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and not stop.is_set():
        _check_children(children, settings)
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
            return
        stop.wait(0.3)
    if not stop.is_set():
        raise ArchiveError(
            "the UI does not answer", why=_tail(_log_path(settings, "webserver")), todo=f"See {settings.home / 'logs'}"
        )


def _check_children(children: dict[str, subprocess.Popen[bytes]], settings: Settings) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            log = _log_path(settings, name)
            raise ArchiveError(f"the {name} ended with {child.returncode}", why=_tail(log), todo=f"See {log}")


def _log_path(settings: Settings, name: str) -> Path:
    return settings.home / "logs" / f"{name}.log"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " / ".join(line.strip() for line in lines[-5:] if line.strip())[-500:]
