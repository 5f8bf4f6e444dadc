"""Feedback that is given after a day was archived: a pass finds it, and the day is due again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from langsmith_fixtures import DAY, PROJECT, START, Cloud, local_cloud

from lse_archive.days import format_time
from lse_archive.errors import SourceError
from lse_archive.folder.late_feedback import read_late_feedback
from lse_archive.folder.pruned import PrunedDay, write_pruned
from lse_archive.folder.state import DayState
from lse_archive.layout import Layout
from lse_demo.faults import Fault, on
from lse_operations.late_feedback import find_late_feedback, is_feedback_due
from lse_resources.projects import ProjectConfig

CONFIG = ProjectConfig(PROJECT, DAY, schedule="00:00")
NOW = datetime(2026, 1, 8, tzinfo=UTC)
DAY_US = 86_400_000_000


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


def give(cloud: Cloud, run_id: str | None, at: datetime, **fields: Any) -> str:
    sent = {"run_id": run_id, "key": "q", "session_id": cloud.store.project(PROJECT).id, **fields}
    return cloud.store.feedback.create({**sent, "created_at": at.isoformat()})["id"]


def find(cloud: Cloud, now: datetime = NOW) -> list[date]:
    with cloud.source() as source:
        return find_late_feedback(layout(cloud), CONFIG, source, now)


def layout(cloud: Cloud) -> Layout:
    return Layout(cloud.paths.data_dir, cloud.paths.archive_dir)


def due(read_at: str | None, now: datetime, *, waits: bool = False, config: ProjectConfig = CONFIG) -> bool:
    return is_feedback_due(config, DAY, DayState(feedback_read_at=read_at), now, waits=waits)


def test_the_day_of_a_run_that_gets_feedback_five_days_later_is_due_again(cloud):
    run, other = cloud.put(START), cloud.put(START + 1)
    early = give(cloud, other, NOW - timedelta(days=6))
    cloud.fetch()
    assert find(cloud) == []  # what is archived is not late
    late = give(cloud, run, NOW + timedelta(hours=1))
    assert find(cloud, NOW + timedelta(days=1)) == [DAY]
    assert [json.loads(line)["id"] for line in read_late_feedback(cloud.paths)] == [late]
    assert cloud.paths.late_feedback.exists()
    assert cloud.fetch().feedback == 2
    assert read_late_feedback(cloud.paths) == []
    assert find(cloud, NOW + timedelta(days=1)) == []
    assert early in (cloud.paths.folder / "_feedback.jsonl").read_text()


def test_late_feedback_of_a_run_whose_statistics_lag_is_archived(cloud):
    run = cloud.put(START)
    cloud.fetch()
    late = give(cloud, run, NOW)
    cloud.store.feedback.of_runs = lambda ids: {}
    assert find(cloud) == [DAY]
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs) == (1, [run])
    assert late in (cloud.paths.folder / "_feedback.jsonl").read_text()


def test_records_without_a_run_go_to_the_day_of_their_run_or_of_their_creation(cloud):
    cloud.put(START)
    nobody = str(UUID(int=9))
    give(cloud, None, NOW, start_time=format_time(START + 5))
    give(cloud, None, NOW - timedelta(days=2))
    give(cloud, nobody, NOW - timedelta(days=3))  # its run is not served
    assert find(cloud) == [DAY, date(2026, 1, 5), date(2026, 1, 6)]


def test_the_start_of_a_run_is_asked_for_if_the_record_lacks_it(cloud):
    run = cloud.put(START)
    body = json.dumps({"id": "x", "run_id": run, "created_at": NOW.isoformat()}).encode()
    at = START + 6 * DAY_US
    cloud.store.feedback.put_raw(body, run_id=run, session_id=cloud.store.project(PROJECT).id, created=at)
    assert find(cloud) == [DAY]
    assert cloud.fetch().feedback == 1


def test_a_pass_that_fails_is_repeated_from_where_it_began(cloud):
    run = cloud.put(START)
    give(cloud, run, NOW - timedelta(days=3))
    cloud.fetch(feedback=False)
    cloud.settings = replace(cloud.settings, patience=0.05)
    cloud.server.faults.add(Fault("status", on("GET", "/feedback"), status=500))
    with pytest.raises(SourceError):
        find(cloud)
    cloud.server.faults.clear()
    assert find(cloud) == [DAY]


def test_a_damaged_state_of_the_passes_searches_from_the_beginning(cloud):
    run = cloud.put(START)
    give(cloud, run, NOW - timedelta(days=3))
    path = layout(cloud).project_state(PROJECT)
    path.parent.mkdir(parents=True)
    for damaged in (b"{", b'{"feedback_read_until":"x"}', b"\xff", b"[]", b'{"retention_days":0}'):
        path.write_bytes(damaged)
        assert find(cloud) == [DAY]


def test_only_records_that_a_pruned_day_does_not_have_are_late(cloud):
    """What was edited, has no run, or a run that is not archived; the record of the day lists what it has."""
    run, unknown = cloud.put(START), "0196aaaa-0000-7000-8000-000000000001"
    early = give(cloud, run, NOW - timedelta(days=6))
    edited = give(cloud, run, NOW - timedelta(days=6))
    cloud.fetch()
    digest = hashlib.sha256(next(cloud.paths.folder.glob("0*.json")).read_bytes()).digest()
    record = PrunedDay(pruned_at=NOW.isoformat(), content_sha256="", place="Drive", remote_sha256="", remote_bytes=0)
    write_pruned(cloud.paths, record, [(run, run, digest)])
    shutil.rmtree(cloud.paths.folder)
    assert find(cloud) == []
    layout(cloud).project_state(PROJECT).unlink()
    cloud.store.feedback.change(edited, score=1)
    start = format_time(START)
    apart = {give(cloud, run_id, NOW - timedelta(days=5), start_time=start) for run_id in (None, unknown)}
    assert find(cloud) == [DAY]
    assert {json.loads(line)["id"] for line in read_late_feedback(cloud.paths)} == {*apart, edited}
    assert early not in apart


def test_a_moment_with_more_records_than_can_be_read_fails_the_pass_once(cloud):
    runs = [cloud.put(START + number) for number in range(130)]
    cloud.fetch()
    for run in runs:
        give(cloud, run, NOW - timedelta(days=1))
    with pytest.raises(SourceError, match="at least 100 records of one microsecond"):
        find(cloud)
    assert len(read_late_feedback(cloud.paths)) == 100
    assert find(cloud, NOW + timedelta(days=1)) == []  # it does not fail again; its days are read in full at their ages


def test_a_pass_over_many_records_finds_all(cloud):
    run = cloud.put(START)
    for number in range(450):
        give(cloud, run, NOW - timedelta(hours=number % 100, microseconds=number))
    cloud.server.faults.add(Fault("shuffle", on("GET", "/feedback")))
    assert find(cloud) == [DAY]
    assert len(read_late_feedback(cloud.paths)) == 450


def test_an_edit_of_a_record_within_the_overlap_is_found(cloud):
    run = cloud.put(START)
    edited = give(cloud, run, NOW - timedelta(hours=1))
    cloud.fetch()
    assert find(cloud) == []
    cloud.store.feedback.change(edited, score=1)
    assert find(cloud) == [DAY]


@pytest.mark.parametrize(
    ("read_at", "now", "expected"),
    [
        (None, "2026-01-02T23:59:59", False),
        (None, "2026-01-03T00:00:00", True),
        ("2026-01-03T00:00:00Z", "2026-01-04T23:59:59", False),
        ("2026-01-03T00:00:00Z", "2026-01-05T00:00:00", True),
        ("2026-01-05T00:00:00Z", "2026-01-08T23:59:59", False),
        ("2026-01-05T00:00:00Z", "2026-01-09T00:00:00", True),
        ("2026-01-09T00:00:00Z", "2026-01-13T23:59:59", False),
        ("2026-01-09T00:00:00Z", "2026-01-14T00:00:00", True),  # 14 days of retention: two are left
        ("2026-01-14T00:00:00Z", "2026-01-15T23:59:59", False),
        ("nonsense", "2026-01-04T00:00:00", True),
    ],
)
def test_the_feedback_of_a_day_is_read_at_its_ages(read_at, now, expected):
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert due(read_at, at) is expected
    later = replace(CONFIG, schedule="02:30")
    assert due(read_at, at + timedelta(hours=2, minutes=30), config=later) is expected
    assert not due(read_at, at, config=replace(CONFIG, schedule="off"), waits=True)


def test_late_feedback_makes_a_day_due_at_any_age():
    year_later = datetime(2027, 1, 2, tzinfo=UTC)
    assert not due(None, year_later)
    assert due("2026-01-14T00:00:00Z", year_later, waits=True)
    assert not due(None, datetime(2026, 1, 2, 12, tzinfo=UTC), waits=True)  # it is not over
