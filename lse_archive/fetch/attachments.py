"""Downloads the attachments of a day's runs while its pages arrive.

A link is used at once and never stored. Attachments that stay without a file, because a link has expired or the fetch
was interrupted, are requested again at the end: with the ids of their runs, many at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import secrets
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lse_archive.days import Window, day_window
from lse_archive.errors import CorruptArchiveError
from lse_archive.fetch.paginate import PageReport
from lse_archive.fetch.source import (
    AttachmentLink,
    AttachmentLinks,
    DownloadError,
    LinkRefusedError,
    Page,
    RunSource,
)
from lse_archive.fetch.staging import Staging
from lse_archive.files import file_digest
from lse_archive.folder.attachments import Attachment, attachment_file, read_attachments
from lse_archive.folder.manifest import read_sums
from lse_archive.layout import DayPaths

_DOWNLOADS = 8
_IDS_PER_REQUEST = 100
# Rounds of new links in a row that bring no file.
_IDLE_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class AttachmentLimits:
    """What is downloaded.

    Attributes:
        skip: Nothing is. What is published stays.
        file_bytes: The largest attachment.
        day_bytes: All attachments of a day.
    """

    skip: bool = False
    file_bytes: float = math.inf
    day_bytes: float = math.inf


class _OverLimitError(Exception):
    """An attachment is larger than a limit allows; the text is the reason."""


class AttachmentDownloads:
    """The attachments of a day: the sink of the pagination, which passes the runs on to the staging.

    Call `finish` when all runs are staged. The caller holds the day's lock, and closes it.
    """

    def __init__(self, paths: DayPaths, source: RunSource, staging: Staging, limits: AttachmentLimits) -> None:
        self._source = source
        self._staging = staging
        self._limits = limits
        self._folder = paths.folder
        self._window: Window = day_window(paths.day)
        self._sums: dict[str, bytes] = {}
        self._published: dict[tuple[str, str], Attachment] = {}
        with contextlib.suppress(CorruptArchiveError):  # the union reports it, unless everything is served again
            self._sums = read_sums(paths.folder) or {}
            self._published = {(one.run_id, one.name): one for one in read_attachments(paths.folder)}
        sizes = {one.sha256: one.size for one in (*self._published.values(), *staging.attachments())}
        self._budget = _Budget(limits.day_bytes - sum(sizes.values()))
        self._pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="lse-attachment")
        self._last_failure = ""

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, page: Page) -> PageReport:
        return self._staging.add(page)

    def mark_complete(self, window: Window) -> None:
        self._staging.mark_complete(window)

    def download(self, attachments: AttachmentLinks, stop: threading.Event) -> None:
        """Downloads the attachments of a page that are not here yet. What fails is recorded with its reason.

        Raises:
            SourceError: It was stopped.
            OSError: The disk cannot be written.
        """
        self._download(attachments, stop)

    def finish(self) -> None:
        """Requests new links for what is not here yet, until that brings nothing more.

        Raises:
            SourceError: LangSmith did not answer.
            OSError: The disk cannot be written.
        """
        if self._limits.skip:
            return
        stop, idle = threading.Event(), 0
        try:
            while idle < _IDLE_ROUNDS and (wanted := self._staging.wanted_attachments()):
                tally = _Tally()
                for batch in _batches(wanted):
                    page = self._source.runs_by_id(batch, self._window, stop=stop)
                    one = self._download(page.attachments, stop)
                    self._record_unlisted(batch, page.attachments)
                    tally.add(one)
                    if one.unanswered and not one.done and not one.refused:
                        break  # the storage is down: the other batches would take as long
                idle = 0 if tally.done else idle + 1
                if not tally.done and not tally.refused:
                    break
        except BaseException:
            stop.set()
            raise
        self._staging.explain_attachments(self._last_failure)

    def _record_unlisted(self, runs: Mapping[str, int], listed: AttachmentLinks) -> None:
        for run_id, name in self._staging.wanted_names(runs):
            if not any(link.name == name for link in listed.get(run_id, ())):
                self._staging.fail_attachment(run_id, name, "LangSmith lists it no longer")

    def _download(self, attachments: AttachmentLinks, stop: threading.Event) -> _Tally:
        tally = _Tally()
        if not attachments:
            return tally
        wanted = set(self._staging.wanted_names(attachments))
        jobs = [
            (run_id, link) for run_id, links in attachments.items() for link in links if (run_id, link.name) in wanted
        ]
        for outcome in self._pool.map(lambda job: self._one(*job, stop), jobs):
            tally.add(outcome)
        return tally

    def _one(self, run_id: str, link: AttachmentLink, stop: threading.Event) -> _Tally:
        if (published := self._published.get((run_id, link.name))) and self._is_intact(published):
            self._staging.keep_attachment(published, self._folder, replace=True)
            return _Tally(done=1)
        if self._limits.skip:
            return _Tally()
        with self._target() as target:
            try:
                media_type = self._source.download(link, target, stop)
            except (LinkRefusedError, DownloadError) as error:
                self._staging.fail_attachment(run_id, link.name, str(error))
                if isinstance(error, LinkRefusedError):
                    return _Tally(refused=1)
                self._last_failure = str(error)
                return _Tally(unanswered=1)
            except _OverLimitError as error:
                self._staging.fail_attachment(run_id, link.name, str(error), final=True)
                return _Tally()
            attachment = Attachment(
                run_id, link.name, link.media_type or media_type, target.size, target.sha256.digest()
            )
            if self._staging.store_attachment(attachment, target.path):
                target.size = 0  # it stays: its bytes are not given back
            return _Tally(done=1)

    def _is_intact(self, published: Attachment) -> bool:
        """Whether the published file is whole, and its run has not changed since: then its attachments have not."""
        run = self._staging.find(published.run_id)
        if run is None or self._sums.get(run.name) != run.sha256:
            return False
        try:
            return file_digest(self._folder / attachment_file(published.sha256)) == published.sha256
        except OSError:
            return False

    @contextlib.contextmanager
    def _target(self) -> Generator[_Target]:
        path = self._staging.downloads_folder / secrets.token_hex(8)
        target = _Target(path, self._limits.file_bytes, self._budget)
        try:
            yield target
        finally:
            target.close()


@dataclass(slots=True)
class _Tally:
    done: int = 0
    refused: int = 0
    unanswered: int = 0

    def add(self, other: _Tally) -> None:
        self.done += other.done
        self.refused += other.refused
        self.unanswered += other.unanswered


class _Budget:
    """The bytes that a day may still take."""

    def __init__(self, left: float) -> None:
        self._left = left
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        with self._lock:
            if count > self._left:
                raise _OverLimitError("the day's attachments are larger than LSE_ATTACHMENTS_DAY_MB allows")
            self._left -= count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._left += count


class _Target:
    """A file that an attachment is written to; see `DownloadTarget`."""

    def __init__(self, path: Path, limit: float, budget: _Budget) -> None:
        self.path = path
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._limit = limit
        self._budget = budget
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def begin(self, length: int | None) -> None:
        self._require(length or 0)
        if self.size:  # ext4 flushes a truncated file when it is closed
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, 0)
            self._budget.give_back(self.size)
            self.size, self.sha256 = 0, hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._require(self.size + len(piece))
        self._budget.take(len(piece))
        self.size += len(piece)
        self.sha256.update(piece)
        view = memoryview(piece)
        while view:  # a nearly full disk writes a part, and the next write fails
            view = view[os.write(self._descriptor, view) :]

    def _require(self, size: int) -> None:
        if size > self._limit:
            raise _OverLimitError("it is larger than LSE_ATTACHMENT_MAX_MB allows")

    def close(self) -> None:
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)
        self._budget.give_back(self.size)


def _batches(starts: Mapping[str, int]) -> Generator[dict[str, int]]:
    items = iter(starts.items())
    while batch := dict(itertools.islice(items, _IDS_PER_REQUEST)):
        yield batch
