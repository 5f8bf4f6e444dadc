"""The header of a run: the fields that the archive needs, read without changing or rejecting any byte.

msgspec decodes a usual document in microseconds. It rejects some that LangSmith may send (lone surrogates, NaN, very
deep nesting); the tolerant scanner reads those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

import msgspec

from lse_archive.days import parse_time
from lse_archive.errors import UNDECODABLE
from lse_archive.runs.scanner import NULL, NotARunError, check_json, load_as, members

CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
"""The id of a run as a `RunHeader` has it."""


@dataclass(frozen=True, slots=True)
class RunHeader:
    """The fields of a run that the archive needs: ids, times, and the numbers of the day's summary.

    Attributes:
        run_id: UUID of the run, lower case with hyphens.
        trace_id: UUID of the trace; the run's own id if LangSmith sent none.
        start: Start time in microseconds since the epoch.
        end: End time in microseconds, None while the run is pending. The start if the end cannot be read (`Invalid
            date`, the year 10000): filing does not need it.
        trace_start: Start of the trace's root, read from `dotted_order`; None if that is absent.
        is_root: Whether the run is the root of its trace.
        failed: Whether the run ended in an error.
        tokens: Total tokens, 0 if unknown.
        cost: Total cost in USD, 0.0 if unknown.
        project_id: UUID of the project, None if LangSmith sent none that can be read.
        feedback_stats: The statistics of its feedback as JSON, see `read_stats`; empty if there are none.
    """

    run_id: str
    trace_id: str
    start: int
    end: int | None
    trace_start: int | None
    is_root: bool
    failed: bool
    tokens: int
    cost: float
    project_id: str | None = None
    feedback_stats: bytes = b""


class _RawHeader(msgspec.Struct):
    id: str | None = None
    trace_id: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    status: str | None = None
    dotted_order: str | None = None
    is_root: bool | None = None
    parent_run_id: str | None = None
    parent_run_ids: list[str] | None = None
    project_id: str | None = None
    session_id: str | None = None
    error: msgspec.Raw = msgspec.Raw(NULL)
    total_tokens: msgspec.Raw = msgspec.Raw(NULL)
    total_cost: msgspec.Raw = msgspec.Raw(NULL)
    trace: msgspec.Raw = msgspec.Raw(NULL)
    feedback_stats: msgspec.Raw = msgspec.Raw(NULL)


_TEXTS = (
    "id trace_id start_time end_time status dotted_order parent_run_id project_id session_id".split()  # noqa: SIM905
)
_NO_STATS = (NULL, b"{}")
_head_decoder = msgspec.json.Decoder(_RawHeader)


def unwrap(document: bytes) -> tuple[bytes, RunHeader]:
    """Returns the run itself and its header; older tools wrapped it as `{"trace": {…run…}, …}`.

    Raises:
        NotARunError: The document is no JSON, or no run.
    """
    head = _read_head(document)
    if head.id is None and bytes(head.trace).startswith(b"{"):
        document = bytes(head.trace)
        head = _read_head(document)
    return document, _header(head)


def read_header(document: bytes) -> RunHeader:
    """The header of a run as LangSmith sent it.

    Raises:
        NotARunError: The document is no JSON, or no run.
    """
    return _header(_read_head(document))


def _read_head(document: bytes) -> _RawHeader:
    try:
        return _head_decoder.decode(document)
    except (*UNDECODABLE, RecursionError):
        return _read_head_tolerantly(document)


def _read_head_tolerantly(document: bytes) -> _RawHeader:
    found = members(check_json(document))
    head = _RawHeader()
    for field in _TEXTS:
        setattr(head, field, load_as(found.get(field, NULL), str))
    if head.end_time is None and found.get("end_time", NULL) != NULL:
        head.end_time = "not a text"  # it has ended
    head.is_root = load_as(found.get("is_root", NULL), bool)
    head.parent_run_ids = load_as(found.get("parent_run_ids", NULL), list)
    for field in ("error", "total_tokens", "total_cost", "trace", "feedback_stats"):
        setattr(head, field, msgspec.Raw(found.get(field, NULL)))
    return head


def _header(head: _RawHeader) -> RunHeader:
    if head.id is None or head.start_time is None:
        missing = "id" if head.id is None else "start_time"
        raise NotARunError(f"it has no {missing}")
    run_id = _uuid(head.id)
    trace_id = _uuid(head.trace_id) if head.trace_id else run_id
    try:
        start = parse_time(head.start_time)
    except ValueError:
        raise NotARunError("its start_time is not a timestamp") from None
    status = (head.status or "").lower()
    return RunHeader(
        run_id=run_id,
        trace_id=trace_id,
        start=start,
        end=_end(head.end_time, start) if head.end_time else None,
        trace_start=_dotted_start(head.dotted_order),
        is_root=head.is_root if head.is_root is not None else not (head.parent_run_id or head.parent_run_ids),
        failed=status == "error" or (not status and bytes(head.error) not in (NULL, b'""')),
        tokens=int(_number(head.total_tokens)),
        cost=_number(head.total_cost),
        project_id=_project_id(head.project_id or head.session_id),
        feedback_stats=b"" if (stats := bytes(head.feedback_stats)) in _NO_STATS else stats,
    )


def _uuid(text: str) -> str:
    if CANONICAL_UUID.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise NotARunError("its id or trace_id is not a UUID") from None


def _project_id(text: str | None) -> str | None:
    try:
        return _uuid(text) if text else None
    except NotARunError:
        return None


def _end(text: str, start: int) -> int:
    try:
        return parse_time(text)
    except ValueError:
        return start


def _dotted_start(dotted_order: str | None) -> int | None:
    # 20260131T235959999999Z<uuid>.<child…>: the first segment is the root's (langsmith SDK, run_trees.py).
    try:
        return parse_time(f"{dotted_order[:15]}.{dotted_order[15:22]}") if dotted_order else None
    except ValueError:
        return None


def _number(raw: msgspec.Raw) -> float:
    # v1 sends costs as strings, v2 as numbers.
    text = bytes(raw)
    if text == NULL:
        return 0.0
    try:
        value = float(text.strip(b'"'))
    except ValueError:
        return 0.0
    return value if value == value and abs(value) < 1e18 else 0.0
