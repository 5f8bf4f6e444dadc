"""The journal of an erasure: what is intended, what is done, and the certificate that stays.

`<id>.intent.json` is written before anything is erased, and `<id>.<day>.json` when a day is done. Both are deleted when
`<id>.json`, the certificate, is written: from then on nothing here tells which runs were erased.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from lse_archive.cancellation import wait_for_lock
from lse_archive.errors import UNDECODABLE, ArchiveError, CorruptArchiveError, UsageError
from lse_archive.files import publish_file, sync_directory, try_lock
from lse_archive.layout import Layout

_INTENT = ".intent.json"
_STALE_SECONDS = 24 * 3600


class DayIntent(msgspec.Struct, frozen=True):
    """What is to be erased of a day.

    Attributes:
        run_ids: Lower case with hyphens.
        record_ids: Of their feedback records and attachments, see `Record.key`: checks name them.
        files_pruned, zip_pruned: Whether the day had no run files, or no zip, here: they are pruned again.
    """

    run_ids: list[str]
    record_ids: list[str] = []
    files_pruned: bool = False
    zip_pruned: bool = False


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an erasure from its beginning.

    Attributes:
        id: UUID of the erasure.
        requested_by: User and host.
        selection_sha256: See `Selectors.sha256`.
        started_at: ISO 8601 UTC.
        selected: Numbers of runs, traces, feedback records and attachments.
    """

    id: str
    project: str
    requested_by: str
    reason: str
    selection_sha256: str
    started_at: str
    selected: dict[str, int]


class Intent(Erasure, frozen=True, kw_only=True):
    """An erasure that has begun: what is to be erased, by day."""

    days: dict[date, DayIntent]


class DayDone(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased of a day.

    Attributes:
        erased: Numbers by place and kind.
        checked: What a search of each place found afterwards.
        left: What a place refused to erase: why, and until when.
        notes: What a person should know, such as why files were not pruned again.
    """

    erased: dict[str, dict[str, int]] = {}
    checked: dict[str, int] = {}
    left: list[str] = []
    notes: list[str] = []


class Certificate(Erasure, frozen=True, kw_only=True):
    """The proof of an erasure; it holds nothing of what was erased.

    Attributes:
        finished_at: ISO 8601 UTC.
        days: The days of the runs.
        erased: Numbers by place and kind. What a killed process had erased before is not counted again.
        checked: The places that were searched afterwards, and what each search found: 0 is the proof.
        left: What a place refused to erase: why, and until when.
        notes: What a person should know.
    """

    finished_at: str
    days: list[date]
    erased: dict[str, dict[str, int]]
    checked: dict[str, int]
    left: list[str] = []
    notes: list[str] = []


class Journal:
    """The journals and certificates of an archive."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.erasures

    @contextlib.contextmanager
    def lock(self, *, wait: bool = True, on_wait: Callable[[], object] = lambda: None) -> Generator[bool]:
        """Holds the lock of erasures: one process erases at a time.

        Args:
            wait: Wait for another process; if not, yields False when there is one.
            on_wait: Called once when another process holds it.

        Raises:
            ArchiveError: It was held for ten minutes, or the file system has no locks.
            OSError: It cannot be created.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / ".lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not wait:
                yield try_lock(descriptor, path)
                return
            wait_for_lock(
                lambda: try_lock(descriptor, path),
                lambda: ArchiveError(
                    "another erasure is running",
                    why=f"a process holds {path}",
                    hint="It also completes this one; or wait, and run: lse forget --resume",
                ),
                on_wait,
            )
            yield True
        finally:
            os.close(descriptor)

    def begin(self, intent: Intent) -> None:
        """Writes the intent: from now on the erasure is completed, whatever happens. Raises OSError."""
        _write(self._directory / f"{intent.id}{_INTENT}", intent)

    def open_intents(self) -> list[Intent]:
        """The erasures that are not complete, oldest first.

        Raises:
            CorruptArchiveError: One of them cannot be read.
        """
        found = []
        for path in self._directory.glob(f"*{_INTENT}") if self._directory.is_dir() else ():
            try:
                found.append(_read(path, Intent))
            except CorruptArchiveError:
                if path.exists():  # else another process has just completed it
                    raise
        return sorted(found, key=lambda one: (one.started_at, one.id))

    def day_done(self, intent: Intent, day: date) -> DayDone | None:
        """What was erased of a day that is done; None if it is not."""
        path = self._day(intent, day)
        return _read(path, DayDone) if path.exists() else None

    def finish_day(self, intent: Intent, day: date, done: DayDone) -> None:
        """Records that a day is done. Raises OSError."""
        _write(self._day(intent, day), done)

    def reopen(self, intent: Intent) -> None:
        """Forgets that days are done, so that they are done again. Raises OSError."""
        for day in intent.days:
            self._day(intent, day).unlink(missing_ok=True)

    def finish(self, certificate: Certificate) -> None:
        """Writes the certificate, and deletes what tells which runs were erased. Raises OSError."""
        _write(self._directory / f"{certificate.id}.json", certificate)
        self.sweep()

    def sweep(self) -> None:
        """Deletes what killed processes left: of erasures that are complete, and half-written files of a day ago."""
        for path in list(self._directory.iterdir()):
            identity, _, rest = path.name.removeprefix(".").partition(".")
            is_complete = bool(identity) and rest != "json" and (self._directory / f"{identity}.json").exists()
            with contextlib.suppress(FileNotFoundError):
                is_stale = path.suffix == ".tmp" and time.time() - path.stat().st_mtime > _STALE_SECONDS
                if is_complete or is_stale:
                    path.unlink()
        sync_directory(self._directory)

    def certificates(self) -> list[Certificate]:
        """All certificates, oldest first. Raises CorruptArchiveError."""
        paths = self._directory.glob("*.json") if self._directory.is_dir() else ()
        found = (_read(path, Certificate) for path in paths if path.name.count(".") == 1)
        return sorted(found, key=lambda one: (one.finished_at, one.id))

    def certificate(self, identity: str) -> Certificate:
        """The certificate of an erasure.

        Raises:
            UsageError: There is none of this id.
            CorruptArchiveError: It cannot be read.
        """
        for one in self.certificates():
            if one.id == identity:
                return one
        is_open = any(one.id == identity for one in self.open_intents())
        raise UsageError(
            f"there is no certificate {identity}",
            why="the erasure is not complete" if is_open else f"{self._directory} has none of this id",
            hint="Complete it: lse forget --resume" if is_open else "The names of the files there are the ids",
        )

    def _day(self, intent: Intent, day: date) -> Path:
        return self._directory / f"{intent.id}.{day}.day.json"


def _write(path: Path, content: msgspec.Struct) -> None:
    # The ids of runs, until the erasure is complete: for nobody else.
    with publish_file(path, mode=0o600) as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *UNDECODABLE) as error:
        raise CorruptArchiveError(
            f"{path} cannot be read",
            why=str(error),
            hint="Without it an erasure cannot be completed: restore the file, or repeat the erasure and delete it",
        ) from error
