"""The manifest of a day: `_summary.json` describes its content, `_sha256sums.txt` holds its checksums."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import msgspec

from lse_archive.days import Window, day_window
from lse_archive.errors import UNDECODABLE, ArchiveConflictError, ArchiveError, CorruptArchiveError
from lse_archive.folder.attachments import belongs_to_attachments
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.folder.tombstones import FORGOTTEN
from lse_archive.runs.feedback import FEEDBACK_FILES
from lse_archive.runs.header import RunHeader

SUMMARY = "_summary.json"
SUMS = "_sha256sums.txt"
TOOL = f"lse {version('langsmith-archive')}"


class MissingAttachment(msgspec.Struct, frozen=True):
    """An attachment that LangSmith lists and that is not here.

    Attributes:
        name: Printable and shortened.
        why: The reason of the last fetch in which it was new.
    """

    run_id: str
    name: str
    why: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `_summary.json`: numbers of the day's content, not of its last fetch.

    Attributes:
        bytes: Total size of the run files.
        pending: Runs without an end time.
        cost: USD.
        unfit_files: Files of the folder that hold no run of this day, without those of feedback and attachments.
        continued_from_previous_day: Traces whose root started before the day.
        continued_into_next_day: Traces with a run that ended after the day.
        langsmith_count: Runs of the day by LangSmith's own count; None if it was not requested.
        api: Version of the API that served the runs, `v1` or `v2`; None for folders of other origin.
        changed_at: When the fetch ran that last changed the day, ISO 8601 UTC.
        content_sha256: Identity of the day, see `content_hash`.
        incomplete: What the day lacks, empty if nothing is known to be missing: ids of runs that LangSmith listed and
            did not serve, and names of files with runs that cannot be read (`_unreadable_<sha256>.bin`).
        feedback: Records in `_feedback.jsonl`; None if feedback was not collected.
        feedback_deleted: Of those, records that LangSmith no longer has although it served their runs.
        feedback_apart: Records in `_feedback_apart.jsonl`.
        feedback_differs: Ids of runs that have more or fewer records than their `feedback_stats` say.
        feedback_unproven: Ids of runs for which that cannot be decided.
        attachments: Attachments of the runs; None if they were not collected.
        attachment_bytes: Size of their files: equal contents are one file.
        attachments_missing: Those that could not be downloaded.
    """

    project: str
    date: str
    runs: int
    traces: int
    root_runs: int
    errors: int
    pending: int
    tokens: int
    cost: float
    bytes: int
    unfit_files: list[str]
    continued_from_previous_day: list[str]
    continued_into_next_day: list[str]
    content_sha256: str
    langsmith_project_id: str | None = None
    langsmith_count: int | None = None
    api: str | None = None
    changed_at: str | None = None
    incomplete: list[str] = []
    feedback: int | None = None
    feedback_deleted: int = 0
    feedback_apart: int = 0
    feedback_differs: list[str] = []
    feedback_unproven: list[str] = []
    attachments: int | None = None
    attachment_bytes: int = 0
    attachments_missing: list[MissingAttachment] = []
    tool: str = TOOL
    format: int = 1


class FeedbackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of `Summary` about feedback."""

    feedback: int | None = None
    feedback_deleted: int = 0
    feedback_apart: int = 0
    feedback_differs: list[str] = []
    feedback_unproven: list[str] = []

    @classmethod
    def of(cls, summary: Summary | None) -> FeedbackSummary:
        """The fields of a summary; those of a day without feedback if there is none."""
        if summary is None:
            return cls()
        return cls(**{name: getattr(summary, name) for name in cls.__struct_fields__})


class Tally:
    """Sums the headers of a day's runs, in any order, for its summary."""

    def __init__(self, day: date) -> None:
        self._window: Window = day_window(day)
        self._day = day
        self.runs = self.root_runs = self.errors = self.pending = self.tokens = self.bytes = 0
        self._cost_units = 0
        self._traces: set[str] = set()
        self._from_previous: set[str] = set()
        self._into_next: set[str] = set()

    def add(self, header: RunHeader, size: int) -> None:
        self.runs += 1
        self.root_runs += header.is_root
        self.errors += header.failed
        self.pending += header.end is None
        self.tokens += header.tokens
        self.bytes += size
        # Whole picodollars: a sum of floats would depend on the order.
        self._cost_units += round(header.cost * 1e12)
        self._traces.add(header.trace_id)
        if header.trace_start is not None and header.trace_start < self._window.start:
            self._from_previous.add(header.trace_id)
        if header.end is not None and header.end >= self._window.end:
            self._into_next.add(header.trace_id)

    @property
    def traces(self) -> int:
        return len(self._traces)

    def summary(
        self,
        project: str,
        content_sha256: str,
        invalid: Iterable[str] = (),
        *,
        langsmith_project_id: str | None = None,
        langsmith_count: int | None = None,
        api: str | None = None,
        changed_at: str | None = None,
        incomplete: Sequence[str] = (),
    ) -> Summary:
        return Summary(
            project=project,
            date=str(self._day),
            runs=self.runs,
            traces=self.traces,
            root_runs=self.root_runs,
            errors=self.errors,
            pending=self.pending,
            tokens=self.tokens,
            cost=self._cost_units / 1e12,
            bytes=self.bytes,
            unfit_files=sorted(name for name in invalid if not _is_own(name)),
            continued_from_previous_day=sorted(self._from_previous),
            continued_into_next_day=sorted(self._into_next),
            content_sha256=content_sha256,
            langsmith_project_id=langsmith_project_id,
            langsmith_count=langsmith_count,
            api=api,
            changed_at=changed_at,
            incomplete=list(incomplete),
        )


def _is_own(name: str) -> bool:
    return name in FEEDBACK_FILES or name == FORGOTTEN or belongs_to_attachments(name)


def content_hash(sums: Iterable[tuple[str, bytes]]) -> str:
    """The identity of a day: sha256 over its checksum lines in the order of `sort_key`, without the manifest's own.

    The bytes of a zip are no identity: they differ between versions of the compression library.

    Args:
        sums: (file name, sha256 digest) in that order.
    """
    digest = hashlib.sha256()
    for name, value in sums:
        digest.update(_line(name, value))
    return digest.hexdigest()


def sort_key(name: str) -> bytes:
    """File names are sorted by their bytes, as `LC_ALL=C sort` does."""
    return os.fsencode(name)


def content_sums(sums: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """The checksums that make up the identity of a day, in order: all but those of the manifest itself."""
    names = sorted((name for name in sums if name not in (SUMMARY, SUMS)), key=sort_key)
    return [(name, sums[name]) for name in names]


def write_manifest(folder: Path, summary: Summary, sums: Iterable[tuple[str, bytes]]) -> None:
    """Writes both files of the manifest. `sums` holds the folder's other files, in the order of `sort_key`."""
    encoded = encode_summary(summary)
    (folder / SUMMARY).write_bytes(encoded)
    with (folder / SUMS).open("wb") as file:
        file.writelines(sums_lines(encoded, sums))


def encode_summary(summary: Summary) -> bytes:
    """The bytes of `_summary.json`.

    Raises:
        ArchiveError: One of its names is not UTF-8.
    """
    try:
        return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    except UnicodeEncodeError as error:
        raise ArchiveError(
            f"the folder of {summary.project} {summary.date} cannot be listed",
            why=f"the name of a file in it is not UTF-8: {error.object!r}",
            hint="Move that file out of the folder, and run the command again",
        ) from error


def sums_lines(encoded_summary: bytes, sums: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The lines of `_sha256sums.txt`."""
    for name, digest in itertools.chain([(SUMMARY, hashlib.sha256(encoded_summary).digest())], sums):
        yield _line(name, digest)


def read_summary(folder: Path | Folder) -> Summary | None:
    """The summary of a folder, None if an older tool wrote none or there is no folder.

    Raises:
        CorruptArchiveError: It cannot be read.
    """
    return parse_summary(content, _path(folder)) if (content := _read(folder, SUMMARY)) is not None else None


def parse_summary(content: bytes, origin: Path) -> Summary:
    """Reads the bytes of a `_summary.json`; `origin` is named in the error.

    Raises:
        CorruptArchiveError: They are not a summary.
    """
    try:
        return msgspec.json.decode(content, type=Summary)
    except UNDECODABLE as error:
        raise CorruptArchiveError(f"{origin} has a damaged {SUMMARY}", why=str(error), hint=_RESTORE) from error


def require_own(folder: Path | Folder, project: str) -> None:
    """Returns if a day's folder, or the record of a pruned day, may be used as the project's.

    A folder belongs to the project that its summary names. Where the file system ignores case or Unicode's
    normalization, the names of two projects lead to one folder. A folder without a readable summary belongs to nobody.

    Raises:
        ArchiveConflictError: It belongs to another project.
    """
    with contextlib.suppress(CorruptArchiveError):  # reported, or repaired, by the step itself
        if summary := read_summary(folder):
            reject_foreign(summary, project, folder if isinstance(folder, Path) else folder.path)


def reject_foreign(summary: Summary, project: str, place: Path) -> None:
    """Raises ArchiveConflictError if the summary names another project; `place` is the folder or zip of the summary."""
    if summary.project != project:
        raise ArchiveConflictError(
            f"{place} belongs to the project '{summary.project}', not to '{project}'",
            why="its summary says so; on this disk the two names may lead to one folder",
            hint="If that is wrong, move it away; else archive one of the two on a disk that distinguishes the names "
            "(LSE_DATA_DIR, LSE_ARCHIVE_DIR)",
        )


def read_sums(folder: Path | Folder) -> dict[str, bytes] | None:
    """The checksums of a folder by file name, None if an older tool wrote none or there is no folder.

    Raises:
        CorruptArchiveError: They cannot be read.
    """
    return parse_sums(content, _path(folder)) if (content := _read(folder, SUMS)) is not None else None


def parse_sums(content: bytes, origin: Path) -> dict[str, bytes]:
    """Reads the bytes of a `_sha256sums.txt`; `origin` is named in the error.

    Raises:
        CorruptArchiveError: A line is not in the format of `sha256sum`.
    """
    sums = {}
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        if not line:
            continue
        escaped = line.startswith("\\")
        digest, separator, name = line.removeprefix("\\").partition("  ")
        try:
            if not separator:
                raise ValueError("no name")
            value = bytes.fromhex(digest)
        except ValueError as error:
            raise CorruptArchiveError(
                f"{origin} has a damaged {SUMS}", why=f"'{line[:100]}' is no checksum line", hint=_RESTORE
            ) from error
        sums[_unescape(name) if escaped else name] = value
    return sums


def _read(folder: Path | Folder, name: str) -> bytes | None:
    try:
        with open_folder(folder) as opened:
            return opened.read(name)
    except FileNotFoundError:
        return None


def _path(folder: Path | Folder) -> Path:
    return folder.path if isinstance(folder, Folder) else folder


def _line(name: str, digest: bytes) -> bytes:
    # sha256sum marks a line whose name needs escapes by a backslash in front (GNU coreutils manual, md5sum).
    escaped = name
    if "\\" in name or "\n" in name or "\r" in name:
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if escaped == name else "\\"
    return f"{mark}{digest.hex()}  {escaped}\n".encode("utf-8", "surrogateescape")


def _unescape(name: str) -> str:
    return name.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")


_RESTORE = "Restore the day from its zip or from Drive, or fetch it again"
