"""`lse search`, `lse sql`, `lse export` and `lse show`: read from the database, `show` from files too."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from lse_archive.days import today
from lse_archive.names import project_folder
from lse_cli.commands.options import EndOption, ForceOption, JsonOption, StartOption, require_text
from lse_cli.terminal.output import echo


def search(
    query: Annotated[
        str, typer.Argument(callback=require_text, help='Words and "exact phrases"; a run must have all of them.')
    ],
    project: Annotated[
        str | None,
        typer.Option(
            "--project", metavar="NAME", callback=require_text, help="Name of the LangSmith project. Default: all."
        ),
    ] = None,
    start_date: StartOption = None,
    end_date: Annotated[
        str | None,
        typer.Option("--end-date", metavar="DAY", callback=require_text, help="Last day of the range. Default: none."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Runs at most. Default: 50.")] = 50,
    json: JsonOption = False,
) -> None:
    """Find runs by words in their names, errors, inputs and outputs, the newest first; docs/search.md."""
    from lse_archive.runs.words import read_query
    from lse_cli.selection import read_range
    from lse_cli.work.search import print_hits, search_archive
    from lse_resources.postgres.search.find import Scope
    from lse_resources.settings import Settings

    scope = Scope(project, *read_range(None, start_date, end_date))
    found = search_archive(Settings.load(), read_query(query), scope, limit)
    print_hits(found, json=json)


def sql(
    statement: Annotated[
        str, typer.Argument(callback=require_text, help="One SELECT; docs/database.md describes the tables and views.")
    ],
    lake: Annotated[
        bool,
        typer.Option("--lake", help="Ask the lake, by DuckDB, in place of Postgres (docs/lake.md). Default: off."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print the rows of one SQL statement. The statement can read but not write.

    On a terminal: a table with long values cut. Otherwise: the column names, then one line per row, separated by tabs
    and escaped like COPY's text format: NULL is \\N, a line end \\n, a control character \\x1b.
    """
    import sys

    from lse_cli.terminal import rows as shown
    from lse_platform.home import open_home
    from lse_resources.postgres.analysis.frames import Runs
    from lse_resources.settings import Settings

    print_rows = shown.print_lines
    if json:
        print_rows = shown.print_objects
    elif sys.stdout.isatty():
        print_rows = shown.print_table
    settings = Settings.load()
    if lake:
        from lse_resources.lake.lake import Lake
        from lse_resources.lake.open_lake import open_lake_place

        stream = Lake.of(open_lake_place(settings)).stream(statement)
    else:
        stream = Runs(open_home(settings).database).stream(statement, json_as_text=True)
    with stream as (columns, rows):
        print_rows(columns, rows)


def export(
    project: Annotated[
        str, typer.Option("--project", callback=require_text, help="Name of the LangSmith project. No default.")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            show_default=False,
            help="parquet or csv: the columns; jsonl: the full runs or records. Default: parquet.",
        ),
    ] = "parquet",
    table: Annotated[
        str, typer.Option("--table", show_default=False, help="runs, feedback or attachments. Default: runs.")
    ] = "runs",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Output file; - is standard output. Default: in this directory, named by project, days and table.",
        ),
    ] = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    contents: Annotated[
        bool, typer.Option("--contents", help="Add the columns inputs and outputs to parquet and csv. Default: off.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Write a range of days from the database to a file, or as csv or jsonl into a pipe. Default: yesterday.

    The runs, the feedback that was given on them, or the list of their attachments.
    """
    from lse_archive.texts import counted
    from lse_cli.selection import read_range
    from lse_cli.terminal.texts import size
    from lse_cli.work.export import export_range
    from lse_resources.settings import Settings

    yesterday = today() - timedelta(days=1)
    first, last = read_range(None, start_date, end_date or str(yesterday))
    last = last or yesterday
    first = first or last
    suffix = "" if table == "runs" else f"_{table}"
    path = output or Path(f"{project_folder(project)}_{first}_{last}{suffix}.{format}")
    written = export_range(
        Settings.load(), project, first, last, path, format, table=table, contents=contents, force=force
    )
    rows = counted(written.rows, written.noun)
    if written.bytes is None:
        echo(rows, err=True)
    else:
        echo(f"{rows} in {written.path}, {size(written.bytes)}")


def show(
    id: Annotated[
        str, typer.Argument(metavar="RUN_OR_TRACE_ID", callback=require_text, help="A trace, or a run of the trace.")
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Folder or zip of a day, read in place of the database; can be repeated. Default: the database.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the runs as they are stored, one JSON a line. Default: off.")
    ] = False,
) -> None:
    """Print a trace over all its days: the tree of its runs, with latency, tokens and cost of each."""
    from lse_cli.work.show import show_trace

    show_trace(id, sources or [], json=json)
