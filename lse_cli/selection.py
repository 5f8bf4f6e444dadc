"""Which projects and days a command is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from lse_archive.days import days_between, parse_day, require_past, today
from lse_archive.errors import UsageError
from lse_resources.projects import ProjectConfig, lists_none, read_projects

if TYPE_CHECKING:
    from lse_resources.settings import Settings


def reject_empty(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Refuses an option that is given and empty, as a shell's unset variable makes it: it would mean the default.

    Raises:
        UsageError: It is empty.
    """
    if value is not None and not value.strip():
        name = parameter.opts[0]
        raise UsageError(f"{name} is empty", hint=f"Name a {(parameter.metavar or 'value').lower()}, or leave it out")
    return value


ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        callback=reject_empty,
        help="LangSmith project, by its name. Default: all projects of projects.toml.",
    ),
]
DateOption = Annotated[
    str | None,
    typer.Option("--date", metavar="DAY", callback=reject_empty, help="UTC day, YYYY-MM-DD. Default: yesterday."),
]
StartOption = Annotated[
    str | None,
    typer.Option("--start-date", metavar="DAY", callback=reject_empty, help="First day of a range. Default: none."),
]
EndOption = Annotated[
    str | None,
    typer.Option("--end-date", metavar="DAY", callback=reject_empty, help="Last day of the range. Default: yesterday."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object with the results. Default: off.")]


@dataclass(frozen=True)
class Selection:
    """Days of projects, in the order in which they are worked on."""

    projects: list[ProjectConfig]
    days: list[date]

    def pairs(self) -> list[tuple[ProjectConfig, date]]:
        """Each project's days; a project's definition starts no later than its first day here."""
        return [
            (replace(project, start=min(project.start, self.days[0])), day)
            for project in self.projects
            for day in self.days
        ]


def select(
    settings: Settings, project: str | None, date_text: str | None, start_text: str | None, end_text: str | None
) -> Selection:
    """Reads the options.

    Raises:
        UsageError: They contradict each other, a day is malformed or not over, or there is no project.
    """
    return Selection(_projects(settings, project), _days(date_text, start_text, end_text))


def _projects(settings: Settings, name: str | None) -> list[ProjectConfig]:
    known = read_projects(settings.projects_file)
    if name is None:
        if not known:
            raise UsageError(
                "no project is named",
                why=lists_none(settings.projects_file),
                hint="Name one with --project, or add it: lse projects add NAME --start DAY",
            )
        return known
    return [next((project for project in known if project.name == name), ProjectConfig(name, today()))]


def _days(date_text: str | None, start_text: str | None, end_text: str | None) -> list[date]:
    if date_text is not None and (start_text is not None or end_text is not None):
        raise UsageError("--date does not go with --start-date or --end-date", hint="Use one or the other")
    if end_text is not None and start_text is None:
        raise UsageError("--end-date needs --start-date")
    yesterday = today() - timedelta(days=1)
    if start_text is None:
        return [yesterday if date_text is None else require_past(parse_day(date_text))]
    first = require_past(parse_day(start_text))
    last = yesterday if end_text is None else require_past(parse_day(end_text))
    if last < first:
        raise UsageError(f"the range ends before it starts ({first} to {last})")
    return list(days_between(first, last))
