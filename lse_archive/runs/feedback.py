"""Feedback records, and the statistics of feedback that a run carries. Both are read without rejecting any byte."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec

from lse_archive.days import parse_time
from lse_archive.errors import UNDECODABLE
from lse_archive.runs.scanner import NULL, NotARunError, check_json, load_as, members, one_line

FEEDBACK = "_feedback.jsonl"
"""The records of the day's runs."""
FEEDBACK_APART = "_feedback_apart.jsonl"
"""Records without a run, or whose run is not archived."""
FEEDBACK_FILES = frozenset((FEEDBACK, FEEDBACK_APART))

_UNREADABLE = "lse_unreadable"
_DELETED = re.compile(rb',?"lse_deleted_at":"([0-9TZ:.+-]+)"\}$')


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """One feedback record.

    Attributes:
        identity: Its id; without one, the sha256 of its line. Records are sorted by it.
        line: The record as LangSmith sent it, in one line. What is no JSON object becomes `{"lse_unreadable": text}`.
        run_id: UUID of its run, lower case with hyphens; None without a run.
        key: The name of the metric, in UTF-8; empty if there is none.
        created, modified, start: Times in microseconds since the epoch, `start` that of the run; None if unknown.
        failed: Whether the evaluator failed.
        of_thread: Whether it was given to a thread.
    """

    identity: bytes
    line: bytes
    run_id: str | None = None
    key: bytes = b""
    created: int | None = None
    modified: int | None = None
    start: int | None = None
    failed: bool = False
    of_thread: bool = False


class _RawRecord(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(NULL)
    run_id: msgspec.Raw = msgspec.Raw(NULL)
    key: msgspec.Raw = msgspec.Raw(NULL)
    created_at: msgspec.Raw = msgspec.Raw(NULL)
    modified_at: msgspec.Raw = msgspec.Raw(NULL)
    start_time: msgspec.Raw = msgspec.Raw(NULL)
    feedback_thread_id: msgspec.Raw = msgspec.Raw(NULL)
    error: msgspec.Raw = msgspec.Raw(NULL)
    extra: msgspec.Raw = msgspec.Raw(NULL)


_record_decoder = msgspec.json.Decoder(_RawRecord)


def read_record(content: bytes) -> FeedbackRecord:
    """Reads a record; anything is one: of what is no record, only the identity and the line are known."""
    try:
        line = one_line(check_json(content)).strip()
        found = _members(line)
    except NotARunError:
        text = content.decode("utf-8", "surrogateescape")
        line, found = json.dumps({_UNREADABLE: text}).encode(), {}

    def text_of(name: str) -> str:
        return load_as(found.get(name, NULL), str) or ""

    return FeedbackRecord(
        identity=_encoded(text_of("id")) or b"sha256:" + hashlib.sha256(line).hexdigest().encode(),
        line=line,
        run_id=_uuid(text_of("run_id")),
        key=_encoded(text_of("key")),
        created=_time(text_of("created_at")),
        modified=_time(text_of("modified_at")),
        start=_time(text_of("start_time")),
        failed=_is_true(found.get("error")) or _is_true(_extra(found).get("error")),
        of_thread=found.get("feedback_thread_id", NULL) != NULL,
    )


def _members(line: bytes) -> Mapping[str, bytes]:
    try:
        raw = _record_decoder.decode(line)
    except (*UNDECODABLE, RecursionError):
        return members(line)
    return {name: bytes(getattr(raw, name)) for name in _RawRecord.__struct_fields__}


def _extra(found: Mapping[str, bytes]) -> Mapping[str, bytes]:
    extra = found.get("extra", NULL)
    return members(extra) if extra.startswith(b"{") and b'"error"' in extra else {}


def _is_true(value: bytes | None) -> bool:
    return value == b"true"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # an id may hold a lone surrogate


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


def _time(text: str) -> int | None:
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def marked_deleted(line: bytes, at: str) -> bytes:
    """The line of a record, an object, with the time at which LangSmith was first seen without it."""
    head = line.rstrip()[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + b'"lse_deleted_at":"%s"}' % at.encode()


def split_mark(line: bytes) -> tuple[bytes, str | None]:
    """The line as LangSmith sent it, and the time of `marked_deleted`, None if it is not marked."""
    found = _DELETED.search(line)
    return (line[: found.start()] + b"}", found[1].decode()) if found else (line, None)


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of records; none if there is no file."""
    try:
        with path.open("rb") as file:
            for line in file:
                if content := line.strip():
                    yield content
    except FileNotFoundError:
        return


@dataclass(frozen=True, slots=True)
class KeyStats:
    """`feedback_stats` of one key.

    Attributes:
        n: Number of records; None if it cannot be read.
        errors: How many of them are of failed evaluators. Whether `n` counts them is not documented.
        has_threads: Whether `n` may count feedback of threads.
    """

    n: int | None
    errors: int = 0
    has_threads: bool = False


def read_stats(stats: bytes) -> dict[bytes, KeyStats]:
    """The statistics of a run by key; empty if there are none, or if they are no object."""
    found = {}
    for key, value in (load_as(stats, dict) or {}).items():
        stat = value if isinstance(value, dict) else {}
        found[_encoded(key)] = KeyStats(
            _count(stat.get("n")), _count(stat.get("errors")) or 0, stat.get("contains_thread_feedback") is True
        )
    return found


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
