"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeVar

import typer

from lse_archive.errors import UsageError
from lse_archive.printable import is_utf8

_Text = TypeVar("_Text", bound=str | list[str] | None)


def require_text(parameter: typer.CallbackParam, value: _Text) -> _Text:
    """Refuses an empty value, such as a shell makes of an unset variable: it would silently mean the default.

    Also refuses bytes that are not UTF-8: no project, day or role has such a name, and no database stores it.

    Raises:
        UsageError: The value is empty, or not UTF-8.
    """
    for text in [value] if isinstance(value, str) else value or ():
        if not is_utf8(text):
            raise UsageError(f"{_name(parameter)} is not UTF-8", hint="Use a terminal with the encoding UTF-8")
        if not text.strip():
            raise UsageError(f"{_name(parameter)} is empty", hint="Give it a value")
    return value


def _name(parameter: typer.CallbackParam) -> str:
    name = parameter.opts[0]
    return name if name.startswith("-") else f"the {name}"


ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        callback=require_text,
        help="Name of the LangSmith project. Default: all projects of projects.toml.",
    ),
]
DateOption = Annotated[
    str | None,
    typer.Option("--date", metavar="DAY", callback=require_text, help="UTC day, YYYY-MM-DD. Default: yesterday."),
]
StartOption = Annotated[
    str | None,
    typer.Option("--start-date", metavar="DAY", callback=require_text, help="First day of a range. Default: none."),
]
EndOption = Annotated[
    str | None,
    typer.Option("--end-date", metavar="DAY", callback=require_text, help="Last day of the range. Default: yesterday."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object with the results. Default: off.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Answer yes to every question. Default: off.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and change nothing. Default: off.")
]
