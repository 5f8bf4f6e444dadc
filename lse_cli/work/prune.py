"""Prunes days: selects those that are old enough, asks once, and deletes day by day."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import msgspec

from lse_archive.days import today
from lse_archive.errors import ArchiveConflictError, ArchiveError, DatabaseError, DestinationError, UsageError
from lse_archive.layout import DayPaths
from lse_archive.texts import counted
from lse_cli.selection import select_projects
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.output import error_object
from lse_cli.terminal.texts import describe, size
from lse_cli.work.outcome import worst
from lse_operations.prune import What, prune_copy, prune_day
from lse_operations.restore.copies import copies
from lse_platform.home import open_home
from lse_resources.destinations.google_drive.retry import DriveRefusalError
from lse_resources.destinations.protocol import Destination
from lse_resources.open_destination import open_destination
from lse_resources.settings import Settings

Target = What | Literal["copies"]


def prune_days(
    settings: Settings, terminal: Terminal, project: str | None, older_than: str, what: Target, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    """Deletes the files, zips or copies of old days; without a project those of all listed projects.

    Returns:
        One entry per project and day, and the exit code: 3 where a day was kept.

    Raises:
        UsageError: `older_than` is not a number of days, or there is no project.
        ArchiveConflictError: The question was answered with no.
        DatabaseError: Postgres cannot be reached, so no day can be proven.
    """
    age = age_in_days(older_than)
    with open_destination(settings) as destination:
        projects = [config.name for config in select_projects(settings, project)]
        days = list(_old_days(settings, destination, projects, age, what))
        if not days:
            terminal.say(f"no day older than {counted(age, 'day')} has {what} to delete")
            return [], 0
        if not dry_run:
            _confirm(terminal, destination, len(days), what)
        return _prune(settings, terminal, destination, days, what, dry_run=dry_run)


def _old_days(
    settings: Settings, destination: Destination, projects: list[str], age: int, what: Target
) -> Iterator[DayPaths]:
    """The days that are old enough and have something to delete, by project, oldest first."""
    layout, limit = settings.layout, today() - timedelta(days=age)
    for project in projects:
        if what == "copies":
            days = [copy.day for copy in copies(destination, project)]
        else:
            days = list(layout.days(project) if what == "files" else layout.zipped_days(project))
        yield from (layout.day(project, day) for day in days if day < limit)


def _confirm(terminal: Terminal, destination: Destination, count: int, what: Target) -> None:
    target = f"the {what} of {counted(count, 'day')}"
    where = "in the local files and zip" if what == "copies" else f"on {destination.place} and in Postgres"
    if not terminal.confirm(f"Delete {target}, each only after its content is proven {where}"):
        raise ArchiveConflictError(
            f"{target} were not pruned",
            why="the deletion was not confirmed",
            hint="--force answers yes, --dry-run shows what would be deleted",
        )


def _prune(
    settings: Settings,
    terminal: Terminal,
    destination: Destination,
    days: list[DayPaths],
    what: Target,
    *,
    dry_run: bool,
) -> tuple[list[dict[str, Any]], int]:
    if what == "copies":
        prune = functools.partial(prune_copy, destination)
    else:
        prune = functools.partial(prune_day, destination, open_home(settings).database, what=what)
    entries, code, freed = [], 0, 0
    for paths in days:
        entry: dict[str, Any] = {"project": paths.project, "date": str(paths.day)}
        title = f"{paths.project} {paths.day}"
        try:
            result = prune(paths, dry_run=dry_run, on_wait=terminal.waiting)
        except ArchiveError as error:
            terminal.warn(f"  ✗ {title}: {error}")
            entries.append(entry | {"error": error_object("prune", error)})
            code = 1
            if _fails_every_day(error):
                break
            continue
        terminal.say(f"  {'!' if result.action == 'kept' else '✓'} {title}: {describe(result)}")
        entries.append(entry | msgspec.to_builtins(result))
        code = worst(code, 3 if result.action == "kept" else 0)
        freed += result.freed
    terminal.say(f"  {size(freed)} {'would be freed' if dry_run else 'freed'}")
    return entries, code


def _fails_every_day(error: ArchiveError) -> bool:
    of_one_file = isinstance(error, DriveRefusalError) and error.status in (403, 404)
    return isinstance(error, DestinationError | DatabaseError) and not of_one_file


def age_in_days(text: str) -> int:
    """Reads an age such as `90d`.

    Raises:
        UsageError: The text is not such an age.
    """
    found = re.fullmatch(r"([0-9]{1,5})d?", text.strip())
    if not found or int(found[1]) < 1:
        raise UsageError(f"'{text}' is not a number of days", why="an age is written as in 90d")
    return int(found[1])
