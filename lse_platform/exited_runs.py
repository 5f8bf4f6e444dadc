"""Fails the runs of exited processes, so that they free queue slots (law 8)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import dagster as dg

from lse_archive.printable import printable
from lse_platform.process_registry import ProcessRecord, describe, is_running

# The UI does not show tags that begin with `.dagster/`.
_RUN, _HOST, _PID, _STARTED, _BOOT = (f".dagster/lse/{name}" for name in ("run", "host", "process", "started", "boot"))
_UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


def run_tags(run_id: str, project: str) -> dict[str, str]:
    """The tags of a run: its project, and the current process, which executes it.

    The tags include the run id: a run that is executed again gets a copy of the tags of the exited process.
    """
    record = describe(os.getpid())
    return {
        "project": printable(project),
        _RUN: run_id,
        _HOST: record.host,
        _PID: str(record.pid),
        _STARTED: record.started,
        _BOOT: record.boot,
    }


def tag_run(context: dg.AssetExecutionContext, project: str) -> None:
    """Sets the tags of a run that was created elsewhere, see `run_tags`."""
    tags = run_tags(context.run.run_id, project)
    if any(context.run.tags.get(name) != value for name, value in tags.items()):
        context.instance.add_run_tags(context.run.run_id, tags)


def fail_exited_runs(instance: dg.DagsterInstance, *, platform_starts: bool = False) -> list[str]:
    """Fails the started runs whose process has exited; returns their ids.

    The daemon retries those that it launched, from the first unfinished step (`run_retries` in dagster.yaml).

    Args:
        platform_starts: No webserver or daemon of this home runs yet, so runs without an owner tag (launched, but
            before their first step) have no process either.
    """
    failed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY)):
        if run.tags.get(_RUN) == run.run_id:
            exited = run.tags[_HOST] == socket.gethostname() and not is_running(_record(run.tags))
        else:
            exited = platform_starts
        if exited:
            instance.report_run_failed(run, "The process of this run has exited. Materialize the day again.")
            failed.append(run.run_id)
    return failed


def release_pool_slots(instance: dg.DagsterInstance) -> None:
    """Releases the pool slots of finished runs. A running daemon does the same."""
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def _record(tags: Mapping[str, str]) -> ProcessRecord:
    return ProcessRecord(pid=int(tags[_PID]), started=tags[_STARTED], host=tags[_HOST], boot=tags[_BOOT])
