"""Sleeps that a worker thread can interrupt.

Python delivers SIGINT to the main thread only; worker threads sleep on an event instead.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

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
