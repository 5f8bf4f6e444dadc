"""Schedules, evaluated at given times."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DefaultScheduleStatus, build_schedule_context

from lse_archive.errors import SettingsError
from lse_archive.folder.state import update_state
from lse_archive.layout import Layout
from lse_location.definitions import definitions
from lse_operations.day_selection import CATCH_UP_DAYS, days_to_archive, days_to_verify
from lse_platform.asset_keys import asset_key
from lse_resources.postgres.database import Database
from lse_resources.projects import ProjectConfig, adds_new_projects, read_projects
from lse_sensors.maintenance import prune_event_logs
from lse_sensors.schedules import project_schedules

# Dagster's resources use pydantic features that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")

NAME = "shop / EMEA"
PROJECT = ProjectConfig(NAME, date(2020, 1, 1))
TICK = datetime(2026, 3, 10, 2, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty archive, and its settings."""
    monkeypatch.setenv("LSE_ENV_FILE", "/dev/null")
    monkeypatch.setenv("LSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LSE_ARCHIVE_DIR", str(tmp_path / "archives"))
    monkeypatch.setenv("LSE_PROJECTS_FILE", str(tmp_path / "projects.toml"))
    return Layout(tmp_path / "data", tmp_path / "archives")


def mark_archived(layout: Layout, day: date, at: datetime, **more: object) -> None:
    """Marks the day as archived at this time."""
    paths = layout.day(NAME, day)
    paths.folder.mkdir(parents=True, exist_ok=True)
    update_state(paths, last_fetched_at=at.strftime("%Y-%m-%dT%H:%M:%SZ"), **more)


def run_ticks(layout: Layout, first: datetime, ticks: int) -> None:
    """Marks the requested days of this many daily ticks as archived."""
    for number in range(ticks):
        at = first + timedelta(days=number)
        for day in days_to_archive(layout, PROJECT, at):
            mark_archived(layout, day, at + timedelta(minutes=5))


def evaluate(schedule: dg.ScheduleDefinition, at: datetime) -> list[dg.RunRequest]:
    found: Any = schedule(build_schedule_context(scheduled_execution_time=at))
    return [request for request in found if isinstance(request, dg.RunRequest)]


def test_with_no_gaps_yesterday_and_the_day_three_days_ago_are_due(layout: Layout) -> None:
    run_ticks(layout, TICK - timedelta(days=20), 20)
    assert days_to_archive(layout, PROJECT, TICK) == [date(2026, 3, 9), date(2026, 3, 7)]


def test_a_settled_day_is_not_fetched_again(layout: Layout) -> None:
    run_ticks(layout, TICK - timedelta(days=20), 21)
    assert days_to_archive(layout, PROJECT, TICK) == []


def test_missed_days_are_due_newest_first(layout: Layout) -> None:
    run_ticks(layout, TICK - timedelta(days=25), 20)
    expected = [date(2026, 3, 9) - timedelta(days=back) for back in range(8)]
    # The last tick was on the 4th and archived the 3rd; neither the 3rd nor the 2nd has settled.
    assert days_to_archive(layout, PROJECT, TICK) == [day for day in expected if day >= date(2026, 3, 2)]


def test_a_start_date_years_ago_selects_a_bounded_number_of_days(layout: Layout) -> None:
    days = days_to_archive(layout, PROJECT, TICK)
    # With 14 days of retention, February 24 is the oldest day that LangSmith still has completely.
    assert days == [date(2026, 3, 9) - timedelta(days=back) for back in range(13)]
    long = ProjectConfig(NAME, date(2020, 1, 1), retention_days=400)
    assert len(days_to_archive(layout, long, TICK)) == CATCH_UP_DAYS


def test_nothing_before_the_first_day_is_due(layout: Layout) -> None:
    project = ProjectConfig(NAME, date(2026, 3, 8))
    assert days_to_archive(layout, project, TICK) == [date(2026, 3, 9), date(2026, 3, 8)]


def test_an_incomplete_day_stays_due_while_it_can_be_fetched(layout: Layout) -> None:
    run_ticks(layout, TICK - timedelta(days=20), 21)
    mark_archived(layout, date(2026, 3, 2), TICK, count_check="fewer")
    mark_archived(layout, date(2026, 2, 1), TICK, count_check="fewer")
    assert days_to_archive(layout, PROJECT, TICK) == [date(2026, 3, 2)]


def test_the_daily_schedule_requests_one_run_per_day_and_yesterday_first(layout: Layout) -> None:
    run_ticks(layout, TICK - timedelta(days=20), 20)
    daily, _ = project_schedules(PROJECT)
    assert (daily.cron_schedule, daily.execution_timezone) == ("0 2 * * *", "UTC")
    assert daily.default_status == DefaultScheduleStatus.RUNNING
    yesterday, settled = evaluate(daily, TICK)
    assert (yesterday.partition_key, settled.partition_key) == ("2026-03-09", "2026-03-07")
    assert yesterday.tags["dagster/priority"] == "1"
    assert "lse/late" in settled.tags
    assert "lse/late" not in yesterday.tags


def test_run_keys_differ_between_ticks_and_not_within_one(layout: Layout) -> None:
    daily, _ = project_schedules(PROJECT)
    keys = [request.run_key for at in (TICK, TICK, TICK + timedelta(days=1)) for request in evaluate(daily, at)]
    assert len(set(keys)) == 2 * 13


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
    _, weekly = project_schedules(PROJECT)
    [request] = evaluate(weekly, datetime(2026, 3, 8, 5, tzinfo=UTC))
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
    assert set(schedules) == {"daily_a", "weekly_a", "nightly_maintenance"}
    assert all(schedule.default_status == DefaultScheduleStatus.RUNNING for schedule in schedules.values())
    assert getattr(schedules["daily_a"], "cron_schedule", None) == "30 3 * * *"
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
