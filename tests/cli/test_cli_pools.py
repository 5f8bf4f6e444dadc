"""Pools limit the command line and the platform together; exited processes do not block them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest
from home_fixtures import DAY, PROJECT, Installation
from test_cli_prompts import terminal

from lse_demo.faults import Fault, on

pytestmark = pytest.mark.slow

_POOL = "langsmith"
_FETCH = ["archive", "fetch", "--project", PROJECT, "--date", str(DAY)]


def test_slots_of_killed_processes_are_released(installation: Installation) -> None:
    installation.fill(3)
    with installation.instance() as instance:
        instance.event_log_storage.set_concurrency_slots(_POOL, 1)
    arrived, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        arrived.set()
        go_on.wait(60)

    installation.langsmith.faults.add(Fault("call", on("POST", "runs/query"), times=1, action=hold))
    with subprocess.Popen([Path(sys.executable).with_name("lse"), *_FETCH], cwd=installation.directory) as killed:
        try:
            assert arrived.wait(60)
        finally:
            killed.kill()
            go_on.set()
    ended = installation.script(*_FETCH)
    assert (ended.returncode, ended.stderr) == (0, "")
    with installation.instance() as instance:
        assert {run.status for run in instance.get_runs()} == {
            dg.DagsterRunStatus.FAILURE,
            dg.DagsterRunStatus.SUCCESS,
        }


def test_the_command_reports_a_full_pool_and_waits(installation: Installation) -> None:
    installation.fill(3)
    with installation.instance() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots(_POOL, 1)
        running = instance.create_run_for_job(_empty_job, status=dg.DagsterRunStatus.STARTED).run_id
        assert storage.claim_concurrency_slot(_POOL, running, "step").is_claimed
        with terminal(installation, *_FETCH) as shown:
            shown.until("waiting: the pool langsmith is full, 1 other step is running")
            assert not installation.paths().folder.exists()
            storage.free_concurrency_slots_for_run(running)
            assert shown.end() == 0
    assert shown.screen.count("waiting") == 1
    assert installation.paths().folder.is_dir()


def test_an_interrupt_ends_the_wait_for_a_pool(installation: Installation) -> None:
    installation.fill(3)
    with installation.instance() as instance:
        instance.event_log_storage.set_concurrency_slots(_POOL, 0)
    with terminal(installation, *_FETCH) as shown:
        shown.until("waiting: the pool langsmith is full")
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == 130
    assert "lse: interrupted" in shown.screen


@dg.job
def _empty_job() -> None:
    """A job without steps."""
