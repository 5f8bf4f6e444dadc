"""What the fetch needs of LangSmith, in whichever api_version the deployment speaks."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from lse_archive.days import Window


class LostCursorError(Exception):
    """LangSmith does not know the cursor any more; the walk goes on from the last run seen."""


class ApiVersionChangedError(Exception):
    """The deployment does not answer this API version; the next request uses the other one.

    Raised before the first answer only.
    """


@dataclass(frozen=True, slots=True)
class Page:
    """One answer.

    Attributes:
        runs: The bytes of each run as LangSmith sent it, newest first.
        next_cursor: Where to go on, None at the end.
        full: Whether it holds as many runs as were asked for: then a missing cursor does not prove the end.
    """

    runs: list[bytes]
    next_cursor: str | None
    full: bool


class RunSource(Protocol):
    """One project of a LangSmith deployment. Safe to call from several threads.

    Every method raises `SourceError` where the answer cannot be had, and `AccessError` where asking again is useless.
    """

    @property
    def api_version(self) -> str:
        """`v2` or `v1`; what is not proven by an answer yet may still change."""
        ...

    @property
    def project_id(self) -> str:
        """UUID of the project."""
        ...

    @property
    def page_size(self) -> int:
        """How many runs the next page is asked for."""
        ...

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        ...

    @property
    def throttled(self) -> int:
        """Answers of 429 so far."""
        ...

    def page(
        self,
        window: Window,
        cursor: str | None,
        *,
        ids_only: bool = False,
        size_offset: int = 0,
        stop: threading.Event | None = None,
    ) -> Page:
        """The newest runs that started in the window, or those after the cursor.

        Args:
            ids_only: Ask for nothing but id and start time.
            size_offset: Ask for so many runs more or fewer than usual, so that a page that was full by chance is not
                full again.
            stop: Makes a request that waits for the limit, or to be repeated, give up with a SourceError.

        Raises:
            LostCursorError: The cursor is not known (any more).
            ApiVersionChangedError: Ask again.
        """
        ...

    def runs_by_id(self, ids: list[str], window: Window) -> list[bytes]:
        """Those of the runs that LangSmith serves."""
        ...

    def count(self, window: Window, *, roots_only: bool = False) -> int:
        """Runs that started in the window, by LangSmith's own count."""
        ...

    def parallelism(self) -> int:
        """How many pages are worth asking for at once: about the permitted rate times the latency."""
        ...
