"""`lse drive`: sign in to Google Drive, resolve duplicates, and prune copies."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_archive.errors import UsageError
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
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="NUMBER",
            min=1,
            max=65535,
            help="Local port to which the browser is redirected. Default: any free one.",
        ),
    ] = None,
    paste: Annotated[
        bool,
        typer.Option("--paste", help="Open the link on any machine, and paste the address it leads to. Default: off."),
    ] = False,
) -> None:
    """Sign in with a Google account (GOOGLE_DRIVE_AUTH_TYPE=oauth2). Only you can read the token, under LSE_HOME.

    The command prints a link and waits ten minutes for the browser. If the browser is on another machine, forward the
    port (ssh -L PORT:127.0.0.1:PORT HOST), or use --paste.
    """
    from lse_resources.destinations.google_drive.client import GoogleDrive
    from lse_resources.destinations.google_drive.login import login as sign_in
    from lse_resources.settings import Settings

    if port and paste:
        raise UsageError("--port and --paste exclude each other", hint="With --paste, no port is used")
    settings = Settings.load().drive
    sign_in(settings, port=port or 0, announce=_announce, paste=_prompt_for_address if paste else None)
    with GoogleDrive(settings) as client:
        echo(f"signed in as {client.about().email}")


def _announce(url: str, port: int) -> None:
    from lse_resources.destinations.google_drive.login import MINUTES

    for line in (
        "Open this link in a browser on this machine, and allow access:",
        "",
        url,
        "",
        f"Waiting for the browser on port {port}, for {MINUTES} minutes. If it is on another machine, forward that port"
        f" (there: ssh -L {port}:127.0.0.1:{port} HOST), or press Ctrl-C and run: lse drive login --paste",
    ):
        echo(line)


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

    The command shows what it would do, and asks before it moves files to the trash. Several folders of a project that
    LSE made are merged into the oldest; if it did not make one of them, the command asks. Exits with 3 if duplicates
    are left.
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
