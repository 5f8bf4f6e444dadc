"""The sensors that watch the archive itself: dead runs, days about to expire, projects that nobody archives."""

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
from lse_platform.exited_runs import fail_exited_runs
from lse_platform.home import open_home
from lse_platform.process_registry import describe
from lse_resources.projects import ProjectConfig, add_project, read_projects
from lse_resources.settings import Settings
from lse_sensors.sensors import SENSORS, dead_runs_sensor, expiring_days_sensor, new_projects_sensor, outbox_of

pytestmark = pytest.mark.slow


def tick(sensor: dg.SensorDefinition, cursor: str | None = None) -> tuple[str, str | None]:
    """Evaluates a sensor; returns what it said, and its cursor."""
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor) as context:
        said = sensor(context)
        assert isinstance(said, dg.SkipReason)
        return said.skip_message or "", context.cursor


def titles() -> list[str]:
    return [letter.alert.title for _, letter in outbox_of(Settings.load()).waiting()]


@pytest.fixture
def alerts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target is set up; nobody answers there, and what is said waits in the outbox."""
    monkeypatch.setenv("LSE_ALERT_WEBHOOK_URL", "http://127.0.0.1:1/")


def list_project(
    installation: Installation, first_day_back: int, name: str = PROJECT, retention_days: int = 14
) -> None:
    config = ProjectConfig(name, today() - timedelta(days=first_day_back), retention_days)
    add_project(installation.directory / "projects.toml", config)


def test_every_sensor_runs_from_the_first_start() -> None:
    assert {sensor.name for sensor in SENSORS} == {"alerts", "dead_runs", "expiring_days", "new_projects"}
    assert all(sensor.default_status == DefaultSensorStatus.RUNNING for sensor in SENSORS)


def test_days_in_the_last_third_of_the_retention_are_warned_of_once(
    bare_installation: Installation, alerts_on: None
) -> None:
    list_project(bare_installation, first_day_back=100)
    said, cursor = tick(expiring_days_sensor)
    assert "4 days" in said
    [title] = titles()
    assert title == f"4 days are not archived and verified, and can be fetched until {today()} only"
    said, _ = tick(expiring_days_sensor, cursor)
    assert "0 of them new" in said
    assert len(titles()) == 1


def test_days_that_are_archived_and_verified_are_not_warned_of(
    bare_installation: Installation, alerts_on: None
) -> None:
    list_project(bare_installation, first_day_back=100)
    for back in range(1, 14):
        day = today() - timedelta(days=back)
        proof = "fewer" if back == 12 else "equal"
        update_state(
            bare_installation.paths(day=day), last_fetched_at=now_text(), verified_at=now_text(), count_check=proof
        )
    tick(expiring_days_sensor)
    assert [title[:6] for title in titles()] == ["1 days"]


def test_a_young_project_is_not_warned_of(bare_installation: Installation) -> None:
    list_project(bare_installation, first_day_back=5)
    said, _ = tick(expiring_days_sensor)
    assert said.startswith("0 days")


def test_projects_that_nobody_archives_are_told_of_once(installation: Installation, alerts_on: None) -> None:
    for name in ("one", "two"):
        installation.fill(runs=1, project=name)
    list_project(installation, 5, name="one")
    _, cursor = tick(new_projects_sensor)
    assert titles() == ["1 LangSmith projects are not archived"]
    tick(new_projects_sensor, cursor)
    assert len(titles()) == 1
    assert [project.name for project in read_projects(installation.directory / "projects.toml")] == ["one"]


def test_new_projects_are_added_where_that_is_set(installation: Installation, alerts_on: None) -> None:
    installation.fill(runs=1, project="two / 2")
    (installation.directory / "projects.toml").write_text("add_new_projects = true\n")
    _, cursor = tick(new_projects_sensor)
    [project] = read_projects(installation.directory / "projects.toml")
    assert (project.name, project.start) == ("two / 2", today() - timedelta(days=13))
    assert titles() == ["1 new LangSmith projects are archived from now on"]
    tick(new_projects_sensor, cursor)
    assert len(titles()) == 1


def test_a_langsmith_that_is_down_is_asked_again(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:1")
    said, cursor = tick(new_projects_sensor, '["one"]')
    assert "could not be listed" in said
    assert cursor == '["one"]'


def test_projects_sync_adds_what_is_missing(installation: Installation) -> None:
    installation.fill(runs=1, project="one")
    assert "not archived: one" in installation.lse("projects", "sync", "--dry-run").out
    assert read_projects(installation.directory / "projects.toml") == []
    assert "added: one" in installation.lse("projects", "sync").out
    assert [project.name for project in read_projects(installation.directory / "projects.toml")] == ["one"]
    assert "every project" in installation.lse("projects", "sync").out


def test_runs_of_a_dead_process_are_failed_and_the_living_go_on(installation: Installation) -> None:
    waits = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        dead = _tags(process.pid)
        process.communicate(b"\n")
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        alive = _tags(process.pid)
        elsewhere = dead | {"lse/host": "another"}
        with _instance() as instance:
            runs = {
                name: _started(instance, tags)
                for name, tags in {"dead": dead, "alive": alive, "elsewhere": elsewhere, "copied": dead}.items()
            }
            instance.add_run_tags(runs["copied"], {"lse/run": "of the run that this one repeats"})
            with dg.build_sensor_context(instance) as context:
                said = dead_runs_sensor(context)
            assert isinstance(said, dg.SkipReason)
            assert "failed 1 " in (said.skip_message or "")
            status = {name: instance.get_run_by_id(run).status for name, run in runs.items()}  # ty: ignore
            assert status.pop("dead") == DagsterRunStatus.FAILURE
            assert set(status.values()) == {DagsterRunStatus.STARTED}
            assert fail_exited_runs(instance, platform_starts=True) == [runs["copied"]]
        process.communicate(b"\n")


def test_a_run_of_the_command_line_says_which_process_works_on_it(installation: Installation) -> None:
    installation.fill()
    assert installation.archive("fetch").code == 0
    with installation.instance() as instance:
        [run] = instance.get_runs()
        assert run.tags["lse/run"] == run.run_id
        assert run.tags["lse/process"].isdigit()


def _instance() -> dg.DagsterInstance:
    opened = open_home(Settings.load())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment().items():
            patch.setenv(name, value)
        return dg.DagsterInstance.from_config(str(opened.dagster_home))


def _tags(pid: int) -> dict[str, str]:
    record = describe(pid)
    return {
        "lse/host": record.host,
        "lse/process": str(record.pid),
        "lse/started": record.started,
        "lse/boot": record.boot,
    }


def _started(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = instance.create_run_for_job(_nothing, tags=tags, status=DagsterRunStatus.STARTED)
    instance.add_run_tags(run.run_id, {"lse/run": run.run_id})
    return run.run_id


@dg.job
def _nothing() -> None:
    """A job without steps."""
