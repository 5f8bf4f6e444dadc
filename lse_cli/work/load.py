"""Shows what a load would do, without Dagster."""

from __future__ import annotations

from typing import Any

from lse_archive.errors import ArchiveError
from lse_cli.selection import Selection
from lse_cli.terminal.console import Terminal
from lse_cli.work.outcome import entry, exit_code, worst
from lse_platform.home import open_home
from lse_resources.postgres.load.day import load_day
from lse_resources.settings import Settings


def dry_load(
    settings: Settings, terminal: Terminal, selection: Selection, options: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Compares the files of each day with the rows; writes nothing.

    Args:
        options: Keyword arguments of `load_day`.

    Returns:
        One entry per project and day, and the exit code.
    """
    database, entries, code = open_home(settings).database, [], 0
    for config, day in selection.pairs():
        terminal.begin_day(f"{config.name} {day}")
        folder = settings.layout.day(config.name, day).folder
        try:
            result = load_day(database, config.name, day, folder, dry_run=True, on_wait=terminal.waiting, **options)
            terminal.report("runs_table", result)
        except ArchiveError as error:
            terminal.failed("runs_table", error)
        entries.append(entry(config.name, day, ["runs_table"], terminal.day, sweep=False))
        code = worst(code, exit_code(terminal.day))
    return entries, code
