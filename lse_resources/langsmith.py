"""LangSmith as the archive sees it: its projects, and one project's runs in whichever dialect is answered."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from lse_archive.days import Window, format_time
from lse_archive.documents import NotARunError, cut_page
from lse_archive.errors import AccessError, SettingsError, SourceError
from lse_archive.source import LostCursorError, Page
from lse_resources.langsmith_http import (
    LangSmithHttp,
    LangSmithSettings,
    NotServedError,
    StatusError,
    TooLargeError,
)
from lse_resources.langsmith_v1 import V1
from lse_resources.langsmith_v2 import V2, filter_of

_log = logging.getLogger(__name__)

_FIRST_V2_VERSION = (0, 16)
# Answers to a request with a cursor that mean that the cursor is lost.
_LOST_CURSOR = frozenset({400, 404, 410, 422})


@dataclass(frozen=True, slots=True)
class Project:
    """A tracing project.

    Attributes:
        id: UUID.
        name: As LangSmith shows it.
        url: Its page in LangSmith, if that is known.
    """

    id: str
    name: str
    url: str | None = None


class LangSmith:
    """A LangSmith deployment, read only."""

    def __init__(self, settings: LangSmithSettings) -> None:
        if not settings.api_key:
            raise SettingsError(
                "LangSmith cannot be asked",
                why="LANGSMITH_API_KEY is not set",
                todo="Put it into .env or the environment",
            )
        self.settings = settings
        self._http = LangSmithHttp(settings)

    def close(self) -> None:
        self._http.close()

    def info(self) -> dict[str, Any]:
        """`GET /info`: version and flags of the deployment; empty where it has none."""
        try:
            return self._get("/info", "cannot ask LangSmith for its version")
        except (NotServedError, StatusError):
            return {}

    def projects(self) -> Iterator[Project]:
        """All tracing projects, experiments left out."""
        offset = 0
        while True:
            query = {"offset": offset, "limit": 100, "reference_free": "true"}
            page = self._get("/sessions", "cannot list the projects", query)
            yield from map(_project, page)
            offset += len(page)
            if len(page) < 100:
                return

    def project(self, name: str) -> Project:
        """The project of this name.

        Raises:
            AccessError: There is none.
        """
        page = self._get("/sessions", f"cannot find the project '{name}'", {"name": name, "limit": 1})
        for project in map(_project, page):
            if project.name == name:
                return project
        raise AccessError(
            f"LangSmith has no project '{name}'",
            why="no tracing project of the workspace has exactly this name",
            todo="Check the spelling, LANGSMITH_API_KEY and LANGSMITH_WORKSPACE_ID",
        )

    def source(self, name: str) -> ProjectSource:
        """The runs of a project.

        Raises:
            AccessError: There is no such project.
        """
        project = self.project(name)
        dialect = self._http.shared.dialect or ("v1" if _is_old(self.info()) else "v2")
        return ProjectSource(self._http.settings, project, dialect)

    def _get(self, path: str, what: str, query: Mapping[str, object] | None = None) -> Any:
        from langsmith._httpx import httpx as sdk_httpx

        url = f"{self.settings.endpoint.rstrip('/')}{path}"

        def request() -> tuple[bytes, Mapping[str, str]]:
            answer = self._http.client.get(url, cast_to=sdk_httpx.Response, options={"params": dict(query or {})})
            return answer.content, answer.headers

        return json.loads(self._http.send(what, request, check=json.loads))


def _project(session: dict[str, Any]) -> Project:
    return Project(session["id"], session["name"], session.get("url"))


def _is_old(info: Mapping[str, Any]) -> bool:
    """Whether the deployment says that it is too old for v2."""
    try:
        version = tuple(int(part) for part in str(info["version"]).split(".")[:2])
    except (KeyError, ValueError):
        return False
    flags = info.get("instance_flags") or {}
    return version < _FIRST_V2_VERSION and not flags.get("sdb_query_enabled", False)


class ProjectSource:
    """The runs of one project: the `RunSource` of a fetch.

    Args:
        dialect: The one to try first; if the deployment does not answer it, the other is used.
    """

    def __init__(self, settings: LangSmithSettings, project: Project, dialect: str) -> None:
        self._http = LangSmithHttp(settings)
        self.project = project
        v2 = V2(self._http.client, project.id)
        v1 = V1(self._http.client, settings.endpoint, project.id, self._download)
        self._dialects: list[V1 | V2] = [v1, v2] if dialect == "v1" else [v2, v1]
        self._agreed = False
        self._page_size = self._dialects[0].max_page
        self._good_pages = 0
        self._lock = threading.Lock()

    @property
    def _dialect(self) -> V1 | V2:
        return self._dialects[0]

    @property
    def dialect(self) -> str:
        """`v2` or `v1`; asks for one run if it is not known yet which of them is answered."""
        if self._http.shared.dialect is None:
            self._ask(Window(0, 1), None, size=1, ids_only=True)
        return self._dialect.name

    @property
    def project_id(self) -> str:
        return self.project.id

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def requests(self) -> int:
        return self._http.requests

    @property
    def throttled(self) -> int:
        return self._http.throttled

    def cancel(self) -> None:
        self._http.cancel()

    def close(self) -> None:
        self._http.close()

    def parallelism(self) -> int:
        return self._http.shared.queries.parallelism(self._http.latency)

    def page(self, window: Window, cursor: str | None, *, ids_only: bool = False) -> Page:
        """See `RunSource.page`."""
        while True:
            size = self._page_size
            try:
                runs, next_cursor = self._ask(window, cursor, size=size, ids_only=ids_only)
            except TooLargeError as error:
                self._shrink(size, error)
                continue
            self._grow(size)
            return Page(runs, next_cursor, full=len(runs) >= size)

    def runs_by_id(self, ids: list[str], window: Window) -> list[bytes]:
        """See `RunSource.runs_by_id`."""
        runs: list[bytes] = []
        step = self._page_size
        for begin in range(0, len(ids), step):
            part, _ = self._ask(window, None, size=step, ids=ids[begin : begin + step], ids_only=False)
            runs += part
        return runs

    def count(self, window: Window) -> int:
        """See `RunSource.count`. `POST /runs/stats` is the same in both dialects."""
        from langsmith._httpx import httpx as sdk_httpx

        body = {
            "session": [self.project.id],
            "start_time": format_time(window.start),
            "filter": filter_of(window),
        }
        url = f"{self._http.settings.endpoint.rstrip('/')}/runs/stats"

        def request() -> tuple[bytes, Mapping[str, str]]:
            answer = self._http.client.post(url, cast_to=sdk_httpx.Response, body=body)
            return answer.content, answer.headers

        what = f"cannot count the runs of '{self.project.name}'"
        try:
            return _run_count(self._http.send(what, request, limiter=self._http.shared.counts, check=_run_count))
        except NotServedError as error:
            raise SourceError(what, why=error.why, todo="A deployment without /runs/stats needs --no-count") from error

    def _ask(
        self, window: Window, cursor: str | None, *, size: int, ids: list[str] | None = None, ids_only: bool
    ) -> tuple[list[bytes], str | None]:
        dialect = self._dialect
        size = min(size, dialect.max_page)
        what = f"cannot list the runs of '{self.project.name}' ({dialect.name})"
        answer: tuple[list[bytes], str | None] = ([], None)

        def check(body: bytes) -> None:
            nonlocal answer
            runs, next_cursor = cut_page(body)
            answer = [dialect.complete(run) for run in runs], next_cursor

        try:
            self._http.send(
                what,
                lambda: dialect.query(window, cursor=cursor, size=size, ids=ids, ids_only=ids_only),
                check=check,
                smaller_page_helps=size > 1,
            )
        except NotServedError as error:
            if cursor is not None:
                raise LostCursorError from error
            if not self._change_dialect(dialect, error):
                raise
            return self._ask(window, None, size=self._page_size, ids=ids, ids_only=ids_only)
        except StatusError as error:
            if cursor is not None and error.status in _LOST_CURSOR:
                raise LostCursorError from error
            raise
        self._agreed = True
        self._http.shared.dialect = dialect.name
        return answer

    def _change_dialect(self, failed: V1 | V2, error: NotServedError) -> bool:
        with self._lock:
            if self._agreed or len(self._dialects) == 1:
                return self._dialect is not failed
            self._dialects.remove(failed)
            self._page_size = self._dialect.max_page
            _log.info("LangSmith does not answer %s (%s): using %s", failed.name, error.why, self._dialect.name)
            return True

    def _shrink(self, size: int, error: TooLargeError) -> None:
        with self._lock:
            self._good_pages = 0
            if size <= self._page_size:
                self._page_size = max(1, size // 2)
        _log.info("%s; asking for %d runs a page", error, self._page_size)

    def _grow(self, size: int) -> None:
        with self._lock:
            self._good_pages += 1
            if self._good_pages >= 4 and size == self._page_size < self._dialect.max_page:
                self._good_pages = 0
                self._page_size = min(self._dialect.max_page, size * 2)

    def _download(self, url: str) -> bytes:
        """Fetches a presigned link. It carries its own right: the API key is not sent, and the link is not logged."""
        try:
            answer = httpx.get(url, timeout=self._http.settings.timeout, follow_redirects=True)
        except httpx.HTTPError as error:
            raise NotARunError(f"an offloaded payload could not be fetched ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise NotARunError(f"an offloaded payload could not be fetched (HTTP {answer.status_code})")
        return answer.content


def _run_count(body: bytes) -> int:
    count = json.loads(body).get("run_count")
    if not isinstance(count, int):
        raise ValueError("it has no run_count")
    return count
