"""Restores days: lists what the destination holds, asks, and restores several days in parallel."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.layout import DayPaths
from lse_archive.results import RestoreResult
from lse_archive.texts import counted
from lse_cli.terminal.bars import DayBars
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.output import error_object
from lse_cli.terminal.texts import describe, size
from lse_operations.restore.copies import RemoteArchive, archived_projects, copies
from lse_operations.restore.restore import RestoreOptions, plan, restore_day
from lse_operations.steps import load_rows
from lse_operations.tombstones import recall_tombstones
from lse_platform.home import find_database, open_home
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.protocol import ArchiveSource
from lse_resources.projects import read_projects
from lse_resources.settings import Settings

_ACTIONS = {
    "unchanged": "exists locally with the same content",
    "would restore": "does not exist locally",
    "would replace": "exists locally and differs",
    "would compare": "exists locally; the zip of an older tool must be downloaded for a comparison",
}


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """The options of `lse archive restore`.

    Attributes:
        projects: Names; None: all projects at the destination.
        from_lake: Whether the lake is the source, and not the destination.
        first, last: First and last day, both included; None: no limit.
    """

    projects: list[str] | None
    first: date | None
    last: date | None
    dry_run: bool
    to_db: bool
    verify_only: bool
    allow_shrink: bool
    from_lake: bool


@dataclass
class _Day:
    paths: DayPaths
    copy: RemoteArchive
    may_replace: bool = False
    result: RestoreResult | None = None
    error: ArchiveError | None = None

    @property
    def title(self) -> str:
        return f"{self.paths.project} {self.paths.day}"

    def fail(self, terminal: Terminal, error: ArchiveError) -> None:
        self.error = error
        terminal.warn(f"  ✗ {self.title}: {error}")


def restore_days(
    settings: Settings, terminal: Terminal, destination: ArchiveSource, request: RestoreRequest
) -> tuple[list[dict[str, Any]], int]:
    """Restores the days that the request selects.

    Returns:
        One entry per project and day, and per project that cannot be restored in full; the exit code.

    Raises:
        ArchiveError: The destination holds none of the days, or cannot be read.
    """
    days, incomplete = _find(settings, terminal, destination, request)
    if not days and not incomplete:
        raise ArchiveError(
            f"there is nothing to restore on {destination.place}",
            why="it holds no archive of these projects and days",
            hint="List what it holds: lse archive restore --all-projects --dry-run",
        )
    for day in days:
        _plan(terminal, destination, day, verify_only=request.verify_only)
    if not request.dry_run:
        confirmed = [day for day in days if _is_confirmed(terminal, destination, day, request)]
        for project in dict.fromkeys(day.paths.project for day in confirmed):
            chosen = [day.paths.day for day in confirmed if day.paths.project == project]
            known = functools.partial(find_database, settings)
            recall_tombstones(known, settings.layout, project, chosen, warn=terminal.warn)
        _restore(settings, terminal, destination, confirmed, request)
    entries = [{"project": project, "error": error_object("restore", why)} for project, why in incomplete.items()]
    entries += map(_entry, days)
    refused = any(day.result and day.result.db_result and day.result.db_result.refused for day in days)
    return entries, 1 if any("error" in entry for entry in entries) else 3 if refused else 0


def _find(
    settings: Settings, terminal: Terminal, destination: ArchiveSource, request: RestoreRequest
) -> tuple[list[_Day], dict[str, ArchiveError]]:
    """The days at the destination, and by project or folder why it cannot be restored in full."""
    incomplete: dict[str, ArchiveError] = {}

    def warn(project: str, error: ArchiveError) -> None:
        terminal.warn(f"  ✗ {project}: {error}")
        incomplete[project] = error

    projects = request.projects
    if projects is None:
        listed = [project.name for project in read_projects(settings.projects_file)]
        projects = list(archived_projects(destination, listed, on_unknown=warn))
    days: list[_Day] = []
    for project in projects:
        others: list[StoredFile] = []
        found = copies(
            destination, project, request.first, request.last, layout=settings.layout, on_other=others.append
        )
        if others:
            names = ", ".join(file.name for file in others[:3]) + (", …" if len(others) > 3 else "")
            terminal.warn(
                f"  ! {project}: left out on {destination.place}: {counted(len(others), 'other file')}: {names}"
            )
        days += [_Day(settings.layout.day(project, copy.day), copy) for copy in found]
    return days, incomplete


def _plan(terminal: Terminal, destination: ArchiveSource, day: _Day, *, verify_only: bool) -> None:
    try:
        day.result = plan(destination, day.paths, day.copy, verify_only=verify_only)
    except ArchiveError as error:
        day.fail(terminal, error)
        return
    action = "would be downloaded and checked" if verify_only else _ACTIONS[day.result.action]
    terminal.say(f"  {day.title}: {action}, {size(day.result.bytes)} from {day.result.source}")


def _is_confirmed(terminal: Terminal, destination: ArchiveSource, day: _Day, request: RestoreRequest) -> bool:
    """Whether to restore the day. Asks before a day is replaced; a refusal is the day's error."""
    if day.error or day.result is None:
        return False
    # A day that is unchanged may change until its lock is held: `restore_day` compares it again.
    if request.verify_only or day.result.action in ("unchanged", "would restore"):
        return True
    differs = "differs" if day.result.action == "would replace" else "may differ"
    question = f"{day.paths.folder} {differs} from the copy on {destination.place}. Replace it with the copy"
    if terminal.confirm(question):
        day.may_replace = True
        return True
    why = "the replacement was not confirmed"
    day.fail(terminal, ArchiveConflictError(f"{day.paths.folder} {differs}", why=why, hint="--force replaces it"))
    return False


def _restore(
    settings: Settings, terminal: Terminal, destination: ArchiveSource, days: list[_Day], request: RestoreRequest
) -> None:
    # Opened for the first load: files are restored without a database, too.
    database = functools.cache(lambda: open_home(settings).database)
    with (
        terminal.bars() as bars,
        bars.several(lambda day: _restore_one(terminal, destination, day, request, bars), days) as futures,
    ):
        for day, future in zip(days, futures, strict=True):
            try:
                day.result = future.result()
                if request.to_db:
                    day.result.db_result = load_rows(day.paths, database(), overwrite=True, on_wait=terminal.waiting)
            except ArchiveError as error:
                day.fail(terminal, error)
                continue
            terminal.say(f"  ✓ {day.title}: {describe(day.result)}")
            if day.result.db_result:
                terminal.say(f"      load: {describe(day.result.db_result)}")
                for line in day.result.db_result.errors:
                    terminal.warn(f"      {line}")


def _restore_one(
    terminal: Terminal, destination: ArchiveSource, day: _Day, request: RestoreRequest, bars: DayBars
) -> RestoreResult:
    with bars.day(day.title) as bar:
        options = RestoreOptions(
            may_replace=lambda _: day.may_replace or terminal.force,
            allow_shrink=request.allow_shrink,
            verify_only=request.verify_only,
            downloading=bar("download", "bytes"),
            extracting=bar("extract", "files"),
            on_wait=terminal.waiting,
            is_destination=not request.from_lake,
        )
        return restore_day(destination, day.paths, day.copy, options)


def _entry(day: _Day) -> dict[str, Any]:
    found: dict[str, Any] = {"project": day.paths.project, "date": str(day.paths.day)}
    if day.result:
        found |= msgspec.to_builtins(day.result)
    if day.error:
        found["error"] = error_object("restore", day.error)
    return found
