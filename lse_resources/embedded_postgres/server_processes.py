"""The running processes of an embedded PostgreSQL, found by their working directory: a pid file may be outdated."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "cwd").exists()


def postmaster(data: Path, status: str | None = None) -> int | None:
    """Returns the process id of the running server on `data`, if `status` is in its pid file.

    The format of the pid file: PostgreSQL, src/include/utils/pidfile.h.
    """
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if status is not None and (len(lines) < 8 or lines[7].strip() != status):
        return None
    return pid if pid in server_processes(data) else None


def server_processes(data: Path) -> set[int]:
    """Returns the ids of all PostgreSQL processes whose working directory is `data`."""
    if not _HAS_PROC:
        return _server_processes_without_proc(data)
    if not data.exists():
        return set()
    return {pid for pid, directory, _ in _working_directories() if _same(directory, data)}


def orphaned_processes(data: Path) -> set[int]:
    """Returns the ids of the PostgreSQL processes whose data directory `data` has been deleted.

    They exit within a minute, and then delete the socket, even if a new server uses it.
    """
    return {pid for pid, _, link in _working_directories() if link == f"{data} (deleted)"}


def _working_directories() -> Iterator[tuple[int, Path, str]]:
    """Yields id, path to the working directory, and name of that directory, of each visible PostgreSQL process."""
    for process in _PROC.iterdir() if _HAS_PROC else ():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # has exited, or belongs to another user
                if (process / "comm").read_text() == "postgres\n":
                    yield int(process.name), process / "cwd", str((process / "cwd").readlink())


def _same(directory: Path, data: Path) -> bool:
    try:
        return directory.samefile(data)
    except OSError:  # the process has exited, or the directory is deleted
        return False


def _server_processes_without_proc(data: Path) -> set[int]:
    """Returns the process in the pid file if it is a PostgreSQL, for systems without /proc."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        pid = int((data / "postmaster.pid").read_text(errors="replace").splitlines()[0])
        reply = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if Path(reply.stdout.strip()).name == "postgres":
            return {pid}
    return set()
