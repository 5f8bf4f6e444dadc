"""Works through a restore: lists what is at the destination, asks, and brings several days back at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import msgspec

from lse_archive.days import parse_day
from lse_archive.errors import ArchiveConflictError, ArchiveError, UsageError
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.results import LoadResult, RestoreResult
from lse_cli.terminal.bars import DayBars
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.texts import describe, size
from lse_operations.restore.copies import RemoteArchive, archived_projects, copies, repeated_folders
from lse_operations.restore.restore import RestoreOptions, plan, restore_day
from lse_platform.home import open_home
from lse_resources.destinations.protocol import Destination
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.projects import read_projects
from lse_resources.settings import Settings


@dataclass(frozen=True)
class RestoreSelection:
    """Which projects (None: all at the destination) and which days, both ends included (None: open)."""

    projects: list[str] | None
    known: list[str]
    first: date | None
    last: date | None


@dataclass
class _Day:
    paths: DayPaths
    copy: RemoteArchive
    may_replace: bool = False
    result: RestoreResult | None = None
    error: ArchiveError | None = None


def selected(
    settings: Settings,
    project: str | None,
    date_text: str | None,
    start_text: str | None,
    end_text: str | None,
    *,
    all_projects: bool,
) -> RestoreSelection:
    """Reads the options.

    Raises:
        UsageError: They contradict each other, or there is no project.
    """
    known = [config.name for config in read_projects(settings.projects_file)]
    if project is not None and all_projects:
        raise UsageError("--project does not go with --all-projects", hint="Use one or the other")
    if date_text and (start_text or end_text):
        raise UsageError("--date does not go with --start-date or --end-date", hint="Use one or the other")
    first = parse_day(text) if (text := date_text or start_text) else None
    last = parse_day(text) if (text := date_text or end_text) else None
    if first and last and last < first:
        raise UsageError(f"the range ends before it starts ({first} to {last})")
    if project is not None and not project.strip():
        raise UsageError("--project is empty", hint="Name a LangSmith project")
    if project is None and not all_projects and not known:
        raise UsageError(
            "no project is named",
            why=f"{settings.projects_file} lists none",
            hint="Name one with --project, or take all that the destination holds: --all-projects",
        )
    return RestoreSelection(None if all_projects else [project] if project else known, known, first, last)


class RestoreWork:
    """One run of the command."""

    def __init__(
        self,
        settings: Settings,
        terminal: Terminal,
        destination: Destination,
        *,
        allow_shrink: bool,
        verify_only: bool,
    ) -> None:
        self._settings = settings
        self._terminal = terminal
        self._destination = destination
        self._allow_shrink = allow_shrink
        self._verify_only = verify_only
        self._not_all: list[dict[str, Any]] = []

    def run(self, selection: RestoreSelection, *, dry_run: bool, to_db: bool) -> tuple[list[dict[str, Any]], int]:
        """Returns one entry per project and day, and per project that is not restored in full, and the exit code.

        Raises:
            ArchiveError: Nothing is at the destination, or it cannot be asked.
        """
        days = list(self._days(selection))
        if not days and not self._not_all:
            raise ArchiveError(
                f"there is nothing to restore on {self._destination.place}",
                why="it holds no archive of these projects and days",
                hint="Look with: lse archive restore --all-projects --dry-run",
            )
        self._plan(days)
        if not dry_run:
            chosen = [day for day in days if self._is_wanted(day)]
            self._restore(chosen, to_db=to_db)
        entries = [*self._not_all, *(_entry(day) for day in days)]
        return entries, 1 if any("error" in entry for entry in entries) else 0

    def _days(self, selection: RestoreSelection) -> Iterator[_Day]:
        projects = selection.projects
        if projects is None:
            found = archived_projects(self._destination, selection.known, on_unknown=self._not_in_full)
            projects = list(found)
        repeated = repeated_folders(self._destination)
        for project in projects:
            if why := repeated.get(project_folder(project)):
                self._not_in_full(project, why)
            for copy in copies(self._destination, project, selection.first, selection.last):
                yield _Day(self._settings.layout.day(project, copy.day), copy)

    def _not_in_full(self, project: str, error: ArchiveError) -> None:
        self._terminal.warn(f"  ✗ {project}: {error}")
        self._not_all.append({"project": project, "error": _error(error)})

    def _plan(self, days: list[_Day]) -> None:
        for day in days:
            name = f"{day.paths.project} {day.paths.day}"
            try:
                day.result = plan(self._destination, day.paths, day.copy, verify_only=self._verify_only)
            except ArchiveError as error:
                self._fail(day, error)
            else:
                action = "would be proven" if self._verify_only else _ACTIONS[day.result.action]
                self._terminal.say(f"  {name}: {action}, {size(day.result.bytes)} from {day.result.source}")

    def _is_wanted(self, day: _Day) -> bool:
        if day.error or day.result is None:
            return False
        if self._verify_only:
            return True
        if day.result.action == "unchanged":
            return True  # in a moment it may have changed; under the lock it is looked at again
        if day.result.action == "would restore":
            return True
        differs = "differs" if day.result.action == "would replace" else "may differ"
        question = f"{day.paths.folder} {differs} from the copy on {self._destination.place}. Replace it by the copy"
        if self._terminal.confirm(question):
            day.may_replace = True
            return True
        why = "it was not to be replaced"
        self._fail(day, ArchiveConflictError(f"{day.paths.folder} {differs}", why=why, hint="--force replaces it"))
        return False

    def _restore(self, days: list[_Day], *, to_db: bool) -> None:
        with (
            self._terminal.bars() as bars,
            bars.several(lambda day: self._one(day, bars), days) as futures,
        ):
            for day, future in zip(days, futures, strict=True):
                self._finish(future, day, to_db=to_db)

    def _one(self, day: _Day, bars: DayBars) -> RestoreResult:
        with bars.day(f"{day.paths.project} {day.paths.day}") as bar:
            options = RestoreOptions(
                may_replace=lambda _: day.may_replace or self._terminal.force,
                allow_shrink=self._allow_shrink,
                verify_only=self._verify_only,
                downloading=bar("download", "bytes"),
                extracting=bar("extract", "files"),
                on_wait=self._terminal.waiting,
            )
            return restore_day(self._destination, day.paths, day.copy, options)

    def _finish(self, future: Future[RestoreResult], day: _Day, *, to_db: bool) -> None:
        try:
            day.result = future.result()
            if to_db:
                day.result.db_result = self._load(day)
        except ArchiveError as error:
            self._fail(day, error)
            return
        self._terminal.say(f"  ✓ {day.paths.project} {day.paths.day}: {describe(day.result)}")
        if day.result.db_result:
            self._terminal.say(f"      load: {describe(day.result.db_result)}")

    @cached_property
    def _database(self) -> Database:
        return open_home(self._settings).database

    def _load(self, day: _Day) -> LoadResult:
        return load_day(self._database, day.paths.project, day.paths.day, day.paths.folder, overwrite=True)

    def _fail(self, day: _Day, error: ArchiveError) -> None:
        day.error = error
        self._terminal.warn(f"  ✗ {day.paths.project} {day.paths.day}: {error}")


_ACTIONS = {
    "unchanged": "is here and equal",
    "would restore": "is not here",
    "would replace": "is here and differs",
    "would compare": "is here, and the zip of an older tool must be downloaded to compare it",
}


def _entry(day: _Day) -> dict[str, Any]:
    found: dict[str, Any] = {"project": day.paths.project, "date": str(day.paths.day)}
    if day.result:
        found |= msgspec.to_builtins(day.result)
    if day.error:
        found["error"] = _error(day.error)
    return found


def _error(error: ArchiveError) -> dict[str, str]:
    return {"step": "restore", "what": error.what, "why": error.why, "todo": error.hint}
