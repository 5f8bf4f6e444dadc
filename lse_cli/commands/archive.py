"""`lse archive`: the hops of a day, one by one or all at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lse_archive.errors import ArchiveError, UsageError
from lse_cli.commands import restore
from lse_cli.selection import DateOption, EndOption, JsonOption, ProjectOption, StartOption

app = typer.Typer(rich_markup_mode=None)

ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Answer every question by yes. Nothing is ever replaced by fewer runs. Default: off."),
]
ShrinkOption = Annotated[
    bool,
    typer.Option("--allow-shrink", help="Let the archive lose runs that LangSmith no longer serves. Default: off."),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, help="Runs in one transaction. Default: 500, as measured best."),
]


@app.callback(invoke_without_command=True)
def bare(
    context: typer.Context,
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Archive days: fetch, zip and upload them, or one step of these, or more.

    Without a command: fetch, zip and upload.
    """
    if context.invoked_subcommand is None:
        _run(["run_files", "day_zip", "drive_file"], project, date, start_date, end_date, force=force, json=json)
    elif any((project, date, start_date, end_date, force, json)):
        raise UsageError(
            "options before the command would be ignored",
            hint=f"Write them behind it: lse archive {context.invoked_subcommand} …",
        )


@app.command()
def fetch(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    force: ForceOption = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Look again at days that are here, without asking. Default: off.")
    ] = False,
    no_count: Annotated[
        bool,
        typer.Option(
            "--no-count", help="Do not ask for LangSmith's own count, for deployments without it. Default: off."
        ),
    ] = False,
    allow_shrink: ShrinkOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch every run of the day from LangSmith.

    A day that is here already is looked at again: what changed is replaced, what LangSmith no longer serves is kept.
    """
    config = {"run_files": {"ask_count": not no_count, "allow_shrink": allow_shrink}}
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
        typer.Option("--output-dir", metavar="DIR", help="Write the zip there. Default: LSE_ARCHIVE_DIR, ./archives."),
    ] = None,
    allow_shrink: ShrinkOption = False,
    json: JsonOption = False,
) -> None:
    """Make the day's archive; the same files give the same bytes."""
    config: dict[str, object] = {"allow_shrink": allow_shrink}
    if output_dir:
        config["output_dir"] = str(output_dir.expanduser().absolute())
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
    """Bring the day's archive to Google Drive; the same content is not sent twice."""
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
        typer.Option("--overwrite", help="Replace rows whose file has changed. Default: they stay and are reported."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing. Default: off.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Load the day's run files into Postgres."""
    load = {"overwrite": overwrite} | ({"batch_size": batch_size} if batch_size else {})
    if dry_run:
        _dry_load(project, date, start_date, end_date, load, json=json)
    else:
        _run(["runs_table"], project, date, start_date, end_date, force=force, json=json, config={"runs_table": load})


@app.command()
def full_sweep(
    project: ProjectOption = None,
    date: DateOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    skip_fetch: Annotated[
        bool, typer.Option("--skip-fetch", help="Use the run files that are here. Default: off.")
    ] = False,
    skip_upload: Annotated[bool, typer.Option("--skip-upload", help="Leave Google Drive out. Default: off.")] = False,
    skip_db: Annotated[bool, typer.Option("--skip-db", help="Leave Postgres out. Default: off.")] = False,
    batch_size: BatchOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch, zip, upload, load and verify: everything, for a day or a range."""
    from lse_operations.steps import STEPS

    skipped = {"run_files": skip_fetch, "drive_file": skip_upload, "runs_table": skip_db}
    steps = [step for step in STEPS if not skipped.get(step)]
    unchecked = (["drive_matches_zip"] if skip_upload else []) + (["runs_match_files"] if skip_db else [])
    config: dict[str, dict[str, object]] = {"verification": {"skip": unchecked}}
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
        bool, typer.Option("--fix-missing", help="Load the runs that the database does not have. Default: off.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Replace rows that differ, too, from the files. Default: off.")
    ] = False,
    detailed: Annotated[
        bool, typer.Option("--detailed", help="Compare contents with contents, and name the JSON paths. Default: off.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare files, archive, Drive and database as they are now. Ends with 3 where they differ."""
    config = {"verification": {"fix_missing": fix_missing, "fix": fix, "detailed": detailed}}
    _run(["verification"], project, date, start_date, end_date, force=False, json=json, config=config)


def _run(
    steps: list[str],
    project: str | None,
    date_text: str | None,
    start_text: str | None,
    end_text: str | None,
    *,
    force: bool,
    json: bool,
    config: Mapping[str, Mapping[str, object]] | None = None,
    sweep: bool = False,
) -> None:
    from lse_cli.selection import select
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = select(settings, project, date_text, start_text, end_text)
    # Here, because the options were right: Dagster takes a second to import.
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.days import work

    entries, code = work(settings, Terminal(json=json, force=force), selection, steps, config, sweep=sweep)
    if json:
        print_json(entries)
    raise typer.Exit(code)


def _dry_load(
    project: str | None,
    date_text: str | None,
    start_text: str | None,
    end_text: str | None,
    load: dict[str, Any],
    *,
    json: bool,
) -> None:
    from lse_cli.selection import select
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import print_json
    from lse_cli.work.outcome import entry, exit_code, worst
    from lse_platform.home import open_home
    from lse_resources.postgres.load.day import load_day
    from lse_resources.settings import Settings

    settings = Settings.load()
    selection = select(settings, project, date_text, start_text, end_text)
    terminal = Terminal(json=json, force=False)
    database, entries, code = open_home(settings).database, [], 0
    for config, day in selection.pairs():
        terminal.begin_day(f"{config.name} {day}")
        folder = settings.layout.day(config.name, day).folder
        try:
            terminal.report("runs_table", load_day(database, config.name, day, folder, dry_run=True, **load))
        except ArchiveError as error:
            terminal.failed("runs_table", error)
        entries.append(entry(config.name, day, ["runs_table"], terminal.day, sweep=False))
        code = worst(code, exit_code(terminal.day))
    if json:
        print_json(entries)
    raise typer.Exit(code)


restore.register(app)


@app.command()
def rollback(
    load: Annotated[int, typer.Option("--load", metavar="ID", help="Number of the load, as the table loads has it.")],
    json: JsonOption = False,
) -> None:
    """Take a load back: its rows go, and those that it had replaced stand again. The files stay."""
    import msgspec

    from lse_cli.terminal.output import print_json
    from lse_cli.terminal.texts import counted
    from lse_platform.home import open_home
    from lse_resources.postgres.load.rollback import rollback_load
    from lse_resources.settings import Settings

    done = rollback_load(open_home(Settings.load()).database, load)
    if json:
        print_json([msgspec.to_builtins(done)])
    else:
        typer.echo(
            f"{done.project} {done.date}: {counted(done.deleted, 'row')} taken back, {done.restored:,} stand again"
        )
