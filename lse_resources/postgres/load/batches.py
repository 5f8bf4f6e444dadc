"""Batches of run files, or of records beside the runs: cut from a stream, rendered for JSONB, sent to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from lse_resources.postgres.database import is_about_data
from lse_resources.postgres.jsonb import Rendering, render_refused


class Document(Protocol):
    """What becomes one row: a run file, or a record of `lse_archive.folder.records`."""

    @property
    def key(self) -> str:
        """The id of the row, a UUID."""
        ...

    @property
    def document(self) -> bytes:
        """The exact JSON of its content."""
        ...

    @property
    def sha256(self) -> bytes:
        """Identifies the content in the files."""
        ...

    @property
    def size(self) -> int:
        """Bytes in memory."""
        ...


_Document = TypeVar("_Document", bound=Document)
_Result = TypeVar("_Result")

BATCH_SIZE = 500
"""Documents in a batch."""

CONNECTIONS = 2
"""Connections that send batches in parallel."""

# Long documents end a batch earlier, so that its memory stays bounded.
_BATCH_BYTES = 8_000_000
_MAX_SKIPPED_BATCHES = 5
# What the rows need: the cast to jsonb, and the text of it for the hash.
_STORE = "SELECT sha256(convert_to(%b::jsonb::text, 'UTF8'))"
# Characters beyond Latin-1 and the Basic Multilingual Plane, as bytes and as escapes; deep enough for any usual run.
_USUAL = b'{"id": ' + b"[" * 50 + b'"\xe6\x9d\xb1\xf0\x9f\x98\x80 \\u6771\\ud83d\\ude00", 1.5e300' + b"]" * 50 + b"}"


@dataclass(frozen=True, slots=True)
class Rendered(Generic[_Document]):
    """A document with the content of its row."""

    file: _Document
    rendering: Rendering


@dataclass(frozen=True, slots=True)
class Refused(Generic[_Document]):
    """A document whose row the server refuses, although jsonb can hold its content."""

    file: _Document
    error: psycopg.Error


def batches(files: Iterable[_Document | None], size: int = BATCH_SIZE) -> Iterator[list[_Document]]:
    """Cuts a stream of documents into lists of at most `size` and about 8 MB.

    None in the stream is a skipped one. Many skipped ones end a batch, so that the first changed files are written
    while the others are still read.
    """
    batch: list[_Document] = []
    batch_bytes = skipped = 0
    for file in files:
        if file is None:
            skipped += 1
        else:
            batch.append(file)
            batch_bytes += file.size
        if batch and (len(batch) >= size or batch_bytes >= _BATCH_BYTES or skipped >= _MAX_SKIPPED_BATCHES * size):
            yield batch
            batch, batch_bytes, skipped = [], 0, 0
    if batch:
        yield batch


def send_batch(
    send: Callable[[Sequence[Rendered[_Document]]], _Result],
    is_refused: Callable[[bytes], bool],
    batch: Sequence[Rendered[_Document]],
) -> Iterator[_Result | Refused[_Document]]:
    """Yields the results of `send`. A batch that the server refuses for its data is halved, down to single rows.

    A single refused document is sent again in the next rendering: without content only if its content alone is refused.

    Args:
        is_refused: Whether the server refuses this content by itself; see the function of this name.

    Raises:
        psycopg.Error: The server refuses for another reason than the data, or refuses any document.
    """
    parts = [batch]
    while parts:
        part = parts.pop()
        try:
            result = send(part)
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
            refusal = error
        else:
            yield result
            continue
        refused = part[0]
        if len(part) > 1:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
            continue
        rendering = render_refused(refused.file.document, refused.rendering)
        if rendering and (rendering.data is not None or is_refused(refused.rendering.data or b"null")):
            parts.append([replace(refused, rendering=rendering)])
        else:
            yield Refused(refused.file, refusal)


def is_refused(content: bytes, connection: psycopg.Connection) -> bool:
    """Whether the server refuses a content outside of the table, by the same connection that accepts a usual one.

    Raises:
        psycopg.Error: The server refuses a usual content, too: no document is the cause.
    """
    connection.execute(_STORE, (_as_jsonb(_USUAL),))
    try:
        connection.execute(_STORE, (_as_jsonb(content),))
    except psycopg.Error as error:
        if not is_about_data(error):
            raise
        return True
    return False


def batch_parameters(batch: Sequence[Rendered[_Document]]) -> dict[str, list[Any]]:
    """The query parameters `ids`, `data`, `marks` and `files` (digests): one array for each column."""
    return {
        "ids": [one.file.key for one in batch],
        "data": [_as_jsonb(one.rendering.data) for one in batch],
        "marks": [" ".join(one.rendering.mark) for one in batch],
        "files": [one.file.sha256 for one in batch],
    }


def _as_jsonb(data: bytes | None) -> Jsonb | None:
    """A parameter that sends the bytes unchanged: parsing and writing the JSON again would round numbers."""
    return None if data is None else Jsonb(data, dumps=_unchanged)


def _unchanged(data: bytes) -> bytes:
    return data
