"""The outcome of one day of a command: its entry in `--json`, and its exit code."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec

from lse_archive.results import FetchResult, FullSweepResult, LoadResult, ZipResult
from lse_cli.terminal.console import DayOutcome
from lse_cli.terminal.output import error_object
from lse_cli.terminal.texts import STEP_NAMES

_SWEEP_FIELDS = {
    "run_files": "fetch_result",
    "day_zip": "zip_result",
    "drive_file": "upload_result",
    "runs_table": "db_result",
    "search_index": "index_result",
    "lake_files": "lake_result",
    "verification": "verification_result",
}


def entry(project: str, day: date, steps: list[str], outcome: DayOutcome, *, sweep: bool) -> dict[str, Any]:
    """The result of one project and day: a step's own model, or of several steps the `FullSweepResult`."""
    checks = [msgspec.to_builtins(check) for check in outcome.checks]
    if sweep or len(steps) > 1:
        results = {_SWEEP_FIELDS[step]: result for step, result in outcome.results.items()}
        total = sum(getattr(result, "duration_seconds", 0.0) for result in outcome.results.values())
        problems = [f"{STEP_NAMES.get(step, step)}: {error}" for step, error in outcome.errors.items()]
        model = FullSweepResult(
            project=project,
            date=str(day),
            problems=problems,
            total_duration=round(total, 3),
            **results,  # ty: ignore[invalid-argument-type]
        )
        found: dict[str, Any] = msgspec.to_builtins(model)
    else:
        found = {"project": project, "date": str(day)}
        for result in outcome.results.values():
            found |= msgspec.to_builtins(result)
    if checks:
        found["checks"] = checks
    if outcome.errors:
        step, error = next(iter(outcome.errors.items()))
        found["error"] = error_object(STEP_NAMES.get(step, step), error)
    return found


# A failure outranks a difference.
_SEVERITY = [0, 3, 1]


def worst(*codes: int) -> int:
    """The exit code of several days."""
    return max(codes, key=_SEVERITY.index)


def exit_code(outcome: DayOutcome) -> int:
    """0 done; 1 a step failed; 3 places differ.

    Also if a zip lacks files, if LangSmith counts more runs or other feedback than the day has, if attachments are
    missing, or if runs were not loaded.
    """
    if outcome.errors or any(check.verdict == "unknown" for check in outcome.checks):
        return 1
    zipped = outcome.results.get("day_zip")
    if isinstance(zipped, ZipResult) and zipped.left_out:
        return 3
    fetched = outcome.results.get("run_files")
    if isinstance(fetched, FetchResult) and (
        fetched.count_check == "fewer" or fetched.lacks_feedback or fetched.attachments_missing
    ):
        return 3
    loaded = outcome.results.get("runs_table")
    if isinstance(loaded, LoadResult) and loaded.refused:
        return 3
    return 3 if any(check.verdict == "differs" for check in outcome.checks) else 0
