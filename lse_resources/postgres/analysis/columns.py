"""Typed columns, read from JSON: the same as in the views `run_facts` and `feedback_facts` and in `attachments`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any
from uuid import UUID

from lse_archive.folder.records import Record
from lse_archive.runs.header import RunHeader
from lse_resources.postgres.analysis.json_values import jsonb_text, load_exact_json, load_json, object_members
from lse_resources.postgres.jsonb import render

# Numbers that may be out of jsonb's range: only the close rendering checks each of them, as the server does at a load.
# The first pattern is fast and matches many hexadecimal ids, too; the second one decides.
_MAYBE_EXPONENT = re.compile(rb"\d[eE][+-]?\d{5}")
_EXPONENT = re.compile(rb"[\[,:\s]-?\d[\d.]*[eE][+-]?\d{5}")
_LONG_DIGITS = 16000
_LONG_NUMBER = re.compile(rb"\d{%d}" % _LONG_DIGITS)
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ Tt](\d\d):(\d\d):(\d\d)(?:\.(\d*))?(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?", re.ASCII
)
_NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,60})?([eE]-?\d{1,2})?", re.ASCII)

Scores = dict[str, float]
"""Mean scores by the keys of feedback."""


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
    feedback_scores: Scores | None


@dataclass(frozen=True, slots=True)
class FeedbackColumns:
    """One row of `feedback_facts`: a feedback record, under the day of its run. A score of true is 1."""

    project: str
    run_date: date
    id: UUID
    run_id: UUID | None
    trace_id: UUID | None
    key: str | None
    score: Decimal | None
    value: Any
    comment: str | None
    correction: Any
    source_type: str | None
    created_at: datetime | None
    modified_at: datetime | None
    deleted: bool
    mark: list[str] | None


@dataclass(frozen=True, slots=True)
class AttachmentColumns:
    """One row of `attachments`; `file` is the name of its content in the day's folder."""

    project: str
    run_date: date
    run_id: UUID | None
    name: str | None
    media_type: str | None
    bytes: int | None
    sha256: str | None
    file: str | None
    mark: list[str] | None


COLUMNS = tuple(field.name for field in fields(RunColumns))
FEEDBACK_COLUMNS = tuple(field.name for field in fields(FeedbackColumns))
ATTACHMENT_COLUMNS = tuple(field.name for field in fields(AttachmentColumns))


class RenderedDocument:
    """The content of a JSON object as it is in the database. Only the members that are read are parsed.

    Attributes:
        mark: Why it is not the document itself, see `render`; None if it is.
    """

    def __init__(self, document: bytes) -> None:
        rendering = render(document, closely=_may_be_out_of_range(document))
        self.content = _Object(rendering.data or b"{}")
        self.mark = list(rendering.mark) or None

    def text(self, key: str) -> bytes | None:
        """The JSON of a member; None if it is null or not there."""
        return None if (raw := self.content.raw(key)) == b"null" else raw


def member_texts(document: bytes) -> dict[str, str | None] | None:
    """Returns the members of a JSON object as PostgreSQL's `->>` does; None for another value."""
    if not document.startswith(b"{"):
        return None
    found = _Object(document)
    return {key: found.text(key) for key in found}


def run_columns(
    project: str,
    day: date,
    header: RunHeader,
    document: bytes | RenderedDocument,
    scores: Scores | None = None,
    *,
    read_json: Callable[[bytes], Any] = load_json,
) -> RunColumns:
    """Reads the columns from a run's JSON, after rendering it as for the database.

    Args:
        scores: Of its feedback, see `mean_scores`.
        read_json: Reads the JSON of `metadata`; returns None for null.
    """
    rendered = document if isinstance(document, RenderedDocument) else RenderedDocument(document)
    run = rendered.content
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
        metadata=_first(read_json(run.raw("metadata")), read_json(extra.raw("metadata"))),
        thread_id=_first(run.text("thread_id"), metadata.text("thread_id"), extra_metadata.text("thread_id")),
        mark=rendered.mark,
        feedback_scores=scores,
    )


def feedback_columns(
    project: str, day: date, record: Record, *, read_json: Callable[[bytes], Any] = load_json
) -> FeedbackColumns:
    """Reads the columns from a feedback record; `read_json` reads the JSON of `value` and `correction`."""
    rendered = RenderedDocument(record.document)
    feedback = rendered.content
    score = feedback.value("score")
    return FeedbackColumns(
        project=project,
        run_date=day,
        id=UUID(record.key),
        run_id=_uuid(feedback.text("run_id")),
        trace_id=_uuid(feedback.text("trace_id")),
        key=feedback.text("key"),
        score=Decimal(score) if isinstance(score, bool) else _number(score),
        value=read_json(feedback.raw("value")),
        comment=feedback.text("comment"),
        correction=read_json(feedback.raw("correction")),
        source_type=_Object(feedback.raw("feedback_source")).text("type"),
        created_at=_time(feedback.value("created_at")),
        modified_at=_time(feedback.value("modified_at")),
        deleted="lse_deleted_at" in feedback,
        mark=rendered.mark,
    )


def attachment_columns(project: str, day: date, record: Record) -> AttachmentColumns:
    """Reads the columns from the entry of an attachment."""
    rendered = RenderedDocument(record.document)
    entry = rendered.content
    return AttachmentColumns(
        project=project,
        run_date=day,
        run_id=_uuid(entry.text("run_id")),
        name=entry.text("name"),
        media_type=entry.text("media_type"),
        bytes=_count(entry.value("bytes")),
        sha256=entry.text("sha256"),
        file=entry.text("file"),
        mark=rendered.mark,
    )


def mean_scores(feedback: Iterable[FeedbackColumns]) -> dict[UUID, Scores]:
    """Returns the mean score of each key for each run, without deleted feedback, rounded to 12 decimals."""
    scores: dict[UUID, dict[str, list[Decimal]]] = {}
    for one in feedback:
        if one.run_id and one.key is not None and one.score is not None and not one.deleted:
            scores.setdefault(one.run_id, {}).setdefault(one.key, []).append(one.score)
    return {run: {key: _mean(values) for key, values in by_key.items()} for run, by_key in scores.items()}


def _mean(scores: Sequence[Decimal]) -> float:
    with localcontext(prec=200):
        mean = (sum(scores) / Decimal(len(scores))).quantize(Decimal("1e-12"), ROUND_HALF_UP)
        return load_json(format(mean.normalize(), "f"))


def _may_be_out_of_range(document: bytes) -> bool:
    if _MAYBE_EXPONENT.search(document) and _EXPONENT.search(document):
        return True
    return len(document) > _LONG_DIGITS and _LONG_NUMBER.search(document) is not None


class _Object:
    """A JSON object of which only the members that are read are parsed. Another value has no members."""

    def __init__(self, document: bytes) -> None:
        self._members = object_members(document)

    def raw(self, key: str) -> bytes:
        return bytes(self._members.get(key, b"null"))

    def value(self, key: str) -> Any:
        raw = self.raw(key)
        if raw == b"null":
            return None
        if (
            raw.startswith(b'"') and raw.endswith(b'"') and b"\\" not in raw
        ):  # most values; the parser takes ten times as long
            return raw[1:-1].decode()
        return load_exact_json(raw)

    def text(self, key: str) -> str | None:
        return _text(self.value(key))

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)


def _text(value: Any) -> str | None:
    """Returns a value of `load_exact_json` as PostgreSQL's `->>` does."""
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
