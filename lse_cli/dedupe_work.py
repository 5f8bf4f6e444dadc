"""Works through duplicates on Drive: looks, shows, asks, and moves to the trash."""

from __future__ import annotations

from typing import Any

from lse_archive.errors import ArchiveConflictError
from lse_archive.projects import read_projects
from lse_cli.console import Terminal
from lse_cli.texts import size
from lse_resources.deduping import Decision, apply, decide, duplicates
from lse_resources.google_drive import GoogleDrive
from lse_resources.restoring import archived_projects
from lse_resources.settings import Settings
from lse_resources.stored_files import StoredFile


def dedupe_projects(
    settings: Settings, terminal: Terminal, project: str | None, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    """Returns one entry per day that has several files, and the exit code: 3 where some are left.

    Raises:
        SettingsError, DriveError: Drive is not set up, or refuses.
        ArchiveConflictError: The question was answered by no.
    """
    with GoogleDrive(settings.drive) as drive:
        known = [config.name for config in read_projects(settings.projects_file)]
        projects = [project] if project is not None else list(archived_projects(drive, known))
        found = [copy for name in projects for copy in duplicates(drive, name)]
        decisions = [decide(drive, copy, settings.layout.archive_dir) for copy in found]
        for decision in decisions:
            _say(terminal, decision)
        folders = drive.duplicate_folders()
        for name in folders:
            terminal.warn(f"  ! there are several folders named '{name}': move their files into the oldest by hand")
        removable = [decision for decision in decisions if decision.keep]
        if removable and not dry_run:
            count = sum(len(decision.trash) for decision in removable)
            if not terminal.confirm(f"Move {count} files to the trash, where Drive keeps them for 30 days"):
                raise ArchiveConflictError("nothing was moved", why="nobody said yes", todo="--force answers by yes")
            for decision in removable:
                apply(drive, decision)
        if not decisions and not folders:
            terminal.say("no day has two files")
        left = decisions if dry_run else [decision for decision in decisions if not decision.keep]
        return [_entry(decision, done=not dry_run) for decision in decisions], 3 if left or folders else 0


def _say(terminal: Terminal, decision: Decision) -> None:
    terminal.say(f"{decision.copy.project} {decision.copy.day}: {len(decision.copy.files)} files")
    if decision.keep:
        terminal.say(f"  keep   {_shown(decision.keep)}: {decision.why}")
        for file in decision.trash:
            terminal.say(f"  trash  {_shown(file)}")
    else:
        terminal.warn(f"  ✗ {decision.why}")


def _shown(file: StoredFile) -> str:
    runs = file.app_properties.get("runs")
    return f"{file.name}, {size(file.size)}, {file.modified[:19]}{f', {runs} runs' if runs else ''} ({file.id})"


def _entry(decision: Decision, *, done: bool) -> dict[str, Any]:
    action = "unresolved" if decision.keep is None else "resolved" if done else "would resolve"
    return {
        "project": decision.copy.project,
        "date": str(decision.copy.day),
        "action": action,
        "kept": decision.keep.id if decision.keep else None,
        "trashed": [file.id for file in decision.trash],
        "why": decision.why,
    }
