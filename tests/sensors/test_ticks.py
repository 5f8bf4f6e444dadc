"""Dagster's scheduler with the real code location: the runs that a tick starts at a given time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._scheduler.scheduler import launch_scheduled_runs
from home_fixtures import PROJECT, Installation

from lse_platform.asset_keys import asset_key, job_name
from lse_resources.projects import ProjectConfig, add_project

pytestmark = pytest.mark.slow

SUNDAY = datetime(2026, 3, 8, 1, 59, tzinfo=UTC)
_DAY = "dagster/partition"


@pytest.fixture
def workspace(installation: Installation) -> Iterator[WorkspaceProcessContext]:
    """The code location in a separate server, with the installation's instance."""
    add_project(installation.directory / "projects.toml", ProjectConfig(PROJECT, (SUNDAY - timedelta(days=40)).date()))
    with (
        installation.instance() as instance,
        create_test_daemon_workspace_context(
            ModuleTarget("lse_location.definitions", attribute=None, working_directory=None, location_name="lse"),
            instance=instance,
        ) as context,
    ):
        yield context


def tick(workspace: WorkspaceProcessContext, now: datetime) -> list[dg.DagsterRun]:
    """Returns the runs that the scheduler of a new daemon requests at this time."""
    known = {run.run_id for run in workspace.instance.get_runs()}
    with freeze_time(now):
        errors = [error for error in launch_scheduled_runs(workspace, logging.getLogger(), now, {}) if error]
    assert not errors
    return [run for run in workspace.instance.get_runs() if run.run_id not in known]


def test_a_schedule_requests_due_days_once_per_tick(
    installation: Installation, workspace: WorkspaceProcessContext
) -> None:
    installation.paths(day=SUNDAY.date() - timedelta(days=20)).folder.mkdir(parents=True)
    assert tick(workspace, SUNDAY) == []
    at_two = tick(workspace, SUNDAY + timedelta(minutes=2))
    assert {run.job_name for run in at_two} == {job_name(PROJECT)}
    expected = [(SUNDAY - timedelta(days=back)).date() for back in range(1, 14)]
    assert sorted(run.tags[_DAY] for run in at_two) == sorted(map(str, expected))
    assert all(run.asset_selection is None for run in at_two)
    assert [run.tags[_DAY] for run in at_two if "lse/late" not in run.tags] == [str(expected[0])]
    assert {run.status for run in at_two} == {dg.DagsterRunStatus.QUEUED}

    assert tick(workspace, SUNDAY + timedelta(minutes=3)) == []
    runs = {run.job_name: run for run in tick(workspace, SUNDAY + timedelta(hours=12))}
    assert set(runs) == {job_name(PROJECT), "maintenance"}
    weekly = runs[job_name(PROJECT)]
    assert weekly.tags[_DAY] == str(SUNDAY.date() - timedelta(days=20))
    assert weekly.asset_selection == {asset_key(PROJECT, "verification")}
    assert tick(workspace, SUNDAY + timedelta(hours=13)) == []
