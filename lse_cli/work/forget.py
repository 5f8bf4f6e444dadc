"""Erases runs: shows what is selected, asks, completes the erasure, and prints its certificate."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterable
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from lse_archive.errors import ArchiveConflictError, ArchiveError, UsageError
from lse_archive.files import disk_errors
from lse_archive.names import require_name
from lse_archive.texts import counted
from lse_cli.selection import read_range
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.output import error_object
from lse_operations.forget import check as search
from lse_operations.forget import engine
from lse_operations.forget.journal import Certificate, Journal
from lse_operations.forget.selection import Selectors
from lse_platform.forget_places import open_places
from lse_resources.langsmith.client import LangSmith
from lse_resources.settings import Settings

Result = tuple[list[dict[str, Any]], int]
"""The entries of `--json`, and the exit code."""

_SHOWN = 20


def read_selectors(
    runs: Iterable[str],
    traces: Iterable[str],
    threads: Iterable[str],
    metadata: Iterable[str],
    ids_from: Path | None,
    *,
    runs_only: bool,
    days: tuple[str | None, str | None],
) -> Selectors:
    """Reads the options that select runs.

    Raises:
        UsageError: An id is no UUID, a pair has no `=`, or the range is malformed.
        ArchiveError: The file of ids cannot be read.
    """
    first, last = read_range(None, *days)
    pairs = set()
    for text in metadata:
        key, separator, value = text.partition("=")
        if not separator or not key or not value:
            raise UsageError(f"'{text}' is no metadata", why="it is written as KEY=VALUE")
        pairs.add((key, value))
    listed = [*runs, *(_read_ids(ids_from) if ids_from else ())]
    return Selectors(
        runs=frozenset(map(_uuid, listed)),
        traces=frozenset(map(_uuid, traces)),
        threads=frozenset(threads),
        metadata=frozenset(pairs),
        runs_only=runs_only,
        first=first,
        last=last,
    )


def _uuid(text: str) -> str:
    try:
        return str(UUID(text.strip()))
    except ValueError:
        raise UsageError(f"'{text[:80]}' is no id", why="ids of runs and traces are UUIDs") from None


def _read_ids(path: Path) -> list[str]:
    with disk_errors(f"cannot read {path}"):
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not a list of ids", why="it is not UTF-8") from None
    ids = text.split()
    if not ids:
        raise UsageError(f"{path} holds no id", why="it is empty")
    return ids


class Forget:
    """The work of `lse forget`."""

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal

    def forget(self, project: str, selectors: Selectors, reason: str, *, dry_run: bool) -> Result:
        """Erases what the selectors name, after a question.

        Raises:
            ArchiveConflictError: The question was answered with no.
            ArchiveError: Nothing is selected, or a place cannot be reached; nothing was erased.
        """
        require_name(project)
        places = open_places(self._settings)
        with self._bar("search", "days") as progress:
            planned = engine.plan(places, project, selectors, progress=progress)
        if not planned.selected.runs:
            raise ArchiveError(
                f"no run of '{project}' is selected",
                why="no place of the archive holds one that matches",
                hint=f"Prove it: lse forget --check --project '{project}' …",
            )
        self._show(planned)
        if dry_run:
            return [_plan_entry(planned)], 0
        question = f"Erase {_counts(planned.counts)} everywhere and for good"
        if not self._terminal.confirm(question):
            raise ArchiveConflictError(
                "nothing was erased", why="the erasure was not confirmed", hint="--force answers yes"
            )
        intent = engine.begin(places, planned, reason)
        self._terminal.say(f"erasure {intent.id}")
        return self._complete(places, [intent.id])

    def resume(self) -> Result:
        """Completes the erasures that were interrupted."""
        open_intents = Journal(self._settings.layout).open_intents()
        if not open_intents:
            self._terminal.say("no erasure is open")
            return [], 0
        return self._complete(open_places(self._settings), [intent.id for intent in open_intents])

    def replay(self, project: str | None) -> Result:
        """Erases again what has come back of erased runs, in one project or in all."""
        layout = self._settings.layout
        places = open_places(self._settings)
        known = {project} if project else {*layout.projects(), *(one.project for one in Journal(layout).certificates())}
        with self._bar("search", "days") as progress:
            days = search.replay(places, sorted(known), progress=progress)
        self._terminal.say(f"{counted(days, 'day holds', 'days hold')} what was erased before")
        return self._complete(places, [intent.id for intent in Journal(layout).open_intents()])

    def certificate(self, identity: str) -> Result:
        """Prints a certificate as JSON."""
        found = Journal(self._settings.layout).certificate(identity)
        text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
        for line in text.splitlines():
            self._terminal.say(line)
        return [msgspec.to_builtins(found)], 0

    def check(self, project: str, selectors: Selectors) -> Result:
        """Searches everywhere; exit code 3 if anything is found."""
        require_name(project)
        places = open_places(self._settings)
        with self._bar("search", "days") as progress:
            found = search.check(places, project, selectors, progress=progress)
        self._ask_langsmith(found, places, project, selectors)
        for place, entries in found.found.items():
            self._terminal.warn(f"  ✗ {place}: {counted(entries, 'entry', 'entries')}")
        searched = f"{counted(found.tombstones, 'erased run')} of {counted(found.days, 'day')}"
        if not found.found:
            self._terminal.say(f"  ✓ absent everywhere: what is selected, and {searched}")
        for day, number in found.served.items():
            self._terminal.say(
                f"  ! LangSmith still serves {counted(number, 'erased run')} of {day}: delete it there, too"
            )
        for day, why in found.unasked.items():
            self._terminal.say(f"  ! {day}: LangSmith was not asked: {why}")
        entry = {
            "project": project,
            "days": found.days,
            "tombstones": found.tombstones,
            "found": found.found,
            "langsmith": {str(day): number for day, number in found.served.items()},
            "langsmith_unknown": {str(day): why for day, why in found.unasked.items()},
        }
        return [entry], 3 if found.found else 0

    def _ask_langsmith(self, found: search.Findings, places: Any, project: str, selectors: Selectors) -> None:
        days = search.tombstoned_days(places, project, selectors.first, selectors.last)
        if not days:
            return
        try:
            with (
                contextlib.closing(LangSmith(self._settings.langsmith)) as client,
                contextlib.closing(client.source(project)) as source,
            ):
                for day, tombstones in days.items():
                    if served := search.served_by_langsmith(source, day, tombstones):
                        found.served[day] = served
        except ArchiveError as error:
            found.unasked = dict.fromkeys(days.keys() - found.served.keys(), str(error))

    def _complete(self, places: Any, wanted: list[str]) -> Result:
        terminal = self._terminal
        with self._bar("erase", "days") as progress:
            outcome = engine.complete(
                places, progress=progress, say=lambda line: terminal.say(f"  {line}"), on_wait=terminal.waiting
            )
        done = {one.id: one for one in (*Journal(self._settings.layout).certificates(), *outcome.certificates)}
        certificates = [done[identity] for identity in wanted if identity in done]
        for certificate in certificates:
            self._show_certificate(certificate)
        for day, error in outcome.errors:
            terminal.warn(f"  ✗ {f'{day}: ' if day else ''}{error}")
        if outcome.errors:
            terminal.warn("the erasure is not complete: what was erased stays so. Complete it: lse forget --resume")
        entries = [msgspec.to_builtins(one) for one in certificates]
        entries += [_error_entry(day, error) for day, error in outcome.errors]
        if outcome.errors:
            return entries, 1
        return entries, 3 if any(one.left for one in certificates) else 0

    def _show(self, planned: engine.Plan) -> None:
        for day, here in list(planned.places.items())[:_SHOWN]:
            self._terminal.say(f"  {day}: {counted(len(planned.selected.days[day]), 'run')} in {', '.join(here)}")
        if len(planned.places) > _SHOWN:
            self._terminal.say(f"  … and {counted(len(planned.places) - _SHOWN, 'more day')}")
        self._terminal.say(f"  {_counts(planned.counts)} of {counted(len(planned.places), 'day')}")

    def _show_certificate(self, one: Certificate) -> None:
        self._terminal.say(f"  ✓ erased and proven absent: {_counts(one.selected)}")
        for place, kinds in one.erased.items():
            self._terminal.say(f"      {place}: {', '.join(f'{number:,} {kind}' for kind, number in kinds.items())}")
        for line in one.left:
            self._terminal.warn(f"  ✗ left: {line}")
        for line in one.notes:
            self._terminal.say(f"  ! {line}")
        self._terminal.say(f"  certificate: lse forget --certificate {one.id}")

    @contextlib.contextmanager
    def _bar(self, phase: str, unit: str) -> Generator[engine.Progress]:
        with self._terminal.bars() as bars, bars.day("forget") as bar:
            yield bar(phase, unit)


def _counts(counts: dict[str, int]) -> str:
    """The numbers of a plan or certificate in words."""
    nouns = {
        "runs": "run",
        "traces": "trace",
        "feedback": "feedback record",
        "attachments": "attachment",
        "days": "day",
    }
    return ", ".join(counted(number, nouns[kind]) for kind, number in counts.items())


def _plan_entry(planned: engine.Plan) -> dict[str, Any]:
    days = [
        {
            "date": str(day),
            "runs": len(planned.selected.days[day]),
            "places": here,
            "found_in": planned.selected.sources.get(day, ""),
        }
        for day, here in planned.places.items()
    ]
    return {"project": planned.project, "action": "would erase", "selected": planned.counts, "days": days}


def _error_entry(day: date | None, error: ArchiveError) -> dict[str, Any]:
    return {**({"date": str(day)} if day else {}), "error": error_object("forget", error)}
