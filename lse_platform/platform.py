"""The platform: runs Dagster's webserver and daemon over LSE_HOME, and restarts them if they exit."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator

from lse_archive.errors import ArchiveError, SettingsError
from lse_archive.files import publish_file
from lse_platform.home import WORKSPACE, keep_projects, open_home
from lse_platform.process_registry import Registry, terminate
from lse_platform.services import Service, tail
from lse_platform.webserver import reload_code
from lse_resources.postgres.urls import embedded_server
from lse_resources.settings import Settings

LOOPBACK = "127.0.0.1"
_NAMES = ("webserver", "daemon")
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_STOPPING = "stopping the UI, the daemon and the database …"
_ELSEWHERE = "It may run in another container or on another host: stop it there with lse down"

Say = Callable[[str], object]


def run_platform(settings: Settings, *, port: int, say: Say, host: str = LOOPBACK) -> None:
    """Runs until Ctrl-C or SIGTERM, then stops every process that it started.

    Args:
        host: Address to bind. The UI has no login: everybody who can reach it has full access.

    Raises:
        ArchiveError: It runs already, the port is taken, or one of its processes exits repeatedly.
    """
    registry = Registry(settings.home / "run")
    with _only_platform(settings, registry, say) as lock:
        _run(settings, registry, lock, port=port, host=host, say=say)


@contextlib.contextmanager
def _only_platform(settings: Settings, registry: Registry, say: Say) -> Generator[int]:
    """Holds the lock of the home's platform; first stops what a killed `lse up` left on this system."""
    running = registry.running()
    if up := running.get("up"):
        raise _runs_already(settings, f"process {up.pid}", "Use it, or stop it: lse down")
    for name, record in running.items():
        say(f"stopping the {name} of a killed `lse up` …")
        terminate(record, _STOP_SECONDS)
    with registry.locked() as lock:
        if lock is None:
            raise _runs_already(settings, f"{registry.holder()} holds its lock", _ELSEWHERE)
        registry.add("up", os.getpid())
        try:
            yield lock
        finally:
            registry.remove("up")


def _runs_already(settings: Settings, why: str, hint: str) -> ArchiveError:
    return ArchiveError(f"the platform of {settings.home} is already running", why=why, hint=hint)


def _run(settings: Settings, registry: Registry, lock: int, *, port: int, host: str, say: Say) -> None:
    if not _is_loopback(host):
        say(
            f"WARNING: everybody who can reach {host}:{port} can use the UI, which has no login. Put a proxy with"
            " authentication in front of it (docs/operations.md)."
        )
    _check_port(host, port)
    keep_projects(settings)
    say("starting the database …")
    home = open_home(settings)
    home.check_dagster()
    _fail_exited_runs(home.environment())
    url = f"http://{LOOPBACK if host in ('0.0.0.0', '::') else host}:{port}"
    environment = settings.as_environment() | home.environment()
    if "lse_ui_url" not in settings.model_fields_set:
        environment["LSE_UI_URL"] = url
    stop = threading.Event()
    with _stop_on_signals(stop), contextlib.ExitStack() as exits:
        if not settings.lse_database_url:
            exits.callback(embedded_server(settings).stop)
        workspace = ["-w", str(WORKSPACE)]
        commands = {
            "webserver": [sys.executable, "-m", "lse_viewer.serve", "-h", host, "-p", str(port), *workspace],
            "daemon": [sys.executable, "-m", "lse_platform.daemon", "run", *workspace],
        }
        logs = settings.home / "logs"
        services = [Service(name, command, environment, registry, logs, [lock]) for name, command in commands.items()]
        for service in services:
            exits.enter_context(service)
        say("starting the UI and the daemon …")
        _wait_until_ready(url, services, stop, say)
        if not stop.is_set():
            with publish_file(settings.home / "run" / "url") as file:
                file.write(url.encode())
            say(f"LSE is up: {url}  (logs in {logs}; Ctrl-C stops it)")
        _watch(settings, services, stop, url, say)
        say(_STOPPING)


def platform_url(settings: Settings) -> str:
    """Returns the URL of the running platform of this home.

    Raises:
        ArchiveError: It is not running.
    """
    registry = Registry(settings.home / "run")
    with contextlib.suppress(FileNotFoundError):
        url = (settings.home / "run" / "url").read_text()
        if "webserver" in registry.running():
            return url
    if holder := registry.holder():
        raise ArchiveError("the platform does not run here", why=f"{holder} holds its lock", hint=_ELSEWHERE)
    raise ArchiveError("the platform is not running", hint="Start it: lse up")


def stop_platform(settings: Settings, say: Say) -> list[str]:
    """Stops all processes of the home; returns the names of those that were running.

    Raises:
        ArchiveError: The platform runs in another container or on another host.
    """
    registry = Registry(settings.home / "run")
    stopped = []
    if registry.running():
        say(_STOPPING)
    for name in ("up", *_NAMES):
        record = registry.get(name)
        if record and terminate(record, _STOP_SECONDS):
            stopped.append(name)
    if holder := registry.holder():
        raise ArchiveError(
            f"cannot stop the platform of {settings.home}", why=f"{holder} holds its lock", hint=_ELSEWHERE
        )
    for name in ("up", *_NAMES):
        registry.remove(name)
    if not settings.lse_database_url and embedded_server(settings).stop():
        stopped.append("embedded PostgreSQL")
    return stopped


def require_stopped(settings: Settings) -> None:
    """Raises ArchiveError if the home's platform runs."""
    if holder := Registry(settings.home / "run").holder():
        raise ArchiveError(f"the platform of {settings.home} is running", why=holder, hint="Stop it first: lse down")


def _watch(settings: Settings, services: list[Service], stop: threading.Event, url: str, say: Say) -> None:
    projects = _stamp(settings)
    while not stop.wait(1.0):
        for service in services:
            service.look_after(say)
        if projects != (projects := _stamp(settings)):
            try:
                keep_projects(settings)
            except SettingsError as error:
                say(f"WARNING: {error}. Until then the previous projects are used")
                continue
            # The daemon reloads the code every minute; the UI reloads it on request.
            say("projects.toml has changed: reloading it")
            with contextlib.suppress(ArchiveError):
                reload_code(url)


def _stamp(settings: Settings) -> tuple[int, int] | None:
    try:
        stat = settings.projects_file.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _fail_exited_runs(environment: dict[str, str]) -> None:
    import dagster as dg

    from lse_platform.exited_runs import fail_exited_runs

    os.environ.update(environment)
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        fail_exited_runs(instance, platform_starts=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is no name that DNS can have
        raise ArchiveError(
            f"port {port} of {host} cannot be used",
            why=getattr(error, "strerror", None) or str(error),
            hint="Choose another: lse up --port N",
        ) from error


@contextlib.contextmanager
def _stop_on_signals(stop: threading.Event) -> Generator[None]:
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait_until_ready(url: str, services: list[Service], stop: threading.Event, say: Say) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and not stop.is_set():
        for service in services:
            service.look_after(say)
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
            return
        stop.wait(0.3)
    if not stop.is_set():
        log = services[0].log
        raise ArchiveError("the UI does not respond", why=tail(log), hint=f"See {log}")
