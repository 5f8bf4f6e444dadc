"""Typed columns of a run, read from its JSON: the same columns and values as in the view `run_facts`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

from lse_archive.runs.header import RunHeader
from lse_resources.postgres.analysis.json_values import jsonb_text, load_exact_json, load_json, object_members
from lse_resources.postgres.jsonb import render

# Numbers that may be out of jsonb's range: only the close rendering checks each of them, as the server does at a load.
_MAYBE_OUT_OF_RANGE = re.compile(rb"[eE][+-]?\d{5}|\d{16000}")
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ Tt](\d\d):(\d\d):(\d\d)(?:\.(\d*))?(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?", re.ASCII
)
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
    rendering = render(document, closely=_MAYBE_OUT_OF_RANGE.search(document) is not None)
    run = _Object(rendering.data or b"{}")
    extra = _Object(run.raw("extra"))
    metadata, extra_metadata = _Object(run.raw("metadata")), _Object(extra.raw("metadata"))
    invocation = _Object(extra.raw("invocation_params"))
    start, end = _time(run.value("start_time")), _time(run.value("end_time"))
    parent = _uuid(_first(run.text("parent_run_id"), _last(run.value("parent_run_ids"))))
    order = run.text("dotted_order")
    tags = run.value("tags")
    return RunColumns(
        project=project,
        run_date=day,
        run_id=UUID(header.run_id),
        trace_id=UUID(header.trace_id),
        parent_run_id=parent,
        depth=None if order is None else order.count("."),
        is_root=parent is None,
        name=run.text("name"),
        run_type=_lower(run.text("run_type")),
        status=_status(run),
        start_time=start,
        end_time=end,
        latency_seconds=(end - start).total_seconds() if start and end else None,
        prompt_tokens=_count(run.value("prompt_tokens")),
        completion_tokens=_count(run.value("completion_tokens")),
        total_tokens=_count(run.value("total_tokens")),
        prompt_cost=_number(run.value("prompt_cost")),
        completion_cost=_number(run.value("completion_cost")),
        total_cost=_number(run.value("total_cost")),
        error=run.text("error") or None,
        model=_first(
            metadata.text("ls_model_name"),
            extra_metadata.text("ls_model_name"),
            invocation.text("model"),
            invocation.text("model_name"),
        ),
        tags=[_text(tag) for tag in tags] if isinstance(tags, list) else None,
        metadata=_first(load_json(run.raw("metadata")), load_json(extra.raw("metadata"))),
        thread_id=_first(run.text("thread_id"), metadata.text("thread_id"), extra_metadata.text("thread_id")),
        mark=list(rendering.mark) or None,
    )


class _Object:
    """A JSON object of which only the members that are read are parsed. Another value has no members."""

    def __init__(self, document: bytes) -> None:
        self._members = object_members(document)

    def raw(self, key: str) -> bytes:
        return bytes(self._members.get(key, b"null"))

    def value(self, key: str) -> Any:
        return load_exact_json(self.raw(key))

    def text(self, key: str) -> str | None:
        return _text(self.value(key))

    def __contains__(self, key: str) -> bool:
        return key in self._members


def _text(value: Any) -> str | None:
    """Returns a value as PostgreSQL's `->>` does."""
    return value if value is None or isinstance(value, str) else jsonb_text(value)


def _lower(text: str | None) -> str | None:
    # PostgreSQL maps each character to one; Python may map one to two.
    if text is None or text.isascii():
        return text and text.lower()
    return "".join(letter.lower()[0] for letter in text)


def _status(run: _Object) -> str | None:
    if status := run.text("status"):
        return _lower(status)
    if run.text("error"):
        return "error"
    if run.text("end_time"):
        return "success"
    return "pending" if "id" in run else None


def _time(value: Any) -> datetime | None:
    """Reads a timestamp as `lse_time` does in the database: with 24:00:00 and leap seconds, cut to microseconds."""
    if not isinstance(value, str) or not (found := _TIME.fullmatch(value)):
        return None
    day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = found.groups("0")
    clock = timedelta(
        hours=int(hour), minutes=int(minute), seconds=int(second), microseconds=int(f"{fraction:0<6}"[:6])
    )
    if int(minute) > 59 or int(second) > 60 or clock > timedelta(days=1):
        return None
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    try:
        midnight = datetime.fromisoformat(day).replace(tzinfo=UTC)
        return midnight + (clock + offset if sign == "-" else clock - offset)
    except (ValueError, OverflowError):
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
    return number if -(10**30) < number < 10**30 else None


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text and _UUID.fullmatch(text) else None


def _last(value: Any) -> str | None:
    """Returns the last element as PostgreSQL's `->> -1` does, for which a scalar is its own only element."""

    if isinstance(value, list | dict):
        return _text(value[-1]) if value and isinstance(value, list) else None
    return _text(value)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
