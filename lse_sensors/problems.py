"""Groups failed checks, failed runs and their resolution into few alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec

from lse_archive.days import day_ranges
from lse_resources.alerts import Alert

RUN = "run"
"""The name of an event that is a failed run instead of a check."""

# The longest wait for the end of a backfill or a schedule's tick.
_HOLD_SECONDS = 6 * 3600.0
_IN_DETAIL = 6
_HELD = 2_000


class Event(msgspec.Struct, frozen=True):
    """A check was evaluated, or a run failed.

    Attributes:
        project: LangSmith name, or the job's where no project is known.
        day: The partition; empty if there is none.
        name: The check, or `RUN`.
        passed: Whether the check passed.
        reason: Why it failed, in one line.
        details: The differences, a few lines.
        hint: What to do.
        run_id: Dagster's id of the run.
        batch: The backfill or the schedule's tick of the run; empty: neither.
    """

    project: str
    day: str
    name: str
    passed: bool
    reason: str = msgspec.field(default="", name="says")
    details: list[str] = []
    hint: str = msgspec.field(default="", name="todo")
    run_id: str = ""
    batch: str = ""

    @property
    def place(self) -> str:
        return f"{self.project} {self.day}".rstrip()


class Batch(msgspec.Struct):
    """Events held until their backfill or tick ends, so that one alert reports all."""

    since: float
    events: list[Event] = []


class AlertState(msgspec.Struct):
    """The sensor's state between its runs.

    Attributes:
        checks, failures: Storage ids up to which check evaluations and run failures are not read again.
        read_checks, read_failures: The greater ids that were read: an event may be committed after later ones.
        held: Events that are not in an alert yet, by batch.
        open: Names of the failed checks and runs that were reported, by place.
    """

    checks: int
    failures: int
    read_checks: list[int] = []
    read_failures: list[int] = []
    held: dict[str, Batch] = {}
    open: dict[str, list[str]] = {}

    @property
    def newest(self) -> int:
        """The greatest storage id that was read."""
        return max(self.checks, self.failures, *self.read_checks, *self.read_failures)


def add_events(state: AlertState, events: Iterable[Event], now: float) -> None:
    """Adds new events to their batches. A passed check is added only for a day that failed before."""
    for event in events:
        key = event.batch
        if event.passed:
            waiting = next((key for key, batch in state.held.items() if _has_problem(batch, event)), None)
            if waiting is None and event.place not in state.open:
                continue
            key = waiting if waiting is not None else key
        batch = state.held.setdefault(key, Batch(now))
        if len(batch.events) >= _HELD // 10:
            event = msgspec.structs.replace(event, details=[], hint="")
        if len(batch.events) < _HELD:
            batch.events.append(event)


def _has_problem(batch: Batch, event: Event) -> bool:
    return any(known.place == event.place and not known.passed for known in batch.events)


def take_alerts(state: AlertState, is_running: Callable[[str], bool], now: float, ui_url: str) -> list[Alert]:
    """Removes the batches that have ended; returns at most one alert of problems and one of resolved days."""
    problems: list[Event] = []
    resolved: dict[str, Event] = {}
    for key, batch in list(state.held.items()):
        if key and now - batch.since < _HOLD_SECONDS and is_running(key):
            continue
        del state.held[key]
        red = {event.run_id for event in batch.events if not event.passed}
        for event in batch.events:
            if event.passed:
                if _resolve(state, event, is_green=event.run_id not in red):
                    resolved[event.place] = event
            else:
                resolved.pop(event.place, None)
                names = state.open.setdefault(event.place, [])
                if event.name in names and event.day:
                    continue  # it was reported: a day that is behind is tried again and again
                if event.name not in names:
                    names.append(event.name)
                problems.append(event)
    alerts = []
    if problems:
        alerts.append(problem_alert(problems, ui_url))
    if resolved:
        alerts.append(resolved_alert(list(resolved.values())))
    return alerts


def _resolve(state: AlertState, event: Event, *, is_green: bool) -> bool:
    """Records that a check passed; returns whether no reported problem of the day is left.

    Args:
        is_green: No check of its verification failed.
    """
    names = state.open.get(event.place)
    if names is None:
        return False
    # Verification compares every step: when it passes, it also resolves a failed run.
    names[:] = [name for name in names if name != event.name and not (name == RUN and is_green)]
    if names:
        return False
    del state.open[event.place]
    return True


def problem_alert(problems: Sequence[Event], ui_url: str) -> Alert:
    """One alert of all problems: a few in detail, many by project."""
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
    """One alert of all resolved days."""
    places = [event.place for event in events]
    if len(places) == 1:
        return Alert(f"resolved: {places[0]}")
    by_project = groupby(sorted(events, key=lambda event: event.project), lambda event: event.project)
    lines = [f"{project}: {day_ranges(event.day for event in found)}" for project, found in by_project]
    return Alert(f"resolved: {len(places)} days", lines)


def _name(event: Event) -> str:
    return "the run" if event.name == RUN else event.name


def _in_detail(event: Event, ui_url: str) -> list[str]:
    lines = [f"{event.place}: {_name(event)}: {event.reason}", *(f"  {detail}" for detail in event.details)]
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
