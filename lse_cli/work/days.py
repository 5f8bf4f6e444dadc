"""Processes projects and days: confirms, materializes the steps, and collects the results."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import date
from itertools import chain
from typing import Any

from lse_archive.days import day_ranges
from lse_archive.errors import AccessError, ArchiveConflictError, ArchiveError, SettingsError
from lse_archive.texts import counted
from lse_cli.selection import Selection
from lse_cli.terminal.console import DayOutcome, Terminal
from lse_cli.work.outcome import entry, exit_code, worst
from lse_cli.work.range_uploads import RangeUploads
from lse_cli.work.runner import Runner
from lse_resources.langsmith.client import LangSmith
from lse_resources.projects import ProjectConfig, read_projects
from lse_resources.settings import Settings

_FILE_STEPS = frozenset(("run_files", "day_zip", "drive_file", "lake_files"))
_EVERY_PROJECT = ""  # not a project's name


def work(
    settings: Settings,
    terminal: Terminal,
    selection: Selection,
    steps: list[str],
    config: Mapping[str, Mapping[str, object]] | None = None,
    *,
    sweep: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """Materializes the steps for each project and day. A range that is only uploaded is uploaded in threads.

    A day stops at the step that fails, except for steps that do not depend on it. The other days go on, unless they
    would fail for the same reason: LangSmith refuses the project or the key, or a setting is wrong.

    Args:
        config: Run config of the steps, by name.
        sweep: Whether the entries are `FullSweepResult`s even for a single step.

    Returns:
        One entry per project and day, and the exit code.
    """
    entries, code, not_started = [], 0, 0
    not_served: dict[str, list[str]] = {}
    config = config or {}
    refused: dict[str, ArchiveError] = {}
    uploads = RangeUploads(settings, terminal)
    with Runner(settings, terminal, uploads) as runner, contextlib.ExitStack() as exits:
        if runner.refusal and not _FILE_STEPS.isdisjoint(steps):
            terminal.warn(f"! {runner.refusal}")
            terminal.warn("  Continuing without the database: files, zip and upload need none.")
        elif runner.refusal:
            terminal.failed(steps[0], runner.refusal)
            refused[_EVERY_PROJECT] = runner.refusal
        days = selection.pairs()
        if steps == ["drive_file"] and len(days) > 1:
            allow_shrink = bool(config.get("drive_file", {}).get("allow_shrink"))
            exits.enter_context(uploads.start(days, allow_shrink=allow_shrink))
        for project, day in days:
            refusal = refused.get(_EVERY_PROJECT) or refused.get(project.name)
            if refusal and uploads.cancel(settings.layout.day(project.name, day)):
                not_started += 1
                outcome = DayOutcome(errors={steps[0]: refusal})
            else:
                terminal.begin_day(f"{project.name} {day}")
                outcome = _one_day(settings, terminal, runner, project, day, steps, config)
                refused |= _refusals(project, outcome)
            if getattr(outcome.results.get("run_files"), "outcome", "") == "not_served":
                not_served.setdefault(project.name, []).append(str(day))
            entries.append(entry(project.name, day, steps, outcome, sweep=sweep))
            code = worst(code, exit_code(outcome))
    if not_started:
        terminal.warn(f"not started: {counted(not_started, 'day')}, for the same reason")
    for name, dates in not_served.items():
        terminal.warn(f"not archived, because LangSmith no longer has them: {name}: {day_ranges(dates)}")
    return entries, code


def _refusals(project: ProjectConfig, outcome: DayOutcome) -> dict[str, ArchiveError]:
    """The errors with which other days would fail too: by the project's name, or for every project."""
    refusals: dict[str, ArchiveError] = {}
    for error in outcome.errors.values():
        if isinstance(error, SettingsError):
            refusals[_EVERY_PROJECT] = error
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
        _require_project(settings, project.name, steps)
        if "run_files" in steps:
            _ask_before_fetch(settings, terminal, project, day)
        outcome = runner.run(project, day, steps, config)
    except ArchiveError as error:
        terminal.failed(steps[0], error)
        outcome = terminal.day
    not_done = [step for step in steps if step not in outcome.results and step not in outcome.errors]
    if outcome.errors and not_done:
        terminal.not_done(not_done)
    return outcome


def _require_project(settings: Settings, name: str, steps: list[str]) -> None:
    """Returns if the project is listed, or archived here, or in LangSmith where it is fetched.

    A run of any other name would fail, and Dagster would keep the assets of that name in its catalog.

    Raises:
        ArchiveError: It is not known, or LangSmith cannot be reached.
    """
    layout = settings.layout
    # A day whose files and zip are gone has its state, and may be at the destination.
    found = layout.days(name), layout.recorded_days(name), layout.pruned_days(name), layout.zipped_days(name)
    if any(True for _ in chain(*found)) or any(one.name == name for one in read_projects(settings.projects_file)):
        return
    if "run_files" not in steps:
        raise ArchiveError(
            f"nothing of the project '{name}' is archived here",
            why=f"there is no day of it in {layout.data_dir} and {layout.archive_dir}",
            hint="Check its spelling (lse projects list), or fetch it first: lse archive fetch",
        )
    with contextlib.closing(LangSmith(settings.langsmith)) as client:
        client.project(name)


def _ask_before_fetch(settings: Settings, terminal: Terminal, project: ProjectConfig, day: date) -> None:
    folder = settings.layout.day(project.name, day).folder
    if folder.is_dir() and not terminal.confirm(
        f"{folder} exists. Fetch the day again and merge what changed (no run is removed)"
    ):
        raise ArchiveConflictError(
            f"{folder} exists already",
            why="the fetch was not confirmed",
            hint="--force fetches again and merges",
        )
