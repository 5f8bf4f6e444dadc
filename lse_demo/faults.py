"""Fault injection for the local servers: a small deterministic plan that may change while they run."""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Protocol


class Matchable(Protocol):
    """The part of a request that a fault can match (`lse_demo.http.Request` implements it)."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> Mapping[str, str]: ...
    @property
    def headers(self) -> Message: ...
    @property
    def body(self) -> bytes: ...


def on(method: str = "", path: str = "") -> Callable[[Matchable], bool]:
    """Returns a `match` for requests of `method` (any if empty) whose path contains `path`."""
    return lambda request: method in ("", request.method) and path in request.path


# Selected before the body is read: its `match` gets an empty body, all others get the body.
_BEFORE_BODY = "cut_request"


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """One kind of fault, and the requests that get it.

    Kinds of every server (`lse_demo.http`):

    - `status`: answer with `status`, `headers` and `body`; do not execute the request
    - `slow`: wait `delay` seconds, then continue (other faults may follow)
    - `call`: run `action()`, then continue (other faults may follow)
    - `cut_before`: close the connection; do not execute the request
    - `cut_request`: read `at` bytes of the request's body, then close; the server may keep those bytes
    - `lose_answer`: execute the request, then close without an answer
    - `cut_body`: send the full Content-Length but only the first `at` bytes (default: half), then close
    - `truncate`: send the first `at` bytes of the body (default: half) with a matching Content-Length
    - `invalid_json`: answer 200 with `body` (default: a text that is not JSON)
    - `corrupt`: flip one bit of the answer's byte `at` (default: the middle one)

    A connection is closed by a reset, or by FIN if `reset` is false. Each server documents its own further kinds.
    """

    kind: str
    match: Callable[[Matchable], bool] = field(default_factory=on)
    times: int | None = None  # maximum number of requests that get it; None: unlimited
    after: int = 0  # number of matching requests to skip first
    rate: float = 1.0  # probability for each matching request
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    at: int | None = None
    delay: float = 0.0
    reset: bool = True
    action: Callable[[], object] = lambda: None


class Faults:
    """A thread-safe list of faults; the same seed and order of requests select the same faults."""

    def __init__(self, *faults: Fault, seed: int = 0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._plan: list[Fault] = []
        self._seen: dict[Fault, int] = {}
        self._struck: dict[Fault, int] = {}
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> "Faults":
        """Appends `fault` and returns the plan, so that calls can be chained."""
        with self._lock:
            self._plan.append(fault)
            self._seen[fault] = self._struck[fault] = 0
        return self

    def clear(self) -> None:
        """Removes all faults."""
        with self._lock:
            self._plan.clear()

    def struck(self, kind: str | None = None) -> int:
        """Returns the number of injected faults (of `kind`), removed ones included."""
        with self._lock:
            return sum(count for fault, count in self._struck.items() if kind in (None, fault.kind))

    def select(self, request: Matchable, *, before_body: bool = False) -> tuple[Fault, ...]:
        """Returns the faults for `request` in the plan's order: every `slow` and `call`, and at most one of the others.

        With `before_body` only faults of the kind `cut_request` are considered, without it only the others.
        """
        selected: list[Fault] = []
        done = False
        with self._lock:
            for position, fault in enumerate(self._plan):
                passing = fault.kind in ("slow", "call")
                if (fault.kind == _BEFORE_BODY) != before_body:
                    continue
                if (done and not passing) or not fault.match(request) or not self._applies(position, fault):
                    continue
                self._struck[fault] += 1
                selected.append(fault)
                done = done or not passing
        return tuple(selected)

    def _applies(self, position: int, fault: Fault) -> bool:
        self._seen[fault] += 1
        seen = self._seen[fault]
        if seen <= fault.after or (fault.times is not None and self._struck[fault] >= fault.times):
            return False
        return fault.rate >= 1 or random.Random(f"{self._seed}/{position}/{seen}").random() < fault.rate
