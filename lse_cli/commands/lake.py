"""`lse lake`: the Parquet files of the archived days."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_cli.commands.group import Group
from lse_cli.commands.options import DateOption, EndOption, JsonOption, ProjectOption, StartOption

app = typer.Typer(cls=Group, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Build the lake: Parquet files of every day, which any engine reads."""


@app.command()
def build(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    allow_shrink: Annotated[
        bool,
        typer.Option("--allow-shrink", help="Allow the loss of runs that the day no longer has. Default: off."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write days that are archived into the lake of LSE_LAKE_URL: from run files, zips, or the destination.

    A day that the lake has already is skipped, so that a range continues where it was interrupted.
    """
    from lse_cli.selection import select
    from lse_operations.steps import LAKE_STEP
    from lse_resources.lake.open_lake import open_lake_place
    from lse_resources.places import record_places
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = select(settings, project, date, start_date, end_date)
    open_lake_place(settings)  # without one, no day is started
    record_places(settings)
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.days import work

    config = {LAKE_STEP: {"allow_shrink": allow_shrink}}
    entries, code = work(settings, Terminal(json=json, force=False), selection, [LAKE_STEP], config)
    end_command(entries, code, json=json)
