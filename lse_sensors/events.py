"""Reads check evaluations and failed runs from Dagster's event log, each once, oldest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from dagster import (
    AssetCheckSeverity,
    DagsterEventType,
    DagsterRunStatus,
    EventRecordsFilter,
    RunsFilter,
    RunStatusChangeRecordsFilter,
)
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

from lse_resources.projects import ProjectConfig, key_owners
from lse_sensors.problems import RUN, AlertState, Event

_LIMIT = 500
_DETAILS = 3
_BACKFILL, _TICK, _PARTITION, _WILL_RETRY = (
    "dagster/backfill",
    "dagster/tick",
    "dagster/partition",
    "dagster/will_retry",
)
UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def new_state(instance: dg.DagsterInstance) -> AlertState:
    """The state of a first start: earlier events are not reported."""
    newest = instance.event_log_storage.get_maximum_record_id() or 0
    return AlertState(newest, newest)


def read_events(instance: dg.DagsterInstance, state: AlertState, projects: list[ProjectConfig]) -> list[Event]:
    """Returns the events since the last call, and advances the cursors of the state."""
    names = key_owners(projects)
    runs: dict[str, dg.DagsterRun | None] = {}

    def run_of(run_id: str) -> dg.DagsterRun | None:
        if run_id not in runs:
            runs[run_id] = instance.get_run_by_id(run_id)
        return runs[run_id]

    events = _evaluations(instance, state, names, run_of)
    return events + _failures(instance, state, names, run_of)


def is_running(instance: dg.DagsterInstance, batch: str) -> bool:
    """Whether a backfill or a schedule's tick has runs that are not finished or not launched yet."""
    tag, _, value = batch.partition("=")
    if instance.get_runs_count(RunsFilter(tags={tag: value}, statuses=UNFINISHED)):
        return True
    if tag != _BACKFILL:
        return False
    backfill = instance.get_backfill(value)
    return backfill is not None and backfill.status not in BULK_ACTION_TERMINAL_STATUSES


def _evaluations(
    instance: dg.DagsterInstance,
    state: AlertState,
    names: Mapping[str, str],
    run_of: Callable[[str], dg.DagsterRun | None],
) -> list[Event]:
    # Ascending: with the newest first, the cursor would skip all other pages.
    records = instance.event_log_storage.get_event_records(
        EventRecordsFilter(DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=state.checks),
        limit=_LIMIT,
        ascending=True,
    )
    events = []
    for record in records:
        state.checks = record.storage_id
        dagster_event, run = record.event_log_entry.dagster_event, run_of(record.run_id)
        if dagster_event is None:
            continue
        evaluation: Any = dagster_event.event_specific_data
        # A warning means that something cannot be proven: the UI shows it, and it raises no alert.
        if not evaluation.passed and evaluation.severity != AssetCheckSeverity.ERROR:
            continue
        slug = evaluation.asset_key.path[0]
        tags = run.tags if run else {}
        events.append(
            Event(
                project=names.get(slug, slug),
                day=evaluation.partition or tags.get(_PARTITION, ""),
                name=evaluation.check_name,
                passed=evaluation.passed,
                reason="" if evaluation.passed else evaluation.description or "it failed",
                details=[] if evaluation.passed else _details(evaluation.metadata),
                hint="" if evaluation.passed else _text(evaluation.metadata.get("what to do")),
                run_id=record.run_id,
                batch=_batch(tags),
            )
        )
    return events


def _details(metadata: Mapping[str, Any]) -> list[str]:
    table = metadata.get("differing")
    if table is None:
        return []
    records = [record.data for record in table.records]
    lines = []
    for row in records[:_DETAILS]:
        values = f" (expected {row['expected']}, found {row['found']})" if row["expected"] or row["found"] else ""
        lines.append(f"{row['item']}: {row['what']}{values}")
    more = int(_text(metadata.get("differences")) or len(records)) - len(lines)
    return [*lines, f"… and {more:,} more"] if more > 0 else lines


def _text(value: Any) -> str:
    return "" if value is None else str(value.value)


def _batch(tags: Mapping[str, str]) -> str:
    return next((f"{tag}={tags[tag]}" for tag in (_BACKFILL, _TICK) if tag in tags), "")


def _failures(
    instance: dg.DagsterInstance,
    state: AlertState,
    names: Mapping[str, str],
    run_of: Callable[[str], dg.DagsterRun | None],
) -> list[Event]:
    records = instance.fetch_run_status_changes(
        RunStatusChangeRecordsFilter(DagsterEventType.RUN_FAILURE, after_storage_id=state.failures),
        limit=_LIMIT,
        ascending=True,
    ).records
    events = []
    for record in records:
        state.failures = record.storage_id
        run = run_of(record.run_id)
        # Dagster retries this run.
        if run is None or run.tags.get(_WILL_RETRY) == "true":
            continue
        step, reason, hint = _cause(instance, run)
        events.append(
            Event(
                project=_project(run, step, names),
                day=run.tags.get(_PARTITION, ""),
                name=RUN,
                passed=False,
                reason=reason,
                hint=hint,
                run_id=run.run_id,
                batch=_batch(run.tags),
            )
        )
    return events


def _cause(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, str, str]:
    """The first step that failed, why, and what to do. Only LSE's own errors are quoted: they contain no secrets."""
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        if event is None or event.step_key is None:
            continue
        data: Any = event.event_specific_data
        failure = getattr(data, "user_failure_data", None)
        if failure is not None and failure.description:
            return event.step_key, failure.description, ""
        name = data.error.cls_name if getattr(data, "error", None) else "no reason recorded"
        return event.step_key, f"{name} in {event.step_key}", "Read the log of the run, then run it again"
    return "", "its process has exited, or it could not be started", "Materialize the day again"


def _project(run: dg.DagsterRun, step: str, names: Mapping[str, str]) -> str:
    """The project of a run: that of its first asset, or of the step that failed."""
    if run.asset_selection:
        slug = min(run.asset_selection).path[0]
        return names.get(slug, slug)
    owner = step.rpartition("__")[0]
    by_op = {slug.replace("-", "_"): name for slug, name in names.items()}
    kind, _, by_job = run.job_name.partition("_")  # see `job_name`; others are of no project
    return by_op.get(owner) or (kind == "archive" and by_op.get(by_job)) or owner or run.job_name
