"""Reads check evaluations and failed runs from Dagster's event log, each once, oldest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import (
    AssetCheckSeverity,
    DagsterEventType,
    DagsterRunStatus,
    EventLogRecord,
    EventRecordsFilter,
    RunsFilter,
    RunStatusChangeRecordsFilter,
)
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

from lse_platform.asset_keys import FAILED_CHECKS
from lse_resources.projects import ProjectConfig, key_owners
from lse_sensors.problems import RUN, AlertState, Event

_LIMIT = 500
# How long after an event an earlier one is still expected to be committed.
_LOOK_BACK_SECONDS = 600.0
_MAX_KNOWN = 2_000
_DETAILS = 3
_BACKFILL, _TICK, _PARTITION, _WILL_RETRY = (
    "dagster/backfill",
    "dagster/tick",
    "dagster/partition",
    "dagster/will_retry",
)
# The daemon does not retry a command's run (see `Runner`).
_INTERRUPTED = {"dagster/failure_reason": "UNEXPECTED_TERMINATION", "dagster/max_retries": "0"}
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


def read_events(
    instance: dg.DagsterInstance, state: AlertState, projects: list[ProjectConfig], now: float
) -> list[Event]:
    """Returns the events since the last call, in the order of their ids, and advances the cursors of the state.

    An event gets its id when it is written, and can be read when it is committed: maybe after events with greater ids.
    So the events of the last `_LOOK_BACK_SECONDS` are read again, and those that were not known then are new.

    Args:
        now: Seconds since 1970.
    """
    names = key_owners(projects)
    runs: dict[str, dg.DagsterRun | None] = {}

    def run_of(run_id: str) -> dg.DagsterRun | None:
        if run_id not in runs:
            runs[run_id] = instance.get_run_by_id(run_id)
        return runs[run_id]

    # Ascending: with the newest first, the cursor would skip all other pages.
    checks = instance.event_log_storage.get_event_records(
        EventRecordsFilter(DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=state.checks),
        limit=_LIMIT + len(state.read_checks),
        ascending=True,
    )
    failures = instance.fetch_run_status_changes(
        RunStatusChangeRecordsFilter(DagsterEventType.RUN_FAILURE, after_storage_id=state.failures),
        limit=_LIMIT + len(state.read_failures),
        ascending=True,
    ).records
    known = {*state.read_checks, *state.read_failures}
    records = sorted([*checks, *failures], key=lambda record: record.storage_id)
    first = next((record.storage_id for record in records if record.storage_id not in known), None)
    # Known ones after the first new one, too: what was read too late has maybe been resolved already.
    found = [
        (record.storage_id in known, event)
        for record in records
        if first is not None and record.storage_id >= first and (event := _event(instance, record, names, run_of))
    ]
    state.checks, state.read_checks = _advance(state.checks, checks, now)
    state.failures, state.read_failures = _advance(state.failures, failures, now)
    return _unreported(found)


def _advance(cursor: int, records: Sequence[EventLogRecord], now: float) -> tuple[int, list[int]]:
    """The new cursor, and the ids beyond it that are known: those of the last time, at most `_MAX_KNOWN`."""
    old = 0
    while old < len(records) and (
        records[old].event_log_entry.timestamp < now - _LOOK_BACK_SECONDS or len(records) - old > _MAX_KNOWN
    ):
        old += 1
    ids = [record.storage_id for record in records]
    return (ids[old - 1] if old else cursor), ids[old:]


def _unreported(found: Sequence[tuple[bool, Event]]) -> list[Event]:
    """The events that are new, without what known later ones have made obsolete.

    Args:
        found: Events in order, and whether each is known.
    """
    last_known = {(event.place, event.name): number for number, (known, event) in enumerate(found) if known}
    events: list[Event] = []
    failed: set[tuple[str, str]] = set()
    for number, (known, event) in enumerate(found):
        key = event.place, event.name
        if not known and not (event.passed and last_known.get(key, -1) > number):
            events.append(event)
            if not event.passed:
                failed.add(key)
        elif known and event.passed and not failed.isdisjoint((key, (event.place, RUN))):
            events.append(event)  # it has resolved what is reported only now
    return events


def is_running(instance: dg.DagsterInstance, batch: str) -> bool:
    """Whether a backfill or a schedule's tick has runs that are not finished or not launched yet."""
    tag, _, value = batch.partition("=")
    if instance.get_runs_count(RunsFilter(tags={tag: value}, statuses=UNFINISHED)):
        return True
    if tag != _BACKFILL:
        return False
    backfill = instance.get_backfill(value)
    return backfill is not None and backfill.status not in BULK_ACTION_TERMINAL_STATUSES


def _event(
    instance: dg.DagsterInstance,
    record: EventLogRecord,
    names: Mapping[str, str],
    run_of: Callable[[str], dg.DagsterRun | None],
) -> Event | None:
    """The event of a record; None if it is neither a problem nor a check that passed."""
    dagster_event, run = record.event_log_entry.dagster_event, run_of(record.run_id)
    if dagster_event is None:
        return None
    if dagster_event.event_type != DagsterEventType.ASSET_CHECK_EVALUATION:
        return _failure(instance, run, names)
    evaluation: Any = dagster_event.event_specific_data
    # A warning means that something cannot be proven: the UI shows it, and it raises no alert.
    if not evaluation.passed and evaluation.severity != AssetCheckSeverity.ERROR:
        return None
    slug = evaluation.asset_key.path[0]
    tags = run.tags if run else {}
    return Event(
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


def _details(metadata: Mapping[str, Any]) -> list[str]:
    table = metadata.get("differing")
    if table is None:
        return []
    records = [record.data for record in table.records]
    lines = []
    for row in records[:_DETAILS]:
        values = f" (expected {row['expected']}, found {row['found']})" if row["expected"] or row["found"] else ""
        lines.append(f"{row['item']}: {row['what']}{values}")
        if way := row.get("see"):  # absent in records of an earlier version
            lines.append(f"  {way}")
    more = int(_text(metadata.get("differences")) or len(records)) - _DETAILS
    return [*lines, f"… and {more:,} more"] if more > 0 else lines


def _text(value: Any) -> str:
    return "" if value is None else str(value.value)


def _batch(tags: Mapping[str, str]) -> str:
    return next((f"{tag}={tags[tag]}" for tag in (_BACKFILL, _TICK) if tag in tags), "")


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun | None, names: Mapping[str, str]) -> Event | None:
    # Dagster retries this run, or its user has interrupted the command.
    if run is None or run.tags.get(_WILL_RETRY) == "true" or _INTERRUPTED.items() <= run.tags.items():
        return None
    cause = _cause(instance, run)
    if cause is None:
        return None
    step, reason, hint = cause
    return Event(
        project=_project(run, step, names),
        day=run.tags.get(_PARTITION, ""),
        name=RUN,
        passed=False,
        reason=reason,
        hint=hint,
        run_id=run.run_id,
        batch=_batch(run.tags),
    )


def _cause(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, str, str] | None:
    """The first step that failed, why, and what to do; None if it failed by its checks, which are events of their own.

    Only LSE's own errors are quoted: they contain no secrets.
    """
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        if event is None or event.step_key is None:
            continue
        data: Any = event.event_specific_data
        failure = getattr(data, "user_failure_data", None)
        if failure is not None and FAILED_CHECKS in failure.metadata:
            return None
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
