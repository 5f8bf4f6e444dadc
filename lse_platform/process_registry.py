"""Registry of the processes that LSE started: one file each, so that another command can find and stop them.

The system reuses process ids. A process is identified by its id, its start time, and where its id means a process.
Whether the platform runs at all, here or in another container, says its lock, which the system frees.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lse_archive.boot import pid_space
from lse_archive.errors import UNDECODABLE
from lse_archive.files import lock_holder, publish_file, try_lock

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "stat").exists()
_POLL = 0.02


@dataclass(frozen=True)
class ProcessRecord:
    """Identity of one process.

    Args:
        pid: Process id; also the id of its group if it leads one.
        started: Opaque start time: clock ticks since boot on Linux, the output of `ps` elsewhere.
        boot: Where the process id is valid, see `pid_space`; records of older versions have the boot alone.
    """

    pid: int
    started: str
    boot: str


def describe(pid: int) -> ProcessRecord:
    """Returns the record of a running process of this system.

    Raises:
        ProcessLookupError: There is no such process, or it is a zombie.
    """
    started = _start_time(pid)
    if started is None:
        raise ProcessLookupError(f"no process {pid}")
    return ProcessRecord(pid, started, pid_space())


def is_running(record: ProcessRecord) -> bool:
    """Whether the process of the record runs. False for a process of another host or container."""
    here = pid_space()
    return record.boot in (here, here.partition(" ")[0]) and _start_time(record.pid) == record.started


def terminate(record: ProcessRecord, timeout: float = 10.0) -> bool:
    """Stops a process: SIGTERM, and SIGKILL after `timeout` seconds. Returns whether it was running.

    If the process leads a process group (`start_new_session=True`), the signals go to the whole group.

    Raises:
        PermissionError: The process belongs to another user.
    """
    if not is_running(record):
        return False
    with contextlib.suppress(ProcessLookupError):  # it has just exited
        leads = os.getpgid(record.pid) == record.pid
        send, runs = (os.killpg, _group_runs) if leads else (os.kill, lambda _: is_running(record))
        send(record.pid, signal.SIGTERM)
        # The system does not reuse the id of a group that has members, even if its leader has exited.
        if not _wait(lambda: not runs(record.pid), timeout):
            send(record.pid, signal.SIGKILL)
            _wait(lambda: not runs(record.pid), timeout)
    return True


@dataclass(frozen=True)
class Registry:
    """The records under one directory, `LSE_HOME/run`: `<name>.json` for each name."""

    directory: Path

    def add(self, name: str, pid: int) -> ProcessRecord:
        """Records a running process under a name; replaces an earlier record.

        Raises:
            ProcessLookupError: The process has exited already.
            OSError: The record cannot be written.
        """
        record = describe(pid)
        with publish_file(self._path(name)) as file:
            file.write(msgspec.json.encode(record))
        return record

    def get(self, name: str) -> ProcessRecord | None:
        """Returns the record of a name, running or not; None if it is missing or malformed.

        A record is replaced as a whole: only a crash of the host damages it, and that ends its processes.
        """
        try:
            return msgspec.json.decode(self._path(name).read_bytes(), type=ProcessRecord)
        except (FileNotFoundError, *UNDECODABLE):
            return None

    def running(self) -> dict[str, ProcessRecord]:
        """Returns the recorded processes of this host or container that run, by name."""
        names = sorted(path.stem for path in self.directory.glob("*.json"))
        return {name: record for name in names if (record := self.get(name)) and is_running(record)}

    def remove(self, name: str) -> None:
        """Deletes a record; the process is not stopped."""
        self._path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Generator[int | None]:
        """Holds the lock of the home's platform; yields its descriptor, or None if another process holds it.

        Processes that inherit the descriptor hold the lock, too.

        Raises:
            ArchiveError: The file system has no locks.
            OSError: The lock cannot be created.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not try_lock(descriptor, self._lock):
                yield None
                return
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def holder(self) -> str:
        """What holds the lock of the home's platform, for messages; empty if nothing does."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY)
        except FileNotFoundError:
            return ""
        try:
            return "" if try_lock(descriptor, self._lock, shared=True) else lock_holder(descriptor)
        finally:
            os.close(descriptor)

    @property
    def _lock(self) -> Path:
        return self.directory / "platform.lock"

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _wait(condition: Callable[[], bool], timeout: float) -> bool:
    """Polls until `condition` holds; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _start_time(pid: int) -> str | None:
    """Returns the start time of a process; None if it does not run or is a zombie."""
    if _HAS_PROC:
        fields = _stat(pid)
        return fields[19] if fields else None
    reply = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = reply.stdout.strip().partition(" ")
    return started.strip() if state and not state.startswith("Z") else None


def _group_runs(group: int) -> bool:
    if _HAS_PROC:
        members = (_stat(int(process.name)) for process in _PROC.iterdir() if process.name.isdigit())
        return any(fields and int(fields[2]) == group for fields in members)
    reply = subprocess.run(["ps", "-A", "-o", "stat=,pgid="], capture_output=True, text=True, check=True)
    members = (line.split() for line in reply.stdout.splitlines())
    return any(not state.startswith("Z") and int(pgid) == group for state, pgid in members)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on: state, parent, group, …; None if the process does not run.

    proc(5): pid (command) state ppid pgrp … starttime, which is field 22; the command may contain spaces and `)`.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields
