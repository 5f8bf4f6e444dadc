"""What a day's folder holds beside its runs: feedback records and the list of attachments, one JSON object a line.

=========================== ==========================================================================================
file                        a line
=========================== ==========================================================================================
`_feedback.jsonl`           a feedback record as LangSmith sent it; a deleted one has `lse_deleted_at` as its last key
`_feedback_apart.jsonl`     the same, of records without a run, or whose run is not archived
`_attachments.json`         an entry of an array: `run_id`, `name`, `media_type`, `bytes`, `sha256`, `file`
=========================== ==========================================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

from lse_archive.errors import UNDECODABLE
from lse_archive.files import disk_errors
from lse_archive.folder.attachments import ATTACHMENTS
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.folder.reader import NOT_AS_RECORDED
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_APART
from lse_archive.runs.scanner import NULL, NotARunError, check_json, load_as, members

RecordKind = Literal["feedback", "attachments"]
RECORD_FILES: dict[RecordKind, tuple[str, ...]] = {
    "feedback": (FEEDBACK, FEEDBACK_APART),
    "attachments": (ATTACHMENTS,),
}
"""The files of each kind. Of a feedback record in both, the one in `_feedback.jsonl` counts."""


@dataclass(frozen=True, slots=True)
class Record:
    """A feedback record, or the entry of an attachment.

    Attributes:
        key: UUID, lower case with hyphens: the id of a feedback record, a hash of it if it is no UUID, or of the record
            without one; of an attachment a hash of its run and name.
        sha256: Digest of the document.
        document: The JSON object, exact.
    """

    key: str
    sha256: bytes
    document: bytes

    @property
    def size(self) -> int:
        return len(self.document)


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """A line that holds no record, or a whole file that differs from its checksum; and the reason.

    Attributes:
        place: Name of the file, and number of the line if only that is invalid.
    """

    place: str
    reason: str


def read_records(
    folder: Path | Folder, kind: RecordKind, sums: Mapping[str, bytes] | None = None
) -> Iterator[Record | InvalidRecord]:
    """Reads the records of a day line by line. A record that occurs twice is yielded once.

    Args:
        sums: Digests by file name; of a file that differs from its digest no record is yielded.

    Raises:
        ArchiveError: A file cannot be read.
    """
    seen: set[bytes] = set()
    with open_folder(folder) as opened:
        for name in RECORD_FILES[kind]:
            cannot_read = disk_errors(f"cannot read {opened.path / name}")
            with cannot_read, contextlib.suppress(FileNotFoundError), opened.open(name) as file:
                if sums and name in sums and hashlib.file_digest(file, "sha256").digest() != sums[name]:
                    yield InvalidRecord(name, NOT_AS_RECORDED)
                    continue
                file.seek(0)
                yield from parse_records(name, file, seen)


def parse_records(name: str, lines: Iterable[bytes], seen: set[bytes]) -> Iterator[Record | InvalidRecord]:
    """Reads the lines of one of `RECORD_FILES`. An invalid line does not affect the others.

    Args:
        seen: The keys of former records, which are skipped; each new key is added.
    """
    read_key = _attachment_key if name == ATTACHMENTS else _feedback_key
    for number, line in enumerate(lines, 1):
        # The brackets and commas of an array of objects; a line of JSONL begins and ends with a brace.
        document = line.strip(b" \t\r\n,[]")
        if not document:
            continue
        try:
            key = read_key(document)
        except NotARunError as error:
            yield InvalidRecord(f"{name} line {number}", str(error))
            continue
        if key.bytes not in seen:
            seen.add(key.bytes)
            yield Record(str(key), hashlib.sha256(document).digest(), document)


class _Feedback(msgspec.Struct):
    id: str | None = None


class _OfRun(msgspec.Struct):
    run_id: str | None = None


class _Attachment(msgspec.Struct):
    run_id: str | None = None
    name: str | None = None


_feedback_decoder = msgspec.json.Decoder(_Feedback)
_attachment_decoder = msgspec.json.Decoder(_Attachment)
_run_decoder = msgspec.json.Decoder(_OfRun)


def record_run(document: bytes) -> str | None:
    """The run id in the document of a `Record`, as it is there; None if there is none."""
    try:
        return _run_decoder.decode(document).run_id
    except (*UNDECODABLE, RecursionError):
        return load_as(members(check_json(document)).get("run_id", NULL), str)


def _feedback_key(document: bytes) -> UUID:
    try:
        found = _feedback_decoder.decode(document).id
    except (*UNDECODABLE, RecursionError):
        found = load_as(members(check_json(document)).get("id", NULL), str)
    if found is None:
        # The mark of a deleted record is not part of it.
        return _hashed((document.rpartition(b'"lse_deleted_at":')[0] or document[:-1]).rstrip(b" \t,"))
    try:
        return UUID(found)
    except ValueError:
        return _hashed(found.encode("utf-8", "surrogatepass"))


def _attachment_key(document: bytes) -> UUID:
    try:
        entry = _attachment_decoder.decode(document)
    except (*UNDECODABLE, RecursionError):
        found = members(check_json(document))
        entry = _Attachment(*(load_as(found.get(field, NULL), str) for field in ("run_id", "name")))
    if entry.run_id is None or entry.name is None:
        raise NotARunError("it has no run_id or no name")
    # Any text, so that it cannot be a key of a table itself.
    return _hashed(f"{entry.run_id.lower()}/{entry.name}".encode("utf-8", "surrogatepass"))


def _hashed(content: bytes) -> UUID:
    return UUID(bytes=hashlib.sha256(content).digest()[:16])
