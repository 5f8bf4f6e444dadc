"""The `lse` command: registers the commands and turns exceptions into messages and exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from lse_archive.errors import ArchiveError, UsageError
from lse_archive.files import disk_error
from lse_archive.printable import printable
from lse_cli.commands import (
    alerts,
    analysis,
    archive,
    backfill,
    database,
    doctor,
    drive,
    forget,
    lake,
    platform,
    projects,
    status,
)
from lse_cli.commands.group import Group
from lse_cli.terminal.output import discard, echo

app = typer.Typer(
    name="lse",
    cls=Group,
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
app.add_typer(lake.app, name="lake")
app.command()(backfill.backfill)
app.command()(status.status)
app.command()(doctor.doctor)
app.command()(analysis.search)
app.command()(analysis.sql)
app.command()(analysis.export)
app.command()(analysis.show)
app.command()(forget.forget)
platform.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        from lse_archive.folder.manifest import TOOL

        echo(TOOL)
        raise typer.Exit


_INTERRUPTED = 130  # the exit code of Typer, and of shells, for Ctrl-C
# What Typer raises for wrong usage. Typer does not export it, and has a copy of Click of its own since 0.26.
_WrongUsage: type[Any] = typer.BadParameter.__mro__[1]


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Archives every LangSmith run, day by day (UTC), provably complete: files, zips, Google Drive, Postgres."""


def main() -> None:
    """Runs the console script."""
    if sys.stdout is None:  # closed by the calling process
        sys.stdout = io.StringIO()
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="replace")  # a terminal without UTF-8 must not stop the command
    if logging.lastResort:  # prints warnings of the packages below, which may quote a server
        logging.lastResort.setFormatter(_PrintableFormatter())
    try:
        try:
            code = app(standalone_mode=False)
        finally:
            _flush()
    except UsageError as error:
        _fail(error, 2)
    except ArchiveError as error:
        _fail(error, 1)
    except _WrongUsage as error:
        _show(error)
        sys.exit(error.exit_code)
    except typer.Abort:
        echo("Aborted!", err=True)
        sys.exit(1)
    except OSError as error:
        _fail(disk_error(f"cannot use {error.filename}" if error.filename else "cannot write the output", error), 1)
    except Exception as error:  # noqa: BLE001
        _fail(_defect(error), 1)
    if code == _INTERRUPTED:
        echo("lse: interrupted; no partial result was published. Run the command again to continue", err=True)
    sys.exit(code)


class _PrintableFormatter(logging.Formatter):
    """Formats a record as one harmless line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has exited
        discard(sys.stdout)


def _show(error: Any) -> None:
    """Prints Typer's message, which quotes the arguments."""
    text = io.StringIO()
    error.show(text)
    for line in text.getvalue().splitlines():
        echo(line, err=True)


def _defect(error: Exception) -> ArchiveError:
    """The error for an exception that no part of the program expects, with the line that raised it."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "lse_" in frame.filename]
    where = f" in {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    why = " ".join(f"{type(error).__name__}{where}: {error}".split())[:300]
    return ArchiveError("an unexpected error occurred", why=why, hint="Please report it, with the command")


def _fail(error: ArchiveError, code: int) -> None:
    with contextlib.suppress(OSError):
        echo(f"lse: {error}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
