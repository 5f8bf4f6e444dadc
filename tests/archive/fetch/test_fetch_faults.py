"""Fetches with faults of LangSmith: the day is published complete, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest
from langsmith_fixtures import END, PROJECT, START, Cloud, local_cloud

from lse_archive.days import Window
from lse_archive.errors import ArchiveError, SourceError
from lse_demo.faults import Fault, Faults, Matchable, on
from lse_demo.langsmith.gate import RateLimit

pytestmark = pytest.mark.slow

RUNS = 250
PAGE = 25
_V2 = on("POST", "/api/v2/runs/query")
_V1 = on("POST", "/runs/query")


def has_cursor(request: Matchable) -> bool:
    return b'"cursor"' in request.body


def with_cursor(request: Matchable) -> bool:
    return _V1(request) and has_cursor(request)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        cloud.generate(RUNS)
        yield cloud


def put_crowded_microsecond(cloud: Cloud) -> None:
    """Adds more runs on one microsecond than fit on a page."""
    for _ in range(2 * PAGE + 3):
        cloud.put(START + 50_000_000_000)


def add_run_action(cloud: Cloud) -> Callable[[], object]:
    """Returns an action that adds a run to the day at changing times."""
    numbers = count(1)
    return lambda: cloud.put(START + (next(numbers) * 7_777_777_777) % (END - START))


# Each fault occurs at random, so that it also affects the retries.
MATRIX: dict[str, list[Fault]] = {
    "429 with seconds": [Fault("status", _V1, status=429, headers={"Retry-After": "0"}, rate=0.3)],
    "429 with a date": [
        Fault("status", _V1, status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, rate=0.3)
    ],
    "500": [Fault("status", _V1, status=500, rate=0.3)],
    "502": [Fault("status", _V1, status=502, rate=0.3)],
    "503": [Fault("status", _V1, status=503, headers={"Retry-After": "0"}, rate=0.3)],
    "504": [Fault("status", _V1, status=504, rate=0.3)],
    "408 and 409 and 425": [Fault("status", _V1, status=status, rate=0.1) for status in (408, 409, 425)],
    "413": [Fault("status", _V1, status=413, rate=0.3)],
    "cut before": [Fault("cut_before", _V1, rate=0.3)],
    "cut in the request": [Fault("cut_request", _V1, at=20, rate=0.3)],
    "answer lost": [Fault("lose_answer", _V1, rate=0.3, reset=False)],
    "body cut": [Fault("cut_body", _V1, rate=0.3)],
    "body ends early": [Fault("truncate", _V1, rate=0.3)],
    "body ends at once": [Fault("truncate", _V1, at=0, rate=0.2)],
    "not JSON": [Fault("invalid_json", _V1, rate=0.3)],
    "no list of runs": [Fault("invalid_json", _V1, body=b'{"detail":"soon"}', rate=0.3)],
    **{f"cursor lost {s}": [Fault("lost_cursor", with_cursor, status=s, rate=0.3)] for s in (400, 404, 410, 422)},
    "cursor lost always": [Fault("lost_cursor", with_cursor, status=400, after=1)],
    "page repeated": [Fault("repeat_page", with_cursor, rate=0.3)],
    "pages overlap": [Fault("overlap", _V1, at=7, rate=0.5)],
    "full page without cursor": [Fault("no_cursor", _V1, rate=0.3)],
}
ALL = [replace(fault, rate=fault.rate / 10) for faults in MATRIX.values() for fault in faults if fault.rate < 1]


@pytest.mark.parametrize(
    ("name", "api_version"),
    [
        *((name, "v2") for name in (*MATRIX, "all together")),
        *((name, "v1") for name in ("page repeated", "cursor lost 404", "all together")),
    ],
)
def test_the_published_day_equals_the_servers_day(cloud, name, api_version):
    if name != "cursor lost always":  # such a microsecond cannot be fetched without cursors
        put_crowded_microsecond(cloud)
    cloud.server.faults = Faults(*(MATRIX.get(name) or ALL), seed=7)
    cloud.use_api(api_version)
    result = cloud.fetch(page_size=PAGE)
    assert (result.count_check, result.api, result.runs) == ("equal", api_version, len(cloud.served()))
    assert set(cloud.published()) == set(cloud.served())
    if api_version == "v2":
        assert cloud.published() == cloud.served()
    assert cloud.server.faults.struck() > 0


def test_runs_that_arrive_during_the_fetch_are_published(cloud):
    cloud.server.faults.add(Fault("call", _V2, rate=0.7, times=6, action=add_run_action(cloud)))
    assert cloud.fetch(page_size=PAGE).count_check == "equal"
    assert cloud.published() == cloud.served()


def test_the_page_size_is_halved_for_large_answers(cloud):
    cloud.server.behavior.max_page_bytes = 20_000
    assert cloud.fetch(page_size=PAGE).count_check == "equal"
    assert cloud.published() == cloud.served()
    sizes = [entry.details["page_size"] for entry in cloud.queries() if entry.status == 200]
    assert min(sizes) <= PAGE // 4


def test_a_day_whose_runs_are_all_too_large_is_an_error(cloud):
    cloud.server.behavior.max_page_bytes = 2_000
    cloud.settings = replace(cloud.settings, patience=0.02)
    with pytest.raises(SourceError, match="HTTP 413"):
        cloud.fetch(page_size=PAGE)
    assert not cloud.paths.folder.exists()


def test_the_page_size_grows_again_after_errors(cloud):
    cloud.server.faults.add(Fault("status", _V2, status=502, times=3))
    cloud.fetch(page_size=PAGE)
    sizes = [entry.details["page_size"] for entry in cloud.queries() if entry.status == 200]
    assert PAGE in sizes[sizes.index(min(sizes)) :]


def test_a_request_without_an_answer_is_retried(cloud):
    cloud.settings = replace(cloud.settings, timeout=0.3)
    cloud.server.faults.add(Fault("slow", _V2, delay=60.0, times=2, after=3))
    assert cloud.fetch(page_size=PAGE).count_check == "equal"
    assert cloud.published() == cloud.served()


def test_the_cause_of_a_wait_is_reported_once(cloud, caplog):
    cloud.server.faults.add(Fault("status", _V2, status=500, times=30, body=b"lsv2_pt_demo is down"))
    cloud.settings = replace(cloud.settings, patience=7.0)
    assert cloud.fetch(page_size=PAGE).count_check == "equal"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["  waiting for LangSmith: HTTP 500 … is down; retrying for 7 s"]


# ---- permanent faults ------------------------------------------------------------------------------------------------

FATAL: dict[str, tuple[Fault, str]] = {
    "400": (Fault("status", status=400), "A retry does not help"),
    "401": (Fault("status", status=401), "LANGSMITH_API_KEY"),
    "403": (Fault("status", status=403), "LANGSMITH_API_KEY"),
    "404": (Fault("status", status=404), "project still exists"),
    "422": (Fault("status", status=422), "A retry does not help"),
    "429 for ever": (Fault("status", status=429), "another client may use the same key"),
    "429 for an hour": (
        Fault("status", status=429, headers={"Retry-After": "3600"}),
        "another client may use the same key",
    ),
    "429 until a date": (
        Fault("status", status=429, headers={"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}),
        "retry after 300 s",
    ),
    "500 for ever": (Fault("status", status=500), "LSE_PATIENCE"),
    "503 for ever": (Fault("status", status=503), "LSE_PATIENCE"),
    "cut for ever": (Fault("cut_before"), "LSE_PATIENCE"),
    "cut bodies for ever": (Fault("cut_body"), "LSE_PATIENCE"),
    "not JSON for ever": (Fault("invalid_json"), "LSE_PATIENCE"),
    "same page for ever": (Fault("repeat_page", has_cursor), "does not get past"),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_failed_fetch_publishes_nothing_and_is_continued(cloud, name):
    fault, message = FATAL[name]
    fault = replace(fault, match=_V2 if fault.match is not has_cursor else with_cursor, after=6)
    cloud.settings = replace(cloud.settings, patience=0.02)
    if name == "same page for ever":
        put_crowded_microsecond(cloud)
    cloud.server.faults.add(fault)
    with pytest.raises(SourceError, match=message) as failure:
        cloud.fetch(page_size=PAGE)
    assert "lsv2_pt_demo" not in str(failure.value)
    assert not cloud.paths.folder.exists()
    assert cloud.paths.staging.exists()
    missing = len(cloud.served()) - len(list((cloud.paths.staging / "runs").iterdir()))
    asked = len(cloud.queries())
    cloud.server.faults.clear()
    result = cloud.fetch(page_size=PAGE)
    assert (result.outcome, result.count_check) == ("created", "equal")
    assert cloud.published() == cloud.served()
    again = sum(entry.details["runs"] for entry in cloud.queries()[asked:])
    assert missing <= again <= missing + 4 * PAGE, "more was asked for again than what was missing"
    assert missing <= len(cloud.served()) - 3 * PAGE
    assert not cloud.paths.staging.exists()


def test_a_project_deleted_during_the_fetch_is_an_error(cloud):
    gone = Fault("call", _V2, after=5, times=1, action=lambda: cloud.store.rename_project(PROJECT, "away"))
    vanish = Fault("call", _V2, after=5, times=1, action=lambda: cloud.store.delete_project("away"))
    cloud.server.faults.add(gone).add(vanish)
    with pytest.raises(SourceError, match="Session not found"):
        cloud.fetch(page_size=PAGE)
    assert not cloud.paths.folder.exists()
    with pytest.raises(ArchiveError, match="has no project"):
        cloud.fetch()


def test_pages_are_kept_if_the_count_fails(cloud):
    cloud.settings = replace(cloud.settings, patience=0.02)
    cloud.server.faults.add(Fault("status", on("POST", "/runs/stats"), status=500))
    with pytest.raises(SourceError, match="cannot count"):
        cloud.fetch(page_size=PAGE)
    assert not cloud.paths.folder.exists()
    cloud.server.faults.clear()
    asked = len(cloud.queries())
    assert cloud.fetch(page_size=PAGE).count_check == "equal"
    assert len(cloud.queries()) == asked
    assert cloud.published() == cloud.served()


def test_the_announced_end_of_a_route_is_reported_once(cloud, caplog):
    empty = b'{"items":[],"next_cursor":null}'
    cloud.server.faults.add(Fault("invalid_json", _V2, body=empty, headers={"Sunset": "Sun, 31 Jan 2027 00:00:00 GMT"}))
    for _ in range(3):
        with cloud.source() as source:
            source.page(Window(START, END), None)
            source.page(Window(START, END), None)
    assert [record.levelname for record in caplog.records if "31 Jan 2027" in record.message] == ["WARNING"] * 3


def test_a_count_waits_for_its_rate_limit(cloud):
    cloud.server.behavior.stats_limit = RateLimit(1, 0.2)
    cloud.server.behavior.retry_after = None
    for _ in range(2):
        assert cloud.fetch(page_size=PAGE).count_check == "equal"
