"""The client of a LangSmith deployment: its projects, and the source of each project's runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from lse_archive.errors import AccessError, SettingsError
from lse_resources.langsmith.http import LangSmithHttp, NotServedError, StatusError
from lse_resources.langsmith.settings import LangSmithSettings
from lse_resources.langsmith.source import Project, ProjectSource

_FIRST_V2_VERSION = (0, 16)


class LangSmith:
    """A LangSmith deployment, read only."""

    def __init__(self, settings: LangSmithSettings) -> None:
        if not settings.api_key.isascii() or not settings.api_key.isprintable() or " " in settings.api_key:
            raise SettingsError(
                "LangSmith cannot be used",
                why="LANGSMITH_API_KEY contains characters that are not allowed in a key",
                hint="Copy the key again, without spaces or line ends",
            )
        if not settings.api_key:
            raise SettingsError(
                "LangSmith cannot be used",
                why="LANGSMITH_API_KEY is not set",
                hint="Put it into .env or the environment",
            )
        self.settings = settings
        self._http = LangSmithHttp(settings)

    def close(self) -> None:
        self._http.close()

    def info(self) -> dict[str, Any]:
        """`GET /info`: version and flags of the deployment; empty if it does not have this route."""
        try:
            return self._get("/info", "cannot read the version of LangSmith")
        except (NotServedError, StatusError):
            return {}

    def projects(self) -> Iterator[Project]:
        """All tracing projects, without experiments."""
        offset = 0
        query: dict[str, str | int] = {"limit": 100, "reference_free": "true"}
        while page := self._get("/sessions", "cannot list the projects", query | {"offset": offset}):
            yield from map(_project, page)
            offset += len(page)

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
            hint="Check the spelling, LANGSMITH_API_KEY and LANGSMITH_WORKSPACE_ID",
        )

    def source(self, name: str) -> ProjectSource:
        """The runs of a project, while this client is open.

        Raises:
            AccessError: There is no such project.
        """
        project = self.project(name)
        api_version = self._http.shared.api_version or ("v1" if _is_old(self.info()) else "v2")
        return ProjectSource(self._http.sibling(), project, api_version)

    def _get(self, path: str, what: str, query: dict[str, str | int] | None = None) -> Any:
        url = self.settings.v1_url(path)

        def request() -> httpx.Response:
            return self._http.client.get(url, params=query)

        return json.loads(self._http.send(what, request, limiter=self._http.shared.others, check=json.loads))


def _project(session: dict[str, Any]) -> Project:
    return Project(session["id"], session["name"], session.get("url"))


def _is_old(info: Mapping[str, Any]) -> bool:
    """Whether the deployment's version is too old for v2."""
    try:
        version = tuple(int(part) for part in str(info["version"]).split(".")[:2])
    except (KeyError, ValueError):
        return False
    flags = info.get("instance_flags") or {}
    return version < _FIRST_V2_VERSION and not flags.get("sdb_query_enabled", False)
