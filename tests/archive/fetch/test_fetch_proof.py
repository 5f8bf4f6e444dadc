"""The check of a fetched day: LangSmith's count against the runs that it served."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from langsmith_fixtures import DAY, END, START, Cloud, file_states, local_cloud

from lse_archive.errors import SourceError
from lse_archive.folder.state import read_state
from lse_demo.faults import Fault, on

DIALECTS = ("v2", "v1")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


def count_requests(cloud: Cloud) -> int:
    return sum(entry.path.endswith("/runs/stats") for entry in cloud.server.requests)


@pytest.mark.parametrize("api_version", DIALECTS)
def test_the_repair_pass_finds_runs_that_arrive_late(cloud, api_version):
    cloud.use_api(api_version)
    cloud.generate(50)
    late: list[str] = []
    arrive = Fault("call", match=on("POST", "/runs/stats"), times=1, action=lambda: late.append(cloud.put(END - 1)))
    cloud.server.faults.add(arrive)
    result = cloud.fetch(page_size=10)
    assert (result.count_check, result.runs, result.langsmith_count) == ("equal", 51, 51)
    assert set(cloud.published()) == set(cloud.served())
    assert late[0] in cloud.published()
    assert count_requests(cloud) == 1
    fetched_again = [entry for entry in cloud.queries()[-2:] if "inputs" in entry.details["selects"]]
    assert [entry.details["runs"] for entry in fetched_again] == [1]


def test_an_incomplete_day_is_published_with_its_count(cloud):
    cloud.generate(50)
    cloud.server.behavior.stats_offset = 2
    result = cloud.fetch()
    assert (result.count_check, result.runs, result.langsmith_count) == ("fewer", 50, 52)
    assert result.langsmith_root_count == result.root_runs + 2
    assert cloud.published() == cloud.served()
    state = read_state(cloud.paths)
    assert (state.count_check, state.served_runs, state.langsmith_count) == ("fewer", 50, 52)
    cloud.server.behavior.stats_offset = 0
    before = file_states(cloud.paths.folder)
    assert cloud.fetch().count_check == "equal"
    assert file_states(cloud.paths.folder) == before


def test_a_count_below_the_served_runs_is_reported(cloud):
    cloud.generate(50)
    cloud.server.behavior.stats_offset = -3
    assert (cloud.fetch().count_check, read_state(cloud.paths).count_check) == ("more", "more")


def test_a_deployment_without_counts_requires_no_count(cloud):
    cloud.generate(5)
    cloud.server.faults.add(Fault("status", match=on("POST", "/runs/stats"), status=404))
    with pytest.raises(SourceError, match="--no-count"):
        cloud.fetch()
    assert not cloud.paths.folder.exists()
    result = cloud.fetch(ask_count=False)
    assert (result.count_check, result.langsmith_count, result.runs) == ("not_asked", None, 5)


@pytest.mark.parametrize(("age", "proof"), [(13, "equal"), (14, "unproven"), (400, "unproven")])
def test_past_the_retention_nothing_is_proven(cloud, monkeypatch, age, proof):
    monkeypatch.setattr("lse_archive.fetch.completeness.today", lambda: DAY + timedelta(days=age))
    assert cloud.fetch(retention_days=14).count_check == proof  # 0 = 0
    cloud.put()
    assert cloud.fetch(retention_days=14).count_check == proof
    assert cloud.fetch(retention_days=14, ask_count=False).count_check == (
        "not_asked" if proof == "equal" else "unproven"
    )
    assert cloud.fetch(retention_days=None).count_check == "equal"


@pytest.mark.parametrize("ask_count", [True, False])
def test_an_empty_day_past_the_retention_is_not_archived(cloud, ask_count):
    """It would claim that somebody looked while LangSmith still had the day."""
    result = cloud.fetch(retention_days=14, ask_count=ask_count)
    assert (result.outcome, result.runs, result.count_check) == ("not_served", 0, "unproven")
    assert not cloud.paths.folder.exists()
    assert not cloud.paths.state.exists()
    assert cloud.fetch(retention_days=None).outcome == "created"  # without a limit, 0 = 0 is a proof
    assert cloud.fetch(retention_days=14).outcome == "unchanged"  # and what is here stays


def test_what_is_left_of_a_day_past_the_retention_is_archived(cloud):
    cloud.generate(3)
    result = cloud.fetch(retention_days=14)
    assert (result.outcome, result.runs, result.count_check) == ("created", 3, "unproven")


def test_an_earlier_count_check_is_kept_while_the_day_is_unchanged(cloud):
    cloud.generate(20)
    cloud.fetch()
    gone = list(cloud.served())[:15]
    cloud.store.delete(gone)
    assert cloud.fetch(retention_days=14).count_check == "equal"
    assert cloud.fetch(retention_days=14).count_check == "equal"
    cloud.put(START + 99)
    assert cloud.fetch(retention_days=14).count_check == "unproven"
    assert cloud.fetch(retention_days=14).count_check == "unproven"
