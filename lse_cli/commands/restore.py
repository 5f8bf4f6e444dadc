"""`lse archive restore | import | prune`: days from the destination, from older tools, and off the local disk."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lse_archive.errors import UsageError
from lse_cli.commands.options import DryRunOption, ForceOption, JsonOption, ProjectOption, require_text

if TYPE_CHECKING:
    from lse_resources.destinations.protocol import ArchiveSource
    from lse_resources.settings import Settings

DayOption = Annotated[
    str | None,
    typer.Option("--date", metavar="DAY", callback=require_text, help="One UTC day, YYYY-MM-DD. Default: every day."),
]
FirstOption = Annotated[
    str | None,
    typer.Option(
        "--start-date", metavar="DAY", callback=require_text, help="First day. Default: the first at the destination."
    ),
]
LastOption = Annotated[
    str | None,
    typer.Option(
        "--end-date", metavar="DAY", callback=require_text, help="Last day. Default: the last at the destination."
    ),
]
AllProjectsOption = Annotated[
    bool, typer.Option("--all-projects", help="All projects at the destination. Default: off.")
]


class What(StrEnum):
    """What `prune` deletes."""

    files = "files"
    zips = "zips"


class Origin(StrEnum):
    """Where `restore` finds the days."""

    destination = "destination"
    lake = "lake"


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
        bool, typer.Option("--to-db", help="Also load the restored days into Postgres. Default: off.")
    ] = False,
    verify_only: Annotated[
        bool,
        typer.Option("--verify-only", help="Download and check everything, and keep nothing. Default: off."),
    ] = False,
    allow_shrink: Annotated[
        bool,
        typer.Option("--allow-shrink", help="Allow the loss of local runs that the copy does not have. Default: off."),
    ] = False,
    origin: Annotated[
        Origin,
        typer.Option(
            "--from",
            show_default=False,
            help="destination: Drive or the object store. lake: LSE_LAKE_URL, whose raw"
            " files give the zip again. Default: destination.",
        ),
    ] = Origin.destination,
    json: JsonOption = False,
) -> None:
    """Restore run files and zips from the destination, unchanged. Without dates: all days.

    A local day with the same content is skipped; a local day that differs is replaced only after a confirmation.
    """
    if verify_only and (dry_run or to_db):
        raise UsageError("--verify-only cannot be combined with --dry-run or --to-db: it keeps nothing")
    if project is not None and all_projects:
        raise UsageError("--project cannot be combined with --all-projects", hint="Use one or the other")
    from lse_cli.selection import read_range, select_projects
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.restore import RestoreRequest, restore_days
    from lse_resources.places import record_places
    from lse_resources.settings import Settings

    settings = Settings.load()
    first, last = read_range(date, start_date, end_date)
    otherwise = "or select all projects at the destination: --all-projects"
    request = RestoreRequest(
        projects=None
        if all_projects
        else [one.name for one in select_projects(settings, project, otherwise=otherwise)],
        first=first,
        last=last,
        dry_run=dry_run,
        to_db=to_db,
        verify_only=verify_only,
        allow_shrink=allow_shrink,
        from_lake=origin is Origin.lake,
    )
    record_places(settings)
    with _opened(settings, origin) as destination:
        entries, code = restore_days(settings, Terminal(json=json, force=force), destination, request)
    end_command(entries, code, json=json)


@contextlib.contextmanager
def _opened(settings: Settings, origin: Origin) -> Generator[ArchiveSource]:
    if origin is Origin.lake:
        from lse_resources.lake.open_lake import open_lake_place
        from lse_resources.lake.source import LakeSource

        yield LakeSource(open_lake_place(settings))
    else:
        from lse_resources.open_destination import open_destination

        with open_destination(settings) as destination:
            yield destination


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DAYS", help="Prune days older than this, as in 90d. No default.")
    ],
    project: ProjectOption = None,
    what: Annotated[
        What,
        typer.Option("--what", show_default=False, help="files: the run files. zips: the local zips. Default: files."),
    ] = What.files,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Free local space: delete the files of old days, each only after it is proven at the destination and in Postgres.

    Summary and checksums stay, so that `verify` can still check the day; `lse archive restore` restores it. Exits with
    3 if a day could not be proven and was kept.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.prune import prune_days
    from lse_resources.settings import Settings

    terminal = Terminal(json=json, force=force)
    entries, code = prune_days(Settings.load(), terminal, project, older_than, what.value, dry_run=dry_run)
    end_command(entries, code, json=json)


def import_(
    directory: Annotated[Path, typer.Argument(help="Directory of the older run files; its folders may have any name.")],
    project: Annotated[
        str,
        typer.Option(
            "--project", metavar="NAME", callback=require_text, help="LangSmith project of the runs. No default."
        ),
    ],
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Import run files of older tools, sorted by fetch day, into the UTC days on which the runs started.

    The originals are not changed; a run that is already in the archive is kept. The command shows what it would do,
    and asks before it writes.
    """
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.importing import import_directory
    from lse_resources.places import record_places
    from lse_resources.settings import Settings

    settings = Settings.load()
    record_places(settings)
    terminal = Terminal(json=json, force=force)
    entries, code = import_directory(settings, terminal, directory, project, dry_run=dry_run)
    end_command(entries, code, json=json)
