"""`lse backfill`: starts a range of days on the running platform."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_cli.commands.options import DateOption, EndOption, ProjectOption, StartOption
from lse_cli.terminal.output import echo


def backfill(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Only verify the days; fetch nothing. Default: off.")
    ] = False,
) -> None:
    """Archive a range of days on the running platform, one run per day.

    `lse archive full-sweep` does the same without a platform.
    """
    from lse_archive.errors import UsageError
    from lse_archive.names import project_slug
    from lse_archive.texts import counted
    from lse_cli.selection import select
    from lse_operations.steps import day_steps
    from lse_platform.platform import platform_url
    from lse_platform.webserver import launch_backfill
    from lse_resources.projects import KEY_HINT, key_owners, read_projects
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = select(settings, project, date, start_date, end_date)
    listed = read_projects(settings.projects_file)
    owners = key_owners(listed)
    served = []
    for one in selection.projects:
        if one not in listed:
            raise UsageError(
                f"the platform does not archive '{one.name}'",
                why=f"it is not in {settings.projects_file}",
                hint="Add it: lse projects add NAME --start DAY. Or use lse archive full-sweep",
            )
        if (owner := owners.get(project_slug(one.name), one.name)) == one.name:
            served.append(one)
        else:
            echo(f"lse: the platform does not archive '{one.name}': its key is that of '{owner}'. {KEY_HINT}", err=True)
    if not served:
        raise typer.Exit(1)
    url = platform_url(settings)
    steps = ["verification"] if verify_only else list(day_steps(settings))
    verb = "Verify" if verify_only else "Archive"
    for one in served:
        days = [day for day in selection.days if day >= one.start]
        if not days:
            raise UsageError(
                f"the platform has none of these days of '{one.name}'",
                why=f"its first day is {one.start}",
                hint="Set an earlier start in projects.toml, or use lse archive full-sweep",
            )
        title = f"{verb} {one.name}, {days[0]} to {days[-1]}"
        found = launch_backfill(url, [(project_slug(one.name), step) for step in steps], days, title)
        echo(f"{one.name}: {counted(len(days), 'day')}, {url}/runs/b/{found}")
    if len(served) < len(selection.projects):
        raise typer.Exit(1)
