"""Progress bars for days that are worked on at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lse_archive.cancellation import set_cancel_event
from lse_cli.terminal.texts import size

Bar = Callable[[str, str], Callable[[int, int | None], None]]
"""`bar("download", "bytes")` gives what is told (done, of all if that is known) of that phase."""

AT_ONCE = 3
"""Days; more gain nothing within Drive's limits."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class DayBars:
    """A bar per day that is being worked on (`live`), if the console is a terminal. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._given_up = threading.Event()
        self.live = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> DayBars:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    @contextlib.contextmanager
    def several(self, work: Callable[[_T], _R], items: Iterable[_T]) -> Generator[list[Future[_R]]]:
        """Works on a few at once while the context lasts.

        When it is left by an exception (Ctrl-C), those that are not begun never are, and those that are end at their
        next step of progress, or in their next pause.
        """
        with ThreadPoolExecutor(AT_ONCE, initializer=set_cancel_event, initargs=(self._given_up,)) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                yield futures
            except BaseException:
                self._given_up.set()
                raise
            finally:
                for future in futures:
                    future.cancel()

    @contextlib.contextmanager
    def day(self, title: str) -> Generator[Bar]:
        """The bar of one day; it goes when the day is done."""
        task = self.live.add_task(title, total=None, count="")

        def bar(phase: str, unit: str) -> Callable[[int, int | None], None]:
            def advance(done: int, total: int | None, /) -> None:
                if self._given_up.is_set():
                    raise KeyboardInterrupt
                if unit == "bytes":
                    count = size(done) + (f" of {size(total)}" if total else "")
                else:
                    count = f"{done:,}" + (f" of {total:,}" if total else "") + f" {unit}"
                self.live.update(task, completed=done, total=total, description=f"{title} {phase}", count=count)

            return advance

        try:
            yield bar
        finally:
            self.live.remove_task(task)
