"""`lse drive`: signing in to Google Drive, and files that it has twice."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_cli.selection import JsonOption, ProjectOption

app = typer.Typer(help="Google Drive: sign in, and resolve duplicates.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def login(
    paste: Annotated[
        bool, typer.Option("--paste", help="For a server without a browser: open the link elsewhere. Default: off.")
    ] = False,
) -> None:
    """Sign in as a person (GOOGLE_DRIVE_AUTH_TYPE=oauth2); the token is kept under LSE_HOME, readable by you alone."""
    from lse_resources.destinations.google_drive.client import GoogleDrive
    from lse_resources.destinations.google_drive.login import login as sign_in
    from lse_resources.settings import Settings

    settings = Settings.load().drive
    sign_in(settings, paste=_ask_for_answer if paste else None)
    with GoogleDrive(settings) as client:
        typer.echo(f"signed in as {client.about().email}")


def _ask_for_answer(url: str) -> str:
    typer.echo(f"Open this link, allow access, and paste the address of the page that cannot be opened:\n\n{url}\n")
    return typer.prompt("Address")


@app.command()
def dedupe(
    project: ProjectOption = None,
    force: Annotated[bool, typer.Option("--force", help="Answer the question by yes. Default: off.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing. Default: off.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Find days that have two files of one name; keep the one that holds every run, move the others to the trash.

    First it is shown what would be done. Without --project: all projects on Drive. Ends with 3 where something is left.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.dedupe import dedupe_projects
    from lse_resources.settings import Settings

    entries, code = dedupe_projects(Settings.load(), Terminal(json=json, force=force), project, dry_run=dry_run)
    if json:
        print_json(entries)
    raise typer.Exit(code)


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DAYS", help="Only days that are older, as in 400d. No default.")
    ],
    project: ProjectOption = None,
    force: Annotated[bool, typer.Option("--force", help="Answer the question by yes. Default: off.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing. Default: off.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Give up the copies of old days at the destination; never the last one: run files and zip must be here, intact.

    Nothing does this by itself. Ends with 3 where a copy was kept.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.prune import PruneWork
    from lse_resources.open_destination import open_destination
    from lse_resources.settings import Settings

    settings = Settings.load()
    work = PruneWork(settings, Terminal(json=json, force=force), older_than, "copies")
    with open_destination(settings) as destination:
        entries, code = work.run(destination, work.days(project, destination), dry_run=dry_run)
    if json:
        print_json(entries)
    raise typer.Exit(code)
