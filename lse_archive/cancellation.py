"""Pauses that end when their work is given up: Ctrl-C is heard by the main thread alone."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

_given_up: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)


def heed(given_up: threading.Event) -> None:
    """From now on the pauses of this thread end with the event."""
    _given_up.set(given_up)


def pause(seconds: float) -> None:
    """Sleeps.

    Raises:
        KeyboardInterrupt: The work of this thread is given up.
    """
    given_up = _given_up.get()
    if given_up is None:
        time.sleep(seconds)
    elif given_up.wait(seconds):
        raise KeyboardInterrupt
