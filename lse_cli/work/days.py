"""Works through projects and days: asks first, materializes the steps, and gathers what became of each."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from datetime import date
from typing import Any

from lse_archive.errors import AccessError, ArchiveConflictError, ArchiveError, SettingsError
from lse_archive.results import UploadResult
from lse_cli.selection import Selection
from lse_cli.terminal.console import DayOutcome, Terminal
from lse_cli.terminal.texts import counted
from lse_cli.work.outcome import entry, exit_code, worst
from lse_cli.work.runner import Runner
from lse_operations.upload import upload_day
from lse_resources.open_destination import open_destination
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

# In the order in which a day is worked on.
SWEEP = ["run_files", "day_zip", "drive_file", "runs_table", "verification"]
_FILE_STEPS = frozenset(("run_files", "day_zip", "drive_file"))
_EVERY = ""  # no project's name
_Pair = tuple[ProjectConfig, date]


def work(
    settings: Settings,
    terminal: Terminal,
    selection: Selection,
    steps: list[str],
    config: Mapping[str, Mapping[str, object]] | None = None,
    *,
    sweep: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """Materializes the steps for each project and day. Where only uploads are asked for, a few go at once.

    A day stops at the step that fails, but for steps that do not need it. The other days go on, unless nothing can
    come of them: where LangSmith refuses a project or the key, or a setting is wrong.

    Args:
        config: Run config of the steps, by name.
        sweep: Whether the entries are `FullSweepResult`s even for a single step.

    Returns:
        One entry per project and day, and the exit code.
    """
    entries, code, not_started = [], 0, 0
    refused: dict[str, ArchiveError] = {}
    with Runner(settings, terminal) as runner, contextlib.ExitStack() as exits:
        if runner.refusal and not _FILE_STEPS.isdisjoint(steps):
            terminal.warn(f"! {runner.refusal}\n  Going on without the database: files, zip and Drive need none.")
        elif runner.refusal:
            terminal.failed(steps[0], runner.refusal)
            refused[_EVERY] = runner.refusal
        pairs, begun = selection.pairs(), {}
        if steps == ["drive_file"] and len(pairs) > 1:
            begun = exits.enter_context(_begin_uploads(settings, terminal, pairs, (config or {}).get("drive_file", {})))
        for project, day in pairs:
            refusal = refused.get(_EVERY) or refused.get(project.name)
            terminal.begun = begun.get((project, day))
            if refusal and (terminal.begun is None or terminal.begun.cancel()):
                not_started += 1
                outcome = DayOutcome(errors={steps[0]: refusal})
            else:
                terminal.begin_day(f"{project.name} {day}")
                outcome = _one_day(settings, terminal, runner, project, day, steps, config or {})
                refused |= _refusals(project, outcome)
            entries.append(entry(project.name, day, steps, outcome, sweep=sweep))
            code = worst(code, exit_code(outcome))
    if not_started:
        terminal.warn(f"not started: {counted(not_started, 'day')}, for the same reason")
    return entries, code


@contextlib.contextmanager
def _begin_uploads(
    settings: Settings, terminal: Terminal, pairs: list[_Pair], config: Mapping[str, object]
) -> Generator[dict[_Pair, Future[UploadResult]]]:
    """Uploads a few days at once, outside of Dagster, which is not made for threads; where one must ask, it ends."""
    with contextlib.ExitStack() as exits:
        try:
            destination = exits.enter_context(open_destination(settings))
        except ArchiveError:  # each day will say so
            yield {}
            return
        bars = exits.enter_context(terminal.bars())

        def upload(pair: _Pair) -> UploadResult:
            project, day = pair
            paths = settings.layout.day(project.name, day)
            with bars.day(f"{project.name} {day}") as bar:
                return upload_day(
                    destination,
                    paths,
                    allow_shrink=bool(config.get("allow_shrink")),
                    may_replace=lambda _: terminal.force,
                    progress=bar("upload", "bytes"),
                    on_wait=terminal.waiting,
                )

        with bars.several(upload, pairs) as futures:
            yield dict(zip(pairs, futures, strict=True))


def _refusals(project: ProjectConfig, outcome: DayOutcome) -> dict[str, ArchiveError]:
    """What makes other days useless to start: by the project's name, or for every project."""
    refusals: dict[str, ArchiveError] = {}
    for error in outcome.errors.values():
        if isinstance(error, SettingsError):
            refusals[_EVERY] = error
        elif isinstance(error, AccessError):
            refusals[project.name] = error
    return refusals


def _one_day(
    settings: Settings,
    terminal: Terminal,
    runner: Runner,
    project: ProjectConfig,
    day: date,
    steps: list[str],
    config: Mapping[str, Mapping[str, object]],
) -> DayOutcome:
    try:
        if "run_files" in steps:
            _ask_before_fetch(settings, terminal, project, day)
        outcome = runner.run(project, day, steps, config)
    except ArchiveConflictError as error:
        terminal.failed("run_files", error)
        outcome = terminal.day
    not_done = [step for step in steps if step not in outcome.results and step not in outcome.errors]
    if outcome.errors and not_done:
        terminal.not_done(not_done)
    return outcome


def _ask_before_fetch(settings: Settings, terminal: Terminal, project: ProjectConfig, day: date) -> None:
    folder = settings.layout.day(project.name, day).folder
    if folder.is_dir() and not terminal.confirm(
        f"{folder} is here. Look at LangSmith again and merge what changed (no run is removed)"
    ):
        raise ArchiveConflictError(
            f"{folder} is here already", why="it was not to be touched", hint="--force looks again and merges"
        )
