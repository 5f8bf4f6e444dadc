"""Progress bars of days that are processed in parallel."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lse_archive.cancellation import set_cancel_event
from lse_archive.printable import printable
from lse_cli.terminal.texts import size

Bar = Callable[[str, str], Callable[[int, int | None], None]]
"""`bar("download", "bytes")` returns a callback for that phase. Called with (done, total), or (done, None)."""

_PARALLEL_DAYS = 3  # more are not faster within Drive's limits

_T = TypeVar("_T")
_R = TypeVar("_R")


class DayBars:
    """One bar per day in progress, if the console is a terminal. Use it as a context manager.

    Attributes:
        live: The display of all bars.
    """

    def __init__(self, console: Console) -> None:
        self._cancelled = threading.Event()
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
        """Processes the items in a few threads while the context is open.

        If an exception (Ctrl-C) closes it, items that have not started are dropped, and those in progress stop at
        their next progress report or in their next backoff delay.
        """
        with ThreadPoolExecutor(_PARALLEL_DAYS, initializer=set_cancel_event, initargs=(self._cancelled,)) as pool:
            futures: list[Future[_R]] = []
            try:  # an interrupt may arrive before all items are submitted
                futures.extend(pool.submit(work, item) for item in items)
                yield futures
            except BaseException:
                self._cancelled.set()
                raise
            finally:
                for future in futures:
                    future.cancel()

    @contextlib.contextmanager
    def day(self, title: str) -> Generator[Bar]:
        """Shows the bar of one day until the context is closed."""
        title = printable(title)
        task = self.live.add_task(title, total=None, count="")

        def bar(phase: str, unit: str) -> Callable[[int, int | None], None]:
            def advance(done: int, total: int | None, /) -> None:
                if self._cancelled.is_set():
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
