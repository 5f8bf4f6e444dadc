"""`lse up`, `lse down`, `lse db`: one platform per home, and no process remains after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psycopg
import pytest
from home_fixtures import Installation

from lse_platform.process_registry import Registry, is_running
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

_LSE = Path(sys.executable).with_name("lse")


def test_down_with_nothing_running(bare_installation: Installation) -> None:
    ended = bare_installation.lse("down")
    assert (ended.code, ended.out) == (0, "nothing was running\n")


def test_a_port_in_use_is_an_error(bare_installation: Installation) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        ended = bare_installation.lse("up", "--port", str(port))
    assert ended.code == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in ended.err
    assert "lse up --port N" in ended.err


def test_up_without_dagsters_database_is_one_error(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_DAGSTER_DATABASE_URL", "postgresql://me:hush@127.0.0.1:9/dagster")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ended = installation.lse("up", "--port", port)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "cannot connect to Dagster's database" in ended.err


def test_up_runs_once_per_home_and_ctrl_c_stops_everything(bare_installation: Installation) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [_LSE, "up", "--port", port]
    with subprocess.Popen(
        command, cwd=bare_installation.directory, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            while not (line := process.stdout.readline()).startswith("LSE is up: "):
                assert line, "it ended"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=30) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/archive", timeout=30) as answer:
                assert "No project is archived yet" in answer.read().decode()
                assert "sandbox" not in answer.headers["Content-Security-Policy"]
            records = Registry(Settings.load().home / "run").running()
            assert set(records) == {"up", "webserver", "daemon"}
            url = bare_installation.script("db", "url")
            with psycopg.connect(url.stdout.strip()) as connection:
                assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
            second = bare_installation.script("up", "--port", port)
            assert second.returncode == 1
            assert "is already running" in second.stderr
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            bare_installation.lse("down")
            process.kill()
    assert not [name for name, record in records.items() if is_running(record)]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url.stdout.strip(), connect_timeout=2)
