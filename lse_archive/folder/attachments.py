"""The attachments of a day: `_attachments.json` lists them, `_attachment_<sha256>` holds each distinct content.

Names of attachments are the sender's text. They are never part of a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.printable import printable

ATTACHMENTS = "_attachments.json"
ATTACHMENT_PREFIX = "_attachment_"
"""Of the name of a file with a content; the rest is its sha256."""
_MAX_SHOWN = 200
_FILE = re.compile(ATTACHMENT_PREFIX + r"([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment of a run; `size` is in bytes, `media_type` None if it is not known."""

    run_id: str
    name: str
    media_type: str | None
    size: int
    sha256: bytes


def attachment_file(digest: bytes) -> str:
    """The name of the file with the content of this sha256."""
    return f"{ATTACHMENT_PREFIX}{digest.hex()}"


def attachment_digest(name: str) -> bytes | None:
    """The sha256 that a file of this name must have; None if it is no file of an attachment."""
    found = _FILE.fullmatch(name)
    return bytes.fromhex(found[1]) if found else None


def belongs_to_attachments(name: str) -> bool:
    """Whether a file of this name is the list of attachments, or one of them."""
    return name == ATTACHMENTS or attachment_digest(name) is not None


def shown_name(name: str) -> str:
    """The name of an attachment in summaries: printable and short."""
    return printable(name)[:_MAX_SHOWN]


def attachment_lines(attachments: Iterable[Attachment]) -> Iterator[bytes]:
    """The content of `_attachments.json`: an array, one attachment a line. ASCII: a name may be any text."""
    separator = b"[\n"
    for one in attachments:
        entry = {
            "run_id": one.run_id,
            "name": one.name,
            "media_type": one.media_type,
            "bytes": one.size,
            "sha256": one.sha256.hex(),
            "file": attachment_file(one.sha256),
        }
        yield separator + json.dumps(entry).encode()
        separator = b",\n"
    yield b"\n]\n"


def read_attachments(folder: Path | Folder) -> list[Attachment]:
    """The attachments that a day's folder lists; empty if it lists none, or if there is no folder.

    Raises:
        CorruptArchiveError: The list cannot be read.
    """
    try:
        with open_folder(folder) as opened:
            return parse_attachments(opened.read(ATTACHMENTS), opened.path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def parse_attachments(content: bytes, origin: Path) -> list[Attachment]:
    """Reads the bytes of an `_attachments.json`; `origin` is named in the error.

    Raises:
        CorruptArchiveError: They are not a list of attachments.
    """
    try:
        return [_attachment(entry) for entry in json.loads(content)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptArchiveError(
            f"{origin} has a damaged {ATTACHMENTS}",
            why=f"{type(error).__name__}: {error}"[:200],
            hint="Restore the day from its zip or from Drive",
        ) from error


def _attachment(entry: dict[str, object]) -> Attachment:
    run_id, name, media_type, size = entry["run_id"], entry["name"], entry["media_type"], entry["bytes"]
    digest = attachment_digest(f"{ATTACHMENT_PREFIX}{entry['sha256']}")
    if digest is None or entry["file"] != attachment_file(digest):
        raise ValueError("a file is not named by its sha256")
    if not (isinstance(run_id, str) and isinstance(name, str) and isinstance(size, int)):
        raise TypeError("a run id, a name or a size has another type")
    if str(UUID(run_id)) != run_id:
        raise ValueError("a run id is no UUID")
    return Attachment(run_id, name, media_type if isinstance(media_type, str) else None, size, digest)
