"""Batches of run files, each a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lse_archive.folder.reader import RunFile

BATCH_SIZE = 500
"""Runs in a batch."""

CONNECTIONS = 2

# Long documents make a batch earlier, so that its memory stays bounded.
_BATCH_BYTES = 8_000_000
_PATIENCE = 5


def batches(files: Iterable[RunFile | None], size: int = BATCH_SIZE) -> Iterator[list[RunFile]]:
    """Cuts a stream of files into lists of at most `size`, and of about 8 MB.

    None stands for a file that was passed over: many of them end a batch, so that work on a few changed files begins
    while the others are still read.
    """
    batch: list[RunFile] = []
    held = passed = 0
    for file in files:
        if file is None:
            passed += 1
        else:
            batch.append(file)
            held += file.size
        if batch and (len(batch) >= size or held >= _BATCH_BYTES or passed >= _PATIENCE * size):
            yield batch
            batch, held, passed = [], 0, 0
    if batch:
        yield batch
