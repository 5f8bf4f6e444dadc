"""The terminal: progress and questions on stderr, results on stdout, where `--json` allows only its object."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from lse_archive.errors import ArchiveError
from lse_archive.printable import printable
from lse_cli.terminal.bars import DayBars
from lse_cli.terminal.output import discard
from lse_cli.terminal.texts import STEP_NAMES, describe
from lse_operations.reporter import Advance


class LineConsole(Console):
    """A console for lines. It stops printing, without an error, when the reader closes the pipe."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(self.file)  # ty: ignore[invalid-argument-type]

    def put(self, text: str | Text, *, style: str | None = None) -> bool:
        """Prints a line. Returns False if the stream refused it; then nothing more is printed.

        Args:
            text: A `str` is made harmless; the parts of a `Text` must be so.
        """
        try:
            self.print(printable(text) if isinstance(text, str) else text, markup=False, style=style)
        except OSError:
            self.on_broken_pipe()
            return False
        return True


@dataclass
class DayOutcome:
    """The results, errors and checks of one project's day."""

    results: dict[str, msgspec.Struct] = field(default_factory=dict)
    errors: dict[str, ArchiveError] = field(default_factory=dict)
    checks: list[Any] = field(default_factory=list)


class Terminal:
    """The `StepReporter` of the command line. One day is processed at a time.

    Args:
        json: Only progress and errors are shown, on stderr.
        force: Every question is answered by yes.

    Attributes:
        day: The outcome of the day so far.
        interrupted: Whether SIGINT arrived, even if Dagster discarded it.
        live: The progress display, which pauses for a question.
    """

    def __init__(self, *, json: bool, force: bool) -> None:
        self._json = json
        self.force = force
        # Checked here: while progress is shown, Rich replaces stderr by a stream of its own.
        self._asks = sys.stdin.isatty() and sys.stderr.isatty()
        self._out = LineConsole()
        self._err = LineConsole(stderr=True)
        self._title = ""
        self.day = DayOutcome()
        self.interrupted: Callable[[], bool] = lambda: False
        self.live: Progress | None = None

    def begin_day(self, title: str) -> None:
        """Starts a new day: results and errors belong to it from now on."""
        self.day = DayOutcome()
        self._title = title
        self.say(title)

    def say(self, text: str = "") -> None:
        """Prints a line, not with `--json`."""
        if self._json:
            return
        # Only the console that draws the bars can print a line above them.
        above_bars = self.live and self._out.is_terminal
        if not (self._err if above_bars else self._out).put(text):
            self.warn("  ! standard output cannot be written, so nothing more is printed. The command continues")

    def warn(self, text: str) -> None:
        """Prints a line on stderr, with and without `--json`."""
        self._err.put(text)

    @contextlib.contextmanager
    def progress(self, step: str, unit: str) -> Generator[Advance]:
        if self.live:  # Rich shows one display at a time: the bars of a range
            yield lambda _done, _total: None
            return
        count: ProgressColumn = (
            DownloadColumn()
            if unit == "bytes"
            else TextColumn("{task.completed:,.0f}{task.fields[of]} {task.fields[unit]}")
        )
        columns = (TextColumn("  {task.description:8}"), BarColumn(30), count, TimeElapsedColumn())
        with Progress(*columns, console=self._err, transient=True, disable=not self._err.is_terminal) as live:
            self.live = live
            task = live.add_task(STEP_NAMES[step], total=None, unit=unit, of="")

            def advance(done: int, total: int | None) -> None:
                live.update(task, completed=done, total=total, of=f" of {total:,}" if total else "")

            try:
                yield advance
            finally:
                self.live = None

    @contextlib.contextmanager
    def bars(self) -> Generator[DayBars]:
        """Bars for several days at once. Lines that are printed meanwhile appear above them."""
        with DayBars(self._err) as bars:
            self.live = bars.live
            try:
                yield bars
            finally:
                self.live = None

    def waiting(self, holder: str) -> None:
        self.warn(f"  waiting: {holder} writes this day")

    def confirm(self, question: str) -> bool:
        if self.force:
            return True
        if not self._asks:
            return False
        with self._paused(), contextlib.suppress(typer.Abort):
            return typer.confirm(f"  {printable(question)}?", err=True)
        return False

    @contextlib.contextmanager
    def _paused(self) -> Generator[None]:
        if self.live:
            self.live.stop()
        yield
        if self.live:
            # A new display: the old one would erase the question's lines where its bars had been.
            self.live.live = Live(
                console=self._err, get_renderable=self.live.get_renderable, refresh_per_second=10, transient=True
            )
            self.live.start()

    def report(self, step: str, result: msgspec.Struct) -> None:
        self.day.results[step] = result
        if not getattr(result, "is_consistent", True):
            return  # the check says it, run by run
        seconds = getattr(result, "duration_seconds", 0.0)
        sign = "!" if getattr(result, "outcome", "") == "not_served" else "✓"
        self._line(sign, step, f"{describe(result)}  ({seconds:.1f} s)")
        for line in getattr(result, "errors", []) or []:
            self.warn(f"      {line}")

    def failed(self, step: str, error: ArchiveError) -> None:
        self.day.errors[step] = error
        where = f"{self._title}: " if self._json and self._title else ""  # where no line above it says so
        self.warn(f"  ✗ {STEP_NAMES.get(step, step):7} {where}{error}")

    def not_done(self, steps: list[str]) -> None:
        """These steps were not reached."""
        self.warn(f"    not done: {', '.join(STEP_NAMES[step] for step in steps)}")

    def checked(self, check: Any) -> None:
        self.day.checks.append(check)
        if check.verdict == "agrees":
            return
        sign = "!" if check.verdict == "unproven" else "✗"
        self._line(sign, "verification", f"{check.name}: {check.says}{'. ' + check.hint if check.hint else ''}")
        for row in check.differences:
            values = f": expected {row.expected}, found {row.found}" if row.expected or row.found else ""
            self.say(f"      {row.item}  {row.what}{values}")
            if row.see:
                self.say(f"        {row.see}")
        if check.total > len(check.differences):
            self.say(f"      … and {check.total - len(check.differences):,} more")

    def _line(self, sign: str, step: str, text: str) -> None:
        self.say(f"  {sign} {STEP_NAMES[step]:7} {text}")
