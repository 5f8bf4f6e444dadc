"""The local LangSmith behaves like LangSmith: the real SDK works with it and accepts its answers."""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import httpx
import langsmith
import pytest
from langsmith import APIResponse, Client, Langsmith
from langsmith.schemas import Run as V1Run
from langsmith.schemas import TracerSessionResult
from langsmith.types.info_list_response import InfoListResponse
from langsmith.types.run import Run as V2Run
from langsmith.types.run_select_field import RunSelectField
from langsmith.types.tracer_session import TracerSession

from lse_demo.agent import fill
from lse_demo.langsmith.encoding import elements, split
from lse_demo.langsmith.runs import V2_FIELDS
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore

pytestmark = pytest.mark.slow

DAY = date(2026, 1, 2)
START, END = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
ALL = [name for name in get_args(RunSelectField) if name not in ("SHARE_URL", "ATTACHMENTS")]
KEY = {"X-API-Key": DEMO_KEY}


@pytest.fixture
def store() -> Iterator[LangSmithStore]:
    with LangSmithStore() as store:
        yield store


@pytest.fixture
def server(store: LangSmithStore) -> Iterator[LangSmithServer]:
    with LangSmithServer(store) as server:
        yield server
    assert server.violations == []


@pytest.fixture
def client(server: LangSmithServer) -> Iterator[Client]:
    client = Client(server.url, api_key=DEMO_KEY, auto_batch_tracing=False)
    yield client
    client.close()


@pytest.fixture
def sdk(server: LangSmithServer) -> Iterator[Langsmith]:
    with Langsmith(api_key=DEMO_KEY, base_url=server.url, max_retries=0, _strict_response_validation=True) as sdk:
        yield sdk


def query(server: LangSmithServer, project_id: str, **body: Any) -> httpx.Response:
    window = {"min_start_time": START.isoformat(), "max_start_time": END.isoformat()}
    body = {"project_ids": [project_id], **window, **body}
    return httpx.post(f"{server.url}/api/v2/runs/query", json=body, headers=KEY)


def query_v1(server: LangSmithServer, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/runs/query", json=body, headers=KEY)


def raw_run(run_id: str, start: str, tail: bytes = b"") -> bytes:
    return b'{"id":"%s","start_time":"%s"%s}' % (run_id.encode(), start.encode(), tail)


def ids_of(response: httpx.Response) -> list[str]:
    return [item["id"] for item in response.json()["items"]]


def list_runs(client: Client, **query: Any) -> list[V1Run]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return list(client.list_runs(**query))


def test_the_v2_pager_returns_every_run_once_and_strict_models_accept_it(store, sdk):
    store.generate("p", DAY, runs=2500, mean_bytes=2500, seed=1)
    pages = sdk.runs.query_v2(
        project_ids=[store.project("p").id], min_start_time=START, max_start_time=END, selects=ALL, page_size=1000
    )
    runs = list(pages)
    assert len(runs) == 2500
    assert {run.id for run in runs} == {run.id for run in store.runs("p")}
    order = [(run.start_time, run.id) for run in runs]
    assert order == sorted(order, reverse=True)
    assert set(runs[0].model_fields_set) == {name.lower() for name in ALL}


def test_v2_answers_the_stored_bytes(store, server):
    store.generate("p", DAY, runs=30)
    page = query(server, store.project("p").id, selects=ALL).content
    assert elements(split(page)["items"]) == [run.v2 for run in reversed(store.runs("p"))]


def test_runs_of_the_agent_have_only_fields_of_the_sdk_models(client, server, sdk, store):
    fill(client, "p", DAY, traces=8, seed=3)
    project = store.project("p").id
    answer = sdk.runs.with_raw_response.query_v2(
        project_ids=[project], min_start_time=START, max_start_time=END, selects=ALL, page_size=1000
    )
    assert isinstance(answer, APIResponse)
    runs = [split(item) for item in elements(split(answer.read())["items"])]
    assert all(set(run) <= set(V2Run.model_fields) for run in runs)
    kinds = {run["run_type"] for run in runs}
    assert {b'"LLM"', b'"CHAIN"', b'"TOOL"', b'"RETRIEVER"', b'"PROMPT"'} == kinds
    assert set(V2_FIELDS) == {name.lower() for name in ALL}
    model = next(run for run in runs if run["run_type"] == b'"LLM"')
    assert json.loads(model["total_tokens"]) > 0
    assert json.loads(model["total_cost"]) > 0
    assert json.loads(model["parent_run_ids"])[0] == json.loads(model["trace_id"])


def test_v1_pages_validate_and_agree_with_v2(client, server, store):
    store.generate("p", DAY, runs=250, mean_bytes=2500)
    runs = list_runs(client, project_name="p", start_time=START)
    assert [str(run.id) for run in runs] == [run.id for run in reversed(store.runs("p"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        one = client.read_run(runs[7].id)
    assert (one.name, one.start_time, one.inputs) == (runs[7].name, runs[7].start_time, runs[7].inputs)
    page = query_v1(
        server, session=[store.project("p").id], limit=3, select=["id", "start_time", "total_cost", "status"]
    )
    first = page.json()["runs"][0]
    assert set(first) == {"id", "start_time", "total_cost", "status"}
    assert not first["start_time"].endswith("Z")
    assert isinstance(first["total_cost"], str)
    assert first["status"] in ("success", "error")


def test_v1_needs_one_project_and_small_pages_and_its_end_time_filters_by_the_end_of_runs(client, server, store):
    store.put_raw("p", raw_run("a", "2026-01-02T10:00:00Z"))
    store.put_raw("p", raw_run("b", "2026-01-02T11:00:00Z", b',"end_time":"2026-01-02T11:00:01Z"'))
    project, other = store.project("p").id, store.project("other").id
    assert query_v1(server, limit=10).status_code == 400
    assert query_v1(server, session=[project], limit=101).status_code == 400
    assert query_v1(server, session=[other, project]).json() == {"runs": [], "cursors": {"next": None}}
    found = query_v1(server, session=[project], start_time=START.isoformat(), end_time=END.isoformat(), order="asc")
    assert [run["id"] for run in found.json()["runs"]] == ["b"]


@pytest.mark.parametrize("relative", [True, False])
def test_v1_offloads_large_payloads_to_links_that_reject_a_key(server, client, store, relative):
    fill(client, "p", DAY, traces=4, seed=1)
    server.behavior.offload_bytes, server.behavior.relative_links = 100_000, relative
    runs = query_v1(server, session=[store.project("p").id]).json()["runs"]
    [large] = [run for run in runs if run["outputs_s3_urls"]]
    assert large["outputs"] is None
    link = large["outputs_s3_urls"]["ROOT"]["presigned_url"]
    assert link.startswith("/") == relative
    link = server.url + link if relative else link
    stored = store.run(large["id"])
    assert stored
    assert httpx.get(link).content == split(stored.v2)["outputs"]
    assert httpx.get(link + "0").status_code == 403
    assert httpx.get(link, headers=KEY).status_code == 400
    assert server.violations.pop() == "an API key was sent to a presigned link"
    server.behavior.link_seconds = -1
    runs = query_v1(server, session=[store.project("p").id], id=[large["id"]]).json()["runs"]
    expired = runs[0]["outputs_s3_urls"]["ROOT"]["presigned_url"]
    assert httpx.get(server.url + expired if relative else expired).status_code == 403


def test_info_and_sessions_validate(client, sdk, server, store):
    store.add_project("experiment", reference_dataset_id="0190f0a0-0000-7000-8000-000000000000")
    store.generate("chat / été", DAY, runs=5)
    info = sdk.info.list()
    assert isinstance(info, InfoListResponse)
    assert info.instance_flags == {"ch_query_enabled": True, "sdb_query_enabled": True}
    assert set(info.model_fields_set) <= set(InfoListResponse.model_fields)
    assert client.info.version == server.behavior.version
    project = client.read_project(project_name="chat / été")
    assert isinstance(project, TracerSessionResult)
    assert project.run_count == 5
    with pytest.warns(DeprecationWarning, match="retrieve_v2"):
        assert sdk.sessions.retrieve(str(project.id)).name == "chat / été"
    raw = httpx.get(f"{server.url}/sessions", headers=KEY).json()
    assert all(set(session) <= set(TracerSession.model_fields) for session in raw)
    assert [p.name for p in client.list_projects(reference_free=True)] == ["chat / été"]
    assert {p.name for p in client.list_projects()} == {"chat / été", "experiment"}
    assert client.create_project("new").name == "new"
    with pytest.raises(langsmith.utils.LangSmithConflictError):
        client.create_project("new")
    store.rename_project("new", "renamed")
    store.delete_project("experiment")
    assert {p.name for p in client.list_projects()} == {"chat / été", "renamed"}
    with pytest.raises(langsmith.utils.LangSmithNotFoundError):
        client.read_project(project_name="experiment")


def test_stats_count_the_runs_that_the_query_finds(client, server, store):
    store.generate("p", DAY, runs=300)
    project = store.project("p").id
    text = f'and(gte(start_time, "{START.isoformat()}"), lt(start_time, "{END.isoformat()}"))'
    stats = [client.get_run_stats(project_ids=[project], filter=text, is_root=root) for root in (None, True, False)]
    counts = [answer["run_count"] for answer in stats]
    assert counts[0] == 300 == counts[1] + counts[2]
    assert len(ids_of(query(server, project, is_root=True, page_size=1000))) == counts[1]
    assert stats[0]["total_tokens"] == stats[0]["prompt_tokens"] + stats[0]["completion_tokens"]
    server.behavior.stats_offset = 2
    assert client.get_run_stats(project_ids=[project], filter=text)["run_count"] == 302


@pytest.mark.parametrize("batching", [False, True])
def test_the_sdk_can_send_runs_in_all_its_ways(server, store, batching):
    client = Client(server.url, api_key=DEMO_KEY, auto_batch_tracing=batching)
    made = fill(client, "p", DAY, traces=12, seed=5)
    client.close()
    runs = store.runs("p")
    assert len(runs) == made
    paths = {request.path for request in server.requests if request.method == "POST"}
    assert ("/runs/multipart" in paths) == batching
    members = [split(run.v2) for run in runs]
    assert sum(run["status"] == b'"PENDING"' for run in members) == 1
    assert all(run["end_time"] != b"null" for run in members if run["status"] != b'"PENDING"')
    assert any(b'\\ud83d"' in run["inputs"] for run in members)
    assert any(b"\\u0000" in run["outputs"] and b"1180591620717411303424" in run["outputs"] for run in members)


def test_a_batch_a_patch_before_its_post_and_attachments_arrive(server, store, client):
    run_id, start = "0190f0a0-0000-7000-8000-000000000001", "2026-01-02T10:00:00+00:00"
    dotted = f"20260102T100000000000Z{run_id}"
    identity = {"id": run_id, "trace_id": run_id, "dotted_order": dotted, "session_name": "p", "start_time": start}
    patch = {**identity, "outputs": {"b": 2}, "end_time": "2026-01-02T10:00:01Z"}
    post = {**identity, "name": "n", "run_type": "llm", "inputs": {"a": 1}, "outputs": {}}
    assert httpx.patch(f"{server.url}/runs/{run_id}", json=patch, headers=KEY).status_code == 202
    assert httpx.post(f"{server.url}/runs/batch", json={"post": [post]}, headers=KEY).status_code == 202
    assert httpx.post(f"{server.url}/runs", json=post, headers=KEY).status_code == 409
    assert httpx.post(f"{server.url}/runs", content=b"{", headers=KEY).status_code == 422
    run = store.run(run_id)
    assert run
    members = split(run.v2)
    assert (members["inputs"], members["outputs"], members["status"]) == (b'{"a":1}', b'{"b":2}', b'"SUCCESS"')
    parts = {f"attachment.{run_id}.scan": (None, b"\x00\r\n--\xff", "image/png")}
    files = {f"patch.{run_id}": (None, json.dumps(identity).encode(), "application/json"), **parts}
    assert httpx.post(f"{server.url}/runs/multipart", files=files, headers=KEY).status_code == 202
    [item] = query(server, store.project("p").id, selects=[*ALL, "ATTACHMENTS", "SHARE_URL"]).json()["items"]
    assert httpx.get(item["attachments"]["scan"]).content == b"\x00\r\n--\xff"
    assert "share_url" not in item
    token = store.share(run_id)
    store.change(run_id, total_tokens=3)
    [item] = query(server, store.project("p").id, selects=["ID", "SHARE_URL"]).json()["items"]
    assert item == {"id": run_id, "share_url": f"{server.url}/public/{token}/r"}
    [v1] = list_runs(client, project_name="p")
    attachment = v1.attachments["scan"]
    assert isinstance(attachment, dict)
    assert attachment["reader"].read() == b"\x00\r\n--\xff"


def test_raw_bytes_are_returned_unchanged(store, server):
    odd = [
        raw_run("a", "2026-01-02T10:00:00.000001Z", rb',"inputs":{"x":"\ud800\u0000"}, "n":1e999'),
        raw_run("b", "2026-01-02T10:00:00.000002Z", b',"name":"\xff\xfe","name":"twice", "i":12345678901234567890123'),
    ]
    for run in odd:
        store.put_raw("p", run)
    store.put_raw("p", b"not JSON at all", run_id="c", start_time=START)
    project = store.project("p").id
    assert query(server, project, selects=ALL).content == (
        b'{"items":[%s,%s,not JSON at all],"next_cursor":null}' % (odd[1], odd[0])
    )
    assert query(server, project, selects=["INPUTS"], ids=["a"]).content.startswith(
        rb'{"items":[{"inputs":{"x":"\ud800\u0000"}}]'
    )


def test_v2_has_the_defaults_of_langsmith(store, server):
    now = datetime.now(UTC)
    for name, age in (("old", timedelta(hours=25)), ("new", timedelta(hours=23)), ("next", timedelta(hours=-1))):
        store.put_raw("p", raw_run(name, (now - age).isoformat()))
    body = {"project_ids": [store.project("p").id]}
    found = httpx.post(f"{server.url}/api/v2/runs/query", json=body, headers=KEY)
    assert found.json() == {"items": [{"id": "new"}], "next_cursor": None}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"page_size": 0}, 422),
        ({"page_size": 1001}, 422),
        ({"selects": ["NOPE"]}, 422),
        ({"project_ids": []}, 422),
        ({"project_ids": ["0190f0a0-0000-7000-8000-000000000000"]}, 404),
        ({"cursor": "bm90IG9uZQ"}, 400),
        ({"cursor": "ü"}, 400),
        ({"filter": "and(eq(name"}, 400),
        ({"filter": 'search("x")'}, 400),
        ({"min_start_time": "yesterday"}, 422),
    ],
)
def test_invalid_queries_are_rejected(store, server, body, status):
    answer = query(server, store.project("p").id, **body)
    assert answer.status_code == status
    assert set(answer.json()) == {"detail"}


def test_windows_and_filters(store, server):
    project = store.project("p").id
    for minute in range(4):
        tail = b',"name":"n%d","parent_run_ids":[%s],"run_type":"LLM"' % (minute, b'"x"' if minute % 2 else b"")
        store.put_raw("p", raw_run(f"id{minute}", f"2026-01-02T10:0{minute}:00Z", tail))
    window = {"min_start_time": "2026-01-02T10:01:00Z", "max_start_time": "2026-01-02T10:03:00Z"}
    assert ids_of(query(server, project, **window)) == ["id2", "id1"]
    server.behavior.max_start_inclusive = True
    assert ids_of(query(server, project, **window)) == ["id3", "id2", "id1"]
    for text, wanted in {
        'and(gte(start_time, "2026-01-02T10:01:00"), lt(start_time, "2026-01-02T12:03:00+02:00"))': ["id2", "id1"],
        'or(eq(name, "n0"), eq(id, "id3"))': ["id3", "id0"],
        "eq(is_root, true)": ["id2", "id0"],
        "not(eq(is_root, true))": ["id3", "id1"],
        'in(id, ["id1", "id2"])': ["id2", "id1"],
        'and(neq(name, "n1"), eq(run_type, "llm"), gt(id, "id0"))': ["id3", "id2"],
        "eq(end_time, null)": ["id3", "id2", "id1", "id0"],
        'lte(start_time, "2026-01-02T10:00:00Z")': ["id0"],
        'eq(status, "pending")': ["id3", "id2", "id1", "id0"],
    }.items():
        assert ids_of(query(server, project, filter=text)) == wanted, text
    assert ids_of(query(server, project, trace_id="id2")) == ["id2"]


def test_the_cursor_paginates_many_runs_of_one_microsecond(store, server):
    for number in range(7):
        store.put_raw("p", raw_run(f"id{number}", "2026-01-02T10:00:00Z"))
    project, seen, cursor = store.project("p").id, [], None
    while True:
        page = query(server, project, page_size=3, **({"cursor": cursor} if cursor else {}))
        seen += ids_of(page)
        cursor = page.json()["next_cursor"]
        if not cursor:
            break
    assert seen == [f"id{number}" for number in reversed(range(7))]
    assert [request.details["runs"] for request in server.requests] == [3, 3, 1]


def test_keys_workspaces_and_missing_api_versions(store, server):
    url = f"{server.url}/sessions"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"X-API-Key": "wrong"}).status_code == 403
    server.behavior.org_scoped = True
    answer = httpx.get(url, headers=KEY)
    assert (answer.status_code, answer.json()["error"]) == (403, "org_scoped_key_requires_workspace")
    assert httpx.get(url, headers={**KEY, "X-Tenant-Id": store.tenant_id}).status_code == 200
    server.behavior.org_scoped = False
    server.behavior.v2_status, server.behavior.v1_status = 405, 404
    assert query(server, store.project("p").id).status_code == 405
    assert query_v1(server, session=[store.project("p").id]).status_code == 404
    assert httpx.get(f"{server.url}/nothing", headers=KEY).status_code == 404
    assert httpx.get(f"{server.url}/feedback", headers=KEY).json() == []


def test_runs_change_and_disappear(store, server):
    run_id = store.put_raw("p", raw_run("a", "2026-01-02T10:00:00Z"))
    store.change(run_id, status="SUCCESS", end_time="2026-01-02T10:00:02Z", total_tokens=5)
    found = query(server, store.project("p").id, selects=["STATUS", "TOTAL_TOKENS"]).json()["items"]
    assert found == [{"status": "SUCCESS", "total_tokens": 5}]
    store.delete([run_id])
    assert ids_of(query(server, store.project("p").id)) == []


def test_a_later_process_serves_the_same_runs(tmp_path):
    path = tmp_path / "langsmith.db"
    with LangSmithStore(path) as store:
        store.generate("p", DAY, runs=20)
        runs, project = store.runs("p"), store.project("p").id
    command = [
        sys.executable,
        "-m",
        "lse_demo.langsmith",
        "--store",
        str(path),
        "--limit",
        "5/10",
        "--watch-stdin",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        url = process.stdout.readline().strip()
        body = {"project_ids": [project], "min_start_time": START.isoformat(), "selects": ALL}
        answer = httpx.post(f"{url}/api/v2/runs/query", json=body, headers=KEY)
        process.stdin.close()
        report = json.loads(process.stdout.read())
    assert elements(split(answer.content)["items"]) == [run.v2 for run in reversed(runs)]
    assert report == {"statuses": {"200": 1}, "violations": []}
