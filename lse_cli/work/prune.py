"""Works through a prune: which days are old enough, one question, then day by day."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import msgspec

from lse_archive.days import today
from lse_archive.errors import ArchiveConflictError, ArchiveError, DatabaseError, DestinationError, UsageError
from lse_archive.layout import DayPaths
from lse_archive.results import PruneResult
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.texts import describe, size
from lse_cli.work.outcome import worst
from lse_operations.prune import What, prune_copy, prune_day
from lse_operations.restore.copies import copies
from lse_platform.home import open_home
from lse_resources.destinations.google_drive.retry import DriveRefusalError
from lse_resources.destinations.protocol import Destination
from lse_resources.projects import read_projects
from lse_resources.settings import Settings


class PruneWork:
    """One run of the command.

    Raises:
        UsageError: `older_than` is no number of days.
    """

    def __init__(self, settings: Settings, terminal: Terminal, older_than: str, what: What | Literal["copies"]) -> None:
        self._settings = settings
        self._terminal = terminal
        self._days = age_in_days(older_than)
        self._what = what

    def days(self, project: str | None, destination: Destination) -> list[DayPaths]:
        """The days that are old enough and have something to give up, oldest first.

        Raises:
            UsageError: There is no project.
        """
        known = [config.name for config in read_projects(self._settings.projects_file)]
        if project is None and not known:
            raise UsageError(
                "no project is named", why=f"{self._settings.projects_file} lists none", hint="Name one with --project"
            )
        return list(self._old_days([project] if project is not None else known, destination))

    def _old_days(self, projects: list[str], destination: Destination) -> Iterator[DayPaths]:
        layout, last = self._settings.layout, today() - timedelta(days=self._days)
        for project in projects:
            if self._what == "copies":
                days = [copy.day for copy in copies(destination, project)]
            else:
                days = list(layout.days(project) if self._what == "files" else layout.zipped_days(project))
            for day in days:
                if day < last:
                    yield layout.day(project, day)

    def run(self, destination: Destination, days: list[DayPaths], *, dry_run: bool) -> tuple[list[dict[str, Any]], int]:
        """Returns one entry per project and day, and the exit code.

        Raises:
            ArchiveConflictError: The question was answered by no.
            DatabaseError: Postgres cannot be reached: nothing can be proven.
        """
        if not days:
            self._terminal.say(f"no day older than {self._days} days has {self._what} to give up")
            return [], 0
        where = "here" if self._what == "copies" else f"on {destination.place} and in Postgres"
        question = f"Give up the {self._what} of {len(days)} days, each after it was proven {where}"
        if not dry_run and not self._terminal.confirm(question):
            raise ArchiveConflictError(
                f"the {self._what} of {len(days)} days were not pruned",
                why="nobody said yes",
                hint="--force answers by yes, --dry-run shows what would go",
            )
        entries, code, freed = [], 0, 0
        if self._what != "copies":
            self._database = open_home(self._settings).database
        for paths in days:
            entry: dict[str, Any] = {"project": paths.project, "date": str(paths.day)}
            name = f"{paths.project} {paths.day}"
            try:
                result = self._prune(destination, paths, dry_run=dry_run)
            except ArchiveError as error:
                self._terminal.warn(f"  ✗ {name}: {error}")
                entry["error"] = {"step": "prune", "what": error.what, "why": error.why, "todo": error.hint}
                entries.append(entry)
                code = 1
                of_this_file = isinstance(error, DriveRefusalError) and error.status in (403, 404)
                if isinstance(error, DestinationError | DatabaseError) and not of_this_file:
                    break
                continue
            self._terminal.say(f"  {'!' if result.action == 'kept' else '✓'} {name}: {describe(result)}")
            entries.append(entry | msgspec.to_builtins(result))
            code = worst(code, 3 if result.action == "kept" else 0)
            freed += result.freed
        self._terminal.say(f"  {size(freed)} {'would be' if dry_run else 'are'} free")
        return entries, code

    def _prune(self, destination: Destination, paths: DayPaths, *, dry_run: bool) -> PruneResult:
        waiting = self._terminal.waiting
        if self._what == "copies":
            return prune_copy(destination, paths, dry_run=dry_run, on_wait=waiting)
        return prune_day(destination, self._database, paths, self._what, dry_run=dry_run, on_wait=waiting)


def age_in_days(text: str) -> int:
    """Reads an age such as `90d`.

    Raises:
        UsageError: It is none.
    """
    found = re.fullmatch(r"([0-9]{1,5})d?", text.strip())
    if not found or int(found[1]) < 1:
        raise UsageError(f"'{text}' is no number of days", why="ages are written as in 90d")
    return int(found[1])
