"""The sensor that starts due days: what it requests, in which order, and when it tries again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, freeze_time

from lse_archive.folder.late_feedback import add_late_feedback
from lse_archive.folder.state import update_state
from lse_archive.layout import Layout
from lse_operations.overview import DayView, days_behind
from lse_platform.asset_keys import asset_key, job_name
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings
from lse_sensors.due_days import CATCH_UP_DAYS, request, to_start
from lse_sensors.events import UNFINISHED

NAME = "shop / EMEA"
PROJECT = ProjectConfig(NAME, date(2020, 1, 1))
NOW = datetime(2026, 3, 10, 2, tzinfo=UTC)
TODAY = NOW.date()
CONTENT = "0" * 64


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty archive, and its settings, without a destination."""
    for name, path in {"LSE_DATA_DIR": "data", "LSE_ARCHIVE_DIR": "archives", "LSE_HOME": "home"}.items():
        monkeypatch.setenv(name, str(tmp_path / path))
    monkeypatch.setenv("LSE_ENV_FILE", "/dev/null")
    return Layout(tmp_path / "data", tmp_path / "archives")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def back(days: int) -> date:
    return TODAY - timedelta(days=days)


def mark_archived(layout: Layout, day: date, at: datetime | None = None, **more: object) -> None:
    """Marks the day as archived and proven: by default after it has settled."""
    paths = layout.day(NAME, day)
    paths.folder.mkdir(parents=True, exist_ok=True)
    paths.zip.parent.mkdir(exist_ok=True)
    paths.zip.touch()
    at = at or datetime.combine(day + timedelta(days=3), time(2, 5), UTC)
    state: dict[str, object] = {"count_check": "equal", "verified_at": "2026-01-01T00:00:00Z", "verdict": "proven"}
    state |= {"feedback_read_at": "2100-01-01T00:00:00Z"} | more  # at no age it is read again
    update_state(paths, last_fetched_at=at.strftime("%Y-%m-%dT%H:%M:%SZ"), **state)


def archive_all(layout: Layout, *, until: date = TODAY) -> None:
    """Archives each day as daily ticks until this day would have done."""
    for day in (back(days) for days in range(1, 20)):
        if day < until:
            mark_archived(layout, day, min(datetime.combine(day + timedelta(days=3), time(2, 5), UTC), NOW))


def behind(project: ProjectConfig = PROJECT, now: datetime = NOW) -> list[DayView]:
    [days] = days_behind(Settings.load(), [project], now)
    return days


def due(project: ProjectConfig = PROJECT, now: datetime = NOW) -> list[date]:
    """The days that are to be fetched."""
    return [day.date for day in behind(project, now) if "files" in day.behind]


def started(instance: dg.DagsterInstance, project: ProjectConfig = PROJECT, now: datetime = NOW) -> list[date]:
    days = behind(project, now)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return [day.date for day in to_start(instance, days, unfinished, now)] if days else []


def run(instance: dg.DagsterInstance, day: date, status: DagsterRunStatus, at: datetime, **more: Any) -> None:
    """Adds a run of the day."""
    with freeze_time(at):
        launched = {"dagster/partition": str(day), "dagster/sensor_name": "due_days"}
        tags = launched | more.pop("tags", {})
        create_run_for_test(instance, status=status, tags=tags, **({"job_name": job_name(NAME)} | more))


# ---- what is due -------------------------------------------------------------------------------------------------


def test_yesterday_and_the_day_three_days_ago_are_due_at_the_daily_time(layout: Layout) -> None:
    archive_all(layout, until=back(1))
    mark_archived(layout, back(3), NOW - timedelta(days=2))
    assert due() == [back(3), back(1)]
    assert due(now=NOW - timedelta(minutes=1)) == []
    assert due(ProjectConfig(NAME, PROJECT.start, schedule="04:30")) == []
    assert due(ProjectConfig(NAME, PROJECT.start, schedule="00:00"), NOW - timedelta(hours=2)) == [back(3), back(1)]
    assert due(ProjectConfig(NAME, PROJECT.start, schedule="off")) == []


def test_a_day_is_due_for_its_feedback_at_fixed_ages_and_when_some_was_found(layout: Layout) -> None:
    archive_all(layout)
    for days in (7, 6):
        mark_archived(layout, back(days), feedback_read_at=f"{back(3)}T02:05:00Z")
    assert due() == [back(7)]
    assert due(ProjectConfig(NAME, PROJECT.start, schedule="off")) == []
    old = back(19)
    add_late_feedback(layout.day(NAME, old), [b"{}"])
    assert due() == [old, back(7)]


def test_a_settled_day_is_not_fetched_again(layout: Layout) -> None:
    archive_all(layout)
    assert behind() == []


def test_a_first_day_years_ago_selects_what_langsmith_serves_the_first_to_expire_first(
    layout: Layout, instance: dg.DagsterInstance
) -> None:
    # With 14 days of retention, February 24 is the oldest day that LangSmith still has completely.
    expected = [back(days) for days in range(13, 0, -1)]
    assert due() == expected
    assert started(instance) == [expected[-1], *expected[:-1]]  # yesterday has its own place in the queue
    long = ProjectConfig(NAME, date(2020, 1, 1), retention_days=400)
    assert len(started(instance, long)) == 1 + CATCH_UP_DAYS
    assert due(ProjectConfig(NAME, back(2))) == [back(2), back(1)]


def test_a_day_whose_fetch_proves_nothing_stays_due_while_langsmith_has_it(layout: Layout) -> None:
    archive_all(layout)
    for day in (back(8), back(16)):
        mark_archived(layout, day, count_check="fewer", verdict="wrong", verified_at=None)
    mark_archived(layout, back(7), verdict="not_provable")  # the content has changed since the count
    mark_archived(layout, back(6), verdict="not_provable", count_check="more")  # LangSmith deletes runs
    assert due() == [back(8), back(7)]


def test_a_day_that_lacks_a_place_is_due_after_those_to_fetch_and_without_a_fetch(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_all(layout, until=back(1))
    mark_archived(layout, back(30), verdict=None, verified_at=None)
    layout.day(NAME, back(40)).folder.mkdir()
    mark_archived(layout, back(50), verdict="wrong", verified_at=None)  # a person decides what is right
    found = behind()
    assert {day.date: day.behind for day in found} == {
        back(1): ("files",),
        back(40): ("zip", "verified"),
        back(30): ("verified",),
    }
    assert [day.date for day in found] == [back(1), back(40), back(30)]
    keys = request(found[1], NOW, has_destination=False).asset_selection
    assert keys == [asset_key(NAME, step) for step in ("day_zip", "runs_table", "verification")]
    assert asset_key(NAME, "drive_file") in (request(found[1], NOW, has_destination=True).asset_selection or ())
    assert request(found[0], NOW, has_destination=True).asset_selection is None
    monkeypatch.setenv("LSE_ARCHIVE_URL", "s3://bucket/archive")  # a destination that is set up later
    assert {"drive"} <= {place for day in behind() if day.date == back(5) for place in day.behind}


def test_a_pruned_place_is_not_behind(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_ARCHIVE_URL", "s3://bucket/archive")
    archive_all(layout, until=date(1, 1, 1))
    for days in range(1, 14):
        mark_archived(layout, back(days), NOW, drive_sha256=CONTENT, zip_pruned_at="2026-01-01T00:00:00Z")
        layout.day(NAME, back(days)).zip.unlink()
    mark_archived(layout, back(20), copy_pruned_at="2026-01-01T00:00:00Z")
    assert behind() == []


# ---- when it is started ------------------------------------------------------------------------------------------


def test_yesterday_is_not_held_up_by_late_days(layout: Layout, instance: dg.DagsterInstance) -> None:
    first, *others = (request(day, NOW, has_destination=True) for day in reversed(behind()))
    assert (first.partition_key, first.tags) == (str(back(1)), {"dagster/priority": "1"})
    assert {request.tags[".dagster/lse_late"] for request in others} == {"true"}
    run(instance, back(9), DagsterRunStatus.STARTED, NOW, tags={".dagster/lse_late": "true"})
    assert started(instance) == [back(1)]  # the other late days follow when these are done


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED])
def test_a_day_under_way_is_not_started_again(
    layout: Layout, instance: dg.DagsterInstance, status: DagsterRunStatus
) -> None:
    archive_all(layout, until=back(4))
    run(instance, back(1), status, NOW - timedelta(days=2))
    key = asset_key(NAME, "run_files")
    run(instance, back(2), status, NOW, job_name="__ASSET_JOB", asset_selection=frozenset((key,)))
    run(instance, back(3), status, NOW, job_name=job_name("another"))
    assert started(instance) == [back(4), back(3)]


def test_a_day_that_fails_is_tried_again_after_longer_and_longer_waits(
    layout: Layout, instance: dg.DagsterInstance
) -> None:
    archive_all(layout)
    mark_archived(layout, back(6), verdict=None, verified_at=None)
    project = ProjectConfig(NAME, back(6))
    hours = []
    for tick in range(24 * 6 * 4):  # every ten minutes of four days
        at = NOW + timedelta(minutes=10 * tick)
        if back(6) in started(instance, project, at):
            hours.append(tick / 6)
            run(instance, back(6), DagsterRunStatus.FAILURE, at)
    assert hours == [0, 1, 3, 7, 15, 31, 55, 79]
