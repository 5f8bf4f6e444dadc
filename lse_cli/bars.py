"""Progress bars for days that are worked on at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lse_cli.texts import size

Bar = Callable[[str, str], Callable[[int, int], None]]
"""`bar("download", "bytes")` gives what is told (done, of all) of that phase."""


class DayBars:
    """A bar per day that is being worked on, on stderr. Use it as a context manager."""

    def __init__(self, *, enabled: bool) -> None:
        self._live = Progress(
            TextColumn("  {task.description}"),
            BarColumn(30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
            disable=not enabled,
        )

    def __enter__(self) -> DayBars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextlib.contextmanager
    def day(self, title: str) -> Generator[Bar]:
        """The bar of one day; it goes when the day is done."""
        task = self._live.add_task(title, total=None, count="")

        def bar(phase: str, unit: str) -> Callable[[int, int], None]:
            def advance(done: int, total: int) -> None:
                count = f"{size(done)} of {size(total)}" if unit == "bytes" else f"{done:,} of {total:,} {unit}"
                self._live.update(task, completed=done, total=total, description=f"{title} {phase}", count=count)

            return advance

        try:
            yield bar
        finally:
            self._live.remove_task(task)
