"""A day fetched from a local LangSmith, in both dialects: every run of the day, byte for byte, and none besides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from langsmith_fixtures import DAY, END, PROJECT, START, Cloud, local_cloud, photograph, published

from lse_archive.days import format_time
from lse_archive.errors import AccessError, CorruptArchiveError, SettingsError, SourceError
from lse_archive.fetch import FetchOptions, fetch_day
from lse_archive.manifest import Summary, read_summary
from lse_archive.state import read_state
from lse_demo.faults import Fault, on
from lse_demo.langsmith_runs import V2_FIELDS
from lse_resources.langsmith import LangSmith

DIALECTS = ("v2", "v1")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with local_cloud(tmp_path) as cloud:
        yield cloud


def speak(cloud: Cloud, dialect: str) -> None:
    if dialect == "v1":
        cloud.server.behaviour.v2_status = 404
        cloud.server.behaviour.version = "0.15.3"
        cloud.server.behaviour.flags = {"ch_query_enabled": True}


def summary(cloud: Cloud) -> Summary:
    found = read_summary(cloud.paths.folder)
    assert found is not None
    return found


# ---- the whole day ---------------------------------------------------------------------------------------------------


def test_v2_runs_are_kept_byte_for_byte(cloud):
    cloud.generate(500)
    result = cloud.fetch(page_size=100)
    assert cloud.published() == cloud.served()
    assert (result.outcome, result.runs, result.added, result.proof, result.api) == ("created", 500, 500, "equal", "v2")
    assert result.langsmith_count == summary(cloud).langsmith_count == 500
    assert summary(cloud).api == "v2"
    assert summary(cloud).runs == 500
    assert not cloud.paths.staging.exists()


def test_v1_runs_are_kept_as_they_were_sent(cloud):
    speak(cloud, "v1")
    cloud.generate(250)
    run_id = cloud.put(START + 5)
    raw = b'{ "id": "%s", "start_time":"2026-01-02T00:00:00.000005", "inputs": {"a":[1.50]} }' % run_id.encode()
    cloud.rewrite(run_id, raw)
    result = cloud.fetch()
    files = cloud.published()
    assert files[run_id] == raw
    assert set(files) == set(cloud.served())
    assert (result.api, summary(cloud).api, result.proof) == ("v1", "v1", "equal")
    assert all(
        json.loads(files[found])["inputs"] == json.loads(sent)["inputs"]
        for found, sent in cloud.served().items()
        if found != run_id
    )
    assert all(entry.facts["end_time"] is None for entry in cloud.queries())
    assert len(cloud.queries()) == 3


def test_no_secret_link_is_asked_for(cloud):
    cloud.put()
    cloud.fetch()
    asked = {name for entry in cloud.queries() for name in entry.facts["selects"]}
    assert asked >= set(V2_FIELDS)
    assert not asked & {"share_url", "attachments"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("inclusive", [False, True])
def test_a_day_ends_with_its_last_microsecond(cloud, dialect, inclusive):
    speak(cloud, dialect)
    cloud.server.behaviour.max_start_inclusive = inclusive
    ours = {cloud.put(START), cloud.put(START + 1), cloud.put(END - 1), cloud.put(START + 43_200_000_000)}
    theirs = {cloud.put(START - 1), cloud.put(END)}
    cloud.put(START, project="other")
    assert cloud.fetch().runs == 4
    assert set(cloud.published()) == ours
    for day in (DAY - timedelta(days=1), DAY + timedelta(days=1)):
        assert cloud.fetch(day=day).runs == 1
        theirs -= set(published(replace(cloud.paths, day=day)))
    assert not theirs


@pytest.mark.parametrize("runs", [30, 31, 40])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_many_runs_on_one_microsecond(cloud, dialect, runs):
    speak(cloud, dialect)
    moment = START + 1_000_000
    ids = {cloud.put(moment) for _ in range(runs)} | {cloud.put(moment - 1), cloud.put(moment + 1)}
    assert cloud.fetch(page_size=10).proof == "equal"
    assert set(cloud.published()) == ids


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_day_without_runs_is_a_day(cloud, dialect):
    speak(cloud, dialect)
    result = cloud.fetch()
    assert (result.outcome, result.runs, result.proof) == ("created", 0, "equal")
    assert cloud.fetch().outcome == "unchanged"


def test_runs_of_every_kind(cloud):
    root = cloud.put(START + 1, is_root=True, end_time=format_time(END + 5), status="ERROR", error="boom")
    cloud.put(START + 2, trace_id=root, parent_run_ids=[root], status="PENDING")
    early = "0190f0a0-0000-7000-8000-00000000000a"
    dotted = f"20260101T235959000000Z{early}"
    child = cloud.put(START + 3, trace_id=early, parent_run_ids=[early], dotted_order=dotted, end_time=format_time(END))
    big = cloud.put(START + 4, outputs={"text": "ü" * 2_500_000})
    result = cloud.fetch()
    assert (result.runs, result.traces, result.pending) == (4, 3, 2)
    assert len(cloud.published()[big]) > 5_000_000
    found = summary(cloud)
    assert (found.errors, found.continued_from_previous_day) == (1, [early])
    assert found.continued_into_next_day == sorted([root, early])
    assert child in cloud.published()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "odd",
    [
        rb'"\u0000"',
        rb'"\ud800 lone"',
        b"NaN",
        b"1e999",
        b"123456789012345678901234567890",
        b"0.1000000000000000000001",
        b'"\xff\xfe"',
        b"[" * 1500 + b"]" * 1500,
        b'{"a":1,"a":2}',
        '"../../🎉/\\" quotes"'.encode(),
    ],
)
def test_odd_json_costs_neither_itself_nor_its_page(cloud, dialect, odd):
    speak(cloud, dialect)
    run_id = cloud.put(START + 7)
    spoiled = b'{"id":"%s", "start_time": "%s" ,"name":"../x","inputs":%s}'
    spoiled %= (run_id.encode(), format_time(START + 7).encode(), odd)
    cloud.rewrite(run_id, spoiled)
    others = {cloud.put(START + number) for number in range(5)}
    assert cloud.fetch().proof == "equal"
    assert cloud.published()[run_id] == spoiled
    assert set(cloud.published()) == others | {run_id}


@pytest.mark.parametrize("name", ["a/b", "..", 'say "hi"', "été 🎉", "x" * 300, "per%2Fcent", " spaces "])
def test_any_project_name(cloud, name):
    run_id = cloud.put(project=name)
    client = LangSmith(cloud.settings)
    paths = replace(cloud.paths, project=name)
    source = client.source(name)
    assert fetch_day(paths, source, FetchOptions(retention_days=None)).runs == 1
    assert set(published(paths)) == {run_id}
    assert paths.folder.resolve().is_relative_to(cloud.paths.data_dir.resolve())
    source.close()
    client.close()


def test_runs_that_belong_elsewhere_are_named_and_put_aside(cloud):
    ours = cloud.put(START + 1)
    lost = cloud.put(START + 2, project_id="0190f0a0-0000-7000-8000-00000000000b")
    other_day = cloud.put(START + 3)
    cloud.rewrite(other_day, b'{"id":"%s","start_time":"2026-01-03T00:00:00Z"}' % other_day.encode())
    result = cloud.fetch()
    assert set(cloud.published()) == {ours}
    assert result.put_aside == sorted([lost, other_day])
    assert result.proof == "fewer"


# ---- dialects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_deployment_that_claims_v2_and_does_not_have_it(cloud, status):
    cloud.server.behaviour.v2_status = status
    cloud.generate(20)
    assert cloud.fetch().api == "v1"
    assert set(cloud.published()) == set(cloud.served())


def test_a_deployment_that_claims_to_be_old_and_has_lost_v1(cloud):
    cloud.server.behaviour.version, cloud.server.behaviour.flags = "0.15.0", {}
    cloud.server.behaviour.v1_status = 404
    cloud.generate(20)
    assert cloud.fetch().api == "v2"
    assert cloud.published() == cloud.served()


def test_the_endpoint_may_be_given_with_its_version(cloud):
    cloud.generate(20)
    for suffix in ("/api/v1", "/api/v1/", "/"):
        cloud.settings = replace(cloud.settings, endpoint=cloud.server.url + suffix)
        assert cloud.fetch().runs == 20


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("suffix", ["", "/api/v1"])
def test_offloaded_payloads_are_put_in_their_place_without_the_key(cloud, relative, suffix):
    speak(cloud, "v1")
    behaviour = cloud.server.behaviour
    behaviour.offload_bytes, behaviour.relative_links = 1000, relative
    cloud.settings = replace(cloud.settings, endpoint=cloud.server.url + suffix)
    large = cloud.put(START + 1, inputs={"q": "x" * 2000}, outputs={"odd": [1.50, "ü"] * 300})
    small = cloud.put(START + 2, inputs={"q": 1})
    assert cloud.fetch().proof == "equal"
    files = {run_id: json.loads(content) for run_id, content in cloud.published().items()}
    assert files[large]["inputs"] == {"q": "x" * 2000}
    assert files[large]["outputs"] == {"odd": [1.50, "ü"] * 300}
    assert files[small]["inputs"] == {"q": 1}
    assert not any(b"presigned_url" in content for content in cloud.published().values())
    before = photograph(cloud.paths.folder)
    assert cloud.fetch().unchanged == 2
    assert photograph(cloud.paths.folder) == before


def test_an_expired_link_is_asked_for_again(cloud):
    speak(cloud, "v1")
    behaviour = cloud.server.behaviour
    behaviour.offload_bytes, behaviour.link_seconds = 1000, -10.0
    cloud.put(inputs={"q": "x" * 2000})
    cloud.settings = replace(cloud.settings, patience=0.0)
    with pytest.raises(SourceError, match="offloaded payload") as failure:
        cloud.fetch()
    assert "signature" not in str(failure.value)
    assert not cloud.paths.folder.exists()
    behaviour.link_seconds = 300.0
    assert cloud.fetch().runs == 1


# ---- what is there stays: the laws -----------------------------------------------------------------------------------


def test_nothing_new_writes_nothing(cloud):
    cloud.generate(50)
    cloud.fetch()
    before = photograph(cloud.paths.folder)
    result = cloud.fetch(page_size=7)
    assert (result.outcome, result.unchanged, result.added) == ("unchanged", 50, 0)
    assert photograph(cloud.paths.folder) == before
    assert read_state(cloud.paths).looked_at is not None


def spoil_fewer(cloud: Cloud) -> None:
    cloud.store.delete(list(cloud.served())[:20])


def spoil_none(cloud: Cloud) -> None:
    cloud.store.delete(cloud.served())


def spoil_key(cloud: Cloud) -> None:
    cloud.server.behaviour.api_keys = frozenset({"another"})


def spoil_name(cloud: Cloud) -> None:
    cloud.store.rename_project(PROJECT, "renamed")


def spoil_project(cloud: Cloud) -> None:
    cloud.store.delete_project(PROJECT)


@pytest.mark.parametrize("spoil", [spoil_fewer, spoil_none, spoil_key, spoil_name, spoil_project])
def test_what_langsmith_loses_is_not_lost_here(cloud, spoil):
    cloud.generate(50)
    cloud.fetch()
    before = photograph(cloud.paths.folder)
    spoil(cloud)
    if spoil in (spoil_fewer, spoil_none):
        result = cloud.fetch()
        assert (result.outcome, result.runs, result.no_longer_served) == ("unchanged", 50, 50 - len(cloud.served()))
        assert len(read_state(cloud.paths).no_longer_served) == result.no_longer_served
    else:
        with pytest.raises(AccessError):
            cloud.fetch()
    assert photograph(cloud.paths.folder) == before


def test_the_union_is_published(cloud):
    cloud.generate(30)
    cloud.fetch()
    first = cloud.served()
    gone, changed = sorted(first)[:2]
    cloud.store.delete([gone])
    cloud.store.change(changed, total_tokens=999_999)
    added = cloud.put(START + 77)
    result = cloud.fetch(page_size=7)
    assert (result.outcome, result.runs) == ("updated", 31)
    assert (result.added, result.changed, result.unchanged, result.no_longer_served) == (1, 1, 28, 1)
    assert cloud.published() == first | cloud.served()
    assert added in cloud.published()
    assert read_state(cloud.paths).no_longer_served == [gone]
    # It comes back: nothing changes but the mark.
    before = photograph(cloud.paths.folder)
    cloud.store.put_raw(PROJECT, first[gone])
    assert cloud.fetch().no_longer_served == 0
    assert photograph(cloud.paths.folder) == before


def test_runs_are_given_up_only_when_told_to(cloud):
    cloud.generate(30)
    cloud.fetch()
    cloud.store.delete(list(cloud.served())[:10])
    assert cloud.fetch().runs == 30
    result = cloud.fetch(allow_shrink=True)
    assert (result.outcome, result.runs, result.no_longer_served) == ("updated", 20, 0)
    assert cloud.published() == cloud.served()


def test_another_order_of_keys_or_signed_links_are_no_change(cloud):
    run_id = cloud.put(START + 1, inputs={"a": 1.0, "b": [1]}, share_url="https://x/1")
    cloud.fetch()
    before = photograph(cloud.paths.folder)
    for same in (b'{"share_url":"https://x/2","inputs":{"b":[1],"a":1.0},', b'{"inputs": {"a":1.0, "b":[1]},'):
        rest = b'"run_type":"CHAIN","status":"SUCCESS","start_time":"%s","id":"%s"}'
        cloud.store.put_raw(PROJECT, same + rest % (format_time(START + 1).encode(), run_id.encode()))
        assert cloud.fetch().unchanged == 1
    assert photograph(cloud.paths.folder) == before
    other = b'{"inputs":{"b":[1],"a":1.00},' + rest % (format_time(START + 1).encode(), run_id.encode())
    cloud.store.put_raw(PROJECT, other)
    assert cloud.fetch().changed == 1


def test_folders_of_older_tools_are_taken_over(cloud):
    runs = {cloud.put(START + number): START + number for number in range(4)}
    same, wrapped, changed, fresh = runs
    served = cloud.served()
    folder = cloud.paths.folder
    folder.mkdir(parents=True)
    (folder / "direct.json").write_bytes(served[same])
    (folder / "wrapped.json").write_bytes(b'{"trace": ' + served[wrapped] + b', "exported": true}')
    (folder / "changed.json").write_bytes(served[changed].replace(b"SUCCESS", b"PENDING"))
    (folder / "old.json").write_bytes(b'{"id":"%s","start_time":"2026-01-02T05:00:00Z"}' % (b"0" * 31 + b"1"))
    (folder / "broken.json").write_bytes(b"{")
    (folder / "notes.txt").write_bytes(b"by hand")
    result = cloud.fetch()
    assert (result.added, result.changed, result.unchanged, result.no_longer_served) == (1, 1, 2, 1)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"direct.json", "wrapped.json", "old.json", "broken.json", "notes.txt"}
    assert "changed.json" not in names
    assert summary(cloud).unfit_files == ["broken.json", "notes.txt"]
    assert any(name.startswith(fresh) for name in names)
    before = photograph(folder)
    assert cloud.fetch().outcome == "unchanged"
    assert photograph(folder) == before


def damage_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"SUCCESS", b"PENDING"))


def damage_id(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"id":"0', b'"id":"1'))


def damage_json(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("damage", [damage_text, damage_id, damage_json, Path.unlink])
def test_a_damaged_file_is_repaired_while_langsmith_serves_its_run(cloud, damage):
    for number in range(4):
        cloud.put(START + number, name="x" * 50)
    cloud.fetch()
    before = cloud.published()
    damage(next(cloud.paths.folder.glob("0*.json")))
    assert cloud.fetch().outcome == "updated"
    assert cloud.published() == before


@pytest.mark.parametrize("damage", [damage_text, damage_id, damage_json, Path.unlink])
def test_a_damaged_file_whose_run_is_gone_stops_the_fetch(cloud, damage):
    for number in range(4):
        cloud.put(START + number, name="x" * 50)
    cloud.fetch()
    victim = next(cloud.paths.folder.glob("0*.json"))
    cloud.store.delete([victim.name.partition("_")[0]])
    damage(victim)
    before = photograph(cloud.paths.folder)
    with pytest.raises(CorruptArchiveError, match="damaged or gone"):
        cloud.fetch()
    assert photograph(cloud.paths.folder) == before
    assert cloud.fetch(allow_shrink=True).runs == 3


def test_a_damaged_summary_is_made_anew(cloud):
    cloud.generate(5)
    cloud.fetch()
    (cloud.paths.folder / "_summary.json").write_bytes(b"{")
    assert cloud.fetch().outcome == "updated"
    assert cloud.published() == cloud.served()


# ---- proof -----------------------------------------------------------------------------------------------------------


def count_requests(cloud: Cloud) -> int:
    return sum(entry.path.endswith("/runs/stats") for entry in cloud.server.requests)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_runs_that_arrive_late_are_found_by_the_repair_pass(cloud, dialect):
    speak(cloud, dialect)
    cloud.generate(50)
    late: list[str] = []
    arrive = Fault("call", match=on("POST", "/runs/stats"), times=1, action=lambda: late.append(cloud.put(END - 1)))
    cloud.server.faults.add(arrive)
    result = cloud.fetch(page_size=10)
    assert (result.proof, result.runs, result.langsmith_count) == ("equal", 51, 51)
    assert set(cloud.published()) == set(cloud.served())
    assert late[0] in cloud.published()
    assert count_requests(cloud) == 1
    fetched_again = [entry for entry in cloud.queries()[-2:] if "inputs" in entry.facts["selects"]]
    assert [entry.facts["runs"] for entry in fetched_again] == [1]


def test_a_day_that_stays_short_is_published_and_says_so(cloud):
    cloud.generate(50)
    cloud.server.behaviour.stats_offset = 2
    result = cloud.fetch()
    assert (result.proof, result.runs, result.langsmith_count) == ("fewer", 50, 52)
    assert cloud.published() == cloud.served()
    state = read_state(cloud.paths)
    assert (state.proof, state.served_runs, state.langsmith_count) == ("fewer", 50, 52)
    cloud.server.behaviour.stats_offset = 0
    before = photograph(cloud.paths.folder)
    assert cloud.fetch().proof == "equal"
    assert photograph(cloud.paths.folder) == before


def test_a_count_below_ours_is_told(cloud):
    cloud.generate(50)
    cloud.server.behaviour.stats_offset = -3
    assert (cloud.fetch().proof, read_state(cloud.paths).proof) == ("more", "more")


def test_a_deployment_that_cannot_count(cloud):
    cloud.generate(5)
    cloud.server.faults.add(Fault("status", match=on("POST", "/runs/stats"), status=404))
    with pytest.raises(SourceError, match="--no-count"):
        cloud.fetch()
    assert not cloud.paths.folder.exists()
    result = cloud.fetch(ask_count=False)
    assert (result.proof, result.langsmith_count, result.runs) == ("not_asked", None, 5)


@pytest.mark.parametrize(("age", "proof"), [(13, "equal"), (14, "unproven"), (400, "unproven")])
def test_past_the_retention_nothing_is_proven(cloud, monkeypatch, age, proof):
    monkeypatch.setattr("lse_archive.fetch.today", lambda: DAY + timedelta(days=age))
    assert cloud.fetch(retention_days=14).proof == proof  # 0 = 0
    cloud.put()
    assert cloud.fetch(retention_days=14).proof == proof
    assert cloud.fetch(retention_days=14, ask_count=False).proof == ("not_asked" if proof == "equal" else "unproven")
    assert cloud.fetch(retention_days=None).proof == "equal"


def test_an_earlier_proof_is_kept_while_the_day_is_unchanged(cloud):
    cloud.generate(20)
    cloud.fetch()
    gone = list(cloud.served())[:15]
    cloud.store.delete(gone)
    assert cloud.fetch(retention_days=14).proof == "equal"
    assert cloud.fetch(retention_days=14).proof == "equal"
    cloud.put(START + 99)
    assert cloud.fetch(retention_days=14).proof == "unproven"
    assert cloud.fetch(retention_days=14).proof == "unproven"


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_explained_at_once_and_never_shown(cloud):
    cloud.settings = replace(cloud.settings, api_key="lsv2_secret", patience=300.0)
    with pytest.raises(AccessError, match="LANGSMITH_API_KEY") as failure:
        cloud.fetch()
    assert "lsv2_secret" not in f"{failure.value} {failure.value!r} {cloud.settings!r}"


def test_a_server_that_repeats_the_key_does_not_betray_it(cloud):
    cloud.server.faults.add(Fault("status", status=400, body=b'{"detail":"bad key lsv2_pt_demo"}'))
    with pytest.raises(SourceError) as failure:
        cloud.fetch()
    assert "lsv2_pt_demo" not in str(failure.value)
    assert "bad key" in str(failure.value)


@pytest.mark.parametrize("key", ["", "with space", "line\n", "ümlaut"])
def test_a_key_that_cannot_be_one_is_refused(cloud, key):
    with pytest.raises(SettingsError, match="LANGSMITH_API_KEY") as failure:
        LangSmith(replace(cloud.settings, api_key=key))
    assert not key or key not in str(failure.value)


def test_a_key_of_an_organisation_needs_a_workspace(cloud):
    cloud.server.behaviour.org_scoped = True
    cloud.put()
    with pytest.raises(AccessError, match="LANGSMITH_WORKSPACE_ID"):
        cloud.fetch()
    cloud.settings = replace(cloud.settings, workspace_id=cloud.store.tenant_id)
    assert cloud.fetch().runs == 1


def test_an_unknown_project_is_named(cloud):
    client = LangSmith(cloud.settings)
    with pytest.raises(AccessError, match="has no project 'nothing'"):
        client.source("nothing")
    cloud.store.add_project("experiment", reference_dataset_id="0190f0a0-0000-7000-8000-000000000000")
    for number in range(120):
        cloud.store.add_project(f"p{number}")
    assert {project.name for project in client.projects()} == {PROJECT, *(f"p{number}" for number in range(120))}
    client.close()


def test_a_server_that_is_not_there(cloud):
    with httpx.Client() as http:
        assert http.get(f"{cloud.server.url}/info").status_code == 200
    cloud.settings = replace(cloud.settings, endpoint="http://127.0.0.1:1", patience=0.0)
    with pytest.raises(SourceError, match="Connect"):
        cloud.fetch()
