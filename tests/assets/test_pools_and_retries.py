"""Retries of steps, and the pools that limit concurrent steps."""

from __future__ import annotations

import contextlib
import uuid
from datetime import date, timedelta

import dagster as dg
import pytest
from dagster import DagsterEventType
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from home_fixtures import DAY, PROJECT, Installation

from lse_archive.errors import ArchiveError
from lse_archive.folder.state import read_state
from lse_assets.assets import project_assets, project_definitions
from lse_demo.faults import Fault, on
from lse_location.definitions import resources
from lse_operations.reporter import LogReporter
from lse_operations.steps import STEPS
from lse_platform.asset_keys import asset_key
from lse_resources.projects import ProjectConfig

# Dagster's resources use pydantic features that are deprecated.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")]

LIMIT = 3
_CONFIG = ProjectConfig(PROJECT, DAY - timedelta(days=5))
_DOWN = Fault("cut_before", match=on("POST", "/runs/query"))
_FAST_RETRIES = dg.RetryPolicy(max_retries=2, delay=0.01)


class FailureRecorder(LogReporter):
    """Records failed steps; with `repairs`, a failure clears the faults of LangSmith."""

    def __init__(self, installation: Installation, *, repairs: bool) -> None:
        self.failed_steps: list[str] = []
        self._installation, self._repairs = installation, repairs

    def failed(self, step: str, error: ArchiveError) -> None:
        self.failed_steps.append(step)
        if self._repairs:
            self._installation.langsmith.faults.clear()


def materialize(
    instance: dg.DagsterInstance,
    ui: LogReporter,
    *steps: str,
    day: date = DAY,
    retry_policy: dg.RetryPolicy | None = None,
) -> dg.ExecuteInProcessResult:
    """Runs steps of a day as the platform does."""
    return dg.materialize(
        project_assets(_CONFIG, retry_policy),
        selection=[asset_key(PROJECT, step) for step in steps or STEPS],
        partition_key=str(day),
        resources=resources(ui),
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )


def retried_steps(result: dg.ExecuteInProcessResult) -> list[str]:
    """Returns the retried steps, once per retry."""
    events = result.filter_events(lambda event: event.event_type == DagsterEventType.STEP_RESTARTED)
    return [str(event.step_key).rpartition("__")[2] for event in events]


# ---- retries ---------------------------------------------------------------------------------------------------------


def test_a_step_is_retried_after_an_outside_fault(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_LANGSMITH_PATIENCE", "0.1")
    installation.fill(7)
    installation.langsmith.faults.add(_DOWN)
    recorder = FailureRecorder(installation, repairs=True)

    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(instance, recorder, retry_policy=_FAST_RETRIES)

    assert result.success
    assert recorder.failed_steps == retried_steps(result) == ["run_files"]
    assert {check.check_name for check in result.get_asset_check_evaluations() if not check.passed} == set()
    assert len(installation.rows()) == 7
    assert read_state(installation.paths()).verified_at


def test_a_permanent_fault_fails_the_step_after_the_last_retry(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSE_LANGSMITH_PATIENCE", "0.1")
    installation.fill(7)
    installation.langsmith.faults.add(_DOWN)
    recorder = FailureRecorder(installation, repairs=False)

    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(instance, recorder, "run_files", retry_policy=_FAST_RETRIES)

    assert not result.success
    assert recorder.failed_steps == ["run_files"] * 3
    assert retried_steps(result) == ["run_files"] * 2
    assert not installation.paths().folder.exists()


def test_a_refused_key_is_not_retried(installation: Installation) -> None:
    installation.fill(7)
    installation.langsmith.behavior.api_keys = frozenset(("another",))
    recorder = FailureRecorder(installation, repairs=False)

    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(instance, recorder, "run_files", retry_policy=_FAST_RETRIES)

    assert not result.success
    assert recorder.failed_steps == ["run_files"]
    assert retried_steps(result) == []


def test_a_red_check_is_not_retried(installation: Installation) -> None:
    installation.fill(7)
    recorder = FailureRecorder(installation, repairs=False)

    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(instance, recorder, retry_policy=_FAST_RETRIES).success
        installation.sql("DELETE FROM runs WHERE run_id = %s", min(installation.rows()))
        result = materialize(instance, recorder, "verification", retry_policy=_FAST_RETRIES)

    assert not result.success
    assert retried_steps(result) == []
    [red] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert red.check_name == "runs_match_files"


def test_the_platform_retries_steps_that_use_the_network_with_growing_delays() -> None:
    shared = dg.Definitions(resources=resources(LogReporter()))
    definitions = dg.Definitions.merge(shared, project_definitions(_CONFIG))
    policies = {step: definitions.resolve_assets_def(asset_key(PROJECT, step)).op.retry_policy for step in STEPS}
    assert [step for step, policy in policies.items() if policy is None] == ["day_zip"]
    for policy in policies.values():
        if policy is not None:
            assert policy.max_retries == 3
            for attempt, seconds in enumerate((20, 60, 140), start=1):
                assert abs(policy.calculate_delay(attempt) - seconds) <= 20
    assert [asset.op.retry_policy for asset in project_assets(_CONFIG)] == [None] * len(STEPS)


# ---- pools ---------------------------------------------------------------------------------------------------------


def test_three_of_four_steps_hold_a_langsmith_slot(installation: Installation) -> None:
    """Uses the slots of the instance, which every run claims before a step of the pool."""
    runs = [str(uuid.uuid4()) for _ in range(LIMIT + 1)]
    [pool] = {asset.op.pool for asset in project_assets(_CONFIG) if asset.key.path[-1] == "run_files"}
    assert pool is not None
    with installation.instance() as instance, contextlib.ExitStack() as contexts:
        storage = instance.event_log_storage
        lines = [
            contexts.enter_context(InstanceConcurrencyContext(instance, dg.DagsterRun("archive", run_id=run)))
            for run in runs
        ]
        assert [line.claim(pool, "run_files") for line in lines] == [True] * LIMIT + [False]
        info = storage.get_concurrency_info(pool)
        assert (info.slot_count, info.active_slot_count, info.pending_step_count) == (LIMIT, LIMIT, 1)
        assert info.active_run_ids == set(runs[:LIMIT])

        lines[0].free_step("run_files")
        assert storage.get_concurrency_info(pool).assigned_step_count == LIMIT
        assert storage.claim_concurrency_slot(pool, runs[-1], "run_files").is_claimed
        assert storage.get_concurrency_info(pool).active_run_ids == set(runs[1:])


def test_a_step_releases_its_slot(installation: Installation) -> None:
    installation.fill(3)
    seen: list[int] = []
    with installation.instance() as instance:
        storage = instance.event_log_storage

        def count_slots() -> None:
            seen.append(storage.get_concurrency_info("langsmith").active_slot_count)

        installation.langsmith.faults.add(Fault("call", match=on("POST", "/runs/query"), times=1, action=count_slots))
        assert materialize(instance, LogReporter(), "run_files").success
        assert seen == [1]
        assert storage.get_concurrency_info("langsmith").active_slot_count == 0
