"""The client of a LangSmith deployment: its projects, and the source of each project's runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import httpx

from lse_archive.errors import AccessError, SettingsError, SourceError
from lse_resources.langsmith.http import LangSmithHttp, NotServedError, StatusError
from lse_resources.langsmith.settings import LangSmithSettings
from lse_resources.langsmith.source import Project, ProjectSource
from lse_resources.projects import MAX_RETENTION_DAYS

SHORTLIVED_DAYS = 14
LONGLIVED_DAYS = 180
"""Retention of the two tiers of traces, where no setting says otherwise (LangSmith's docs, "Data retention", since
September 2026)."""

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

    @property
    def announced_ends(self) -> list[str]:
        """The routes whose end the answers in this process announced, each with what they said, sorted."""
        return sorted(f"{route}: {end}" for route, end in list(self._http.shared.announced.items()))

    def projects(self, *, experiments: bool = False) -> Iterator[Project]:
        """All tracing projects; or all experiments, which belong to a dataset."""
        offset = 0
        query: dict[str, str | int] = {"limit": 100} | ({} if experiments else {"reference_free": "true"})
        while page := self._get("/sessions", "cannot list the projects", query | {"offset": offset}):
            yield from (project for project in map(_project, page) if (project.dataset_id is not None) == experiments)
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

    def retention_days(self, project: Project) -> int | None:
        """Days for which LangSmith keeps the project's traces by its settings; None if it does not tell, or answer.

        A trace may be kept longer: feedback on it, for example, makes it long-lived.
        """
        try:
            tier = project.trace_tier or self._default_tiers.get(project.tenant_id) or self._default_tiers.get(None)
            if tier == "longlived":
                return project.longlived_days or self._longlived_days or LONGLIVED_DAYS
        except SourceError:  # without the setting of the workspace, the documented number may be too large
            return None
        return SHORTLIVED_DAYS if tier == "shortlived" else None

    @cached_property
    def _default_tiers(self) -> dict[str | None, str]:
        """The default tiers by workspace; None: of the organization. Empty if the key may not read them."""
        found = self._get_optional("/ttl-settings")
        entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        return {entry.get("tenant_id"): str(entry.get("default_trace_tier")) for entry in entries}

    @cached_property
    def _longlived_days(self) -> int | None:
        found = self._get_optional("/workspaces/current/ttl-settings")
        return _days(found.get("longlived_ttl_days")) if isinstance(found, dict) else None

    def source(self, name: str) -> ProjectSource:
        """The runs of a project, while this client is open.

        Raises:
            AccessError: There is no such project.
        """
        project = self.project(name)
        api_version = self._http.shared.api_version or ("v1" if _is_old(self.info()) else "v2")
        return ProjectSource(self._http.sibling(), project, api_version)

    def _get_optional(self, path: str) -> Any:
        """The answer of a route that some deployments and keys do not have; else None. Raises SourceError soon."""
        try:
            return self._get(path, "cannot read the retention", attempts=2)
        except (AccessError, NotServedError, StatusError):
            return None

    def _get(
        self, path: str, what: str, query: dict[str, str | int] | None = None, *, attempts: int | None = None
    ) -> Any:
        url = self.settings.v1_url(path)

        def request() -> httpx.Response:
            return self._http.client.get(url, params=query)

        limiter = self._http.shared.others
        return json.loads(self._http.send(what, request, limiter=limiter, check=json.loads, attempts=attempts))


def _project(session: dict[str, Any]) -> Project:
    return Project(
        session["id"],
        session["name"],
        session.get("url"),
        session.get("tenant_id"),
        session.get("reference_dataset_id"),
        session.get("trace_tier"),
        _days(session.get("longlived_ttl_days")),
    )


def _days(value: object) -> int | None:
    return value if type(value) is int and 0 < value <= MAX_RETENTION_DAYS else None


def _is_old(info: Mapping[str, Any]) -> bool:
    """Whether the deployment's version is too old for v2."""
    try:
        version = tuple(int(part) for part in str(info["version"]).split(".")[:2])
    except (KeyError, ValueError):
        return False
    flags = info.get("instance_flags") or {}
    return version < _FIRST_V2_VERSION and not flags.get("sdb_query_enabled", False)
