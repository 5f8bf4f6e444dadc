"""The `lse` command: registers the commands and turns exceptions into messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import io
import sys
from typing import Annotated

import typer

from lse_archive.errors import ArchiveError, UsageError
from lse_cli.commands import alerts, analysis, archive, backfill, database, doctor, drive, platform, projects, status
from lse_cli.terminal.output import discard

app = typer.Typer(
    name="lse",
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
platform.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        from lse_archive.folder.manifest import TOOL

        typer.echo(TOOL)
        raise typer.Exit


_INTERRUPTED = 130  # the exit code of Typer, and of shells, for Ctrl-C
_WRITABLE = "Make it writable, or set another directory in .env (LSE_HOME, LSE_DATA_DIR, LSE_ARCHIVE_DIR)"
_HINTS = {
    errno.ENOSPC: "Free space, then run the command again",
    errno.EDQUOT: "Free space, then run the command again",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
}


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
    try:
        try:
            app()
        finally:
            _flush()
    except UsageError as error:
        _fail(error, 2)
    except ArchiveError as error:
        _fail(error, 1)
    except OSError as error:
        _fail(_explain(error), 1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            typer.echo("lse: interrupted; no partial result was published. Run the command again to continue", err=True)
        raise


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has exited
        discard(sys.stdout)


def _explain(error: OSError) -> ArchiveError:
    what = f"cannot use {error.filename}" if error.filename else "cannot write the output"
    hint = _HINTS.get(error.errno or 0, "Check that it exists and can be read and written")
    return ArchiveError(what, why=error.strerror or str(error), hint=hint)


def _fail(error: ArchiveError, code: int) -> None:
    with contextlib.suppress(OSError):
        typer.echo(f"lse: {error}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
