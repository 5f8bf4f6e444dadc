"""Batches of run files: cut from a stream, rendered for JSONB, and sent to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from lse_archive.folder.reader import RunFile
from lse_resources.postgres.database import is_about_data
from lse_resources.postgres.jsonb import Rendering, render_refused

_Result = TypeVar("_Result")

BATCH_SIZE = 500
"""Runs in a batch."""

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
class RenderedRun:
    """A run file with the content of its row."""

    file: RunFile
    rendering: Rendering


@dataclass(frozen=True, slots=True)
class RefusedRun:
    """A run file whose row the server refuses, although jsonb can hold its content."""

    file: RunFile
    error: psycopg.Error


def batches(files: Iterable[RunFile | None], size: int = BATCH_SIZE) -> Iterator[list[RunFile]]:
    """Cuts a stream of files into lists of at most `size` files and about 8 MB.

    None in the stream is a skipped file. Many skipped files end a batch, so that the first changed files are written
    while the others are still read.
    """
    batch: list[RunFile] = []
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
    send: Callable[[Sequence[RenderedRun]], _Result],
    is_refused: Callable[[bytes], bool],
    batch: Sequence[RenderedRun],
) -> Iterator[_Result | RefusedRun]:
    """Yields the results of `send`. A batch that the server refuses for its data is halved, down to single runs.

    A single refused run is sent again in the next rendering: without content only if that content alone is refused.

    Args:
        is_refused: Whether the server refuses this content by itself; see the function of this name.

    Raises:
        psycopg.Error: The server refuses for another reason than the data, or refuses any run.
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
        run = part[0]
        if len(part) > 1:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
            continue
        rendering = render_refused(run.file.document, run.rendering)
        if rendering and (rendering.data is not None or is_refused(run.rendering.data or b"null")):
            parts.append([replace(run, rendering=rendering)])
        else:
            yield RefusedRun(run.file, refusal)


def is_refused(content: bytes, connection: psycopg.Connection) -> bool:
    """Whether the server refuses a content outside of the table, by the same connection that accepts a usual one.

    Raises:
        psycopg.Error: The server refuses a usual content, too: no run is the cause.
    """
    connection.execute(_STORE, (_as_jsonb(_USUAL),))
    try:
        connection.execute(_STORE, (_as_jsonb(content),))
    except psycopg.Error as error:
        if not is_about_data(error):
            raise
        return True
    return False


def batch_parameters(batch: Sequence[RenderedRun]) -> dict[str, list[Any]]:
    """The query parameters `runs` (ids), `data` and `marks`: one array for each column."""
    return {
        "runs": [run.file.header.run_id for run in batch],
        "data": [_as_jsonb(run.rendering.data) for run in batch],
        "marks": [" ".join(run.rendering.mark) for run in batch],
    }


def _as_jsonb(data: bytes | None) -> Jsonb | None:
    """A parameter that sends the bytes unchanged: parsing and writing the JSON again would round numbers."""
    return None if data is None else Jsonb(data, dumps=_unchanged)


def _unchanged(data: bytes) -> bytes:
    return data
