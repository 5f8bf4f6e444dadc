"""Reads the options that select projects and days."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from lse_archive.days import days_between, parse_day, require_past, today
from lse_archive.errors import UsageError
from lse_archive.names import require_name
from lse_resources.projects import ProjectConfig, lists_none, read_projects

if TYPE_CHECKING:
    from lse_resources.settings import Settings


@dataclass(frozen=True)
class Selection:
    """Projects and days, in the order in which a command processes them."""

    projects: list[ProjectConfig]
    days: list[date]

    def pairs(self) -> list[tuple[ProjectConfig, date]]:
        """Every day of every project; a project's `start` is set to its first selected day if that is earlier."""
        return [
            (replace(project, start=min(project.start, self.days[0])), day)
            for project in self.projects
            for day in self.days
        ]


def select(
    settings: Settings, project: str | None, date_text: str | None, start_text: str | None, end_text: str | None
) -> Selection:
    """Reads the options of a command that works on past days.

    Raises:
        UsageError: The options contradict each other, a day is malformed or cannot be archived, the project's name is
            too long, or there is no project.
    """
    projects = select_projects(settings, None if project is None else require_name(project))
    first, last = read_range(date_text, start_text, end_text)
    if last is not None and first is None:
        raise UsageError("--end-date needs --start-date")
    last = require_past(last or today() - timedelta(days=1))
    first = require_past(first or last)
    return Selection(projects, list(days_between(first, last)))


def select_projects(
    settings: Settings, name: str | None, *, otherwise: str = "or add it: lse projects add NAME --start DAY"
) -> list[ProjectConfig]:
    """The project of this name, listed or not; without a name all listed projects.

    Args:
        otherwise: End of the error's hint: what to do instead of naming a project.

    Raises:
        UsageError: No name is given, and no project is listed.
    """
    listed = read_projects(settings.projects_file)
    if name is not None:
        return [next((project for project in listed if project.name == name), ProjectConfig(name, today()))]
    if not listed:
        raise UsageError(
            "no project is selected",
            why=lists_none(settings.projects_file),
            hint=f"Name one with --project, {otherwise}",
        )
    return listed


def read_range(date_text: str | None, start_text: str | None, end_text: str | None) -> tuple[date | None, date | None]:
    """The first and the last day that the options name, None where they name none.

    Raises:
        UsageError: The options contradict each other, or a day is malformed.
    """
    if date_text is not None and (start_text is not None or end_text is not None):
        raise UsageError("--date cannot be combined with --start-date or --end-date", hint="Use one or the other")
    first_text, last_text = (start_text, end_text) if date_text is None else (date_text, date_text)
    first = None if first_text is None else parse_day(first_text)
    last = None if last_text is None else parse_day(last_text)
    if first and last and last < first:
        raise UsageError(f"the range ends before it starts ({first} to {last})")
    return first, last
