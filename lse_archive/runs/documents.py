"""Run documents: what the archive must know of a run's JSON, read without changing or refusing a byte of it.

msgspec reads the usual document in microseconds. It refuses some that LangSmith may send all the same (lone
surrogates, NaN, very deep nesting); those are cut by a tolerant scanner that looks at structure alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import msgspec

from lse_archive.days import parse_time

_BOM = b"\xef\xbb\xbf"
_NULL = b"null"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What the archive reads from a run: identity, place in time and the numbers of the day's summary.

    Attributes:
        run_id: UUID of the run, lower case with hyphens.
        trace_id: UUID of the trace; the run's own id where LangSmith did not send one.
        start: Start time in microseconds since the epoch.
        end: End time in microseconds, None while the run is pending.
        trace_start: Start of the trace's root, read from `dotted_order`; None where that is absent.
        is_root: Whether the run is the root of its trace.
        failed: Whether the run ended in an error.
        tokens: Total tokens, 0 where unknown.
        cost: Total cost in USD, 0.0 where unknown.
        project_id: UUID of the project, None where LangSmith did not send one.
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


class NotARunError(ValueError):
    """The bytes are not the JSON of a run; the text says why."""


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
    error: msgspec.Raw = msgspec.Raw(_NULL)
    total_tokens: msgspec.Raw = msgspec.Raw(_NULL)
    total_cost: msgspec.Raw = msgspec.Raw(_NULL)
    trace: msgspec.Raw = msgspec.Raw(_NULL)


_TEXTS = (
    "id trace_id start_time end_time status dotted_order parent_run_id project_id session_id".split()  # noqa: SIM905
)
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
    except (msgspec.DecodeError, RecursionError):
        return _read_head_tolerantly(document)


def _read_head_tolerantly(document: bytes) -> _RawHeader:
    found = members(check_json(document))
    head = _RawHeader()
    for field in _TEXTS:
        setattr(head, field, _loads(found.get(field, _NULL), str))
    head.is_root = _loads(found.get("is_root", _NULL), bool)
    head.parent_run_ids = _loads(found.get("parent_run_ids", _NULL), list)
    for field in ("error", "total_tokens", "total_cost", "trace"):
        setattr(head, field, msgspec.Raw(found.get(field, _NULL)))
    return head


def _loads(value: bytes, kind: type[_T]) -> _T | None:
    try:
        loaded = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, kind) else None


def _header(head: _RawHeader) -> RunHeader:
    if head.id is None or head.start_time is None:
        missing = "id" if head.id is None else "start_time"
        raise NotARunError(f"it has no {missing}")
    run_id = _uuid(head.id)
    trace_id = _uuid(head.trace_id) if head.trace_id else run_id
    try:
        start = parse_time(head.start_time)
        end = parse_time(head.end_time) if head.end_time else None
    except ValueError:
        raise NotARunError("its start_time or end_time is not a timestamp") from None
    status = (head.status or "").lower()
    return RunHeader(
        run_id=run_id,
        trace_id=trace_id,
        start=start,
        end=end,
        trace_start=_dotted_start(head.dotted_order),
        is_root=head.is_root if head.is_root is not None else not (head.parent_run_id or head.parent_run_ids),
        failed=status == "error" or (not status and bytes(head.error) not in (_NULL, b'""')),
        tokens=int(_number(head.total_tokens)),
        cost=_number(head.total_cost),
        project_id=head.project_id or head.session_id,
    )


def _uuid(text: str) -> str:
    if _UUID.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise NotARunError("its id or trace_id is not a UUID") from None


def _dotted_start(dotted_order: str | None) -> int | None:
    # 20260131T235959999999Z<uuid>.<child…>: the first segment is the root's (langsmith SDK, run_trees.py).
    try:
        return parse_time(f"{dotted_order[:15]}.{dotted_order[15:22]}") if dotted_order else None
    except ValueError:
        return None


def _number(raw: msgspec.Raw) -> float:
    # v1 sends costs as strings, v2 as numbers.
    text = bytes(raw)
    if text == _NULL:
        return 0.0
    try:
        value = float(text.strip(b'"'))
    except ValueError:
        return 0.0
    return value if value == value and abs(value) < 1e18 else 0.0


# ---- pages -----------------------------------------------------------------------------------------------------


class _Page(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    next_cursor: str | None = None
    runs: list[msgspec.Raw] | None = None
    cursors: dict[str, str | None] | None = None


_page_decoder = msgspec.json.Decoder(_Page)


def cut_page(body: bytes) -> tuple[list[bytes], str | None]:
    """Cuts an answer of `POST /api/v2/runs/query` or `POST /runs/query` into the bytes of its runs and the next cursor.

    Raises:
        NotARunError: The body is not JSON, or holds no list of runs: it must be asked for again.
    """
    try:
        page = _page_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        page = _cut_page_tolerantly(body)
    if page.items is not None:
        return [bytes(item) for item in page.items], page.next_cursor or None
    if page.runs is not None:
        return [bytes(run) for run in page.runs], (page.cursors or {}).get("next") or None
    raise NotARunError("the answer holds no list of runs")


def _cut_page_tolerantly(body: bytes) -> _Page:
    found = members(body)
    page = _Page(next_cursor=_loads(found.get("next_cursor", _NULL), str))
    page.cursors = _loads(found.get("cursors", _NULL), dict)
    if found.get("items", _NULL) != _NULL:
        page.items = [msgspec.Raw(check_json(item)) for item in elements(found["items"])]
    if found.get("runs", _NULL) != _NULL:
        page.runs = [msgspec.Raw(check_json(run)) for run in elements(found["runs"])]
    return page


# ---- the tolerant scanner ------------------------------------------------------------------------------------------

# Possessive: a string that is cut off must fail at once, not after every way to split it has been tried.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_OPEN, _CLOSE = frozenset(b"{["), frozenset(b"}]")


def check_json(document: bytes) -> bytes:
    """Returns the document if it is JSON, judged as leniently as possible without accepting a broken one.

    Raises:
        NotARunError: It is not JSON.
    """
    try:
        text = document.removeprefix(_BOM).decode("utf-8", "surrogateescape")
        json.loads(text, strict=False, parse_int=str, parse_float=str)  # int() refuses more than 4,300 digits
    except RecursionError:
        # Too deep for the parser: its brackets at least must match.
        elements(document) if document.lstrip().startswith(b"[") else members(document)
    except ValueError as error:
        raise NotARunError(f"it is not JSON ({error})") from None
    return document


def members(document: bytes) -> dict[str, bytes]:
    """The values of a JSON object's own keys, as bytes, however deep or odd they are. A repeated key: the last wins.

    Raises:
        NotARunError: It is not an object, or not complete.
    """
    found: dict[str, bytes] = {}
    for part in _parts(document.removeprefix(_BOM), b"{"):
        key, colon, value = _split_member(part)
        if not colon:
            raise NotARunError("it is not JSON (a key without a value)")
        found[key] = value
    return found


def elements(document: bytes) -> list[bytes]:
    """The elements of a JSON array, as bytes.

    Raises:
        NotARunError: It is not an array, or not complete.
    """
    return list(_parts(document, b"["))


def _split_member(part: bytes) -> tuple[str, bool, bytes]:
    match = _TOKEN.match(part)
    rest = part[match.end() :].lstrip() if match else b""
    if not match or not rest.startswith(b":"):
        return "", False, b""
    key = _loads(match.group(), str)
    return (key if key is not None else repr(match.group())), True, rest[1:].strip()


def _parts(document: bytes, opening: bytes) -> Iterator[bytes]:
    depth, begin, complete, after = 0, 0, False, 0
    for match in _TOKEN.finditer(document):
        if complete or (depth == 0 and match.group() != opening):
            raise NotARunError(f"it is not JSON (no single {'object' if opening == b'{' else 'array'})")
        if document[after : match.start()].strip():
            break  # a string without an end
        after = match.end()
        token = document[match.start()]
        if token in _OPEN:
            depth += 1
            begin = match.end() if depth == 1 else begin
        elif token in _CLOSE:
            depth -= 1
            if depth == 0:
                complete = True
                if last := document[begin : match.start()].strip():
                    yield last
        elif token == ord(",") and depth == 1:
            yield document[begin : match.start()].strip()
            begin = match.end()
    if not complete:
        raise NotARunError("it is not JSON (it ends too early)")
