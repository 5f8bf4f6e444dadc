"""Fetches of days with feedback that are killed: the next one completes the day, and no record is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from fetch_process import FetchProcess
from langsmith_fixtures import START, Cloud, local_cloud

from lse_archive.days import format_time
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.late_feedback import add_late_feedback
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_APART

pytestmark = pytest.mark.slow

KILLS = 20


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        runs = [cloud.put(START + number) for number in range(8)]
        for number in range(160):
            at = format_time(START + number)
            cloud.store.feedback.create({"run_id": runs[number % 8], "key": f"k{number % 2}", "created_at": at})
        yield cloud


def archived(cloud: Cloud) -> dict[str, bool]:
    """The ids of the archived records, and whether they are marked as deleted."""
    found = {}
    for name in (FEEDBACK, FEEDBACK_APART):
        path = cloud.paths.folder / name
        for line in path.read_bytes().splitlines() if path.exists() else []:
            record = json.loads(line)
            found[record["id"]] = "lse_deleted_at" in record
    return found


def test_a_fetch_that_is_killed_loses_no_feedback(cloud):
    with FetchProcess() as process:
        assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
        moments = random.Random("feedback kills")
        kills, rounds = 0, 0
        while kills < KILLS and rounds < 4 * KILLS:
            rounds += 1
            before = archived(cloud)
            ids = sorted(identity for identity, deleted in before.items() if not deleted and len(identity) == 36)
            cloud.store.feedback.delete(ids[rounds % len(ids)])
            cloud.store.feedback.change(ids[(rounds + 3) % len(ids)], score=rounds)
            late = {"id": f"late {rounds}", "run_id": None, "created_at": format_time(START)}
            add_late_feedback(cloud.paths, [json.dumps(late).encode()])
            kill_at = moments.randrange(1, 700)
            killed = process.fetch(cloud.server.url, cloud.directory, kill_at=kill_at)
            if killed["status"] == -9:
                kills += 1
                assert archived(cloud).keys() >= before.keys()
                assert is_as_recorded(cloud.paths.folder)
            assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
            stored = {row[0] for row in cloud.store._db.execute("SELECT id FROM feedback")}
            after = archived(cloud)
            assert after.keys() == before.keys() | {f"late {rounds}"}
            assert {identity for identity, deleted in after.items() if not deleted and len(identity) == 36} == stored
            assert not cloud.paths.late_feedback.exists()
            assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "unchanged"
        assert kills == KILLS
