"""Law 8, the dead do not block the living: runs of a process that is gone are failed, or they would fill the queue."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import dagster as dg

from lse_resources.processes import ProcessRecord, describe, is_alive

_HOST, _PID, _STARTED, _BOOT = "lse/host", "lse/process", "lse/started", "lse/boot"
_UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


def process_tags() -> dict[str, str]:
    """Tags that say which process works on a run."""
    record = describe(os.getpid())
    return {_HOST: record.host, _PID: str(record.pid), _STARTED: record.started, _BOOT: record.boot}


def fail_dead_runs(instance: dg.DagsterInstance, *, platform_starts: bool = False) -> list[str]:
    """Fails the runs under way whose process is gone; returns their ids.

    Args:
        platform_starts: No webserver or daemon of this home runs yet: what they had launched is dead, too.
    """
    failed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY)):
        if _PID in run.tags:
            dead = run.tags[_HOST] == socket.gethostname() and not is_alive(_record(run.tags))
        else:
            dead = platform_starts
        if dead:
            instance.report_run_failed(run, "The process that worked on this run is gone. Materialize the day again.")
            failed.append(run.run_id)
    return failed


def _record(tags: Mapping[str, str]) -> ProcessRecord:
    return ProcessRecord(pid=int(tags[_PID]), started=tags[_STARTED], host=tags[_HOST], boot=tags[_BOOT])
