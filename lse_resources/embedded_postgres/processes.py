"""Which processes of an embedded PostgreSQL are alive, whatever its pid file says."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "cwd").exists()


def postmaster(data: Path, status: str | None = None) -> int | None:
    """The process id of the live server on `data`, if its pid file's status line says `status`.

    The file's lines: PostgreSQL, src/include/utils/pidfile.h.
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
    """The ids of all PostgreSQL processes that work in `data`: each has it as its working directory."""
    if not _HAS_PROC:
        return _server_process_without_proc(data)
    if not data.exists():
        return set()
    return {pid for pid, directory, _ in _working_directories() if _same(directory, data)}


def orphaned_processes(data: Path) -> set[int]:
    """The ids of those whose data directory was at the path `data` and has been deleted under them.

    They end by themselves within a minute, and then take the socket of their successor with them.
    """
    return {pid for pid, _, link in _working_directories() if link == f"{data} (deleted)"}


def _working_directories() -> Iterator[tuple[int, Path, str]]:
    """Of every PostgreSQL process that we may look at: its id, a path to its working directory, and that one's name."""
    for process in _PROC.iterdir() if _HAS_PROC else ():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # gone, or another user's
                if (process / "comm").read_text() == "postgres\n":
                    yield int(process.name), process / "cwd", str((process / "cwd").readlink())


def _same(directory: Path, data: Path) -> bool:
    try:
        return directory.samefile(data)
    except OSError:  # gone meanwhile, or its directory is
        return False


def _server_process_without_proc(data: Path) -> set[int]:
    """On systems without /proc: the process of the pid file, if it is a PostgreSQL."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        pid = int((data / "postmaster.pid").read_text(errors="replace").splitlines()[0])
        reply = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if Path(reply.stdout.strip()).name == "postgres":
            return {pid}
    return set()
