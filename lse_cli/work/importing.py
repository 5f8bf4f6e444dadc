"""Works through an import: reads everything, shows what it comes to, asks, and publishes day by day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lse_archive.errors import ArchiveConflictError, ArchiveError, UsageError
from lse_archive.layout import Layout
from lse_archive.results import ImportResult
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.texts import counted, describe
from lse_cli.work.outcome import worst
from lse_operations.importing import Survey, import_day, survey

_SHOWN = 20


def import_directory(
    layout: Layout, terminal: Terminal, directory: Path, project: str, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    """Returns one entry per day, and the exit code: 3 where a file holds no run, or a day was refused.

    Raises:
        UsageError: There is no such directory, or no run file in it.
        ArchiveConflictError: The question was answered by no.
    """
    if not project.strip():
        raise UsageError("--project is empty", hint="Name a LangSmith project")
    with terminal.bars() as bars, bars.day("older files") as bar:
        reading = bar("read", "files")
        found = survey(directory, progress=lambda files: reading(files, None))
    if not found.files:
        raise UsageError(f"there are no run files in {directory}", why="run files are *.json")
    _say(terminal, found)
    code = 3 if found.unfit else 0
    plans, code = _days(layout, terminal, project, found, code, dry_run=True)
    added = sum(plan.get("added", 0) for plan in plans)
    if dry_run or not added:
        return plans, code
    if not terminal.confirm(f"Import {counted(added, 'run')} into {project}"):
        raise ArchiveConflictError("nothing was imported", why="nobody said yes", hint="--force answers by yes")
    return _days(layout, terminal, project, found, 3 if found.unfit else 0, dry_run=False)


def _days(
    layout: Layout, terminal: Terminal, project: str, found: Survey, code: int, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    entries = []
    for day, runs in sorted(found.days.items()):
        entry: dict[str, Any] = {"project": project, "date": str(day)}
        try:
            with terminal.bars() as bars, bars.day(str(day)) as bar:
                result: ImportResult = import_day(
                    layout,
                    project,
                    day,
                    runs,
                    dry_run=dry_run,
                    progress=bar("import", "runs"),
                    on_wait=terminal.waiting,
                )
        except ArchiveError as error:
            terminal.warn(f"  ✗ {project} {day}: {error}")
            entry["error"] = {"step": "import", "what": error.what, "why": error.why, "todo": error.hint}
            code = 1
        else:
            sign = "!" if result.action == "refused" else " " if dry_run else "✓"
            terminal.say(f"  {sign} {project} {day}: {describe(result)}")
            entry |= msgspec.to_builtins(result)
            code = worst(code, 3 if result.action == "refused" else 0)
        entries.append(entry)
    return entries, code


def _say(terminal: Terminal, found: Survey) -> None:
    terminal.say(
        f"{counted(found.files, 'run file')}: runs of {counted(len(found.days), 'UTC day')}, "
        f"{found.repeated:,} repeated, {len(found.unfit):,} without a run"
    )
    for line in found.unfit[:_SHOWN]:
        terminal.warn(f"    {line}")
    if len(found.unfit) > _SHOWN:
        terminal.warn(f"    … and {len(found.unfit) - _SHOWN:,} more")
