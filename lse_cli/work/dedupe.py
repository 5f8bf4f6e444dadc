"""Resolves duplicates on Drive: compares, shows, asks, and moves files to the trash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.layout import Layout
from lse_archive.names import project_folder, project_name
from lse_archive.texts import counted
from lse_cli.terminal.console import Terminal
from lse_cli.terminal.texts import size
from lse_operations.dedupe import Decision, decide, duplicates, remove
from lse_operations.restore.copies import archived_projects
from lse_resources.destinations.encryption import EncryptedDestination
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.destinations.protocol import Destination
from lse_resources.open_destination import encryption_keys
from lse_resources.projects import read_projects
from lse_resources.settings import Settings

_MERGED = "their files are moved into the oldest"


@dataclass
class _Day:
    decision: Decision
    trashed: list[StoredFile] = field(default_factory=list)
    error: ArchiveError | None = None


def dedupe_projects(
    settings: Settings, terminal: Terminal, project: str | None, *, dry_run: bool
) -> tuple[list[dict[str, Any]], int]:
    """Moves to the trash what duplicates another file of its day; a day that cannot be resolved does not stop others.

    Returns:
        One entry per day that has several files and per project that has several folders, and the exit code: 3 where
        some are left.

    Raises:
        SettingsError, DestinationError: Drive is not configured, or refuses.
        ArchiveConflictError: The question was answered with no.
    """
    with GoogleDrive(settings.drive) as drive:
        destination = EncryptedDestination(drive, encryption_keys(settings), settings.layout.archive_dir)
        days = _decide(settings, destination, project)
        repeated = drive.duplicate_folders()
        folders = {name: repeated[name] for name in repeated if project is None or name == project_folder(project)}
        _show(terminal, days, folders)
        removable = [day for day in days if day.decision.keep]
        if removable and not dry_run:
            _confirm(terminal, sum(len(day.decision.trash) for day in removable))
            for day in removable:
                _resolve(destination, settings.layout, terminal, day)
        entries = [_entry(day, dry_run=dry_run) for day in days]
        entries += [_merge(drive, terminal, name, found, dry_run=dry_run) for name, found in folders.items()]
    return entries, 3 if any(entry["action"] not in ("resolved", "merged") for entry in entries) else 0


def _decide(settings: Settings, destination: Destination, project: str | None) -> list[_Day]:
    if project is None:
        listed = [config.name for config in read_projects(settings.projects_file)]
        projects = list(archived_projects(destination, listed))
    else:
        projects = [project]
    found = [copy for name in projects for copy in duplicates(destination, name)]
    return [_Day(decide(destination, copy, settings.layout.archive_dir)) for copy in found]


def _show(terminal: Terminal, days: list[_Day], folders: Mapping[str, list[StoredFile]]) -> None:
    for decision in (day.decision for day in days):
        terminal.say(f"{decision.copy.project} {decision.copy.day}: {counted(len(decision.copy.files), 'file')}")
        if decision.keep:
            terminal.say(f"  keep   {_shown(decision.keep)}: {decision.why}")
            for file in decision.trash:
                terminal.say(f"  trash  {_shown(file)}")
        else:
            terminal.warn(f"  ✗ {decision.why}")
    for name, found in folders.items():
        terminal.say(f"{counted(len(found), 'folder')} named '{name}': {_MERGED}")
        for folder in found:
            origin = "" if _is_ours(folder) else ", not made by LSE with this sign-in"
            terminal.say(
                f"  {'keep ' if folder is found[0] else 'merge'}  made {folder.created[:19]}{origin} ({folder.id})"
            )
    if not days and not folders:
        terminal.say("no day has two files")


def _confirm(terminal: Terminal, count: int) -> None:
    if not terminal.confirm(f"Move {counted(count, 'file')} to the trash (Drive keeps trashed files for 30 days)"):
        raise ArchiveConflictError("nothing was moved", why="the move was not confirmed", hint="--force answers yes")


def _resolve(destination: Destination, layout: Layout, terminal: Terminal, day: _Day) -> None:
    copy, keep = day.decision.copy, day.decision.keep
    if keep is None:
        return
    paths = layout.day(copy.project, copy.day)
    try:
        for file in day.decision.trash:
            remove(destination, paths, file, keep=keep, on_wait=terminal.waiting)
            day.trashed.append(file)
    except ArchiveError as error:
        day.error = error
        terminal.warn(f"  ✗ {copy.project} {copy.day}: {error}")


def _is_ours(folder: StoredFile) -> bool:
    """Whether this OAuth client or service account made the folder for a project."""
    return "project" in folder.app_properties


def _merge(
    drive: GoogleDrive, terminal: Terminal, name: str, folders: list[StoredFile], *, dry_run: bool
) -> dict[str, Any]:
    """Merges the folders of a name into the oldest; asks if one of them was not made by LSE. Returns the entry."""
    keep, *others = folders
    merged: list[str] = []
    action, why = "would merge", _MERGED
    if not dry_run:
        question = f"Move everything in the other folders named '{name}' into the oldest, and them to the trash"
        action = "unresolved"
        if not all(map(_is_ours, folders)) and not terminal.confirm(question):
            why = "not all of them were made by LSE with this sign-in, and the question was not answered with yes"
        else:
            try:
                merged += [folder.id for folder in others if drive.merge_folder(folder, keep)]
                if len(merged) == len(others):
                    action = "merged"
                else:
                    why = (
                        "an empty folder is left, because it was made within the last two hours: run the command later"
                    )
            except ArchiveError as error:
                why = str(error)
    if action == "unresolved":
        terminal.warn(f"  ✗ the folders named '{name}': {why}")
    return {"project": project_name(name) or name, "action": action, "kept": keep.id, "merged": merged, "why": why}


def _shown(file: StoredFile) -> str:
    runs = file.app_properties.get("runs")
    return f"{file.name}, {size(file.size)}, {file.modified[:19]}{f', runs: {runs}' if runs else ''} ({file.id})"


def _entry(day: _Day, *, dry_run: bool) -> dict[str, Any]:
    decision = day.decision
    unresolved = decision.keep is None or day.error is not None
    return {
        "project": decision.copy.project,
        "date": str(decision.copy.day),
        "action": "unresolved" if unresolved else "would resolve" if dry_run else "resolved",
        "kept": decision.keep.id if decision.keep else None,
        "trashed": [file.id for file in (decision.trash if dry_run else day.trashed)],
        "why": str(day.error) if day.error else decision.why,
    }
