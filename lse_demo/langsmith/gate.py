"""Authentication and rate limits of the local LangSmith."""

import math
import threading
import time
from collections import deque
from collections.abc import Collection
from email.utils import formatdate
from typing import Literal

from lse_demo.http import Answer, Refusal, Request
from lse_demo.langsmith.query import refusal


def check_key(request: Request, keys: Collection[str], *, org_scoped: bool) -> str:
    """Returns the request's API key. Raises Refusal: 401 without a key, 403 if it is wrong or needs a workspace."""
    key = request.headers.get("X-API-Key")
    if not key:
        raise refusal(401, "Unauthorized")
    if key not in keys:
        raise refusal(403, "Forbidden")
    if org_scoped and not request.headers.get("X-Tenant-Id"):
        error = "org_scoped_key_requires_workspace"
        raise Refusal(Answer.json({"error": error, "detail": "the key needs the header X-Tenant-Id"}, 403))
    return key


class RateLimit:
    """At most `count` requests in any `seconds`, per name; rejected requests do not count."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self._lock = threading.Lock()
        self._passed: dict[str, deque[float]] = {}

    def check(self, name: str, retry_after: Literal["seconds", "date"] | None) -> None:
        """Counts one request of `name`. Raises Refusal (429) with `Retry-After` in the form of `retry_after`."""
        now = time.monotonic()
        with self._lock:
            passed = self._passed.setdefault(name, deque())
            while passed and passed[0] <= now - self.seconds:
                passed.popleft()
            if len(passed) < self.count:
                passed.append(now)
                return
            wait = math.ceil(passed[0] + self.seconds - now)
        headers: dict[str, str] = {}
        if retry_after == "seconds":
            headers["Retry-After"] = str(wait)
        elif retry_after == "date":
            headers["Retry-After"] = formatdate(time.time() + wait, usegmt=True)
        raise Refusal(Answer.json({"detail": "Rate limit exceeded"}, 429, headers))
