"""Sleeps and waits that a worker thread can interrupt.

Python delivers SIGINT to the main thread only; worker threads sleep on an event instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from lse_archive.errors import ArchiveError

_POLL_SECONDS = 0.1
_WAIT_SECONDS = 600.0
_T = TypeVar("_T")

_cancel_event: ContextVar[threading.Event | None] = ContextVar("cancel_event", default=None)


def set_cancel_event(event: threading.Event) -> None:
    """Makes `cancellable_sleep` in the current context stop when the event is set."""
    _cancel_event.set(event)


def cancellable_sleep(seconds: float) -> None:
    """Sleeps for the given time, or until the cancel event of the current context is set.

    Raises:
        KeyboardInterrupt: The event was set.
    """
    event = _cancel_event.get()
    if event is None:
        time.sleep(seconds)
    elif event.wait(seconds):
        raise KeyboardInterrupt


def wait_for_lock(
    take: Callable[[], _T | None], busy: Callable[[], ArchiveError], on_wait: Callable[[], object] = lambda: None
) -> _T:
    """Takes a lock, and waits up to ten minutes while another holds it.

    Args:
        take: Tries it; returns None or False while another holds it.
        busy: Returns the error, which names the holder.
        on_wait: Called once, if another holds it.

    Raises:
        ArchiveError: That of `busy`: another held the lock for all that time.
        KeyboardInterrupt: See `cancellable_sleep`.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    if not (taken := take()):
        on_wait()
    while not taken:
        if time.monotonic() >= deadline:
            raise busy()
        cancellable_sleep(_POLL_SECONDS)
        taken = take()
    return taken
