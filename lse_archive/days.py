"""UTC days, time windows and timestamps. Times are integers: microseconds since 1970-01-01T00:00:00Z."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from lse_archive.errors import UsageError

FIRST_DAY = date(1000, 1, 1)
"""The first day that can be archived: Dagster writes the partitions of earlier years with fewer than four digits."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LEAP_SECOND = re.compile(r"(?<=[Tt ][0-9]{2}:[0-9]{2}:)60(?:[.,][0-9]+)?")


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open span [start, end) of start times, in microseconds since the epoch."""

    start: int
    end: int

    def __contains__(self, moment: int) -> bool:
        return self.start <= moment < self.end


def parse_day(text: str) -> date:
    """Parses a day as YYYY-MM-DD.

    Raises:
        UsageError: The text is not such a day.
    """
    if _DAY_PATTERN.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise UsageError(f"'{text}' is not a day", why="there is no such day in the calendar") from None
    raise UsageError(f"'{text}' is not a day", why="days are written YYYY-MM-DD", hint="For example 2026-01-31")


def today() -> date:
    """The current UTC day."""
    return datetime.now(UTC).date()


def require_past(day: date) -> date:
    """Returns the day if it can be archived. Every command that writes days checks its days by this function.

    Raises:
        UsageError: The day is today or later (UTC): it could only be archived in part; or it is before `FIRST_DAY`.
    """
    if day < FIRST_DAY:
        raise UsageError(f"{day} cannot be archived", why=f"the first day of an archive is {FIRST_DAY}")
    if day >= today():
        raise UsageError(
            f"{day} cannot be archived yet",
            why="a day is archived when it is over, in UTC",
            hint=f"Try {today() - timedelta(days=1)} or earlier",
        )
    return day


def days_between(first: date, last: date) -> Iterator[date]:
    """All days from first to last, both included."""
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)


def day_window(day: date) -> Window:
    """The window of the runs that belong to a UTC day."""
    start = to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
    return Window(start, start + 86_400_000_000)


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def parse_time(text: str) -> int:
    """Parses an ISO 8601 timestamp. Without a zone it is UTC; digits below the microsecond are cut off.

    LangSmith's v1 answers carry no zone and mean UTC (langsmith SDK, `schemas.py`). The letters may be
    small, and a leap second is read as the last microsecond of its minute, so that it stays in its day (RFC 3339, 5.6
    and 5.7).

    Raises:
        ValueError: The text is no timestamp, or its UTC year is outside 1 to 9999.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(_LEAP_SECOND.sub("59.999999", text.upper(), count=1))
    try:
        return to_micros(moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
    except OverflowError as error:
        raise ValueError(f"'{text}' is out of range") from error


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def day_of(micros: int) -> date:
    """The UTC day that holds a moment."""
    return _moment(micros).date()


def format_time(micros: int) -> str:
    """2026-01-31T23:59:59.999999Z"""
    return f"{_moment(micros).isoformat(timespec='microseconds')[:26]}Z"  # strftime is slow, and short for year 1


def compact_time(micros: int) -> str:
    """20260131T235959999999Z, the format in the names of run files."""
    return format_time(micros).replace("-", "").replace(":", "").replace(".", "")


def day_ranges(days: Iterable[str]) -> str:
    """Joins consecutive days of the form YYYY-MM-DD: `2026-01-01 to 2026-01-03, 2026-01-07 (4 days)`."""
    found = sorted(set(days))
    ranges: list[list[date]] = []
    for text in found:
        try:
            day = parse_day(text)
        except UsageError:
            continue
        if ranges and day - ranges[-1][-1] == timedelta(days=1):
            ranges[-1].append(day)
        else:
            ranges.append([day])
    shown = [f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in ranges[:8]]
    if len(ranges) > len(shown):
        shown.append("…")
    return ", ".join(shown) + (f" ({len(found)} days)" if len(found) > 1 else "")
