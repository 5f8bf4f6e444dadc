"""`lse projects`: the list of archived LangSmith projects."""

from __future__ import annotations

import unicodedata
from typing import Annotated

import typer

from lse_cli.commands.group import Group
from lse_cli.commands.options import require_text
from lse_cli.terminal.output import echo
from lse_resources.projects import MAX_RETENTION_DAYS

app = typer.Typer(cls=Group, help="The archived projects (projects.toml).", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", callback=require_text, help="The project's name, exactly as LangSmith shows it."
        ),
    ],
    start: Annotated[str, typer.Option("--start", metavar="DAY", help="First UTC day of the archive, YYYY-MM-DD.")],
    retention_days: Annotated[
        int,
        typer.Option(
            "--retention-days",
            metavar="N",
            min=1,
            max=MAX_RETENTION_DAYS,
            show_default=False,
            help="Days for which LangSmith keeps the project's runs. Default: 14.",
        ),
    ] = 14,
) -> None:
    """Add a project. A running platform starts with its days within two minutes."""
    from datetime import UTC, datetime

    from lse_archive.days import FIRST_DAY, parse_day, today
    from lse_archive.errors import UsageError
    from lse_archive.texts import counted
    from lse_operations.day_selection import servable
    from lse_resources.places import record_places
    from lse_resources.projects import ProjectConfig, add_project, read_projects
    from lse_resources.settings import Settings

    if any(unicodedata.category(char) == "Cc" for char in name):
        raise UsageError("the name contains a control character", hint="Write it as LangSmith shows it")
    first = parse_day(start)
    if first > today():
        raise UsageError(f"the start {first} is in the future", hint="Set the first day to archive")
    if first < FIRST_DAY:
        raise UsageError(f"the start {first} is before the first day of an archive, {FIRST_DAY}")
    settings = Settings.load()
    record_places(settings)
    path = settings.projects_file
    add_project(path, ProjectConfig(name, first, retention_days))
    echo(f"added '{name}' from {start} to {path}")
    # Read back: the file may have another retention and daily time for all projects.
    [added] = [project for project in read_projects(path) if project.name == name]
    if added.schedule != "off" and (days := servable(added, datetime.now(UTC))):
        served = f"LangSmith still has {counted(len(days), 'day')} of it, from {days[-1]} on"
        echo(f"{served}: the platform (lse up) starts with them at once, the first to expire first")


@app.command()
def sync(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the projects, and add none. Default: off.")] = False,
) -> None:
    """Add every LangSmith project that is not in the list, from the oldest day that LangSmith still serves."""
    import contextlib

    from lse_archive.days import today
    from lse_operations.new_projects import add_new, missing_projects
    from lse_resources.langsmith.client import LangSmith
    from lse_resources.places import record_places
    from lse_resources.settings import Settings

    settings = Settings.load()
    record_places(settings)
    with contextlib.closing(LangSmith(settings.langsmith)) as client:
        missing = missing_projects(client, settings.projects_file)
    refused = {} if dry_run else add_new(settings.projects_file, missing, today())
    for name in missing:
        if name not in refused:
            echo(f"{'not archived' if dry_run else 'added'}: {name}")
    for error in refused.values():
        echo(f"lse: not added: {error}", err=True)
    if refused:
        raise typer.Exit(1)
    if not missing:
        echo("every project is in the list")


@app.command()
def discover(
    experiments: Annotated[
        bool, typer.Option("--experiments", help="Show experiments instead: projects of a dataset. Default: off.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object. Default: off.")] = False,
) -> None:
    """Show the projects in LangSmith, and how long it keeps their traces. Experiments are archived by name, too."""
    import contextlib
    from operator import attrgetter

    from lse_archive.texts import counted
    from lse_cli.terminal.output import print_object
    from lse_resources.langsmith.client import LangSmith
    from lse_resources.projects import read_projects
    from lse_resources.settings import Settings

    settings = Settings.load()
    listed = {project.name for project in read_projects(settings.projects_file)}
    with contextlib.closing(LangSmith(settings.langsmith)) as client:
        projects = sorted(client.projects(experiments=experiments), key=attrgetter("name"))
        found = [(project, client.retention_days(project)) for project in projects]
    if json:
        entries = [
            {
                "name": project.name,
                "id": project.id,
                "dataset_id": project.dataset_id,
                "listed": project.name in listed,
                "retention_days": days,
            }
            for project, days in found
        ]
        print_object({"projects": entries})
        return
    for project, days in found:
        kept = "an unknown time" if days is None else counted(days, "day")
        place = "in the list" if project.name in listed else "not in the list"
        echo(project.name, place, f"kept by LangSmith for {kept}")
    if not found:
        echo(f"lse: LangSmith has no {'experiments' if experiments else 'projects'}", err=True)


@app.command(name="list")
def list_(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object. Default: off.")] = False,
) -> None:
    """List the projects with their first days."""
    from lse_archive.names import project_slug
    from lse_archive.texts import counted
    from lse_resources.projects import lists_none, read_projects
    from lse_resources.settings import Settings

    path = Settings.load().projects_file
    projects = read_projects(path)
    if json:
        import msgspec

        from lse_cli.terminal.output import print_object

        entries = [{**msgspec.to_builtins(project), "key": project_slug(project.name)} for project in projects]
        print_object({"projects": entries})
        return
    if not projects:
        echo(f"lse: {lists_none(path)}; add one: lse projects add NAME --start DAY", err=True)
    for project in projects:
        kept = counted(project.retention_days, "day")
        echo(project.name, f"from {project.start}", f"kept by LangSmith for {kept}")
