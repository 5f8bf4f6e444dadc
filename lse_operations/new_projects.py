"""LangSmith projects that are not listed in `projects.toml`."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from lse_archive.errors import UsageError
from lse_resources.langsmith.client import LangSmith
from lse_resources.projects import DEFAULT_RETENTION_DAYS, ProjectConfig, add_project, read_projects


def missing_projects(client: LangSmith, projects_file: Path) -> list[str]:
    """The names of the workspace's tracing projects that the file does not list, sorted.

    Raises:
        SourceError: LangSmith refused or cannot be reached.
        SettingsError: The file is malformed.
    """
    known = {project.name for project in read_projects(projects_file)}
    return sorted({project.name for project in client.projects()} - known)


def add_new(projects_file: Path, names: list[str], today: date) -> dict[str, UsageError]:
    """Lists the projects in the file, from the oldest day that LangSmith still serves; returns those it refused.

    Raises:
        SettingsError: The file is malformed.
    """
    refused: dict[str, UsageError] = {}
    start = today - timedelta(days=DEFAULT_RETENTION_DAYS - 1)
    for name in names:
        try:
            add_project(projects_file, ProjectConfig(name, start))
        except UsageError as error:  # of this project alone
            refused[name] = error
    return refused
