"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_archive.errors import UsageError


def reject_empty(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Refuses an empty value, such as a shell makes of an unset variable: it would silently mean the default.

    Raises:
        UsageError: The value is empty.
    """
    if value is not None and not value.strip():
        raise UsageError(f"{parameter.opts[0]} is empty", hint="Give it a value")
    return value


ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        callback=reject_empty,
        help="Name of the LangSmith project. Default: all projects of projects.toml.",
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
ForceOption = Annotated[bool, typer.Option("--force", help="Answer yes to every question. Default: off.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and change nothing. Default: off.")
]
