"""A local LangSmith: the routes that an archiver and the tracing SDK use, on top of a `LangSmithStore`.

As a separate process: `python -m lse_demo.langsmith --store PATH` prints its URL as the first line.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

from lse_demo.faults import Faults
from lse_demo.http import Answer, LocalServer, Request
from lse_demo.langsmith.encoding import dump
from lse_demo.langsmith.gate import RateLimit, check_key
from lse_demo.langsmith.ingest import read_batch, read_multipart, read_one
from lse_demo.langsmith.pages import LISTING, Links, statistics_of, stored_part, v1_items, v2_items
from lse_demo.langsmith.query import Cursor, Cursors, RunsQuery, read_stats, read_v1, read_v2, refusal
from lse_demo.langsmith.runs import rfc3339
from lse_demo.langsmith.store import LangSmithStore, Operation, Project, StoredRun
from lse_demo.langsmith.v1 import V1_FIELDS

DEMO_KEY = "lsv2_pt_demo"

# Faults of this server, in addition to those of `lse_demo.faults`; these apply to run queries only:
# - `lost_cursor`: a request with a cursor is answered with `status` (set it to 400, 404, 410 or 422)
# - `repeat_page`: the answer is the previous page again, with the cursor of the request
# - `overlap`: the next page begins with the last `at` runs (default 1) of this one
# - `no_cursor`: the page has no next cursor
# `shuffle` applies to lists of feedback: their order changes with each request


@dataclass(slots=True)
class Behavior:
    """How the server behaves; may be changed while it runs."""

    api_keys: frozenset[str] = frozenset((DEMO_KEY,))
    org_scoped: bool = False  # the keys need the header X-Tenant-Id
    version: str = "0.16.3"
    flags: Mapping[str, Any] = field(default_factory=lambda: {"ch_query_enabled": True, "sdb_query_enabled": True})
    v2_status: int | None = None  # 404, 405 or 501: v2 does not exist
    v1_status: int | None = None  # 404: v1 does not exist
    v1_sunset: str | None = None  # what v1 announces in its headers
    max_start_inclusive: bool = False  # whether v2's `max_start_time` is part of the window
    max_page_bytes: int | None = None  # larger answers to run queries become 413
    limit: RateLimit | None = None  # of run queries, per key
    stats_limit: RateLimit | None = None  # of /runs/stats, per key
    feedback_limit: RateLimit | None = None  # of GET /feedback, per key
    retry_after: Literal["seconds", "date"] | None = "seconds"
    stats_offset: int = 0  # added to /runs/stats' `run_count`, to simulate a late or wrong count
    offload_bytes: int | None = None  # v1 payloads above this are answered as links
    relative_links: bool = False
    broken_runs: Mapping[str, int] = field(default_factory=dict)  # queries of their contents are answered with a status
    link_seconds: float = 300.0
    trace_tier: str | None = "shortlived"  # of each project
    longlived_days: int | None = None  # of each project
    ttl_settings: Mapping[str, Any] | None = None  # of the workspace; None: the key may not read them
    workspace_longlived_days: int = 180
    redirected_links: bool = False  # a link leads to another one


class LangSmithServer(LocalServer):
    """LangSmith on 127.0.0.1, at `/` and under `/api/v1`; the log `requests` has the parameters of each query."""

    def __init__(
        self,
        store: LangSmithStore,
        *,
        behavior: Behavior | None = None,
        port: int = 0,
        latency: float = 0.0,
        faults: Faults | None = None,
    ) -> None:
        super().__init__(port=port, latency=latency, faults=faults)
        self.store = store
        self.behavior = behavior or Behavior()
        self._cursors = Cursors(store.secret)
        self._routes: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "/sessions"): self._list_sessions,
            ("POST", "/sessions"): self._create_session,
            ("POST", "/api/v2/runs/query"): self._query_v2,
            ("POST", "/runs/query"): self._query_v1,
            ("POST", "/runs/stats"): self._stats,
            ("POST", "/runs"): self._post_run,
            ("POST", "/runs/batch"): self._post_batch,
            ("POST", "/runs/multipart"): self._post_multipart,
            ("GET", "/feedback"): self._list_feedback,
            ("POST", "/feedback"): self._create_feedback,
            ("GET", "/ttl-settings"): self._ttl_settings,
            ("GET", "/workspaces/current/ttl-settings"): self._workspace_ttl_settings,
        }

    def handle(self, request: Request) -> Answer:
        """Answers one request."""
        path = request.path.removeprefix("/api/v1").rstrip("/")
        if (request.method, path) == ("GET", "/info"):  # needs no key, as in LangSmith
            return self._info()
        if path.startswith("/storage/"):
            return self._download(request, path)
        check_key(request, self.behavior.api_keys, org_scoped=self.behavior.org_scoped)
        if route := self._routes.get((request.method, path)):
            return route(request)
        kind, _, identity = path.removeprefix("/").partition("/")
        if request.method == "PATCH" and kind == "runs":
            return self._ingest(lambda: [read_one("patch", request.body, identity)])
        if request.method == "GET" and kind == "runs":
            return self._get_run(identity)
        if request.method == "GET" and kind == "sessions":
            return Answer.json(self._session(self._project(identity)))
        if kind == "feedback":
            return self._one_feedback(request, identity.lower())
        raise refusal(404, "Not Found")

    # Reading runs

    def _query_v2(self, request: Request) -> Answer:
        if status := self.behavior.v2_status:
            raise refusal(status, "runs/query is not available on this deployment")
        body = _body(request)
        query = read_v2(body, max_inclusive=self.behavior.max_start_inclusive)
        window = {name: body.get(name) for name in ("min_start_time", "max_start_time", "filter")}
        request.details.update(api="v2", page_size=query.size, cursor=query.cursor, selects=query.selects, **window)
        runs, cursor = self._page(request, query)
        items = v2_items(self.store, runs, query.selects, self._links(), self.url)
        return self._listed(b'{"items":[', items, b'],"next_cursor":%s}' % dump(cursor))

    def _query_v1(self, request: Request) -> Answer:
        if status := self.behavior.v1_status:
            raise refusal(status, "Not Found")
        body = _body(request)
        query = read_v1(body)
        window = {name: body.get(name) for name in ("start_time", "end_time", "filter")}
        request.details.update(api="v1", page_size=query.size, cursor=query.cursor, selects=query.selects, **window)
        runs, cursor = self._page(request, query)
        items = v1_items(self.store, runs, query.selects, self._links(), self.behavior.offload_bytes)
        end = {"Deprecation": "true", "Sunset": self.behavior.v1_sunset} if self.behavior.v1_sunset else {}
        return self._listed(b'{"runs":[', items, b'],"cursors":{"next":%s}}' % dump(cursor), end)

    def _page(self, request: Request, query: RunsQuery) -> tuple[list[StoredRun], str | None]:
        if self.behavior.limit:
            self.behavior.limit.check(request.headers["X-API-Key"], self.behavior.retry_after)
        self._project(query.project_id)
        cursor = self._cursors.read(query)
        if cursor and (fault := request.fault("lost_cursor")):
            raise refusal(fault.status, "cursor not found or expired")
        repeat = cursor is not None and request.fault("repeat_page") is not None
        after = (cursor.before if repeat else cursor.after) if cursor else None
        found = self.store.page(
            query.project_id, query.conditions, after=after, limit=query.size + 1, newest_first=query.newest_first
        )
        page = found[: query.size]
        broken = [self.behavior.broken_runs[run.id] for run in page if run.id in self.behavior.broken_runs]
        if broken and query.selects > LISTING:
            raise refusal(broken[0], "Internal Server Error")
        request.details["runs"] = len(page)
        if repeat:
            return page, query.cursor
        if len(found) <= query.size or request.fault("no_cursor"):
            return page, None
        overlap = request.fault("overlap")
        last = page[-1 - min(overlap.at or 1, query.size - 1) if overlap else -1]
        return page, self._cursors.write(Cursor((last.start, last.id), after), query)

    def _listed(self, head: bytes, items: list[bytes], tail: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        # A page is several MB: head and tail are added to the first and last item, so that join copies it only once.
        items = items or [b""]
        items[0] = head + items[0]
        items[-1] += tail
        body = b",".join(items)
        limit = self.behavior.max_page_bytes
        if limit is not None and len(body) > limit:
            raise refusal(413, "the answer would be too large")
        return Answer.json(body, headers=headers)

    def _get_run(self, run_id: str) -> Answer:
        run = self.store.run(run_id)
        if run is None:
            raise refusal(404, "Run not found")
        return Answer.json(v1_items(self.store, [run], V1_FIELDS, self._links(), self.behavior.offload_bytes)[0])

    def _stats(self, request: Request) -> Answer:
        body = _body(request)
        query = read_stats(body)
        request.details.update(api="stats", filter=body.get("filter"), is_root=body.get("is_root"))
        if self.behavior.stats_limit:
            self.behavior.stats_limit.check(request.headers["X-API-Key"], self.behavior.retry_after)
        self._project(query.project_id)
        answer = statistics_of(self.store.measures(query.project_id, query.conditions))
        answer["run_count"] += self.behavior.stats_offset
        answer["feedback_stats"] = self.store.feedback_stats(query.project_id, query.conditions)
        return Answer.json(answer)

    def _links(self) -> Links:
        root = "" if self.behavior.relative_links else self.url
        return Links(self.store.secret, root, self.behavior.link_seconds)

    def _download(self, request: Request, path: str) -> Answer:
        if request.headers.get("X-API-Key") or request.headers.get("Authorization"):
            self.violations.append("an API key was sent to a presigned link")
            raise refusal(400, "only one way of authentication is allowed")
        found = self._links().read(path, request.query)
        if found is None:
            raise refusal(403, "the link is invalid or has expired")
        if self.behavior.redirected_links and "moved" not in request.query:
            query = urlencode({**request.query, "moved": "1"})
            return Answer(307, b"", {"Location": f"{request.path}?{query}"})
        part = stored_part(self.store, *found)
        if part is None:
            raise refusal(404, "Not Found")
        return Answer(200, part[1], {"Content-Type": part[0]})

    # Feedback

    def _list_feedback(self, request: Request) -> Answer:
        if self.behavior.feedback_limit:
            self.behavior.feedback_limit.check(request.headers["X-API-Key"], self.behavior.retry_after)
        return self.store.feedback.list(request)

    def _create_feedback(self, request: Request) -> Answer:
        try:
            return Answer.json(self.store.feedback.create(_body(request)))
        except ValueError as error:
            raise refusal(422, f"malformed feedback: {error}") from error

    def _one_feedback(self, request: Request, identity: str) -> Answer:
        feedback, found = self.store.feedback, None
        if request.method == "GET":
            found = feedback.get(identity)
        elif request.method == "PATCH":
            found = feedback.get(identity) if feedback.change(identity, **_body(request)) else None
        elif request.method == "DELETE":
            found = {"message": "Feedback deleted successfully!"} if feedback.delete(identity) else None
        if found is None:
            raise refusal(404, "Feedback not found")
        return Answer.json(found)

    # Receiving runs

    def _post_run(self, request: Request) -> Answer:
        return self._ingest(lambda: [read_one("post", request.body)], conflict=True)

    def _post_batch(self, request: Request) -> Answer:
        return self._ingest(lambda: read_batch(request.body))

    def _post_multipart(self, request: Request) -> Answer:
        return self._ingest(lambda: read_multipart(request.headers.get("Content-Type", ""), request.body))

    def _ingest(self, read: Callable[[], list[Operation]], *, conflict: bool = False) -> Answer:
        try:
            duplicates = self.store.ingest(read())
        except (ValueError, KeyError) as error:
            raise refusal(422, f"malformed run: {type(error).__name__}") from error
        if duplicates and conflict:
            raise refusal(409, "a run with this id was already created")
        return Answer.json({"message": "Runs batch ingested"}, 202)

    # Projects and the deployment

    def _info(self) -> Answer:
        return Answer.json(
            {
                "version": self.behavior.version,
                "instance_flags": dict(self.behavior.flags),
                "batch_ingest_config": {
                    "use_multipart_endpoint": True,
                    "scale_up_qsize_trigger": 1000,
                    "scale_up_nthreads_limit": 4,
                    "scale_down_nempty_trigger": 4,
                    "size_limit": 100,
                    "size_limit_bytes": 20_971_520,
                },
            }
        )

    def _list_sessions(self, request: Request) -> Answer:
        params, ids = request.query, [value for name, value in request.query_list if name == "id"]
        limit, offset = _number(params, "limit", 100, 1, 100), _number(params, "offset", 0, 0, 1 << 31)
        projects = [
            project
            for project in self.store.projects()
            if params.get("name") in (None, project.name)
            and params.get("name_contains", "").lower() in project.name.lower()
            and (not ids or project.id in ids)
            and not (params.get("reference_free", "").lower() == "true" and project.reference_dataset_id)
        ]
        return Answer.json([self._session(project) for project in projects[offset : offset + limit]])

    def _ttl_settings(self, _: Request) -> Answer:
        if self.behavior.ttl_settings is None:
            raise refusal(403, "Forbidden")
        return Answer.json([self.behavior.ttl_settings])

    def _workspace_ttl_settings(self, _: Request) -> Answer:
        days = self.behavior.workspace_longlived_days
        return Answer.json({"tenant_id": self.store.tenant_id, "longlived_ttl_days": days, "is_custom": False})

    def _create_session(self, request: Request) -> Answer:
        body = _body(request)
        name = body.get("name") or "default"
        try:
            project = self.store.add_project(
                name,
                project_id=body.get("id"),
                reference_dataset_id=body.get("reference_dataset_id"),
                extra=body.get("extra"),
            )
        except sqlite3.IntegrityError as error:
            if request.query.get("upsert", "").lower() != "true":
                raise refusal(409, "Session already exists.") from error
            project = self.store.project(name)
        return Answer.json(self._session(project))

    def _project(self, project_id: str) -> Project:
        project = next((project for project in self.store.projects() if project.id == project_id), None)
        if project is None:
            raise refusal(404, "Session not found")
        return project

    def _session(self, project: Project) -> dict[str, Any]:
        count, last = self.store.summary(project.id)
        return {
            "id": project.id,
            "tenant_id": self.store.tenant_id,
            "name": project.name,
            "description": None,
            "start_time": rfc3339(project.created),
            "end_time": None,
            "extra": dict(project.extra),
            "reference_dataset_id": project.reference_dataset_id,
            "default_dataset_id": None,
            "trace_tier": self.behavior.trace_tier,
            "longlived_ttl_days": self.behavior.longlived_days,
            "run_count": count,
            "last_run_start_time": rfc3339(last) if last is not None else None,
        }


def _body(request: Request) -> dict[str, Any]:
    try:
        body = request.json()
    except ValueError as error:
        raise refusal(400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise refusal(422, "the body is not an object")
    return body


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise refusal(422, f"{name}: must be between {least} and {most}")
    return int(text)
