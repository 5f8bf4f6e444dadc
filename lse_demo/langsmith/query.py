"""Validation of the bodies of `/api/v2/runs/query`, `/runs/query` and `/runs/stats`, and their cursors."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lse_demo.http import Answer, Refusal
from lse_demo.langsmith.filter import Condition, FilterError, compile_filter
from lse_demo.langsmith.runs import RUN_TYPES, V2_FIELDS, V2_LINKS, micros
from lse_demo.langsmith.v1 import V1_FIELDS

Position = tuple[int, str]  # start and id of a run; the next page begins after it
_V2_SELECTS = {name.upper(): name for name in (*V2_FIELDS, *V2_LINKS)}


@dataclass(frozen=True, slots=True)
class RunsQuery:
    """A request for one page. `identity` hashes the query without paging: a cursor is valid for one query only."""

    project_id: str
    conditions: tuple[Condition, ...]
    size: int
    selects: frozenset[str]
    identity: str
    newest_first: bool = True
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position at which a page begins (`after`), and that of the previous page (None: the first run)."""

    after: Position
    before: Position | None


class Cursors:
    """Writes signed opaque cursors; rejects cursors with another signature."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def write(self, cursor: Cursor, query: RunsQuery) -> str:
        """Encodes a cursor."""
        payload = json.dumps([cursor.after, cursor.before]).encode()
        return base64.urlsafe_b64encode(self._sign(payload, query) + payload).decode().rstrip("=")

    def read(self, query: RunsQuery) -> Cursor | None:
        """Decodes the query's cursor; None if it has none. Raises Refusal (400) for a cursor of another query."""
        if query.cursor is None:
            return None
        try:
            raw = base64.b64decode(query.cursor + "=" * (-len(query.cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:  # not base64, or not even ASCII
            raw = b""
        if not hmac.compare_digest(raw[:12], self._sign(raw[12:], query)):
            raise refusal(400, "invalid cursor")
        after, before = json.loads(raw[12:])
        return Cursor(tuple(after), tuple(before) if before else None)

    def _sign(self, payload: bytes, query: RunsQuery) -> bytes:
        return hmac.digest(self._secret, query.identity.encode() + payload, "sha256")[:12]


def refusal(status: int, detail: Any) -> Refusal:
    """Returns an error in LangSmith's format."""
    return Refusal(Answer.json({"detail": detail}, status))


def read_v2(body: Mapping[str, Any], *, max_inclusive: bool, now: datetime | None = None) -> RunsQuery:
    """Reads the query of a v2 body. Raises Refusal (400 or 422)."""
    now = now or datetime.now(UTC)
    projects = body.get("project_ids") or []
    if len(projects) != 1:
        raise refusal(422, "project_ids: exactly one project id is required here")
    size = body.get("page_size", 100)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 1000:
        raise refusal(422, "page_size: must be between 1 and 1000")
    selects = body.get("selects") or ["ID"]
    unknown = [name for name in selects if name not in _V2_SELECTS]
    if unknown:
        raise refusal(422, f"selects: unknown field {unknown[0]}")
    earliest = _time(body, "min_start_time", now - timedelta(days=1))
    latest = _time(body, "max_start_time", now)
    conditions = [
        Condition("start_us >= ?", (earliest,)),
        Condition("start_us <= ?" if max_inclusive else "start_us < ?", (latest,)),
        *_common(body, ids=body.get("ids"), trace_id=body.get("trace_id"), run_type=body.get("run_type")),
    ]
    if (failed := body.get("has_error")) is not None:
        conditions.append(Condition(f"status {'=' if failed else '<>'} 'error'"))
    names = frozenset(_V2_SELECTS[name] for name in selects)
    return RunsQuery(projects[0], tuple(conditions), size, names, _identity(body), cursor=body.get("cursor"))


def read_v1(body: Mapping[str, Any]) -> RunsQuery:
    """Reads the query of a v1 body; only the first `session` is used. Raises Refusal (400 or 422)."""
    query = read_stats(body)
    size = body.get("limit", 100)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 100:
        raise refusal(400, "limit: must be between 1 and 100")
    order = body.get("order", "desc")
    if order not in ("asc", "desc"):
        raise refusal(422, "order: must be asc or desc")
    selects = frozenset(body.get("select") or V1_FIELDS)
    return replace(query, size=size, selects=selects, newest_first=order == "desc", cursor=body.get("cursor"))


def read_stats(body: Mapping[str, Any]) -> RunsQuery:
    """Reads the selection of runs of a v1 body or of a body of `/runs/stats`. Raises Refusal (400 or 422)."""
    sessions = body.get("session") or []
    if not sessions or not isinstance(sessions, list):
        raise refusal(400, "session: a list with a project id is required")
    conditions = _common(body, ids=body.get("id"), trace_id=body.get("trace"), run_type=body.get("run_type"))
    if body.get("start_time"):
        conditions.append(Condition("start_us >= ?", (_time(body, "start_time"),)))
    if body.get("end_time"):
        # The end of the run, not of the window: pending runs are excluded.
        conditions.append(Condition("end_us <= ?", (_time(body, "end_time"),)))
    if body.get("parent_run"):
        conditions.append(Condition("parent_id = ?", (body["parent_run"],)))
    if (failed := body.get("error")) is not None:
        conditions.append(Condition(f"status {'=' if failed else '<>'} 'error'"))
    return RunsQuery(sessions[0], tuple(conditions), 0, V1_FIELDS, _identity(body))


def _common(
    body: Mapping[str, Any], *, ids: Sequence[str] | None, trace_id: str | None, run_type: str | None
) -> list[Condition]:
    conditions: list[Condition] = []
    if ids:
        conditions.append(Condition(f"id IN ({','.join('?' * len(ids))})", tuple(value.lower() for value in ids)))
    if trace_id:
        conditions.append(Condition("trace_id = ?", (trace_id.lower(),)))
    if run_type:
        if run_type.lower() not in RUN_TYPES:
            raise refusal(422, f"run_type: unknown value {run_type}")
        conditions.append(Condition("run_type = ?", (run_type.lower(),)))
    if (root := body.get("is_root")) is not None:
        conditions.append(Condition(f"parent_id IS {'' if root else 'NOT '}NULL"))
    if text := body.get("filter"):
        try:
            conditions.append(compile_filter(text))
        except FilterError as error:
            raise refusal(400, f"invalid filter: {error}") from error
    return conditions


def _time(body: Mapping[str, Any], name: str, default: datetime | None = None) -> int:
    try:
        return micros(body.get(name) or (default.isoformat() if default else ""))
    except (ValueError, TypeError) as error:
        raise refusal(422, f"{name}: not a time") from error


def _identity(body: Mapping[str, Any]) -> str:
    paging = ("cursor", "page_size", "limit", "selects", "select")
    kept = {name: value for name, value in body.items() if name not in paging}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
