"""What is wrong and what is good again: events of Dagster, grouped into few messages that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec

from lse_archive.days import day_ranges
from lse_resources.alerts import Alert

RUN = "run"
"""Stands in the place of a check's name where the run itself failed."""

# A backfill or a schedule's tick that does not end is not waited for longer.
_HOLD_SECONDS = 6 * 3600.0
_IN_DETAIL = 6
_HELD = 2_000


class Event(msgspec.Struct, frozen=True):
    """A check was evaluated, or a run failed.

    Attributes:
        project: LangSmith name, or the job's where no project is known.
        day: The partition; empty if there is none.
        name: The check, or `RUN`.
        passed: Whether it is good.
        says: One line.
        details: What differs, a few lines.
        hint: What to do about it.
        run_id: Of Dagster.
        batch: The backfill or the schedule's tick that the run belongs to; empty: neither.
    """

    project: str
    day: str
    name: str
    passed: bool
    says: str = ""
    details: list[str] = []
    hint: str = msgspec.field(default="", name="todo")
    run_id: str = ""
    batch: str = ""

    @property
    def place(self) -> str:
        return f"{self.project} {self.day}".rstrip()


class Batch(msgspec.Struct):
    """Events that wait for the end of their backfill or tick, to become one message."""

    since: float
    events: list[Event] = []


class Ledger(msgspec.Struct):
    """What the sensor remembers: how far it has read, what waits, and what is known to be wrong (by place)."""

    checks: int
    failures: int
    held: dict[str, Batch] = {}
    open: dict[str, list[str]] = {}


def enter(ledger: Ledger, events: Iterable[Event], now: float) -> None:
    """Puts new events where they wait. Of what is good only that which was wrong is of interest."""
    for event in events:
        key = event.batch
        if event.passed:
            waiting = next((key for key, batch in ledger.held.items() if _concerns(batch, event)), None)
            if waiting is None and event.place not in ledger.open:
                continue
            key = waiting if waiting is not None else key
        batch = ledger.held.setdefault(key, Batch(now))
        if len(batch.events) >= _HELD // 10:
            event = msgspec.structs.replace(event, details=[], hint="")
        if len(batch.events) < _HELD:
            batch.events.append(event)


def _concerns(batch: Batch, event: Event) -> bool:
    return any(known.place == event.place and not known.passed for known in batch.events)


def release(ledger: Ledger, is_running: Callable[[str], bool], now: float, ui_url: str) -> list[Alert]:
    """Takes out what need not wait any longer, as messages: at most one of what is wrong and one of what is good."""
    problems: list[Event] = []
    resolved: dict[str, Event] = {}
    for key, batch in list(ledger.held.items()):
        if key and now - batch.since < _HOLD_SECONDS and is_running(key):
            continue
        del ledger.held[key]
        for event in batch.events:
            if event.passed:
                if _settle(ledger, event):
                    resolved[event.place] = event
            else:
                names = ledger.open.setdefault(event.place, [])
                if event.name not in names:
                    names.append(event.name)
                resolved.pop(event.place, None)
                problems.append(event)
    alerts = []
    if problems:
        alerts.append(problem_alert(problems, ui_url))
    if resolved:
        alerts.append(resolved_alert(list(resolved.values())))
    return alerts


def _settle(ledger: Ledger, event: Event) -> bool:
    """Notes that a check passed; true if with it the day is good again."""
    names = ledger.open.get(event.place)
    if names is None:
        return False
    # Verification compares every step: a check that passes later resolves a failed run, too.
    names[:] = [name for name in names if name not in (event.name, RUN)]
    if names:
        return False
    del ledger.open[event.place]
    return True


def problem_alert(problems: Sequence[Event], ui_url: str) -> Alert:
    """One message about everything that is wrong; few problems in detail, many by project."""
    places = list(dict.fromkeys(event.place for event in problems))
    if len(problems) <= _IN_DETAIL:
        lines = [line for event in problems for line in _in_detail(event, ui_url)]
    else:
        lines = _by_project(problems, ui_url)
    if len(places) == 1:
        names = ", ".join(dict.fromkeys(_name(event) for event in problems))
        return Alert(f"{places[0]}: {names} failed", lines)
    projects = {event.project for event in problems}
    where = f"of '{problems[0].project}'" if len(projects) == 1 else f"in {len(projects)} projects"
    return Alert(f"{len(places)} days {where} need attention", lines)


def resolved_alert(events: Sequence[Event]) -> Alert:
    """One message about all days that are good again."""
    places = [event.place for event in events]
    if len(places) == 1:
        return Alert(f"resolved: {places[0]} is good again")
    by_project = groupby(sorted(events, key=lambda event: event.project), lambda event: event.project)
    lines = [f"{project}: {day_ranges(event.day for event in found)}" for project, found in by_project]
    return Alert(f"resolved: {len(places)} days are good again", lines)


def _name(event: Event) -> str:
    return "the run" if event.name == RUN else event.name


def _in_detail(event: Event, ui_url: str) -> list[str]:
    lines = [f"{event.place}: {_name(event)}: {event.says}", *(f"  {detail}" for detail in event.details)]
    if event.hint:
        lines.append(f"  What to do: {event.hint}")
    if event.run_id:
        lines.append(f"  {ui_url}/runs/{event.run_id}")
    return lines


def _by_project(problems: Sequence[Event], ui_url: str) -> list[str]:
    def kind(event: Event) -> tuple[str, str]:
        return event.project, event.name

    lines = []
    for (project, _), found in groupby(sorted(problems, key=kind), kind):
        events = list(found)
        lines.append(f"{project}: {_name(events[0])} failed for {day_ranges(event.day for event in events)}. The last:")
        lines += [f"  {line}" for line in _in_detail(max(events, key=lambda event: event.day), ui_url)]
    return lines
