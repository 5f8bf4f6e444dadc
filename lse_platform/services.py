"""One process of the platform: start, restart, stop, and log rotation."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from lse_archive.errors import ArchiveError
from lse_platform.process_registry import Registry, terminate

_STOP_SECONDS = 20.0
_LOG_BYTES = 10_000_000
_OLD_LOGS = 3
_STARTS = 5
_STARTS_SECONDS = 600.0


class Service:
    """A process that runs while the context is open; call `look_after` every second or so.

    Args:
        keep: File descriptors that the process inherits.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        registry: Registry,
        logs: Path,
        keep: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = command
        self._environment = environment
        self._registry = registry
        self._keep = keep
        self._starts: deque[float] = deque(maxlen=_STARTS)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        terminate(self._record, _STOP_SECONDS)
        self._child.wait()
        self._registry.remove(self.name)

    def _start(self) -> None:
        self._starts.append(time.monotonic())
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            # A separate session: Ctrl-C reaches only `lse up`, which then stops the services in order.
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=self._keep,
            )
        self._record = self._registry.add(self.name, self._child.pid)

    def look_after(self, say: Callable[[str], object]) -> None:
        """Restarts the process if it has exited, and rotates the log if it is too large.

        Raises:
            ArchiveError: It has exited too often in a short time.
        """
        with contextlib.suppress(FileNotFoundError):  # the log was deleted
            if self.log.stat().st_size > _LOG_BYTES:
                rotate(self.log)
        if self._child.poll() is None:
            return
        code = self._child.returncode
        if len(self._starts) == _STARTS and time.monotonic() - self._starts[0] < _STARTS_SECONDS:
            raise ArchiveError(f"the {self.name} exits repeatedly ({code})", why=tail(self.log), hint=f"See {self.log}")
        say(f"the {self.name} exited with {code}; restarting it")
        self._start()


def rotate(log: Path) -> None:
    """Copies `NAME.log` to `NAME.1.log`, and so on, and empties it; the process keeps appending to it."""
    for number in range(_OLD_LOGS - 1, 0, -1):
        old = log.with_suffix(f".{number}.log")
        if old.exists():
            old.replace(log.with_suffix(f".{number + 1}.log"))
    shutil.copyfile(log, log.with_suffix(".1.log"))
    with log.open("r+b") as file:
        file.truncate(0)


def tail(log: Path) -> str:
    """Returns the last lines of a log as one line."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " / ".join(line.strip() for line in lines[-5:] if line.strip())[-500:]
