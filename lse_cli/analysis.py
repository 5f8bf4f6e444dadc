"""`lse sql` and `lse export`: the database for analysts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lse_archive.errors import UsageError
from lse_cli.selection import EndOption, JsonOption, StartOption


def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT; tables and views are described in docs/database.md.")],
    json: JsonOption = False,
) -> None:
    """Print the rows of one SQL statement, which can read but not write."""
    from lse_resources.analysis import Runs

    columns, rows = Runs(_database()).query(statement)
    if json:
        from lse_cli.console import print_json

        print_json([dict(zip(columns, map(_plain, row), strict=True)) for row in rows])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(_plain(value)) for value in row))
    Console(highlight=False, markup=False).print(table)


def export(
    project: Annotated[str, typer.Option("--project", help="LangSmith project, by its name.")],
    format: Annotated[
        str, typer.Option("--format", help="parquet or csv: one row of facts a run; jsonl: the runs. Default: parquet.")
    ] = "parquet",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Default: PROJECT_FIRST_LAST.FORMAT, here.")
    ] = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    contents: Annotated[
        bool, typer.Option("--contents", help="Add the columns inputs and outputs to parquet and csv. Default: off.")
    ] = False,
) -> None:
    """Write a range of days to a file, from the database."""
    from datetime import timedelta

    from lse_archive.days import parse_day, today
    from lse_archive.names import project_folder
    from lse_cli.texts import size
    from lse_resources.export import export_runs

    yesterday = today() - timedelta(days=1)
    last = parse_day(end_date) if end_date else yesterday
    first = parse_day(start_date) if start_date else last
    if last < first:
        raise UsageError(f"the range ends before it starts ({first} to {last})")
    path = output or Path(f"{project_folder(project)}_{first}_{last}.{format}")
    written = export_runs(_database(), project, first, last, path, format, contents=contents)  # ty: ignore[invalid-argument-type]
    typer.echo(f"{written.rows:,} runs in {written.path}, {size(written.bytes)}")


def _database() -> Any:
    from lse_resources.house import open_house
    from lse_resources.settings import Settings

    return open_house(Settings.load()).database


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
