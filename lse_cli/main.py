"""The `lse` command: parses, asks, shows progress, and runs the same assets as the platform. Heavy imports are lazy."""

from __future__ import annotations

import sys

import typer

from lse_archive.errors import ArchiveError, UsageError
from lse_cli import alerts, analysis, archive, backfill, database, doctor, drive, house, projects, status

app = typer.Typer(
    name="lse",
    help="Keeps every LangSmith run, day by day (UTC), provably complete: files, zips, Google Drive and Postgres.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(archive.app, name="archive")
app.add_typer(projects.app, name="projects")
app.add_typer(drive.app, name="drive")
app.add_typer(database.app, name="db")
app.add_typer(alerts.app, name="alerts")
app.command()(backfill.backfill)
app.command()(status.status)
app.command()(doctor.doctor)
app.command()(analysis.sql)
app.command()(analysis.export)
house.register(app)

_INTERRUPTED = 130  # Typer's exit code for Ctrl-C, and every shell's


def main() -> None:
    """The console script."""
    try:
        app()
    except UsageError as error:
        _fail(error, 2)
    except ArchiveError as error:
        _fail(error, 1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            typer.echo("lse: interrupted; nothing is half-written, start it again to go on", err=True)
        raise


def _fail(error: ArchiveError, code: int) -> None:
    typer.echo(f"lse: {error}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
