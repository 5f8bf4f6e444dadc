"""`lse sql` and `lse export`: the database for analysts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lse_archive.errors import ArchiveConflictError, UsageError
from lse_cli.selection import EndOption, JsonOption, StartOption, reject_empty


def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT; tables and views are described in docs/database.md.")],
    json: JsonOption = False,
) -> None:
    """Print the rows of one SQL statement, which can read but not write.

    On a terminal: a table, long values cut. Elsewhere: a line a row, its values separated by tabs, the names of the
    columns first; escaped as COPY's text format: NULL is \\N, a line end \\n, a control character \\x1b.
    """
    import sys

    from lse_cli.terminal import rows as shown
    from lse_platform.home import open_home
    from lse_resources.postgres.analysis.frames import Runs
    from lse_resources.settings import Settings

    columns, rows = Runs(open_home(Settings.load()).database).query(statement, json_as_text=True)
    if json:
        shown.print_objects(columns, rows)
    elif sys.stdout.isatty():
        shown.print_table(columns, rows)
    else:
        shown.print_lines(columns, rows)


def export(
    project: Annotated[str, typer.Option("--project", callback=reject_empty, help="LangSmith project, by its name.")],
    format: Annotated[
        str, typer.Option("--format", help="parquet or csv: one row of facts a run; jsonl: the runs. Default: parquet.")
    ] = "parquet",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Or - for standard output. Default: PROJECT_FIRST_LAST.FORMAT, here."
        ),
    ] = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    contents: Annotated[
        bool, typer.Option("--contents", help="Add the columns inputs and outputs to parquet and csv. Default: off.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is there, without asking. Default: off.")
    ] = False,
) -> None:
    """Write a range of days to a file, or as csv or jsonl into a pipe, from the database."""
    from datetime import timedelta

    from lse_archive.days import parse_day, today
    from lse_archive.names import project_folder
    from lse_cli.terminal.texts import counted, size
    from lse_platform.home import open_home
    from lse_resources.postgres.analysis.export import export_runs, is_stream
    from lse_resources.postgres.analysis.frames import Runs
    from lse_resources.projects import read_projects
    from lse_resources.settings import Settings

    yesterday = today() - timedelta(days=1)
    last = parse_day(end_date) if end_date else yesterday
    first = parse_day(start_date) if start_date else last
    if last < first:
        raise UsageError(f"the range ends before it starts ({first} to {last})")
    path = output or Path(f"{project_folder(project)}_{first}_{last}.{format}")
    settings = Settings.load()
    database = open_home(settings).database
    listed = any(one.name == project for one in read_projects(settings.projects_file))
    if not listed and not Runs(database).has_project(project):
        raise UsageError(
            f"there is no project '{project}'",
            why=f"neither the database nor {settings.projects_file} knows it",
            hint="Check the spelling; lse status shows what is archived",
        )
    if path.exists() and not is_stream(path):
        _ask_to_replace(path, force=force)
    written = export_runs(database, project, first, last, path, format, contents=contents)  # ty: ignore[invalid-argument-type]
    runs = counted(written.rows, "run")
    if written.bytes is None:
        typer.echo(runs, err=True)
    else:
        typer.echo(f"{runs} in {written.path}, {size(written.bytes)}")


def _ask_to_replace(path: Path, *, force: bool) -> None:
    from lse_cli.terminal.console import Terminal

    if not Terminal(json=False, force=force).confirm(f"{path} is there. Replace it"):
        raise ArchiveConflictError(
            f"{path} is there already", why="it was not to be replaced", hint="--force replaces it"
        )
