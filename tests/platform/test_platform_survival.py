"""The platform restarts its processes, completes backfills after a kill, and rotates its logs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from home_fixtures import PROJECT, Installation
from platform_fixtures import Up, free_port, wait_until

from lse_archive.days import today
from lse_archive.errors import ArchiveError
from lse_archive.folder.state import read_state
from lse_archive.names import project_slug
from lse_platform.home import open_home
from lse_platform.platform import run_platform
from lse_platform.process_registry import Registry
from lse_platform.services import Service, rotate
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

DAYS = [today() - timedelta(days=back) for back in range(7, 1, -1)]
RUNS = 40


# ---- one process ---------------------------------------------------------------------------------------------------


def service(directory: Path, code: str) -> Service:
    command = [sys.executable, "-c", code]
    return Service("helper", command, dict(os.environ), Registry(directory / "run"), directory / "logs")


def test_an_exited_process_is_restarted(tmp_path: Path) -> None:
    messages: list[str] = []
    with service(tmp_path, "import signal; signal.pause()") as helper:
        first = Registry(tmp_path / "run").running()["helper"]
        os.kill(first.pid, signal.SIGKILL)

        def is_restarted() -> bool:
            helper.look_after(messages.append)
            return bool(messages)

        wait_until(is_restarted, 30, "it was not restarted")
        assert Registry(tmp_path / "run").running()["helper"].pid != first.pid
    assert messages == ["the helper exited with -9; restarting it"]
    assert Registry(tmp_path / "run").running() == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "\xff"}'])
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "up.json").write_bytes(content)
    assert Registry(tmp_path).running() == {}


def test_a_process_that_keeps_exiting_is_not_restarted(tmp_path: Path) -> None:
    with service(tmp_path, "raise SystemExit('no such port')") as helper:

        def stops_restarting() -> bool:
            try:
                helper.look_after(lambda _: None)
            except ArchiveError as error:
                return "no such port" in str(error)
            return False

        wait_until(stops_restarting, 60, "it was restarted too often")


def test_an_open_log_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    with log.open("ab", buffering=0) as output:
        for number in range(6):
            output.write(f"part {number}\n".encode())
            rotate(log)
        output.write(b"the last\n")
    assert log.read_bytes() == b"the last\n"
    old = {path.name: path.read_text() for path in tmp_path.glob("daemon.*.log")}
    assert old == {"daemon.1.log": "part 5\n", "daemon.2.log": "part 4\n", "daemon.3.log": "part 3\n"}


def test_a_process_is_restarted_after_its_log_was_deleted(tmp_path: Path) -> None:
    messages: list[str] = []
    with service(tmp_path, "import signal; signal.pause()") as helper:
        shutil.rmtree(helper.log.parent)
        helper.look_after(messages.append)
        assert messages == []
        os.kill(Registry(tmp_path / "run").running()["helper"].pid, signal.SIGKILL)

        def is_restarted() -> bool:
            helper.look_after(messages.append)
            return bool(messages)

        wait_until(is_restarted, 30, "it was not restarted")
        assert helper.log.exists()


# ---- the platform ----------------------------------------------------------------------------------------------------


@pytest.fixture
def up(installation: Installation) -> Iterator[Up]:
    """A platform over a project with days to archive."""
    for day in DAYS:
        installation.fill(runs=RUNS, day=day)
    add_project(installation.directory / "projects.toml", ProjectConfig(PROJECT, DAYS[0], schedule="off"))
    platform = Up(installation, "--port", free_port())
    try:
        platform.wait()
        yield platform
    finally:
        if platform.process.poll() is None:
            platform.stop()
        installation.lse("down")


def test_a_backfill_completes_after_its_daemon_was_killed(installation: Installation, up: Up) -> None:
    second = installation.script("up", "--port", free_port())
    assert second.returncode == 1
    assert "already running" in second.stderr

    ended = installation.lse(
        "backfill", "--project", PROJECT, "--start-date", str(DAYS[0]), "--end-date", str(DAYS[-1])
    )
    assert ended.code == 0, ended.err
    assert f"{len(DAYS)} days" in ended.out
    wait_until(lambda: bool(list(installation.paths(day=DAYS[0]).folder.parent.glob("2*"))), 120, "no day was begun")
    os.kill(Registry(installation.directory / "home" / "run").running()["daemon"].pid, signal.SIGKILL)
    wait_until(lambda: "the daemon exited with -9; restarting it" in up.text, 30, "it was not restarted")

    os.environ.update(open_home(Settings.load()).environment())  # the installation restores the environment
    with installation.instance() as instance:
        [backfill] = instance.get_backfills()

        def backfill_ended() -> bool:
            status = instance.get_backfill(backfill.backfill_id)
            return status is not None and status.status.value.startswith(("COMPLETED", "FAILED"))

        wait_until(backfill_ended, 300, "the backfill did not end")
        key = dg.AssetKey([project_slug(PROJECT), "verification"])
        assert instance.get_materialized_partitions(key) == {str(day) for day in DAYS}
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill.backfill_id}))
        assert {run.status for run in runs} <= {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE}
        green = [run.tags["dagster/partition"] for run in runs if run.status == DagsterRunStatus.SUCCESS]
        assert sorted(green) == [str(day) for day in DAYS]
    for day in DAYS:
        assert len(installation.rows(day=day)) == RUNS
        assert read_state(installation.paths(day=day)).verified_at
    assert up.stop() == 0
    assert Registry(installation.directory / "home" / "run").running() == {}


@pytest.mark.parametrize(("host", "warned"), [("192.0.2.1", True), ("no-such-host.invalid", True), ("::1", False)])
def test_a_ui_that_other_hosts_can_reach_is_a_warning(bare_installation: Installation, host: str, warned: bool) -> None:
    messages: list[str] = []
    with socket.socket(socket.AF_INET6) as occupied:
        occupied.bind(("::1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        with pytest.raises(ArchiveError, match="cannot be used"):
            run_platform(Settings.load(), port=port, host=host, say=messages.append)
    assert any("WARNING: everybody who can reach" in text for text in messages) == warned
