"""The filter of a list of runs in an address, and back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, get_args
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request

from lse_archive.days import parse_day
from lse_archive.errors import UsageError
from lse_resources.postgres.pages.runs import Cursor, RunFilter, Sort
from lse_viewer.archive import project_of, text_of

_T = TypeVar("_T")
_MAX_IDS = 100


def read_filter(request: Request) -> RunFilter:
    """The filter of a request.

    Raises:
        UsageError: A value is malformed, or there is no project.
    """

    def read(name: str, parse: Callable[[str], _T], what: str) -> _T | None:
        if not (text := text_of(request, name).strip()):
            return None
        try:
            return parse(text)
        except (ValueError, InvalidOperation):
            raise UsageError(f"{name}: '{text[:80]}' is not {what}") from None

    ids = request.query_params.getlist("id")[:_MAX_IDS]
    return RunFilter(
        project=project_of(request),
        first=read("from", parse_day, "a day"),
        last=read("to", parse_day, "a day"),
        roots=bool(text_of(request, "root")),
        name=text_of(request, "name"),
        run_type=text_of(request, "type"),
        status=text_of(request, "status"),
        model=text_of(request, "model"),
        tag=text_of(request, "tag"),
        metadata=read("metadata", _pair, "written as key=value"),
        thread=text_of(request, "thread"),
        seconds=read("seconds", _number, "a number"),
        cost=read("cost", lambda text: Decimal(str(_number(text))), "a number"),
        tokens=read("tokens", _count, "a number"),
        feedback=text_of(request, "feedback"),
        score_from=read("score_from", _number, "a number"),
        score_to=read("score_to", _number, "a number"),
        text=text_of(request, "text"),
        run_ids=tuple(_id(text) for text in ids),
        sort=read("sort", _sort, f"one of {', '.join(get_args(Sort))}") or "start",
    )


def filter_values(wanted: RunFilter) -> list[tuple[str, str]]:
    """The names and values of a filter in an address, without those that leave every run in."""
    values: dict[str, Any] = {
        "project": wanted.project,
        "from": wanted.first,
        "to": wanted.last,
        "root": 1 if wanted.roots else None,
        "name": wanted.name,
        "type": wanted.run_type,
        "status": wanted.status,
        "model": wanted.model,
        "tag": wanted.tag,
        "metadata": "=".join(wanted.metadata) if wanted.metadata else None,
        "thread": wanted.thread,
        "seconds": wanted.seconds,
        "cost": wanted.cost,
        "tokens": wanted.tokens,
        "feedback": wanted.feedback,
        "score_from": wanted.score_from,
        "score_to": wanted.score_to,
        "text": wanted.text,
        "sort": wanted.sort if wanted.sort != "start" else None,
    }
    found = [(name, str(value)) for name, value in values.items() if value not in (None, "")]
    return [*found, *(("id", str(run_id)) for run_id in wanted.run_ids)]


def read_cursor(request: Request, sort: Sort) -> Cursor | None:
    """Where the page begins; None: at the start of the list.

    Raises:
        UsageError: The value is malformed.
    """
    if not (text := text_of(request, "after")):
        return None
    try:
        day, value, run_id = text.split("~")
        return Cursor(parse_day(day), _VALUES[sort](value) if value else None, UUID(run_id))
    except (ValueError, InvalidOperation, UsageError):
        raise UsageError("the address names no page", hint="Open the list from its start") from None


def cursor_text(cursor: Cursor) -> str:
    """The cursor in an address."""
    value = cursor.value
    text = value.astimezone(UTC).isoformat() if isinstance(value, datetime) else "" if value is None else str(value)
    return f"{cursor.run_date}~{text}~{cursor.run_id}"


def address(path: str, values: list[tuple[str, str]], **more: str) -> str:
    """An address with these values, which are percent-encoded."""
    return f"{path}?{urlencode([*values, *more.items()])}"


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(text)
    return key, value


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) < 1e30:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise ValueError(text)
    return value


def _sort(text: str) -> Sort:
    if text not in _VALUES:
        raise ValueError(text)
    return text


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"'{text[:80]}' is not the id of a run", why="ids are UUIDs") from None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


_VALUES: dict[Sort, Callable[[str], datetime | float | Decimal | int]] = {
    "start": _time,
    "latency": _number,
    "cost": _decimal,
    "tokens": _count,
}
