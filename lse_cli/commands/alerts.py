"""`lse alerts`: tests the alert targets."""

from __future__ import annotations

import typer

from lse_cli.commands.group import Group
from lse_cli.terminal.output import echo

app = typer.Typer(cls=Group, help="Alerts: webhook and e-mail.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def alerts() -> None:
    """Makes `test` a subcommand: Typer would run a single command without its name."""


@app.command()
def test() -> None:
    """Send a sample to every configured target. Exits with 1 if one does not accept it, or if there is none."""
    from lse_archive.errors import ArchiveError, SettingsError
    from lse_resources.alerts import Alert, targets
    from lse_resources.settings import Settings

    settings = Settings.load()
    found = targets(settings)
    if not found:
        raise SettingsError(
            "there is no alert target",
            why="neither LSE_ALERT_WEBHOOK_URL nor LSE_ALERT_SMTP_URL is set",
            hint="Set one of them in .env",
        )
    sample = Alert(
        "this is a sample",
        ["A real alert names the project, the day, what differs, what to do, and the run:", f"  {settings.lse_ui_url}"],
    )
    failed = False
    for name, send in found.items():
        try:
            send(sample)
            echo(f"{name}: sent")
        except ArchiveError as error:
            failed = True
            echo(f"lse: {error}", err=True)
    if failed:
        raise typer.Exit(1)
