"""Fails the runs of exited processes, so that they free queue slots (law 8)."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from lse_archive.boot import pid_space
from lse_archive.files import try_lock
from lse_archive.printable import printable
from lse_platform.process_registry import ProcessRecord, is_running

_OWNER = ".dagster/lse_owner"  # the UI hides tags with this prefix
_UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


def run_tags(instance: dg.DagsterInstance, run_id: str, project: str) -> dict[str, str]:
    """The tags of a run: its project, and the current process, which executes it and holds a lock until it exits.

    The owner's tag includes the run id: a run that is executed again gets a copy of the tag of the exited process.

    Raises:
        OSError: The lock cannot be created.
    """
    tags = {"project": printable(project)}
    if not instance.is_ephemeral:
        tags[_OWNER] = f"{run_id} {_own_lock(_locks(instance), os.getpid())}"
    return tags


def tag_run(context: dg.AssetExecutionContext, project: str) -> None:
    """Sets the tags of a run that was created elsewhere, see `run_tags`."""
    tags = run_tags(context.instance, context.run.run_id, project)
    if not tags.items() <= context.run.tags.items():
        context.instance.add_run_tags(context.run.run_id, tags)


def fail_exited_runs(instance: dg.DagsterInstance, *, platform_starts: bool = False) -> list[str]:
    """Fails the started runs whose process has exited; returns their ids.

    The daemon retries those that it launched, from the first unfinished step (`run_retries` in dagster.yaml).

    Args:
        platform_starts: No webserver or daemon of this home runs yet, so a run without a lock that is held here has no
            process either: it was launched, but before its first step, or by a home that no longer exists.

    Raises:
        ArchiveError: The file system of the home has no locks.
    """
    failed, locks = [], _locks(instance)
    exited = [lock for lock in locks.glob("*.lock") if not _is_held(lock)]
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY)):
        run_id, _, owner = run.tags.get(_OWNER, "").partition(" ")
        if run_id == run.run_id:
            lock = locks / owner
            has_exited = lock in exited or (platform_starts and not _is_held(lock))
        elif run.tags.get("lse/run") == run.run_id:
            record = _record(run.tags)
            has_exited = not is_running(record) and (platform_starts or record.boot in pid_space())
        else:
            has_exited = platform_starts
        if has_exited and (now := instance.get_run_by_id(run.run_id)) and not now.is_finished:
            instance.report_run_failed(now, "The process of this run has exited. Materialize the day again.")
            failed.append(run.run_id)
    for lock in exited:
        lock.unlink(missing_ok=True)
    return failed


def release_pool_slots(instance: dg.DagsterInstance) -> None:
    """Releases the pool slots of finished runs. A running daemon does the same."""
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def _locks(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "owners"


@functools.cache
def _own_lock(directory: Path, pid: int) -> str:
    """Creates a file that process `pid`, this one, keeps locked; returns its name."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{secrets.token_hex(16)}.lock"
    new = directory / f".{name}"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try_lock(descriptor, new)
    new.rename(directory / name)  # now it is locked: nobody takes it for that of an exited process
    atexit.register(_delete, directory / name, pid)
    return name


def _delete(lock: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        lock.unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, lock, shared=True)
    finally:
        os.close(descriptor)


def _record(tags: Mapping[str, str]) -> ProcessRecord:
    """The process in the tags that LSE wrote until 0.1: with the host's name, which says nothing."""
    return ProcessRecord(pid=int(tags["lse/process"]), started=tags["lse/started"], boot=tags["lse/boot"])
