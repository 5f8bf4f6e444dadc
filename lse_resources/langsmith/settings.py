"""The settings of the LangSmith client."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LangSmithSettings:
    """The URL of LangSmith, the credentials and the rate limits.

    Attributes:
        api_key: The key; never part of an error, a log or `repr`.
        endpoint: Root of the API, with or without `/api/v1`, as in `LANGSMITH_ENDPOINT`.
        workspace_id: Sent as `X-Tenant-Id`; needed with a key of a whole organization.
        timeout: Seconds for one answer.
        patience: Seconds for which a failing request is retried.
        max_requests: Maximum of requests in 10 seconds.
        stats_seconds: Seconds between two counts (`/runs/stats` allows one per 10 s on the US cloud).
        backoff: Seconds until the first retry, doubled at each further failure.
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
        """The URL of a v1 route: the endpoint and the path."""
        return self.endpoint.rstrip("/") + path

    def v2_url(self, path: str) -> str:
        """The URL of a v2 route: the endpoint without `/api/v1` or `/api`, and the path."""
        root = self.endpoint.rstrip("/")
        root = root.removesuffix("/api/v1") if root.endswith("/api/v1") else root.removesuffix("/api")
        return f"{root}/api/v2{path}"

    def link_url(self, link: str) -> str:
        """The URL of a link to a file; a relative one is below the API's root, without a second `/api/v1`."""
        # As the SDK does (client.py, `_construct_url`).
        if not link or link.startswith(("http://", "https://")):
            return link
        path, root = link.lstrip("/"), self.v1_url("")
        if path.startswith("api/"):
            root = root.removesuffix("/v1").removesuffix("/api")
        return f"{root}/{path}"
