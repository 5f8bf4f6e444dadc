"""Dagster's scheduler and sensors with the real code location: the runs that a tick starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.controller import create_daemon_grpc_server_registry
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from home_fixtures import PROJECT, Installation

from lse_archive.days import today
from lse_operations.steps import day_steps
from lse_platform.asset_keys import asset_key, job_name
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

SUNDAY = datetime(2026, 3, 8, 1, 59, tzinfo=UTC)
_DAY = "dagster/partition"


@pytest.fixture
def workspace(installation: Installation) -> Iterator[WorkspaceProcessContext]:
    """The code location in a separate server, with the installation's instance."""
    add_project(installation.directory / "projects.toml", ProjectConfig(PROJECT, (SUNDAY - timedelta(days=40)).date()))
    location = ModuleTarget("lse_location.definitions", attribute=None, working_directory=None, location_name="lse")
    with (
        installation.instance() as instance,
        create_daemon_grpc_server_registry(instance) as servers,
        WorkspaceProcessContext(instance, location, grpc_server_registry=servers) as context,
    ):
        yield context
    # Without it the process is collected, with a warning, in whichever test runs then.
    servers.wait_for_processes()


def tick(workspace: WorkspaceProcessContext, now: datetime) -> list[dg.DagsterRun]:
    """Returns the runs that the scheduler of a new daemon requests at this time."""
    known = {run.run_id for run in workspace.instance.get_runs()}
    with freeze_time(now):
        errors = [error for error in launch_scheduled_runs(workspace, logging.getLogger(), now, {}) if error]
    assert not errors
    return [run for run in workspace.instance.get_runs() if run.run_id not in known]


def test_the_weekly_schedule_verifies_archived_days_once_per_tick(
    installation: Installation, workspace: WorkspaceProcessContext
) -> None:
    installation.paths(day=SUNDAY.date() - timedelta(days=20)).folder.mkdir(parents=True)
    assert tick(workspace, SUNDAY) == []
    runs = {run.job_name: run for run in tick(workspace, SUNDAY + timedelta(hours=12))}
    assert set(runs) == {job_name(PROJECT), "maintenance"}
    weekly = runs[job_name(PROJECT)]
    assert weekly.tags[_DAY] == str(SUNDAY.date() - timedelta(days=20))
    assert weekly.asset_selection == {asset_key(PROJECT, "verification")}
    assert tick(workspace, SUNDAY + timedelta(hours=13)) == []


def sensor_tick(workspace: WorkspaceProcessContext) -> list[dg.DagsterRun]:
    """Returns the runs that the sensors of a new daemon request now, in the order in which they are queued."""
    known = {run.run_id for run in workspace.instance.get_runs()}
    errors = [error for error in execute_sensor_iteration(workspace, logging.getLogger(), None, None) if error]
    assert not errors
    return [run for run in workspace.instance.get_runs(ascending=True) if run.run_id not in known]


def test_what_is_due_starts_at_once_the_first_to_expire_first(
    installation: Installation, workspace: WorkspaceProcessContext
) -> None:
    """The code location was loaded with the project that was just added; nobody waits for a daily time."""
    add_project(installation.directory / "projects.toml", ProjectConfig("off", today(), schedule="off"))
    behind = today() - timedelta(days=30)
    installation.paths(day=behind).folder.mkdir(parents=True)
    runs = sensor_tick(workspace)
    assert {run.job_name for run in runs} == {job_name(PROJECT)}
    late = [today() - timedelta(days=back) for back in range(13, 1, -1)]
    assert [run.tags[_DAY] for run in runs if ".dagster/lse_late" in run.tags] == [str(day) for day in [*late, behind]]
    assert {run.tags[_DAY] for run in runs} <= {str(day) for day in [*late, behind, today() - timedelta(days=1)]}
    assert runs[-1].asset_selection == {
        asset_key(PROJECT, step) for step in day_steps(Settings()) if step != "run_files"
    }
    assert {run.status for run in runs} == {dg.DagsterRunStatus.QUEUED}
    # The failures of one tick are one alert.
    assert len({run.tags["dagster/tick"] for run in runs}) == 1

    [due_days] = [state for state in workspace.instance.all_instigator_state() if state.name == "due_days"]
    before = workspace.instance.get_ticks(due_days.instigator_origin_id, due_days.selector_id)
    with freeze_time(datetime.now(UTC) + timedelta(minutes=2)):
        assert sensor_tick(workspace) == []  # all of them are queued
    ticks = workspace.instance.get_ticks(due_days.instigator_origin_id, due_days.selector_id)
    assert (len(ticks), ticks[0].skip_reason) == (
        len(before) + 1,
        f"{len(runs)} days are under way, or retried later",
    )
