"""Schedules, evaluated at given times."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from dagster import DefaultScheduleStatus, DefaultSensorStatus, build_schedule_context

from lse_archive.errors import SettingsError
from lse_archive.layout import Layout
from lse_location.definitions import definitions
from lse_operations.day_selection import days_to_verify
from lse_platform.asset_keys import asset_key
from lse_resources.postgres.database import Database
from lse_resources.projects import ProjectConfig, adds_new_projects, read_projects
from lse_sensors.maintenance import prune_event_logs
from lse_sensors.schedules import weekly_schedule

# Dagster's resources use pydantic features that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")

NAME = "shop / EMEA"
PROJECT = ProjectConfig(NAME, date(2020, 1, 1))


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty archive, and its settings."""
    monkeypatch.setenv("LSE_ENV_FILE", "/dev/null")
    monkeypatch.setenv("LSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LSE_ARCHIVE_DIR", str(tmp_path / "archives"))
    monkeypatch.setenv("LSE_PROJECTS_FILE", str(tmp_path / "projects.toml"))
    return Layout(tmp_path / "data", tmp_path / "archives")


def test_recent_days_are_verified_weekly_and_every_day_within_half_a_year(layout: Layout) -> None:
    first, last = date(2025, 1, 1), date(2026, 3, 8)
    for offset in range((last - first).days + 1):
        layout.day(NAME, first + timedelta(days=offset)).folder.mkdir(parents=True)
    sunday = datetime(2026, 3, 8, 5, tzinfo=UTC)
    days = days_to_verify(layout, PROJECT, sunday)
    assert days[:30] == [date(2026, 3, 7) - timedelta(days=back) for back in range(30)]
    assert len(days) < 50
    old = {day for week in range(26) for day in days_to_verify(layout, PROJECT, sunday + timedelta(weeks=week))}
    assert {first + timedelta(days=offset) for offset in range(400)} <= old


def test_the_weekly_schedule_verifies_without_fetching(layout: Layout) -> None:
    layout.day(NAME, date(2026, 3, 1)).folder.mkdir(parents=True)
    weekly = weekly_schedule(PROJECT)
    context = build_schedule_context(scheduled_execution_time=datetime(2026, 3, 8, 5, tzinfo=UTC))
    [request] = cast(Any, weekly(context))
    assert request.partition_key == "2026-03-01"
    assert request.asset_selection == [asset_key(NAME, "verification")]
    assert str(weekly.cron_schedule).endswith("* * 0")


def test_the_code_location_defines_the_projects_of_projects_toml(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "projects.toml").write_text(
        'schedule = "03:30"\nowner = "team:data"\n\n'
        '[[project]]\nname = "a"\nstart = 2026-01-01\n\n'
        '[[project]]\nname = "b"\nstart = 2026-01-01\nschedule = "off"\nowner = "me@example.com"\n'
    )
    code = definitions()
    dg.Definitions.validate_loadable(code)
    schedules = {schedule.name: schedule for schedule in code.schedules or []}
    assert set(schedules) == {"weekly_a", "nightly_maintenance", "daily_late_feedback"}
    assert all(schedule.default_status == DefaultScheduleStatus.RUNNING for schedule in schedules.values())
    [due_days] = [sensor for sensor in code.sensors or [] if sensor.name == "due_days"]
    assert due_days.default_status == DefaultSensorStatus.RUNNING
    specs = {spec.key.path[0]: spec.owners for spec in code.resolve_all_asset_specs() if spec.key.path[1] == "day_zip"}
    assert specs == {"a": ["team:data"], "b": ["me@example.com"]}


@pytest.mark.parametrize("line", ['schedule = "25:00"', "schedule = 2", 'schedule = "2:00"', 'owner = "nobody"'])
def test_the_error_for_a_malformed_setting_names_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "projects.toml").write_text(f'{line}\n[[project]]\nname = "a"\nstart = 2026-01-01\n')
    with pytest.raises(SettingsError, match=line.split()[0]):
        read_projects(tmp_path / "projects.toml")


def test_add_new_projects_is_off_unless_set(tmp_path: Path) -> None:
    path = tmp_path / "projects.toml"
    assert not adds_new_projects(path)
    path.write_text("add_new_projects = true\n")
    assert adds_new_projects(path)
    path.write_text('add_new_projects = "yes"\n')
    with pytest.raises(SettingsError, match="add_new_projects"):
        adds_new_projects(path)


def test_maintenance_deletes_old_log_lines_and_keeps_other_events(dagster_database_url: str) -> None:
    database = Database(dagster_database_url)
    kinds = [None, "STEP_INPUT", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "STEP_FAILURE"]
    with database.connect() as connection:
        for age in ("1 day", "31 days"):
            for kind in kinds:
                connection.execute(
                    "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp)"
                    " VALUES ('r', '{}', %s, (now() AT TIME ZONE 'utc') - %s::interval)",
                    (kind, age),
                )
    assert prune_event_logs(database) == 2
    assert prune_event_logs(database) == 0
    with database.connect() as connection:
        left = [row[0] for row in connection.execute("SELECT dagster_event_type FROM event_logs ORDER BY id")]
    assert left == [*kinds, *kinds[2:]]
