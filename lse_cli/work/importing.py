"""Imports older run files: reads all, shows the result of an import, asks, and publishes day by day."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec

from lse_archive.errors import ArchiveConflictError, ArchiveError, UsageError
from lse_archive.layout import Layout
from lse_archive.names import require_name
from lse_archive.texts import counted
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.output import error_object
from lse_cli.terminal.texts import describe
from lse_cli.work.outcome import worst
from lse_operations.importing import Survey, import_day, survey
from lse_operations.tombstones import recall_tombstones
from lse_platform.home import find_database
from lse_resources.settings import Settings

_SHOWN = 20


def import_directory(
    settings: Settings, terminal: Terminal, directory: Path, project: str, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    """Imports the run files below a directory, after a question that names their number.

    Returns:
        One entry per day, and the exit code: 3 where a file holds no run, a link was left out, or a day was refused.

    Raises:
        UsageError: There is no such directory, or no run file in it; or the project's name is too long.
        ArchiveConflictError: The question was answered with no.
    """
    require_name(project)
    with terminal.bars() as bars, bars.day("older files") as bar:
        advance = bar("read", "files")
        found = survey(directory, progress=lambda files: advance(files, None))
    if not found.files:
        _show(terminal, found)
        raise UsageError(f"there are no run files in {directory}", why="run files are *.json")
    _show(terminal, found)
    code = 3 if found.invalid or found.unread else 0
    layout = settings.layout
    known = functools.partial(find_database, settings)
    recall_tombstones(known, layout, project, found.days.keys(), warn=terminal.warn)
    entries, worst_day = _import_days(layout, terminal, project, found, dry_run=True)
    added = sum(entry.get("added", 0) for entry in entries)
    attachments = sum(entry.get("attachments", 0) for entry in entries)
    if (added or attachments) and not dry_run:
        what = counted(added, "run") + (f" and {counted(attachments, 'attachment')}" if attachments else "")
        if not terminal.confirm(f"Import {what} into {project}"):
            raise ArchiveConflictError(
                "nothing was imported", why="the import was not confirmed", hint="--force answers yes"
            )
        entries, worst_day = _import_days(layout, terminal, project, found, dry_run=False)
    return entries, worst(code, worst_day)


def _import_days(
    layout: Layout, terminal: Terminal, project: str, found: Survey, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    entries, code = [], 0
    for day, runs in sorted(found.days.items()):
        entry: dict[str, Any] = {"project": project, "date": str(day)}
        try:
            with terminal.bars() as bars, bars.day(str(day)) as bar:
                advance = bar("import", "runs")
                result = import_day(
                    layout,
                    project,
                    day,
                    runs,
                    found.attachments,
                    dry_run=dry_run,
                    progress=advance,
                    on_wait=terminal.waiting,
                )
        except ArchiveError as error:
            terminal.warn(f"  ✗ {project} {day}: {error}")
            entries.append(entry | {"error": error_object("import", error)})
            code = 1
            continue
        sign = "!" if result.action == "refused" else " " if dry_run else "✓"
        terminal.say(f"  {sign} {project} {day}: {describe(result)}")
        entries.append(entry | msgspec.to_builtins(result))
        code = worst(code, 3 if result.action == "refused" else 0)
    return entries, code


def _show(terminal: Terminal, found: Survey) -> None:
    terminal.say(
        f"{counted(found.files, 'run file')}: runs of {counted(len(found.days), 'UTC day')}, "
        f"{found.repeated:,} repeated, {len(found.invalid):,} without a run"
    )
    _list(terminal, found.invalid)
    left_out = [*found.unread, *found.others]
    if left_out:
        terminal.warn(f"  left out, files and folders: {len(left_out):,}")
        _list(terminal, left_out)


def _list(terminal: Terminal, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        terminal.warn(f"    {line}")
    if len(lines) > _SHOWN:
        terminal.warn(f"    … and {len(lines) - _SHOWN:,} more")
