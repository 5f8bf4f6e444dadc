"""Days of which LangSmith does not serve every run as a run: what can be kept is published, the rest is named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from langsmith_fixtures import END, PROJECT, START, Cloud, file_states, local_cloud

from lse_archive.days import format_time
from lse_archive.errors import SourceError
from lse_archive.folder.state import read_state
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_operations.checks import check_count

pytestmark = pytest.mark.slow

APIS = ("v2", "v1")
RUNS = 30
PAGE = 8
_V2 = on("POST", "/api/v2/runs/query")
_MIDDLE = START + 43_000_000_000


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        cloud.generate(RUNS)
        cloud.settings = replace(cloud.settings, patience=0.02)
        yield cloud


def file_name(content: bytes) -> str:
    return f"_unreadable_{hashlib.sha256(content).hexdigest()}.bin"


def raw(number: int, rest: str, start: str = format_time(_MIDDLE)) -> tuple[str, bytes]:
    """The id and the document of a run; `rest` is raw JSON, such as `,"x":1`."""
    run_id = f"0190f0a0-0000-7000-8000-{number:012}"
    return run_id, f'{{"id":"{run_id}","start_time":"{start}"{rest}}}'.encode()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "end",
    ['"2026-01-02T23:59:60Z"', '"Invalid date"', '"+010000-01-01T00:00:00Z"', '"10000-01-01T00:00:00Z"', "17", "{}"],
)
def test_an_end_time_that_cannot_be_read_does_not_stop_the_day(cloud, api, end):
    cloud.use_api(api)
    run_id = cloud.put(_MIDDLE)
    document = raw(1, f',"end_time":{end},"status":"success"')[1].replace(raw(1, "")[0].encode(), run_id.encode())
    cloud.rewrite(run_id, document)
    result = cloud.fetch()
    assert (result.count_check, result.runs, result.pending, result.incomplete) == ("equal", RUNS + 1, 0, [])
    assert cloud.published()[run_id] == document


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "document",
    [
        raw(1, "", start="Invalid date")[1],
        raw(1, ',"trace_id":"none"')[1],
        raw(1, r',"name":"\x"')[1],
        b'{"id":7}',
        b'{"id":"\xff"}',
        b'"a text"',
        b"null",
    ],
    ids=["start", "trace", "escape", "id", "bytes", "text", "null"],
)
def test_a_run_that_cannot_be_read_is_kept_as_it_came(cloud, api, document):
    cloud.use_api(api)
    run_id = cloud.put(_MIDDLE)
    complete = cloud.served()
    del complete[run_id]
    cloud.rewrite(run_id, document)
    result = cloud.fetch(page_size=PAGE)
    assert (result.count_check, result.runs, result.langsmith_count) == ("fewer", RUNS, RUNS + 1)
    assert set(cloud.published()) == {*complete}
    assert cloud.unreadable() == {file_name(document): document}
    assert cloud.summary().incomplete == result.incomplete == [file_name(document)]
    assert cloud.summary().unfit_files == [file_name(document)]
    check = check_count(cloud.paths)
    assert (check.verdict, [row.item for row in check.differences]) == ("differs", [file_name(document)])
    before = file_states(cloud.paths.folder)
    assert cloud.fetch(page_size=PAGE).outcome == "unchanged"
    assert file_states(cloud.paths.folder) == before


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("status", [400, 413, 500, 502])
def test_runs_that_are_never_served_are_named_and_all_others_published(cloud, api, status):
    cloud.use_api(api)
    ids = sorted(cloud.served())
    broken = [ids[0], ids[7], ids[8], ids[-1]]
    cloud.server.behavior.broken_runs = dict.fromkeys(broken, status)
    result = cloud.fetch(page_size=PAGE)
    assert (result.outcome, result.count_check, result.incomplete) == ("created", "fewer", broken)
    assert set(cloud.published()) == {*ids} - {*broken}
    assert cloud.summary().incomplete == broken
    state = read_state(cloud.paths)
    assert (state.count_check, state.served_runs, state.langsmith_count) == ("fewer", RUNS - 4, RUNS)
    check = check_count(cloud.paths)
    assert (check.verdict, [row.item for row in check.differences]) == ("differs", broken)

    cloud.server.behavior.broken_runs = {}
    healed = cloud.fetch(page_size=PAGE)
    assert (healed.outcome, healed.count_check, healed.added, healed.incomplete) == ("updated", "equal", 4, [])
    assert set(cloud.published()) == {*ids}
    assert cloud.summary().incomplete == []
    assert check_count(cloud.paths).verdict == "agrees"


def test_a_run_that_is_never_served_alone_on_the_day_is_an_error_that_names_it(cloud):
    ids = list(cloud.served())
    cloud.store.delete(ids[1:])
    cloud.server.behavior.broken_runs = {ids[0]: 502}
    with pytest.raises(SourceError, match=rf"serves none of them: for example {ids[0]}: HTTP 502"):
        cloud.fetch(page_size=PAGE)
    assert not cloud.paths.folder.exists()


def test_a_deployment_that_lists_runs_and_serves_none_is_an_error(cloud):
    cloud.server.behavior.broken_runs = dict.fromkeys(cloud.served(), 502)
    with pytest.raises(SourceError, match="serves none of them"):
        cloud.fetch(page_size=PAGE)
    assert not cloud.paths.folder.exists()


def test_an_outage_after_the_first_pages_is_an_error_and_the_fetch_is_continued(cloud):
    def break_all() -> None:
        cloud.server.behavior.broken_runs = dict.fromkeys(cloud.served(), 502)

    cloud.server.faults.add(Fault("call", _V2, after=2, times=1, action=break_all))
    with pytest.raises(SourceError, match="HTTP 502"):
        cloud.fetch(page_size=PAGE)
    assert not cloud.paths.folder.exists()
    assert len(list((cloud.paths.staging / "runs").iterdir())) >= PAGE
    cloud.server.behavior.broken_runs = {}
    result = cloud.fetch(page_size=PAGE)
    assert (result.count_check, result.incomplete) == ("equal", [])
    assert cloud.published() == cloud.served()


def test_a_fetch_that_only_lacks_an_unserved_run_is_continued(cloud):
    """After an interrupt, the only window left holds no run that is served."""
    newest = max(cloud.served(), key=lambda run_id: cloud.store.run(run_id).start)
    cloud.server.behavior.broken_runs = {newest: 502}
    cloud.server.faults.add(Fault("status", on("POST", "/runs/stats"), status=500))
    with pytest.raises(SourceError, match="cannot count"):
        cloud.fetch(page_size=PAGE)
    cloud.server.faults.clear()
    assert cloud.fetch(page_size=PAGE).incomplete == [newest]
    assert len(cloud.published()) == RUNS - 1


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize(
    ("fault", "rest"),
    [
        (Fault("status", status=403), 1),
        (Fault("cut_before"), 1),
        (Fault("invalid_json", body=b"a text"), 2),
    ],
)
def test_a_run_whose_payload_is_refused_is_kept_without_it(cloud, fault, rest, times):
    cloud.use_api("v1")
    cloud.server.behavior.offload_bytes = 1500
    run_id = cloud.put(_MIDDLE, inputs={"text": "x" * 2000}, outputs={"text": "y" * 1600})
    cloud.server.faults.add(replace(fault, match=on("GET", f"/storage/{run_id}/inputs"), times=times))
    result = cloud.fetch(page_size=PAGE)
    if times:
        assert (result.count_check, result.incomplete, cloud.unreadable()) == ("equal", [], {})
        return
    assert (result.count_check, result.runs, result.incomplete) == ("fewer", RUNS, [run_id])
    kept = list(cloud.unreadable().values())
    assert len(kept) == rest
    assert not any(b"presigned_url" in content for content in kept)
    assert any(run_id.encode() in content and b"y" * 1600 in content for content in kept)
    assert rest == 1 or b"a text" in kept
    assert cloud.fetch(page_size=PAGE).outcome == "unchanged"

    cloud.server.faults.clear()
    healed = cloud.fetch(page_size=PAGE)
    assert (healed.count_check, healed.runs, healed.incomplete) == ("equal", RUNS + 1, [])
    assert len(cloud.unreadable()) == rest, "published files were removed"
    assert b"x" * 2000 in cloud.published()[run_id]


def test_an_incomplete_fetch_keeps_the_earlier_state_of_a_run(cloud):
    cloud.fetch()
    before = cloud.published()
    broken = min(before)
    cloud.server.behavior.broken_runs = {broken: 502}
    states = file_states(cloud.paths.folder)
    result = cloud.fetch(page_size=PAGE)
    assert (result.outcome, result.count_check, result.incomplete) == ("unchanged", "fewer", [])
    assert file_states(cloud.paths.folder) == states
    assert check_count(cloud.paths).verdict == "differs"
    result = cloud.fetch(page_size=PAGE, ask_count=False)
    assert (result.count_check, result.langsmith_count) == ("fewer", None)
    assert check_count(cloud.paths).verdict == "differs"
    cloud.server.behavior.broken_runs = {}
    assert cloud.fetch().count_check == "equal"
    assert cloud.published() == before


def test_a_shrinking_fetch_keeps_the_earlier_state_of_a_run_that_is_listed_and_not_served(cloud):
    cloud.fetch()
    before = cloud.published()
    broken, deleted, *_ = sorted(before)
    cloud.server.behavior.broken_runs = {broken: 502}
    cloud.store.delete([deleted])
    result = cloud.fetch(page_size=PAGE, allow_shrink=True)
    assert (result.runs, result.count_check, result.incomplete) == (RUNS - 1, "fewer", [])
    del before[deleted]
    assert cloud.published() == before


def test_a_run_stays_named_when_its_retention_ends(cloud, monkeypatch):
    broken = min(cloud.served())
    cloud.server.behavior.broken_runs = {broken: 502}
    cloud.fetch(page_size=PAGE)
    cloud.store.delete(list(cloud.served()))
    result = cloud.fetch(retention_days=14)
    assert (result.outcome, result.count_check, result.incomplete) == ("unchanged", "fewer", [broken])
    assert check_count(cloud.paths).verdict == "differs"


def test_a_run_stays_named_by_a_fetch_without_the_count_until_it_is_served(cloud):
    ids = sorted(cloud.served())
    broken = ids[:2]
    cloud.server.behavior.broken_runs = dict.fromkeys(broken, 502)
    cloud.fetch(page_size=PAGE)
    hidden = cloud.store.run(broken[0])
    cloud.store.delete([broken[0]])
    cloud.server.behavior.broken_runs = {}
    result = cloud.fetch(page_size=PAGE, ask_count=False)
    assert (result.runs, result.count_check, result.incomplete) == (RUNS - 1, "fewer", [broken[0]])
    assert cloud.summary().incomplete == [broken[0]]
    assert check_count(cloud.paths).verdict == "differs"

    cloud.store.put_raw(PROJECT, hidden.v2)
    result = cloud.fetch(page_size=PAGE, ask_count=False)
    assert (result.runs, result.count_check, result.incomplete) == (RUNS, "not_asked", [])


def test_a_run_that_langsmith_deleted_is_no_longer_named(cloud):
    broken = min(cloud.served())
    cloud.server.behavior.broken_runs = {broken: 502}
    cloud.fetch(page_size=PAGE)
    zip_day(cloud.paths)
    cloud.store.delete([broken])
    result = cloud.fetch(page_size=PAGE)
    assert (result.outcome, result.count_check, result.incomplete) == ("updated", "equal", [])
    assert zip_day(cloud.paths).written


def test_a_listed_run_without_an_id_does_not_stop_the_repair(cloud):
    run_id = cloud.put(END - 1)
    cloud.rewrite(run_id, b'{"id":7}')
    cloud.server.behavior.stats_offset = 1
    result = cloud.fetch(page_size=PAGE)
    assert (result.count_check, result.runs, len(result.incomplete)) == ("fewer", RUNS, 1)
