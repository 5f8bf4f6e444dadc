"""`lse drive`: signing in to Google Drive."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Google Drive: sign in.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def drive() -> None:
    """Keeps `login` a subcommand while it is the only one."""


@app.command()
def login(
    paste: Annotated[
        bool, typer.Option("--paste", help="For a server without a browser: open the link elsewhere. Default: off.")
    ] = False,
) -> None:
    """Sign in as a person (GOOGLE_DRIVE_AUTH_TYPE=oauth2); the token is kept under LSE_HOME, readable by you alone."""
    from lse_resources.drive_login import login as sign_in
    from lse_resources.google_drive import GoogleDrive
    from lse_resources.settings import Settings

    settings = Settings.load().drive
    sign_in(settings, paste=_ask_for_answer if paste else None)
    with GoogleDrive(settings) as client:
        typer.echo(f"signed in as {client.about().email}")


def _ask_for_answer(url: str) -> str:
    typer.echo(f"Open this link, allow access, and paste the address of the page that cannot be opened:\n\n{url}\n")
    return typer.prompt("Address")
