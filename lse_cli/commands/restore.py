"""`lse archive restore | import | prune`: the ways back from the archive, into it, and out of the local disk."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lse_cli.selection import JsonOption, ProjectOption, reject_empty

DayOption = Annotated[
    str | None,
    typer.Option("--date", metavar="DAY", callback=reject_empty, help="One UTC day, YYYY-MM-DD. Default: every day."),
]
FirstOption = Annotated[
    str | None,
    typer.Option(
        "--start-date", metavar="DAY", callback=reject_empty, help="First day. Default: the first that is there."
    ),
]
LastOption = Annotated[
    str | None,
    typer.Option("--end-date", metavar="DAY", callback=reject_empty, help="Last day. Default: the last that is there."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Answer every question by yes. Default: off.")]
AllProjectsOption = Annotated[
    bool, typer.Option("--all-projects", help="Every project that the destination holds. Default: off.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and change nothing. Default: off.")
]


class What(StrEnum):
    """What `prune` gives up."""

    files = "files"
    zips = "zips"


def register(app: typer.Typer) -> None:
    """Adds the commands to `lse archive`."""
    app.command()(restore)
    app.command()(prune)
    app.command(name="import")(import_)


def restore(
    project: ProjectOption = None,
    date: DayOption = None,
    start_date: FirstOption = None,
    end_date: LastOption = None,
    all_projects: AllProjectsOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    to_db: Annotated[
        bool, typer.Option("--to-db", help="Load what was restored into Postgres, too. Default: off.")
    ] = False,
    verify_only: Annotated[
        bool,
        typer.Option("--verify-only", help="Download and check everything, and keep nothing of it. Default: off."),
    ] = False,
    allow_shrink: Annotated[
        bool, typer.Option("--allow-shrink", help="Give up runs that are here and not in the copy. Default: off.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring days back from the destination: run files and zip, as they are there. Without dates: all days.

    A day that is here and equal is skipped; one that differs is replaced only after a yes.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.restore import RestoreWork, selected

    if verify_only and (dry_run or to_db):
        from lse_archive.errors import UsageError

        raise UsageError("--verify-only keeps nothing, so it goes with neither --dry-run nor --to-db")
    from lse_resources.open_destination import open_destination
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = selected(settings, project, date, start_date, end_date, all_projects=all_projects)
    terminal = Terminal(json=json, force=force)
    with open_destination(settings) as destination:
        work = RestoreWork(settings, terminal, destination, allow_shrink=allow_shrink, verify_only=verify_only)
        entries, code = work.run(selection, dry_run=dry_run, to_db=to_db)
    if json:
        print_json(entries)
    raise typer.Exit(code)


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DAYS", help="Only days that are older, as in 90d. No default.")
    ],
    project: ProjectOption = None,
    what: Annotated[
        What, typer.Option("--what", help="files: the run files. zips: the local zips. Default: files.")
    ] = What.files,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Free local space: give up files of old days, each only after it was proven at the destination and in Postgres.

    Summary and checksums stay, so that `verify` still knows the day; `lse archive restore` brings it back. Ends with 3
    where a day could not be proven and was kept.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.prune import PruneWork
    from lse_resources.open_destination import open_destination
    from lse_resources.settings import Settings

    settings = Settings.load()
    work = PruneWork(settings, Terminal(json=json, force=force), older_than, what.value)
    with open_destination(settings) as destination:
        entries, code = work.run(destination, work.days(project, destination), dry_run=dry_run)
    if json:
        print_json(entries)
    raise typer.Exit(code)


def import_(
    directory: Annotated[Path, typer.Argument(help="Where the older run files are, in folders of any name.")],
    project: Annotated[str, typer.Option("--project", metavar="NAME", help="Their LangSmith project. No default.")],
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Take over older run files, kept under the day of their fetch, into the UTC days on which the runs started.

    The originals stay untouched; a run that the archive has already stays as it is there. First it is shown what would
    be done.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.importing import import_directory
    from lse_resources.settings import Settings

    terminal = Terminal(json=json, force=force)
    entries, code = import_directory(Settings.load().layout, terminal, directory, project, dry_run=dry_run)
    if json:
        print_json(entries)
    raise typer.Exit(code)
