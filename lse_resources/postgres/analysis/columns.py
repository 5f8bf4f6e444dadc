"""Typed columns of a run, read from its JSON: the same columns and values as in the view `run_facts`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

from lse_archive.runs.header import RunHeader
from lse_resources.postgres.jsonb import render

_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,60})?([eE]-?\d{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RunColumns:
    """One row of `run_facts`. Times are aware and in UTC, costs in USD, latency in seconds; None where unknown."""

    project: str
    run_date: date
    run_id: UUID
    trace_id: UUID
    parent_run_id: UUID | None
    depth: int | None
    is_root: bool
    name: str | None
    run_type: str | None
    status: str | None
    start_time: datetime | None
    end_time: datetime | None
    latency_seconds: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    prompt_cost: Decimal | None
    completion_cost: Decimal | None
    total_cost: Decimal | None
    error: str | None
    model: str | None
    tags: list[str | None] | None
    metadata: Any
    thread_id: str | None
    mark: list[str] | None


COLUMNS = tuple(field.name for field in fields(RunColumns))


def run_columns(project: str, day: date, header: RunHeader, document: bytes) -> RunColumns:
    """Reads the columns from a run's JSON, after rendering it as for the database."""
    rendering = render(document)
    run = _loads(rendering.data or b"{}")
    start, end = _time(run.get("start_time")), _time(run.get("end_time"))
    parent = _uuid(_text(run.get("parent_run_id")) or _last(run.get("parent_run_ids")))
    order = _text(run.get("dotted_order"))
    tags = run.get("tags")
    metadata = run.get("metadata")
    return RunColumns(
        project=project,
        run_date=day,
        run_id=UUID(header.run_id),
        trace_id=UUID(header.trace_id),
        parent_run_id=parent,
        depth=None if order is None else order.count("."),
        is_root=parent is None,
        name=_text(run.get("name")),
        run_type=_lower(run.get("run_type")),
        status=_status(run),
        start_time=start,
        end_time=end,
        latency_seconds=(end - start).total_seconds() if start and end else None,
        prompt_tokens=_count(run.get("prompt_tokens")),
        completion_tokens=_count(run.get("completion_tokens")),
        total_tokens=_count(run.get("total_tokens")),
        prompt_cost=_number(run.get("prompt_cost")),
        completion_cost=_number(run.get("completion_cost")),
        total_cost=_number(run.get("total_cost")),
        error=_text(run.get("error")) or None,
        model=_first(
            run,
            ("metadata", "ls_model_name"),
            ("extra", "metadata", "ls_model_name"),
            ("extra", "invocation_params", "model"),
            ("extra", "invocation_params", "model_name"),
        ),
        tags=[_text(tag) for tag in tags] if isinstance(tags, list) else None,
        metadata=metadata if metadata is not None else _dig(run, ("extra", "metadata")),
        thread_id=_first(run, ("thread_id",), ("metadata", "thread_id"), ("extra", "metadata", "thread_id")),
        mark=list(rendering.mark) or None,
    )


def _loads(data: bytes) -> Mapping[str, Any]:
    try:
        run = json.loads(data, parse_float=Decimal)
    except (ValueError, RecursionError):  # a number of over 4,300 digits; nesting too deep for Python
        return {}
    return run if isinstance(run, dict) else {}


def _text(value: Any) -> str | None:
    """Returns a value as PostgreSQL's `->>` does."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, Decimal) else str(value)


def _lower(value: Any) -> str | None:
    text = _text(value)
    return None if text is None else text.lower()


def _status(run: Mapping[str, Any]) -> str | None:
    if status := _lower(run.get("status")):
        return status
    if _text(run.get("error")):
        return "error"
    if _text(run.get("end_time")):
        return "success"
    return "pending" if "id" in run else None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # in UTC, it is before year 1 or after 9999
        return None


def _count(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if _COUNT.fullmatch(value) else None
    number = _number(value)
    # PostgreSQL rounds half up.
    return int(number.to_integral_value(ROUND_HALF_UP)) if number is not None and 0 <= number <= 10**18 else None


def _number(value: Any) -> Decimal | None:
    if isinstance(value, str):
        return Decimal(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return None
    number = Decimal(value)
    return number if abs(number) < 10**30 else None


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text and _UUID.fullmatch(text) else None


def _last(value: Any) -> str | None:
    return _text(value[-1]) if isinstance(value, list) and value else None


def _first(run: Mapping[str, Any], *paths: tuple[str, ...]) -> str | None:
    return next((text for path in paths if (text := _text(_dig(run, path))) is not None), None)


def _dig(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
