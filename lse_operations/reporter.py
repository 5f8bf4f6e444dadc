"""How a step reports progress, questions and results to its caller."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator
from typing import Any, Protocol

import msgspec

from lse_archive.errors import ArchiveError

_log = logging.getLogger(__name__)
_LOG_EVERY_SECONDS = 10.0

Advance = Callable[[int, int | None], None]
"""Called with (done, total); the total is None if it is not known."""


class Counter:
    """Turns calls with increments into calls of `advance` with their sum."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._total = 0

    def __call__(self, more: int) -> None:
        self._total += more
        self._advance(self._total, None)


class StepReporter(Protocol):
    """The interface of a step to its caller: the command line's terminal, or the log of a Dagster run."""

    def progress(self, step: str, unit: str) -> contextlib.AbstractContextManager[Advance]:
        """Shows a step's progress while the context lasts."""
        ...

    def waiting(self, holder: str) -> None:
        """Called when another process holds the day's lock."""
        ...

    def confirm(self, question: str) -> bool:
        """Whether something may be overwritten."""
        ...

    def report(self, step: str, result: msgspec.Struct) -> None:
        """Called when a step is done."""
        ...

    def failed(self, step: str, error: ArchiveError) -> None:
        """Called when a step failed."""
        ...

    def checked(self, check: Any) -> None:
        """Called with each `StepCheck` of a verification."""
        ...


class LogReporter:
    """Logs counts every ten seconds. It answers every question with yes: law 1 still protects the archive."""

    @contextlib.contextmanager
    def progress(self, step: str, unit: str) -> Generator[Advance]:
        last = time.monotonic()

        def advance(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= _LOG_EVERY_SECONDS:
                last = time.monotonic()
                _log.info("%s: %s%s %s", step, f"{done:,}", f" of {total:,}" if total else "", unit)

        yield advance

    def waiting(self, holder: str) -> None:
        _log.info("waiting: %s writes this day", holder)

    def confirm(self, question: str) -> bool:
        return True

    def report(self, step: str, result: msgspec.Struct) -> None:
        """The result is in the asset's metadata."""

    def failed(self, step: str, error: ArchiveError) -> None:
        """The error is in the run's failure."""

    def checked(self, check: Any) -> None:
        """The check is in Dagster's check results."""
