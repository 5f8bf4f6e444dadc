"""Feedback in the whole chain: by the command line, and late feedback by the platform's own schedule and sensor."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from home_fixtures import DAY, PROJECT, Installation, midnight

from lse_archive.days import today
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.state import read_state
from lse_archive.layout import DayPaths
from lse_archive.runs.feedback import FEEDBACK
from lse_location.definitions import definitions
from lse_operations.project_state import read_project_state
from lse_resources.settings import Settings


@pytest.fixture
def exits() -> Iterator[contextlib.ExitStack]:
    """Closes Dagster's instance: it refers to the database of this test."""
    with contextlib.ExitStack() as stack:
        yield stack


def records(paths: DayPaths) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in map(json.loads, (paths.folder / FEEDBACK).read_bytes().splitlines())}


def give(installation: Installation, run_id: str, key: str = "thumbs", **fields: Any) -> str:
    return installation.store.feedback.create({"run_id": run_id, "key": key, **fields})["id"]


def test_the_command_line_collects_and_checks_feedback(installation: Installation) -> None:
    run_id = installation.put(1, midnight())
    give(installation, run_id, score=1)
    fetched = installation.archive("fetch", "--skip-feedback", "--json")
    assert (fetched.code, fetched.entry["feedback"]) == (0, None)
    verified = installation.archive("verify", "--json")
    checks = {check["name"]: check for check in verified.entry["checks"]}
    assert checks["feedback_complete"]["verdict"] == "agrees"
    assert checks["feedback_complete"]["says"] == "feedback was not collected"

    swept = installation.archive("full-sweep", "--force")
    assert swept.code == 0, swept.err
    assert "1 feedback record" in swept.out
    assert installation.archive("full-sweep", "--force", "--skip-feedback", "--json").code == 0
    assert len(records(installation.paths())) == 1

    installation.put(2, midnight() + 5, feedback_stats={"thumbs": {"n": 3}})
    differing = installation.archive("fetch", "--force", "--json")
    assert differing.code == 3
    assert differing.entry["feedback_differs"] == [installation.store.runs(PROJECT)[1].id]
    assert "FEEDBACK DIFFERS" in installation.archive("fetch", "--force").out
    verified = installation.archive("verify", "--json")
    checks = {check["name"]: check for check in verified.entry["checks"]}
    assert (verified.code, checks["feedback_complete"]["verdict"]) == (3, "differs")
    state = read_state(installation.paths())
    assert state.feedback_read_at is not None  # of the fetch that agreed

    installation.store.delete([differing.entry["feedback_differs"][0]])
    installation.store.feedback_stats = lambda project_id, conditions: {"thumbs": {"n": 2}}
    lacking = installation.archive("fetch", "--force")
    assert lacking.code == 3
    assert "FEEDBACK IS MISSING: LangSmith counts more of 1 key" in lacking.out


def test_late_edited_and_deleted_feedback_is_archived_by_the_platform_alone(
    installation: Installation, exits: contextlib.ExitStack
) -> None:
    day = today() - timedelta(days=5)
    runs = [installation.put(number, midnight(day) + number) for number in range(3)]
    edited, deleted = give(installation, runs[0], score=0), give(installation, runs[1])
    old = {"created_at": f"{day}T12:00:00Z"}
    for one in (edited, deleted):  # older than the pass looks back
        record = installation.store.feedback.get(one)
        installation.store.feedback.create({**(record or {}), **old, "modified_at": None})
    assert installation.lse("projects", "add", PROJECT, "--start", str(day)).code == 0
    for one in (day + timedelta(days=number) for number in range(5)):
        assert installation.archive("full-sweep", day=one).code == 0
    paths = installation.paths(day=day)
    assert set(records(paths)) == {edited, deleted}
    code, instance = definitions(), exits.enter_context(installation.instance())
    installation.langsmith.behavior.trace_tier, installation.langsmith.behavior.longlived_days = "longlived", 30
    run_pass(code, instance)
    assert read_project_state(Settings.load().layout, PROJECT).retention_days == 30
    assert tick(code, instance) == []  # nothing is due

    installation.store.feedback.change(edited, score=1)
    installation.store.feedback.delete(deleted)
    late = give(installation, runs[2], score=0, comment="too late?")
    run_pass(code, instance)
    [request] = tick(code, instance)
    assert request.partition_key == str(day)
    job = code.resolve_job_def(request.job_name or "")
    assert job.execute_in_process(partition_key=request.partition_key, instance=instance).success

    found = records(paths)
    assert set(found) == {edited, deleted, late}
    assert (found[edited]["score"], found[late]["comment"]) == (1, "too late?")
    assert "lse_deleted_at" in found[deleted]
    with zipfile.ZipFile(paths.zip) as archive:
        assert archive.read(FEEDBACK) == (paths.folder / FEEDBACK).read_bytes()
    summary = read_summary(paths.folder)
    assert summary is not None
    assert (summary.feedback, summary.feedback_deleted) == (3, 1)
    assert read_state(paths).drive_content == summary.content_sha256
    assert read_state(paths).verdict == "proven"
    run_pass(code, instance)
    assert tick(code, instance) == []


def run_pass(code: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Runs the job of the schedule `daily_late_feedback`."""
    [schedule] = [one for one in code.schedules or [] if one.name == "daily_late_feedback"]
    assert isinstance(schedule, dg.ScheduleDefinition)
    context = dg.build_schedule_context(instance, scheduled_execution_time=datetime.now(UTC))
    [request] = schedule.evaluate_tick(context).run_requests or []
    assert request is not None
    assert code.resolve_job_def(schedule.job_name).execute_in_process(instance=instance).success


def tick(code: dg.Definitions, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """What the sensor `due_days` starts now."""
    [sensor] = [one for one in code.sensors or [] if one.name == "due_days"]
    assert isinstance(sensor, dg.SensorDefinition)
    context = dg.build_sensor_context(instance, definitions=code)
    return list(sensor.evaluate_tick(context).run_requests or [])


def test_a_project_that_cannot_be_read_does_not_stop_the_pass_over_the_others(
    installation: Installation, exits: contextlib.ExitStack
) -> None:
    run_id = installation.put(1, midnight())
    give(installation, run_id)
    assert installation.archive("fetch", "--skip-feedback").code == 0
    installation.store.project("gone")
    for name in ("gone", PROJECT):
        assert installation.lse("projects", "add", name, "--start", str(DAY)).code == 0
    installation.store.delete_project("gone")
    code, instance = definitions(), exits.enter_context(installation.instance())
    result = code.resolve_job_def("late_feedback").execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert installation.paths().late_feedback.exists()
