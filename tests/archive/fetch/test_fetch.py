"""Fetch from a local LangSmith with both API versions: exactly the runs of the day, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from day_fixtures import refuse_directories
from langsmith_fixtures import DAY, END, PROJECT, START, Cloud, file_states, local_cloud, published

from lse_archive.days import format_time
from lse_archive.errors import AccessError, ArchiveError, SettingsError, SourceError
from lse_archive.fetch.day import FetchOptions, fetch_day
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.state import read_state
from lse_demo.faults import Fault
from lse_demo.langsmith.runs import V2_FIELDS
from lse_resources.langsmith.client import LangSmith

DIALECTS = ("v2", "v1")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


# ---- the whole day ---------------------------------------------------------------------------------------------------


def test_v2_runs_are_kept_byte_for_byte(cloud):
    cloud.generate(500)
    result = cloud.fetch(page_size=100)
    assert cloud.published() == cloud.served()
    assert (result.outcome, result.runs, result.added, result.count_check, result.api) == (
        "created",
        500,
        500,
        "equal",
        "v2",
    )
    assert result.langsmith_count == cloud.summary().langsmith_count == 500
    assert cloud.summary().api == "v2"
    assert cloud.summary().runs == 500
    assert not cloud.paths.staging.exists()


def test_v1_runs_are_kept_as_they_were_sent(cloud):
    cloud.use_api("v1")
    cloud.generate(250)
    run_id = cloud.put(START + 5)
    raw = b'{ "id": "%s", "start_time":"2026-01-02T00:00:00.000005", "inputs": {"a":[1.50]} }' % run_id.encode()
    cloud.rewrite(run_id, raw)
    result = cloud.fetch()
    files = cloud.published()
    assert files[run_id] == raw
    assert set(files) == set(cloud.served())
    assert (result.api, cloud.summary().api, result.count_check) == ("v1", "v1", "equal")
    assert all(
        json.loads(files[found])["inputs"] == json.loads(sent)["inputs"]
        for found, sent in cloud.served().items()
        if found != run_id
    )
    assert all(entry.details["end_time"] is None for entry in cloud.queries())
    assert len(cloud.queries()) == 3


def test_the_secret_link_of_a_shared_run_is_not_requested(cloud):
    cloud.put()
    cloud.fetch()
    asked = {name for entry in cloud.queries() for name in entry.details["selects"]}
    assert asked >= set(V2_FIELDS)
    assert "share_url" not in asked


@pytest.mark.parametrize("api_version", DIALECTS)
@pytest.mark.parametrize("inclusive", [False, True])
def test_a_day_ends_with_its_last_microsecond(cloud, api_version, inclusive):
    cloud.use_api(api_version)
    cloud.server.behavior.max_start_inclusive = inclusive
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
@pytest.mark.parametrize("api_version", DIALECTS)
def test_many_runs_on_one_microsecond(cloud, api_version, runs):
    cloud.use_api(api_version)
    moment = START + 1_000_000
    ids = {cloud.put(moment) for _ in range(runs)} | {cloud.put(moment - 1), cloud.put(moment + 1)}
    assert cloud.fetch(page_size=10).count_check == "equal"
    assert set(cloud.published()) == ids


@pytest.mark.parametrize("api_version", DIALECTS)
def test_a_day_without_runs_is_published(cloud, api_version):
    cloud.use_api(api_version)
    result = cloud.fetch()
    assert (result.outcome, result.runs, result.count_check) == ("created", 0, "equal")
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
    found = cloud.summary()
    assert (found.errors, found.continued_from_previous_day) == (1, [early])
    assert found.continued_into_next_day == sorted([root, early])
    assert child in cloud.published()


@pytest.mark.parametrize("api_version", DIALECTS)
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
def test_unusual_json_is_kept_with_its_page(cloud, api_version, odd):
    cloud.use_api(api_version)
    run_id = cloud.put(START + 7)
    spoiled = b'{"id":"%s", "start_time": "%s" ,"name":"../x","inputs":%s}'
    spoiled %= (run_id.encode(), format_time(START + 7).encode(), odd)
    cloud.rewrite(run_id, spoiled)
    others = {cloud.put(START + number) for number in range(5)}
    assert cloud.fetch().count_check == "equal"
    assert cloud.published()[run_id] == spoiled
    assert set(cloud.published()) == others | {run_id}


@pytest.mark.parametrize("name", ["a/b", "..", 'say "hi"', "été 🎉", "x" * 300, "per%2Fcent", " spaces "])
def test_a_project_of_any_name_is_fetched(cloud, name):
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
    assert result.misfiled == sorted([lost, other_day])
    assert result.count_check == "fewer"


# ---- dialects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405, 501])
def test_v1_is_used_if_announced_v2_is_missing(cloud, status):
    cloud.server.behavior.v2_status = status
    cloud.generate(20)
    assert cloud.fetch().api == "v1"
    assert set(cloud.published()) == set(cloud.served())


def test_v2_is_used_if_v1_was_removed(cloud):
    cloud.server.behavior.version, cloud.server.behavior.flags = "0.15.0", {}
    cloud.server.behavior.v1_status = 404
    cloud.generate(20)
    assert cloud.fetch().api == "v2"
    assert cloud.published() == cloud.served()


def test_the_endpoint_may_include_its_version(cloud):
    cloud.generate(20)
    for suffix in ("/api/v1", "/api/v1/", "/"):
        cloud.settings = replace(cloud.settings, endpoint=cloud.server.url + suffix)
        assert cloud.fetch().runs == 20


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("suffix", ["", "/api/v1"])
def test_offloaded_payloads_are_inserted_and_requested_without_the_key(cloud, relative, suffix):
    cloud.use_api("v1")
    behavior = cloud.server.behavior
    behavior.offload_bytes, behavior.relative_links = 1000, relative
    cloud.settings = replace(cloud.settings, endpoint=cloud.server.url + suffix)
    large = cloud.put(START + 1, inputs={"q": "x" * 2000}, outputs={"odd": [1.50, "ü"] * 300})
    small = cloud.put(START + 2, inputs={"q": 1})
    quoting = cloud.put(START + 3)
    raw = (
        b'{"id": "%s", "start_time": "2026-01-02T00:00:00.000003" ,"inputs":{"presigned_url":"x"}, "inputs_s3_urls":{}}'
    )
    cloud.rewrite(quoting, raw % quoting.encode())
    assert cloud.fetch().count_check == "equal"
    assert cloud.published()[quoting] == raw % quoting.encode()
    files = {run_id: json.loads(content) for run_id, content in cloud.published().items()}
    assert files[large]["inputs"] == {"q": "x" * 2000}
    assert files[large]["outputs"] == {"odd": [1.50, "ü"] * 300}
    assert files[small]["inputs"] == {"q": 1}
    assert not any(b"signature" in content for content in cloud.published().values())
    before = file_states(cloud.paths.folder)
    assert cloud.fetch().unchanged == 3
    assert file_states(cloud.paths.folder) == before


def test_an_expired_link_is_requested_again(cloud):
    cloud.use_api("v1")
    behavior = cloud.server.behavior
    behavior.offload_bytes, behavior.link_seconds = 1000, -10.0
    cloud.put(inputs={"q": "x" * 2000})
    cloud.settings = replace(cloud.settings, patience=0.0)
    with pytest.raises(SourceError, match="offloaded payload") as failure:
        cloud.fetch()
    assert "signature" not in str(failure.value)
    assert not cloud.paths.folder.exists()
    behavior.link_seconds = 300.0
    assert cloud.fetch().runs == 1


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_explained_at_once_and_never_shown(cloud):
    cloud.settings = replace(cloud.settings, api_key="lsv2_secret", patience=300.0)
    with pytest.raises(AccessError, match="LANGSMITH_API_KEY") as failure:
        cloud.fetch()
    assert "lsv2_secret" not in f"{failure.value} {failure.value!r} {cloud.settings!r}"


def test_a_key_in_an_answer_is_not_shown(cloud):
    cloud.server.faults.add(Fault("status", status=400, body=b'{"detail":"bad key lsv2_pt_demo"}'))
    with pytest.raises(SourceError) as failure:
        cloud.fetch()
    assert "lsv2_pt_demo" not in str(failure.value)
    assert "bad key" in str(failure.value)


@pytest.mark.parametrize("key", ["", "with space", "line\n", "ümlaut"])
def test_a_malformed_key_is_refused(cloud, key):
    with pytest.raises(SettingsError, match="LANGSMITH_API_KEY") as failure:
        LangSmith(replace(cloud.settings, api_key=key))
    assert not key or key not in str(failure.value)


def test_a_key_of_an_organization_requires_a_workspace(cloud):
    cloud.server.behavior.org_scoped = True
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
    assert [project.name for project in client.projects(experiments=True)] == ["experiment"]
    client.close()


def test_an_unreachable_server_is_a_clear_error(cloud):
    with httpx.Client() as http:
        assert http.get(f"{cloud.server.url}/info").status_code == 200
    cloud.settings = replace(cloud.settings, endpoint="http://127.0.0.1:1", patience=0.0)
    with pytest.raises(SourceError, match="Connect"):
        cloud.fetch()


# ---- the disk --------------------------------------------------------------------------------------------------------


def test_a_day_whose_folder_is_a_link_is_fetched_again_and_again(cloud, tmp_path):
    cloud.put()
    cloud.fetch()
    target = tmp_path / "2026"
    shutil.move(cloud.paths.folder, target)
    cloud.paths.folder.symlink_to(target)
    assert cloud.fetch().outcome == "unchanged"
    assert cloud.paths.folder.is_symlink()
    for runs in (2, 3):
        cloud.put()
        result = cloud.fetch()
        assert (result.outcome, result.runs, result.unchanged) == ("updated", runs, runs - 1)
    assert is_as_recorded(cloud.paths.folder)
    summary = read_summary(target)
    assert summary is not None
    assert summary.runs == 1


def test_a_disk_that_cannot_flush_directories_does_not_fail_a_fetch(cloud, monkeypatch, caplog):
    refuse_directories(monkeypatch)
    cloud.put()
    assert (cloud.fetch().outcome, cloud.fetch().outcome) == ("created", "unchanged")
    assert "cannot be flushed" in caplog.text


def test_a_full_disk_after_the_publication_says_that_the_day_is_published(cloud, monkeypatch):
    cloud.put()
    with monkeypatch.context() as patch:
        patch.setattr("lse_archive.folder.state.publish_file", lambda _: Path("/dev/full").open("wb"))  # noqa: SIM115
        with pytest.raises(ArchiveError, match=r"the state of .* cannot be written.*What was done before is done"):
            cloud.fetch()
    assert cloud.summary().runs == 1
    assert cloud.fetch().outcome == "unchanged"
    assert read_state(cloud.paths).count_check == "equal"
