"""Pauses that end when their work is given up: Ctrl-C is heard by the main thread alone."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

_cancel_event: ContextVar[threading.Event | None] = ContextVar("cancel_event", default=None)


def set_cancel_event(event: threading.Event) -> None:
    """From now on the pauses of this thread end with the event."""
    _cancel_event.set(event)


def cancellable_sleep(seconds: float) -> None:
    """Sleeps.

    Raises:
        KeyboardInterrupt: The work of this thread is given up.
    """
    event = _cancel_event.get()
    if event is None:
        time.sleep(seconds)
    elif event.wait(seconds):
        raise KeyboardInterrupt
