"""Exports a range of days of a project from the database."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from lse_archive.errors import ArchiveConflictError, UsageError
from lse_cli.terminal.console import Terminal
from lse_platform.home import open_home
from lse_resources.postgres.analysis.export import Export, export_facts, is_stream
from lse_resources.postgres.analysis.frames import Runs
from lse_resources.projects import read_projects
from lse_resources.settings import Settings


def export_range(
    settings: Settings,
    project: str,
    first: date,
    last: date,
    path: Path,
    format: str,
    *,
    table: str,
    contents: bool,
    force: bool,
) -> Export:
    """Writes the days to a file or a stream; asks before it replaces a file.

    Raises:
        UsageError: There is no such project, table or format.
        ArchiveConflictError: The file exists, and its replacement was not confirmed.
    """
    database = open_home(settings).database
    listed = any(one.name == project for one in read_projects(settings.projects_file))
    if not listed and not Runs(database).has_project(project):
        raise UsageError(
            f"there is no project '{project}'",
            why=f"it is neither in the database nor in {settings.projects_file}",
            hint="Check the spelling; lse status shows the archived projects",
        )
    if path.exists() and not is_stream(path):
        terminal = Terminal(json=False, force=force)
        if not terminal.confirm(f"{path} exists. Replace it"):
            why = "the replacement was not confirmed"
            raise ArchiveConflictError(f"{path} exists", why=why, hint="--force replaces it")
    return export_facts(
        database,
        project,
        first,
        last,
        path,
        format,  # ty: ignore[invalid-argument-type]
        table=table,
        contents=contents,
    )
