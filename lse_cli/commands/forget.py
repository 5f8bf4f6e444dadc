"""`lse forget`: erases runs on purpose, in every place, with a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lse_archive.errors import UsageError
from lse_cli.commands.options import DryRunOption, ForceOption, JsonOption, require_text


def forget(
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            metavar="NAME",
            callback=require_text,
            help="Name of the LangSmith project. Default: none; --replay takes all.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="ID",
            callback=require_text,
            help="A run, without the rest of its trace; repeatable. Default: none.",
        ),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            "--trace", metavar="ID", callback=require_text, help="All runs of a trace; repeatable. Default: none."
        ),
    ] = None,
    thread: Annotated[
        list[str] | None,
        typer.Option(
            "--thread", metavar="ID", callback=require_text, help="The traces of a thread; repeatable. Default: none."
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            metavar="KEY=VALUE",
            callback=require_text,
            help="The traces of the runs with this metadata; repeatable. Default: none.",
        ),
    ] = None,
    ids_from: Annotated[
        Path | None,
        typer.Option("--ids-from", metavar="FILE", help="A file with one run id a line; - reads stdin. Default: none."),
    ] = None,
    runs_only: Annotated[
        bool,
        typer.Option(
            "--runs-only", help="--thread, --metadata: only the runs that match, not their traces. Default: off."
        ),
    ] = False,
    start_date: Annotated[
        str | None,
        typer.Option("--start-date", metavar="DAY", callback=require_text, help="First day. Default: the first here."),
    ] = None,
    end_date: Annotated[
        str | None,
        typer.Option("--end-date", metavar="DAY", callback=require_text, help="Last day. Default: the last here."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason",
            metavar="TEXT",
            callback=require_text,
            help="For the certificate. Do not name the person. Default: none.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Complete erasures that were interrupted. Default: off.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Search everywhere for what is selected or was erased before. Default: off.")
    ] = False,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Erase again what an older dump or copy brought back. Default: off."),
    ] = False,
    certificate: Annotated[
        str | None,
        typer.Option(
            "--certificate",
            metavar="ID",
            callback=require_text,
            help="Print the certificate of an erasure. Default: none.",
        ),
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Erase runs everywhere and for good: files, zips, all revisions at the destination, rows, logs.

    It shows what it would erase, and asks. An interrupted erasure is completed by --resume, or by the platform. What
    was erased never comes back: fetch, import, restore and load leave it out. LangSmith's own copy is not touched.
    --check exits with 3 if anything is found.
    """
    modes = {"--resume": resume, "--check": check, "--replay": replay, "--certificate": certificate is not None}
    chosen = [name for name, is_chosen in modes.items() if is_chosen]
    selects = bool(run or trace or thread or metadata or ids_from)
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} cannot be combined with {chosen[1]}")
    if chosen and chosen != ["--check"] and (selects or dry_run or reason or runs_only or start_date or end_date):
        raise UsageError(f"{chosen[0]} selects nothing", hint="Leave out the options that select runs")
    if not chosen and not selects:
        raise UsageError(
            "no run is selected", hint="Use --run, --trace, --thread, --metadata or --ids-from; see lse forget --help"
        )
    if project is None and (not chosen or check):
        raise UsageError("no project is selected", hint="Name it: --project NAME")
    from lse_cli.terminal.console import Terminal
    from lse_cli.terminal.output import end_command
    from lse_cli.work.forget import Forget, read_selectors
    from lse_resources.places import record_places
    from lse_resources.settings import Settings

    settings = Settings.load()
    selectors = read_selectors(
        run or [], trace or [], thread or [], metadata or [], ids_from, runs_only=runs_only, days=(start_date, end_date)
    )
    record_places(settings)
    work = Forget(settings, Terminal(json=json, force=force))
    if certificate is not None:
        entries, code = work.certificate(certificate)
    elif resume:
        entries, code = work.resume()
    elif replay:
        entries, code = work.replay(project)
    elif check:
        entries, code = work.check(project or "", selectors)
    else:
        entries, code = work.forget(project or "", selectors, reason or "", dry_run=dry_run)
    end_command(entries, code, json=json)
