"""A process is identified by a lock that the system frees, never by the name of its host or its process id alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from home_fixtures import Installation

from lse_archive.boot import pid_space
from lse_archive.errors import ArchiveError
from lse_platform.exited_runs import fail_exited_runs
from lse_platform.platform import run_platform, stop_platform
from lse_platform.process_registry import Registry, describe, is_running
from lse_resources.settings import Settings

# Executes a step on the instance of DAGSTER_HOME, on a host with the name of the first argument, and stays in it.
_WORKER = """
import socket, sys
socket.gethostname = lambda: sys.argv[1]
import dagster as dg
from lse_platform.exited_runs import tag_run

@dg.asset
def stays(context: dg.AssetExecutionContext) -> None:
    tag_run(context, "shop")
    print("begun", flush=True)
    input()

with dg.DagsterInstance.get() as instance:
    dg.materialize([stays], instance=instance)
"""


class Worker:
    """A process that executes a run."""

    def __init__(self, host: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "begun\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def finish(self) -> None:
        assert self._process.communicate("\n")[0] == ""
        assert self._process.returncode == 0


@pytest.fixture
def instance(installation: Installation) -> Iterator[dg.DagsterInstance]:
    with installation.instance() as instance:
        yield instance


def owners(installation: Installation) -> list[Path]:
    return list((installation.directory / "home" / "dagster" / "owners").iterdir())


def test_a_killed_process_frees_its_run_after_the_host_got_another_name(
    installation: Installation, instance: dg.DagsterInstance
) -> None:
    worker = Worker("before")
    [run] = instance.get_runs()
    assert fail_exited_runs(instance) == []  # it runs, under the other name too
    assert fail_exited_runs(instance, platform_starts=True) == []
    worker.kill()
    assert fail_exited_runs(instance) == [run.run_id]
    assert instance.get_runs(dg.RunsFilter(statuses=[DagsterRunStatus.STARTED])) == []
    assert owners(installation) == []


def test_a_process_that_ends_leaves_nothing(installation: Installation, instance: dg.DagsterInstance) -> None:
    Worker("here").finish()
    [run] = instance.get_runs()
    assert run.status == DagsterRunStatus.SUCCESS
    assert owners(installation) == []


def test_the_process_id_of_another_container_is_no_process_of_this_one() -> None:
    record = describe(os.getpid())
    assert is_running(record)
    boot, _, namespace = record.boot.partition(" ")
    assert boot
    assert namespace
    for elsewhere in (f"{boot} pid:[1]", f"another {namespace}"):
        assert not is_running(type(record)(record.pid, record.started, elsewhere))
    assert is_running(type(record)(record.pid, record.started, boot))  # written by an older version
    assert pid_space() == record.boot


def test_a_second_platform_is_refused_under_another_name(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load()
    registry = Registry(settings.home / "run")
    with socket.socket() as occupied, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as up:
        occupied.bind(("127.0.0.1", 0))  # ends a platform that is not refused
        occupied.listen()
        registry.add("up", up.pid)
        monkeypatch.setattr(socket, "gethostname", lambda: "after")
        with pytest.raises(ArchiveError, match=f"already running: process {up.pid}"):
            run_platform(settings, port=occupied.getsockname()[1], say=print)
        up.communicate(b"\n")


def test_a_platform_of_another_container_is_neither_joined_nor_stopped(bare_installation: Installation) -> None:
    settings = Settings.load()
    registry = Registry(settings.home / "run")
    with registry.locked() as held:
        assert held is not None
        record = registry.add("daemon", os.getpid())
        path = registry.directory / "daemon.json"
        path.write_text(path.read_text().replace(record.boot, "of another container"))
        for act in (lambda: run_platform(settings, port=1, say=print), lambda: stop_platform(settings, print)):
            with pytest.raises(ArchiveError, match=f"process {os.getpid()} on .*stop it there"):
                act()
        assert path.exists()
    assert stop_platform(settings, print) == []


def test_a_stop_says_so_before_it_waits(bare_installation: Installation) -> None:
    settings = Settings.load()
    registry, running = Registry(settings.home / "run"), []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as daemon:
        registry.add("daemon", daemon.pid)
        stopped = stop_platform(settings, lambda text: running.append((text, list(registry.running()))))
    assert stopped == ["daemon"]
    assert running == [("stopping the UI, the daemon and the database …", ["daemon"])]
