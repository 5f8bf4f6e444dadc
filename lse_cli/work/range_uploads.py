"""Uploads of a range: several days at once, in threads."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from concurrent.futures import Future, wait
from datetime import date

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.layout import DayPaths
from lse_archive.results import UploadResult
from lse_cli.terminal.console import Terminal
from lse_operations.checks import OpenDestination
from lse_operations.reporter import StepReporter
from lse_operations.steps import upload_step
from lse_operations.upload import upload_day
from lse_resources.open_destination import open_destination
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

_POLL_SECONDS = 0.5

ProjectDay = tuple[ProjectConfig, date]


class RangeUploads:
    """Replaces `upload_step` in the assets: returns the result of an upload that was started before.

    The threads run outside of Dagster, whose log handlers and SQLAlchemy's can deadlock in threads.
    """

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal
        self._started: dict[DayPaths, Future[UploadResult]] = {}

    @contextlib.contextmanager
    def start(self, days: list[ProjectDay], *, allow_shrink: bool) -> Generator[None]:
        """Starts the uploads, and stops those that have not ended when the context is left."""
        with contextlib.ExitStack() as exits:
            try:
                destination = exits.enter_context(open_destination(self._settings))
            except ArchiveError:  # the upload of each day reports it
                yield
                return
            bars = exits.enter_context(self._terminal.bars())

            def upload(paths: DayPaths) -> UploadResult:
                if self._terminal.interrupted():  # the main thread may still be writing Dagster's records
                    raise KeyboardInterrupt
                with bars.day(f"{paths.project} {paths.day}") as bar:
                    return upload_day(
                        destination,
                        paths,
                        allow_shrink=allow_shrink,
                        may_replace=lambda _: self._terminal.force,
                        progress=bar("upload", "bytes"),
                        on_wait=self._terminal.waiting,
                    )

            days_paths = [self._settings.layout.day(project.name, day) for project, day in days]
            with bars.several(upload, days_paths) as futures:
                self._started = dict(zip(days_paths, futures, strict=True))
                yield

    def cancel(self, paths: DayPaths) -> bool:
        """Whether the day's upload must not start."""
        started = self._started.get(paths)
        return started is None or started.cancel()

    def __call__(
        self, paths: DayPaths, open_destination: OpenDestination, reporter: StepReporter, *, allow_shrink: bool = False
    ) -> UploadResult:
        """Waits for the day's upload, or uploads it now if it was not started.

        Raises:
            ArchiveError: See `upload_day`.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if started := self._started.pop(paths, None):
            while not wait([started], timeout=_POLL_SECONDS).done:
                if self._terminal.interrupted():
                    raise KeyboardInterrupt
            with contextlib.suppress(
                ArchiveConflictError
            ):  # a thread cannot ask for confirmation: uploaded again below
                result = started.result()
                reporter.report("drive_file", result)
                return result
        return upload_step(paths, open_destination, reporter, allow_shrink=allow_shrink)
