"""The interface of LangSmith that the fetch uses, independent of the API version."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lse_archive.days import Window
from lse_archive.fetch.feedback import FeedbackSource
from lse_archive.runs.feedback import KeyStats


class LostCursorError(Exception):
    """LangSmith rejects the cursor; the pagination continues from the last run that was served."""


class ApiVersionChangedError(Exception):
    """The deployment does not have this API version; the next request uses the other one.

    Raised before the first answer only.
    """


class LinkRefusedError(Exception):
    """The storage refuses a link: it has expired, or its file is not there. The text is the reason, not the link."""


class DownloadError(Exception):
    """The storage did not serve a file for longer than the patience. The text is the reason, not the link."""


@dataclass(frozen=True, slots=True)
class AttachmentLink:
    """An attachment of a run.

    Attributes:
        name: The sender's name for it: any text.
        media_type: As LangSmith states it; None if it does not.
        url: Where it is downloaded: a secret that expires, which is never stored. May be empty or relative.
    """

    name: str
    media_type: str | None
    url: str = field(repr=False)


AttachmentLinks = Mapping[str, Sequence[AttachmentLink]]
"""The attachments of runs, by run id."""


class DownloadTarget(Protocol):
    """Receives the bytes of one file."""

    def begin(self, length: int | None) -> None:
        """Begins an attempt, with no bytes; `length` is the announced number of bytes."""
        ...

    def write(self, piece: bytes) -> None:
        """Adds bytes."""
        ...


@dataclass(frozen=True, slots=True)
class UnservedRun:
    """A run that LangSmith lists and does not serve, or not whole, although it serves others at the same time.

    Attributes:
        run_id: UUID of the run, lower case with hyphens.
        start: Start time in microseconds since the epoch.
        rest: What was served of it: the run without its offloaded payload, a payload or a run that is not JSON.
    """

    run_id: str
    start: int
    rest: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One answer.

    Attributes:
        runs: The bytes of each run as LangSmith sent it, newest first.
        next_cursor: The cursor of the next page, None at the end.
        full: Whether it holds as many runs as were requested: then a missing cursor does not prove the end.
        unserved: The runs that belong to the page and were not served.
        attachments: The attachments of its runs. The links are cut from the runs.
    """

    runs: list[bytes]
    next_cursor: str | None = None
    full: bool = False
    unserved: Sequence[UnservedRun] = ()
    attachments: AttachmentLinks = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowCount:
    """LangSmith's own count of the runs of a window.

    Attributes:
        runs: Number of runs.
        feedback: The statistics of their feedback by key; None if LangSmith does not tell.
        asked_at: When it was asked for, in microseconds since the epoch.
    """

    runs: int
    feedback: Mapping[bytes, KeyStats] | None
    asked_at: int


class RunSource(FeedbackSource, Protocol):
    """One project of a LangSmith deployment. Safe to call from several threads.

    Every method raises `SourceError` if LangSmith does not answer, and `AccessError` if a retry does not help. That one
    run is never served is no error, as long as others are.
    """

    @property
    def api_version(self) -> str:
        """`v2` or `v1`; it may change until the first answer."""
        ...

    @property
    def project_id(self) -> str:
        """UUID of the project."""
        ...

    @property
    def page_size(self) -> int:
        """The number of runs that the next request asks for."""
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
            ids_only: Request only id and start time.
            size_offset: Changes the number of requested runs by this many, so that a page that was full by chance is
                not full again.
            stop: When it is set, a request that waits for the rate limit or for a retry raises a SourceError.

        Raises:
            LostCursorError: LangSmith rejects the cursor.
            ApiVersionChangedError: The request must be repeated.
        """
        ...

    def runs_by_id(self, starts: Mapping[str, int], window: Window, *, stop: threading.Event | None = None) -> Page:
        """The listed runs of these ids and start times. Those that LangSmith does not serve are in `unserved`."""
        ...

    def download(self, link: AttachmentLink, target: DownloadTarget, stop: threading.Event) -> str | None:
        """Streams an attachment to the target, which begins again at each attempt; returns its media type if known.

        What the target raises ends the download.

        Args:
            stop: When it is set, a SourceError is raised.

        Raises:
            LinkRefusedError: A new link may help.
            DownloadError: The storage did not serve it for longer than the patience.
        """
        ...

    def count(self, window: Window, *, roots_only: bool = False) -> WindowCount:
        """Runs that started in the window and their feedback, by LangSmith's own count: one request."""
        ...

    def parallelism(self) -> int:
        """The useful number of concurrent requests: about the permitted rate times the latency."""
        ...
