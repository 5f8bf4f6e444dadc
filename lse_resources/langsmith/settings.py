"""The settings of the LangSmith client."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LangSmithSettings:
    """The address of LangSmith, the credentials and the limits of its use.

    Attributes:
        api_key: The key; never part of an error, a log or `repr`.
        endpoint: Root of the API, with or without `/api/v1`, as in `LANGSMITH_ENDPOINT`.
        workspace_id: Sent as `X-Tenant-Id`; needed with a key of a whole organization.
        timeout: Seconds for one answer.
        patience: Seconds for which a request that fails is repeated.
        max_requests: Most requests in 10 seconds, however fast the server is.
        stats_seconds: Seconds between two counts (`/runs/stats` allows one per 10 s on the US cloud).
        backoff: Seconds until a request that failed is repeated, doubled at each further failure.
    """

    api_key: str = field(repr=False)
    endpoint: str = "https://api.smith.langchain.com"
    workspace_id: str | None = None
    timeout: float = 120.0
    patience: float = 300.0
    max_requests: int = 300
    stats_seconds: float = 10.0
    backoff: float = 0.5

    def v1_url(self, path: str) -> str:
        """The address of a v1 route: below the endpoint as it is."""
        return self.endpoint.rstrip("/") + path

    def v2_url(self, path: str) -> str:
        """The address of a v2 route: below the endpoint without `/api/v1` or `/api`."""
        root = self.endpoint.rstrip("/")
        root = root.removesuffix("/api/v1") if root.endswith("/api/v1") else root.removesuffix("/api")
        return f"{root}/api/v2{path}"
