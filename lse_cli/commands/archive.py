"""`lse archive`: the steps of a day, one by one or together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lse_archive.errors import UsageError
from lse_archive.files import absolute_path
from lse_cli.commands import restore
from lse_cli.commands.group import Group
from lse_cli.commands.options import (
    DateOption,
    DryRunOption,
    EndOption,
    ForceOption,
    JsonOption,
    ProjectOption,
    StartOption,
)
from lse_cli.terminal.output import echo

app = typer.Typer(cls=Group, rich_markup_mode=None)

ShrinkOption = Annotated[
    bool,
    typer.Option("--allow-shrink", help="Allow the loss of runs that LangSmith no longer serves. Default: off."),
]
SkipFeedbackOption = Annotated[
    bool,
    typer.Option("--skip-feedback", help="Do not collect feedback; what was collected before stays. Default: off."),
]
SkipAttachmentsOption = Annotated[
    bool,
    typer.Option(
        "--skip-attachments", help="Do not download attachments; what was downloaded before stays. Default: off."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", min=1, help="Runs per transaction. Default: 500 (the fastest in measurements)."
    ),
]


@app.callback(invoke_without_command=True)
def bare(
    context: typer.Context,
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    skip_feedback: SkipFeedbackOption = False,
    skip_attachments: SkipAttachmentsOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Archive days. Without a command: fetch, zip and upload.

    --force never replaces an archive with one that has fewer runs.
    """
    if context.invoked_subcommand is None:
        steps = ["run_files", "day_zip", "drive_file"]
        config = {"run_files": {"feedback": not skip_feedback, "attachments": not skip_attachments}}
        _run(steps, project, date, start_date, end_date, force=force, json=json, config=config)
    elif any((project, date, start_date, end_date, skip_feedback, skip_attachments, force, json)):
        raise UsageError(
            "options before the command would be ignored",
            hint=f"Write them after it: lse archive {context.invoked_subcommand} …",
        )


@app.command()
def fetch(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    force: ForceOption = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch existing days again, without a question. Default: off.")
    ] = False,
    no_count: Annotated[
        bool,
        typer.Option(
            "--no-count", help="Do not compare with LangSmith's own count, which some deployments lack. Default: off."
        ),
    ] = False,
    skip_feedback: SkipFeedbackOption = False,
    skip_attachments: SkipAttachmentsOption = False,
    allow_shrink: ShrinkOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch every run of the day from LangSmith, and the runs' attachments.

    If the day exists locally, changed runs are replaced; runs that LangSmith no longer serves are kept.
    """
    fetch_config = {
        "ask_count": not no_count,
        "allow_shrink": allow_shrink,
        "feedback": not skip_feedback,
        "attachments": not skip_attachments,
    }
    config = {"run_files": fetch_config}
    _run(["run_files"], project, date, start_date, end_date, force=force or refresh, json=json, config=config)


@app.command(name="zip")
def zip_(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    force: ForceOption = False,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", metavar="DIR", help="Directory of the zip. Default: LSE_ARCHIVE_DIR, ./archives."),
    ] = None,
    allow_shrink: ShrinkOption = False,
    json: JsonOption = False,
) -> None:
    """Write the day's zip; the same files always give the same bytes."""
    config: dict[str, object] = {"allow_shrink": allow_shrink}
    if output_dir:
        config["output_dir"] = str(absolute_path(output_dir))
    _run(["day_zip"], project, date, start_date, end_date, force=force, json=json, config={"day_zip": config})


@app.command()
def upload(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    force: ForceOption = False,
    allow_shrink: ShrinkOption = False,
    json: JsonOption = False,
) -> None:
    """Upload the day's zip to the destination; content that is already there is not sent again."""
    config = {"drive_file": {"allow_shrink": allow_shrink}}
    _run(["drive_file"], project, date, start_date, end_date, force=force, json=json, config=config)


@app.command()
def to_db(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    batch_size: BatchOption = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace rows whose file has changed. Default: report them and keep the rows."
        ),
    ] = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Load the day's run files into Postgres."""
    load: dict[str, Any] = {"overwrite": overwrite} | ({"batch_size": batch_size} if batch_size else {})
    if not dry_run:
        _run(["runs_table"], project, date, start_date, end_date, force=force, json=json, config={"runs_table": load})
        return
    from lse_cli.selection import select
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = select(settings, project, date, start_date, end_date)
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.load import dry_load

    entries, code = dry_load(settings, Terminal(json=json, force=False), selection, load)
    end_command(entries, code, json=json)


@app.command()
def index(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    json: JsonOption = False,
) -> None:
    """Add days that are loaded to the search index; rows that it has already are skipped."""
    from lse_operations.steps import SEARCH_STEP

    _run([SEARCH_STEP], project, date, start_date, end_date, force=False, json=json)


@app.command()
def full_sweep(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    skip_fetch: Annotated[
        bool, typer.Option("--skip-fetch", help="Do not fetch; use the local run files. Default: off.")
    ] = False,
    skip_feedback: SkipFeedbackOption = False,
    skip_attachments: SkipAttachmentsOption = False,
    skip_upload: Annotated[bool, typer.Option("--skip-upload", help="Do not upload. Default: off.")] = False,
    skip_db: Annotated[bool, typer.Option("--skip-db", help="Do not load into Postgres. Default: off.")] = False,
    batch_size: BatchOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch, zip, upload, load and verify a day or a range of days."""
    from lse_operations.steps import SEARCH_STEP, day_steps
    from lse_resources.settings import Settings

    settings = Settings.load()
    skipped = {"run_files": skip_fetch, "drive_file": skip_upload, "runs_table": skip_db, SEARCH_STEP: skip_db}
    steps = [step for step in day_steps(settings) if not skipped.get(step)]
    # Without a destination there is nothing to skip: the check says that there is no copy, and the day can be verified.
    skips_copy = skip_upload and settings.has_destination
    unchecked = (["drive_matches_zip"] if skips_copy else []) + (["runs_match_files"] if skip_db else [])
    config: dict[str, dict[str, object]] = {
        "run_files": {"feedback": not skip_feedback, "attachments": not skip_attachments},
        "verification": {"skip": unchecked},
    }
    if batch_size:
        config["runs_table"] = {"batch_size": batch_size}
    _run(steps, project, date, start_date, end_date, force=force, json=json, config=config, sweep=True)


@app.command()
def verify(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    fix_missing: Annotated[
        bool, typer.Option("--fix-missing", help="Load runs that are missing in the database. Default: off.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Also replace rows that differ from the files. Default: off.")
    ] = False,
    detailed: Annotated[
        bool,
        typer.Option("--detailed", help="Compare full contents, and name the JSON paths that differ. Default: off."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare the current run files, zip, destination and database. Exits with 3 if they differ."""
    config = {"verification": {"fix_missing": fix_missing, "fix": fix, "detailed": detailed}}
    _run(["verification"], project, date, start_date, end_date, force=False, json=json, config=config)


def _run(
    steps: list[str],
    project: str | None,
    date: str | None,
    start_date: str | None,
    end_date: str | None,
    *,
    force: bool,
    json: bool,
    config: Mapping[str, Mapping[str, object]] | None = None,
    sweep: bool = False,
) -> None:
    from lse_cli.selection import select
    from lse_resources.places import record_places
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = select(settings, project, date, start_date, end_date)
    record_places(settings)
    # Imported after the options are checked: Dagster takes a second to import.
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.days import work

    entries, code = work(settings, Terminal(json=json, force=force), selection, steps, config, sweep=sweep)
    end_command(entries, code, json=json)


restore.register(app)


@app.command()
def rollback(
    load: Annotated[int, typer.Option("--load", metavar="ID", help="ID of the load, as in the table loads.")],
    json: JsonOption = False,
) -> None:
    """Undo a load: delete its rows, and restore the rows that it replaced. The files stay."""
    import msgspec

    from lse_archive.texts import counted
    from lse_cli.terminal.output import print_json
    from lse_platform.home import open_home
    from lse_resources.postgres.load.rollback import rollback_load
    from lse_resources.settings import Settings

    def waiting(holder: str) -> None:
        echo(f"  waiting: {holder} has the day", err=True)

    done = rollback_load(open_home(Settings.load()).database, load, on_wait=waiting)
    if json:
        print_json([msgspec.to_builtins(done)])
    else:
        restored = counted(done.restored, "row")
        echo(f"{done.project} {done.date}: {counted(done.deleted, 'row')} deleted, {restored} restored")
