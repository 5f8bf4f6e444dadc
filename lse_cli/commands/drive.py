"""`lse drive`: sign in to Google Drive, resolve duplicates, and prune copies."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_cli.commands.group import Group
from lse_cli.commands.options import DryRunOption, ForceOption, JsonOption, ProjectOption, require_text
from lse_cli.terminal.output import echo

app = typer.Typer(
    cls=Group,
    help="Google Drive: sign in, resolve duplicates, and prune copies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def login(
    paste: Annotated[
        bool,
        typer.Option("--paste", help="For a server without a browser: open the link on another machine. Default: off."),
    ] = False,
) -> None:
    """Sign in with a Google account (GOOGLE_DRIVE_AUTH_TYPE=oauth2). Only you can read the token, under LSE_HOME."""
    from lse_resources.destinations.google_drive.client import GoogleDrive
    from lse_resources.destinations.google_drive.login import login as sign_in
    from lse_resources.settings import Settings

    settings = Settings.load().drive
    sign_in(settings, paste=_prompt_for_address if paste else None)
    with GoogleDrive(settings) as client:
        echo(f"signed in as {client.about().email}")


def _prompt_for_address(url: str) -> str:
    for line in ("Open this link, allow access, and paste the address of the page that fails to load:", "", url, ""):
        echo(line)
    return typer.prompt("Address")


@app.command()
def dedupe(
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            metavar="NAME",
            callback=require_text,
            help="Name of the LangSmith project. Default: all projects on Drive.",
        ),
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Find days that have several files of the same name; keep the one that holds every run, trash the others.

    The command shows what it would do, and asks before it moves files. Exits with 3 if duplicates are left.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.dedupe import dedupe_projects
    from lse_resources.settings import Settings

    entries, code = dedupe_projects(Settings.load(), Terminal(json=json, force=force), project, dry_run=dry_run)
    end_command(entries, code, json=json)


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DAYS", help="Prune days older than this, as in 400d. No default.")
    ],
    project: ProjectOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Delete copies of old days at the destination, only if the local run files and zip are intact.

    It never deletes the last copy, and it never runs automatically. Exits with 3 if a copy was kept.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.prune import prune_days
    from lse_resources.settings import Settings

    terminal = Terminal(json=json, force=force)
    entries, code = prune_days(Settings.load(), terminal, project, older_than, "copies", dry_run=dry_run)
    end_command(entries, code, json=json)
