"""Days whose run files were pruned to save space, and the record that distinguishes them from missing days.

The record is beside the data, in `.lse/<day>.pruned/`: the day's `_summary.json` and `_sha256sums.txt`, and lists of
its runs, feedback records and attachments for the comparison with the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from lse_archive.errors import UNDECODABLE, CorruptArchiveError, PrunedDayError
from lse_archive.files import sync_directory
from lse_archive.folder.manifest import SUMMARY, SUMS, content_hash, content_sums, read_summary, read_sums
from lse_archive.folder.publish import discard, flush
from lse_archive.folder.records import RECORD_FILES, Record, RecordKind, read_records
from lse_archive.layout import DayPaths

_RECORD = "pruned.json"
_Kind = Literal["runs"] | RecordKind

RunLine = tuple[str, str | None, bytes]
"""Run id, trace id and the sha256 of the run file."""


class PrunedDay(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the checks when a day's files were pruned.

    Attributes:
        pruned_at: ISO 8601 UTC.
        content_sha256: Identity of the day, see `content_hash`.
        place: Where the copy is.
        remote_sha256: Checksum of the copy at that time.
        remote_bytes: Its size.
        runs_sha256, feedback_sha256, attachments_sha256: Checksums of the lists; None in records of version 0.1.0,
            which have a list of runs only.
    """

    pruned_at: str
    content_sha256: str
    place: str
    remote_sha256: str
    remote_bytes: int
    runs_sha256: str | None = None
    feedback_sha256: str | None = None
    attachments_sha256: str | None = None

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.pruned_at)


def write_pruned(paths: DayPaths, record: PrunedDay, runs: Iterable[RunLine]) -> None:
    """Writes the record of a day, of these runs and of its other records before its files are deleted, or nothing.

    The caller holds the day's lock.
    """
    draft = paths.pruned.with_suffix(".draft")
    discard(paths, draft)
    draft.mkdir()
    for name in (SUMMARY, SUMS):
        shutil.copyfile(paths.folder / name, draft / name)
    lines = (f"{run},{trace or ''},{digest.hex()}" for run, trace, digest in runs)
    sums = {"runs_sha256": _write_list(draft, "runs", lines)}
    for kind in RECORD_FILES:
        records = (one for one in read_records(paths.folder, kind) if isinstance(one, Record))
        lines = (f"{one.key},{one.sha256.hex()}" for one in records)
        sums[f"{kind}_sha256"] = _write_list(draft, kind, lines)
    record = msgspec.structs.replace(record, **sums)
    (draft / _RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    flush(draft)
    discard(paths, paths.pruned)
    draft.rename(paths.pruned)
    sync_directory(draft.parent)


def _write_list(folder: Path, kind: _Kind, lines: Iterable[str]) -> str:
    """Writes a list; returns its sha256 in hex."""
    listed = hashlib.sha256()
    with (folder / f"{kind}.csv").open("wb") as file:
        for line in lines:
            content = f"{line}\n".encode("ascii")
            listed.update(content)
            file.write(content)
    return listed.hexdigest()


def is_pruned(paths: DayPaths) -> bool:
    """Whether the day has no folder because it was pruned."""
    return paths.pruned.is_dir() and not paths.folder.exists()


def read_pruned(paths: DayPaths) -> PrunedDay | None:
    """The record of a pruned day; None if the day is not pruned.

    Raises:
        CorruptArchiveError: It cannot be read.
    """
    if not is_pruned(paths):
        return None
    try:
        return msgspec.json.decode((paths.pruned / _RECORD).read_bytes(), type=PrunedDay)
    except (OSError, *UNDECODABLE) as error:
        raise CorruptArchiveError(
            f"the record of the pruned day {paths.project} {paths.day} is damaged",
            why=str(error),
            hint="Restore the day: lse archive restore",
        ) from error


def day_content(paths: DayPaths) -> str | None:
    """The content hash of the day's run files, also of pruned ones; None if there are none.

    It is computed from the checksums; the files are not read.

    Raises:
        CorruptArchiveError: The checksums cannot be read.
    """
    if pruned := read_pruned(paths):
        return pruned.content_sha256
    sums = read_sums(paths.folder)
    return None if sums is None else content_hash(content_sums(sums))


def pruned_sums(paths: DayPaths) -> dict[str, bytes]:
    """The checksums of a pruned day. Raises CorruptArchiveError."""
    sums = read_sums(paths.pruned)
    if sums is None:
        raise CorruptArchiveError(
            f"the record of the pruned day {paths.project} {paths.day} is damaged",
            why=f"its {SUMS} is missing",
            hint="Restore the day: lse archive restore",
        )
    return sums


def pruned_runs(paths: DayPaths) -> Iterator[RunLine]:
    """The runs of a pruned day.

    Raises:
        CorruptArchiveError: The list cannot be read, or is not the one that was written; the latter after its last run.
    """
    with _damaged_list(paths, "runs"):
        count = 0
        for line in _read_list(paths, "runs"):
            run, trace, digest = line.split(",")
            count += 1
            yield run, trace or None, bytes.fromhex(digest)
        summary = None
        with contextlib.suppress(CorruptArchiveError):  # a damaged part proves nothing, and refuses nothing
            summary = read_summary(paths.pruned)
        if summary and count < summary.runs:
            raise ValueError(f"it has {count} of {summary.runs} runs")


def pruned_records(paths: DayPaths) -> dict[RecordKind, Callable[[], Iterator[Record]]]:
    """Reads the feedback records and attachments of a pruned day, without their documents.

    Returns:
        By kind a function that reads the list. It raises as `pruned_runs`. Version 0.1.0 made no lists of them.
    """
    record = _record_if_readable(paths)
    if record and record.feedback_sha256 is None:
        return {}
    return {kind: partial(_listed_records, paths, kind) for kind in RECORD_FILES}


def _listed_records(paths: DayPaths, kind: RecordKind) -> Iterator[Record]:
    with _damaged_list(paths, kind):
        for line in _read_list(paths, kind):
            key, digest = line.split(",")
            yield Record(key, bytes.fromhex(digest), b"")


def _read_list(paths: DayPaths, kind: _Kind) -> Iterator[str]:
    """The lines of a list. Raises ValueError after the last one if it is not the list that was written, or OSError."""
    listed = hashlib.sha256()
    with (paths.pruned / f"{kind}.csv").open("rb") as file:
        for line in file:
            listed.update(line)
            yield line.decode("ascii").rstrip("\n")
    record = _record_if_readable(paths)
    if record and getattr(record, f"{kind}_sha256") not in (None, listed.hexdigest()):
        raise ValueError("its checksum differs from the recorded one")


def _record_if_readable(paths: DayPaths) -> PrunedDay | None:
    with contextlib.suppress(CorruptArchiveError):
        return read_pruned(paths)
    return None


@contextlib.contextmanager
def _damaged_list(paths: DayPaths, kind: _Kind) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise CorruptArchiveError(
            f"the list of {kind} of {paths.project} {paths.day} is damaged",
            why=str(error),
            hint="Restore the day: lse archive restore",
        ) from error


def require_restored(paths: DayPaths) -> None:
    """Returns if the day is not pruned. A union with a pruned day would lose runs (law 1).

    Raises:
        PrunedDayError: The day is pruned.
    """
    if is_pruned(paths):
        raise PrunedDayError(
            f"the run files of {paths.project} {paths.day} were pruned",
            why="a new folder would hold fewer runs than the archive",
            hint=f"Restore the day first: lse archive restore --project '{paths.project}' --start-date {paths.day} "
            f"--end-date {paths.day}",
        )


def delete_pruned_record(paths: DayPaths) -> None:
    """Deletes the record, when the day is restored. The caller holds the day's lock."""
    discard(paths, paths.pruned)
