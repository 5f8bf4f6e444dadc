"""Works through projects and days: asks first, materializes the steps, and gathers what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from lse_archive.errors import AccessError, ArchiveConflictError, ArchiveError, SettingsError
from lse_archive.projects import ProjectConfig
from lse_cli.console import DayOutcome, Terminal
from lse_cli.outcome import entry, exit_code, worst
from lse_cli.runner import Runner
from lse_cli.selection import Selection
from lse_resources.settings import Settings

# In the order in which a day is worked on.
SWEEP = ["run_files", "day_zip", "drive_file", "runs_table", "verification"]


def work(
    settings: Settings,
    terminal: Terminal,
    selection: Selection,
    steps: list[str],
    config: Mapping[str, Mapping[str, object]] | None = None,
    *,
    sweep: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """Materializes the steps for each project and day.

    A day stops at the step that fails, but for steps that do not need it; the other days go on, unless LangSmith or
    the settings refuse for good.

    Args:
        config: Run config of the steps, by name.
        sweep: Whether the entries are `FullSweepResult`s even for a single step.

    Returns:
        One entry per project and day, and the exit code.
    """
    entries, code = [], 0
    with Runner(settings, terminal) as runner:
        for project, day in selection.pairs():
            terminal.begin_day(f"{project.name} {day}")
            outcome = _one_day(settings, terminal, runner, project, day, steps, config or {})
            not_done = [step for step in steps if step not in outcome.results and step not in outcome.errors]
            if outcome.errors and not_done:
                terminal.not_done(not_done)
            entries.append(entry(project.name, day, steps, outcome, sweep=sweep))
            code = worst(code, exit_code(outcome))
            if any(isinstance(error, AccessError | SettingsError) for error in outcome.errors.values()):
                break
    return entries, code


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
        return runner.run(project, day, steps, config)
    except ArchiveError as error:
        terminal.failed(steps[0], error)
        return terminal.day


def _ask_before_fetch(settings: Settings, terminal: Terminal, project: ProjectConfig, day: date) -> None:
    folder = settings.layout.day(project.name, day).folder
    if folder.is_dir() and not terminal.confirm(
        f"{folder} is here. Look at LangSmith again and merge what changed (no run is removed)"
    ):
        raise ArchiveConflictError(
            f"{folder} is here already", why="it was not to be touched", todo="--force looks again and merges"
        )
