"""Sensors of runs of exited processes, days about to expire, and unlisted projects."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import dagster as dg
import pytest
from dagster import DagsterRunStatus, DefaultSensorStatus
from home_fixtures import PROJECT, Installation

from lse_archive.days import today
from lse_archive.folder.state import now_text, update_state
from lse_operations.project_state import note_retention
from lse_platform.exited_runs import fail_exited_runs
from lse_platform.home import open_home
from lse_platform.process_registry import describe
from lse_resources.projects import ProjectConfig, add_project, read_projects
from lse_resources.settings import Settings
from lse_sensors.sensors import (
    SENSORS,
    announced_ends_sensor,
    dead_runs_sensor,
    expiring_days_sensor,
    new_projects_sensor,
    outbox_of,
)

pytestmark = pytest.mark.slow


def tick(sensor: dg.SensorDefinition, cursor: str | None = None) -> tuple[str, str | None]:
    """Evaluates a sensor; returns its message and its cursor."""
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor) as context:
        skipped = sensor(context)
        assert isinstance(skipped, dg.SkipReason)
        return skipped.skip_message or "", context.cursor


def titles() -> list[str]:
    return [letter.alert.title for _, letter in outbox_of(Settings.load()).waiting()]


@pytest.fixture
def alerts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configures an unreachable target, so that alerts stay in the outbox."""
    monkeypatch.setenv("LSE_ALERT_WEBHOOK_URL", "http://127.0.0.1:1/")


def list_project(
    installation: Installation, first_day_back: int, name: str = PROJECT, retention_days: int = 14
) -> None:
    config = ProjectConfig(name, today() - timedelta(days=first_day_back), retention_days)
    add_project(installation.directory / "projects.toml", config)


def test_every_sensor_runs_from_the_first_start() -> None:
    assert {sensor.name for sensor in SENSORS} == {
        "alerts",
        "dead_runs",
        "expiring_days",
        "new_projects",
        "announced_ends",
    }
    assert all(sensor.default_status == DefaultSensorStatus.RUNNING for sensor in SENSORS)


def test_days_about_to_expire_are_one_warning(bare_installation: Installation, alerts_on: None) -> None:
    list_project(bare_installation, first_day_back=100)
    skipped, cursor = tick(expiring_days_sensor)
    assert "4 days" in skipped
    [title] = titles()
    assert title == f"4 days are not archived and verified, and can be fetched until {today()} only"
    skipped, _ = tick(expiring_days_sensor, cursor)
    assert "0 new" in skipped
    assert len(titles()) == 1


def test_what_langsmith_tells_decides_which_days_expire(bare_installation: Installation, alerts_on: None) -> None:
    list_project(bare_installation, first_day_back=100, retention_days=60)
    layout = Settings.load().layout

    def lines() -> list[str]:
        return [line for _, letter in outbox_of(Settings.load()).waiting() for line in letter.alert.lines]

    note_retention(layout, PROJECT, 180)
    skipped, cursor = tick(expiring_days_sensor)
    assert skipped.startswith("0 days")
    note_retention(layout, PROJECT, 7)
    skipped, cursor = tick(expiring_days_sensor, cursor)
    assert skipped.startswith("2 days")
    first, second = (today() - timedelta(days=back) for back in (6, 5))
    [line] = lines()
    assert line.startswith(f"{PROJECT}: {first} to {second}")
    assert f"LangSmith keeps its traces for 7 days, as its API answered on {today()}" in line
    note_retention(layout, PROJECT, None)  # it no longer tells: the last answer counts
    assert "2 days are about to expire, 0 new" in tick(expiring_days_sensor, cursor)[0]
    layout.project_state(PROJECT).unlink()
    assert tick(expiring_days_sensor)[0].startswith("20 days")
    assert "60 days, by retention_days in projects.toml" in lines()[-1]


def test_archived_and_verified_days_are_no_warning(bare_installation: Installation, alerts_on: None) -> None:
    list_project(bare_installation, first_day_back=100)
    for back in range(1, 14):
        day = today() - timedelta(days=back)
        proof = "fewer" if back == 12 else "equal"
        update_state(
            bare_installation.paths(day=day), last_fetched_at=now_text(), verified_at=now_text(), count_check=proof
        )
    tick(expiring_days_sensor)
    assert [title[:8] for title in titles()] == ["1 day is"]


def test_a_new_project_is_no_warning(bare_installation: Installation) -> None:
    list_project(bare_installation, first_day_back=5)
    skipped, _ = tick(expiring_days_sensor)
    assert skipped.startswith("0 days")


def test_unlisted_projects_are_reported_once(installation: Installation, alerts_on: None) -> None:
    for name in ("one", "two"):
        installation.fill(runs=1, project=name)
    list_project(installation, 5, name="one")
    _, cursor = tick(new_projects_sensor)
    assert titles() == ["1 LangSmith project is not archived"]
    tick(new_projects_sensor, cursor)
    assert len(titles()) == 1
    assert [project.name for project in read_projects(installation.directory / "projects.toml")] == ["one"]


def test_new_projects_are_added_if_the_setting_is_on(installation: Installation, alerts_on: None) -> None:
    installation.fill(runs=1, project="two / 2")
    (installation.directory / "projects.toml").write_text("add_new_projects = true\n")
    _, cursor = tick(new_projects_sensor)
    [project] = read_projects(installation.directory / "projects.toml")
    assert (project.name, project.start) == ("two / 2", today() - timedelta(days=13))
    assert titles() == ["1 new LangSmith project is archived from now on"]
    tick(new_projects_sensor, cursor)
    assert len(titles()) == 1


def test_an_announced_end_of_a_route_is_reported_once(installation: Installation, alerts_on: None) -> None:
    behavior = installation.langsmith.behavior
    behavior.v2_status, behavior.v1_sunset = 404, "Sun, 31 Jan 2027 00:00:00 GMT"
    for name in (PROJECT, "other"):
        installation.fill(2, project=name)
        list_project(installation, 5, name)
    assert installation.archive("fetch").code == 0
    _, cursor = tick(announced_ends_sensor)
    assert titles() == ["LangSmith announces the end of 1 route that LSE uses"]
    [(_, letter)] = outbox_of(Settings.load()).waiting()
    assert letter.alert.lines[0] == "POST /runs/query: Sun, 31 Jan 2027 00:00:00 GMT"
    assert installation.archive("fetch", project="other").code == 0
    assert tick(announced_ends_sensor, cursor) == ("0 new announcements", cursor)
    behavior.v1_sunset = "Wed, 31 Mar 2027 00:00:00 GMT"
    assert installation.archive("fetch", "--force").code == 0
    tick(announced_ends_sensor, cursor)
    assert len(titles()) == 2


def test_an_unreachable_langsmith_keeps_the_cursor(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:1")
    skipped, cursor = tick(new_projects_sensor, '["one"]')
    assert "could not be listed" in skipped
    assert cursor == '["one"]'


def test_projects_sync_adds_what_is_missing(installation: Installation) -> None:
    installation.fill(runs=1, project="one")
    assert "not archived: one" in installation.lse("projects", "sync", "--dry-run").out
    assert read_projects(installation.directory / "projects.toml") == []
    assert "added: one" in installation.lse("projects", "sync").out
    assert [project.name for project in read_projects(installation.directory / "projects.toml")] == ["one"]
    assert "every project" in installation.lse("projects", "sync").out


def test_only_runs_of_exited_processes_are_failed_that_an_older_version_started(installation: Installation) -> None:
    waits = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        exited = _tags(process.pid)
        elsewhere = exited | {"lse/boot": "another"}
        process.communicate(b"\n")
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        running = _tags(process.pid)
        with _instance() as instance:
            runs = {
                name: _started(instance, tags)
                for name, tags in {
                    "exited": exited,
                    "running": running,
                    "elsewhere": elsewhere,
                    "copied": exited,
                }.items()
            }
            instance.add_run_tags(runs["copied"], {"lse/run": "of the run that this one repeats"})
            with dg.build_sensor_context(instance) as context:
                skipped = dead_runs_sensor(context)
            assert isinstance(skipped, dg.SkipReason)
            assert "failed 1 " in (skipped.skip_message or "")
            status = {name: instance.get_run_by_id(run).status for name, run in runs.items()}  # ty: ignore
            assert status.pop("exited") == DagsterRunStatus.FAILURE
            assert set(status.values()) == {DagsterRunStatus.STARTED}
            freed = fail_exited_runs(instance, platform_starts=True)
            assert sorted(freed) == sorted([runs["copied"], runs["elsewhere"]])
        process.communicate(b"\n")


def _instance() -> dg.DagsterInstance:
    opened = open_home(Settings.load())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment().items():
            patch.setenv(name, value)
        return dg.DagsterInstance.from_config(str(opened.dagster_home))


def _tags(pid: int) -> dict[str, str]:
    """The tags that version 0.1 gave a run of the process, before its host got another name."""
    record = describe(pid)
    return {
        "lse/host": "before",
        "lse/process": str(record.pid),
        "lse/started": record.started,
        "lse/boot": record.boot.partition(" ")[0],
    }


def _started(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = instance.create_run_for_job(_empty_job, tags=tags, status=DagsterRunStatus.STARTED)
    instance.add_run_tags(run.run_id, {"lse/run": run.run_id})
    return run.run_id


@dg.job
def _empty_job() -> None:
    """A job without steps."""
