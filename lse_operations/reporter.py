"""How a step talks to whoever started it: progress, questions and results. By default it only logs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

import msgspec

from lse_archive.errors import ArchiveError

_log = logging.getLogger(__name__)
_RHYTHM_SECONDS = 10.0
_R = TypeVar("_R")

Advance = Callable[[int, int | None], None]
"""Told how much is done, and how much there is if that is known."""


class Counter:
    """Adds up what it is told, and tells the sum."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._total = 0

    def __call__(self, more: int) -> None:
        self._total += more
        self._advance(self._total, None)


class StepReporter(Protocol):
    """Implemented by the command line; the assets know no more of it than this."""

    def progress(self, step: str, unit: str) -> contextlib.AbstractContextManager[Advance]:
        """Shows a step's progress while the context lasts."""
        ...

    def perform(self, work: Callable[[], _R]) -> _R:
        """Does the step's work, or takes it over from where it was begun before the step's turn."""
        ...

    def waiting(self, holder: str) -> None:
        """Another process holds the day's lock."""
        ...

    def confirm(self, question: str) -> bool:
        """Whether something may be overwritten."""
        ...

    def report(self, step: str, result: msgspec.Struct) -> None:
        """A step is done."""
        ...

    def failed(self, step: str, error: ArchiveError) -> None:
        """A step failed."""
        ...

    def checked(self, check: Any) -> None:
        """A hop was checked; see `StepCheck`."""
        ...


class LogReporter:
    """For runs that nobody watches: counts at a steady rhythm in the log; nothing is asked, the laws decide."""

    @contextlib.contextmanager
    def progress(self, step: str, unit: str) -> Generator[Advance]:
        last = time.monotonic()

        def advance(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= _RHYTHM_SECONDS:
                last = time.monotonic()
                _log.info("%s: %s%s %s", step, f"{done:,}", f" of {total:,}" if total else "", unit)

        yield advance

    def perform(self, work: Callable[[], _R]) -> _R:
        return work()

    def waiting(self, holder: str) -> None:
        _log.info("waiting: %s writes this day", holder)

    def confirm(self, question: str) -> bool:
        return True

    def report(self, step: str, result: msgspec.Struct) -> None:
        """The asset's metadata says it."""

    def failed(self, step: str, error: ArchiveError) -> None:
        """The run's failure says it."""

    def checked(self, check: Any) -> None:
        """The check's result says it."""
