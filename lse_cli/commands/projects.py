"""`lse projects`: which LangSmith projects are archived."""

from __future__ import annotations

import unicodedata
from typing import Annotated

import typer

app = typer.Typer(help="The projects that are archived (projects.toml).", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name, exactly as LangSmith shows it.")],
    start: Annotated[str, typer.Option("--start", metavar="DAY", help="First UTC day of the archive, YYYY-MM-DD.")],
    retention_days: Annotated[
        int,
        typer.Option(
            "--retention-days",
            metavar="N",
            min=1,
            show_default=False,
            help="How long LangSmith keeps its runs. Default: 14.",
        ),
    ] = 14,
) -> None:
    """Add a project; a running platform takes it up within a minute."""
    from lse_archive.days import parse_day, today
    from lse_archive.errors import UsageError
    from lse_resources.projects import ProjectConfig, add_project
    from lse_resources.settings import Settings

    if any(unicodedata.category(char) == "Cc" for char in name):
        raise UsageError("the name holds a line end or another control character", hint="Give it as LangSmith shows it")
    first = parse_day(start)
    if first > today():
        raise UsageError(f"the start {first} is in the future", hint="Name the first day that is to be archived")
    path = Settings.load().projects_file
    add_project(path, ProjectConfig(name, first, retention_days))
    typer.echo(f"added '{name}' from {start} to {path}")


@app.command()
def sync(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which ones. Default: off.")] = False,
) -> None:
    """Add every LangSmith project that is not listed, from the oldest day that LangSmith still serves."""
    import contextlib

    from lse_archive.days import today
    from lse_operations.new_projects import add_new, missing_projects
    from lse_resources.langsmith.client import LangSmith
    from lse_resources.settings import Settings

    settings = Settings.load()
    with contextlib.closing(LangSmith(settings.langsmith)) as client:
        missing = missing_projects(client, settings.projects_file)
    if not dry_run:
        add_new(settings.projects_file, missing, today())
    for name in missing:
        typer.echo(f"{'not archived' if dry_run else 'added'}: {name}")
    if not missing:
        typer.echo("every project is listed already")


@app.command(name="list")
def list_(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object. Default: off.")] = False,
) -> None:
    """List the projects with their first days."""
    from lse_archive.names import project_slug
    from lse_resources.projects import lists_none, read_projects
    from lse_resources.settings import Settings

    path = Settings.load().projects_file
    projects = read_projects(path)
    if json:
        import msgspec

        from lse_cli.terminal.output import print_object

        entries = [{**msgspec.to_builtins(project), "key": project_slug(project.name)} for project in projects]
        print_object({"projects": entries})
    elif not projects:
        typer.echo(f"lse: {lists_none(path)}; add one: lse projects add NAME --start DAY", err=True)
    for project in projects if not json else ():
        typer.echo(f"{project.name}\tfrom {project.start}\tkept by LangSmith for {project.retention_days} days")
