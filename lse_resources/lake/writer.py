"""Writes a day's tables into the lake, from the files of the day's folder.

The folder is read once. Worker processes read and type the runs; this process compresses. Runs are sorted by trace and
start: their columns are spilled to the local disk, and each row group is gathered from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal, localcontext
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lse_archive.errors import CorruptArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.contents import content_files
from lse_archive.folder.manifest import SUMMARY, SUMS, content_sums, read_sums
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.folder.reader import RunFile, may_hold_run, parse_file
from lse_archive.folder.records import Record, RecordKind, read_records
from lse_archive.zips.workers import in_processes
from lse_resources.lake.manifest import LakeFile, LakeManifest, encode_manifest
from lse_resources.lake.place import LakePlace
from lse_resources.lake.schema import (
    ATTACHMENTS,
    CONTENTS,
    COST_LIMIT,
    COST_SCALE,
    FEEDBACK,
    RAW,
    RUNS,
    TABLES,
    manifest_key,
    table_key,
)
from lse_resources.postgres.analysis.columns import (
    RenderedDocument,
    attachment_columns,
    feedback_columns,
    member_texts,
    run_columns,
)

PART_BYTES = 8 << 20
"""A file is in `raw` in parts of at most this size."""
_BATCH_FILES = 500
_BATCH_BYTES = 8 << 20
_GROUP_ROWS = 100_000
_GROUP_BYTES = 16 << 20
_BATCHES_HERE = 8  # until the workers have started, which takes longer than 4,000 small runs
_FEW_FILES = 50
_ZSTD_LEVEL = 3
_RAW_PAGE = 4 << 20  # bytes that are compressed together: runs resemble each other
_RESTORE = "Restore the day from its zip or from Drive, or fetch it again"


def write_day(
    place: LakePlace,
    project: str,
    day: date,
    folder: Path,
    content: str,
    *,
    workspace: str | None,
    scratch: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> LakeManifest:
    """Replaces the day in the lake by what its folder holds; returns the new manifest, which is written last.

    Each table is replaced at once. A failure before that changes nothing; after a kill in between, the day has no
    manifest, and is built again.

    Args:
        folder: The day's files, with their manifest.
        content: The content hash of the folder.
        workspace: Id of the LangSmith workspace, if it is known.
        progress: Called with the number of runs that were read since the last call.
        scratch: A directory for a temporary file of about the size of the day.

    Raises:
        CorruptArchiveError: A file differs from its checksum, or is missing.
        DestinationError: The lake refuses or cannot be reached.
        ArchiveError: The disk cannot be read or written.
    """
    with open_folder(folder) as opened, contextlib.closing(_Spill(scratch)) as spill:
        sums = _checked_sums(opened)
        tables: dict[str, LakeFile] = {}
        with _table(place, "raw", project, day, tables) as raw:
            _write_raw(raw, spill, _Reader(opened, project, day, sums, workspace), progress)
            # From here on, the files may be those of two contents until the new manifest is there.
            place.delete(manifest_key(project, day))
        with _table(place, "runs", project, day, tables) as runs:
            for group in spill.sorted_groups():
                runs.add(group, group.nbytes)
        for name, read in _RECORDS.items():
            with _table(place, name, project, day, tables) as records:
                records.add_rows(read(opened, project, day, sums, workspace))
    ordered = {name: tables[name] for name in TABLES}
    manifest = LakeManifest(project=project, run_date=str(day), content_sha256=content, tables=ordered)
    with place.replace(manifest_key(project, day)) as file:
        file.write(encode_manifest(manifest))
    return manifest


def _checked_sums(folder: Folder) -> dict[str, bytes]:
    """The checksums of the folder, which must list exactly its files."""
    sums = read_sums(folder) or {}
    listed = dict(content_sums(sums))
    names = {path.name for path in content_files(folder)}
    if lost := sorted(listed.keys() - names):
        raise CorruptArchiveError(f"{folder.path} is damaged", why=f"{lost[0]} is missing", hint=_RESTORE)
    return sums


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some run files of an open folder."""

    reader: _Reader
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Reader:
    """The files of a day's folder."""

    folder: Folder
    project: str
    day: date
    sums: Mapping[str, bytes]
    workspace: str | None

    def batches(self, names: Iterable[str]) -> Iterator[_Batch]:
        """Files to be read together, each with its checksum: of bounded number and size."""
        found, size = list[str](), 0
        for name in names:
            length = os.stat(name, dir_fd=self.folder.descriptor).st_size
            if found and (len(found) >= _BATCH_FILES or size + length > _BATCH_BYTES):
                yield self._batch(found)
                found, size = [], 0
            found.append(name)
            size += length
        if found:
            yield self._batch(found)

    def _batch(self, names: Sequence[str]) -> _Batch:
        sums = {name: self.sums[name] for name in names}
        return _Batch(_Reader(self.folder, self.project, self.day, sums, self.workspace), tuple(names))

    def run_row(self, file: RunFile) -> tuple[Any, ...]:
        """The row of a run, in the order of `RUNS`."""
        document = RenderedDocument(file.document)
        columns = run_columns(self.project, self.day, file.header, document, read_json=_json)
        metadata = member_texts(columns.metadata) if columns.metadata else None
        own: dict[str, Any] = {
            "workspace": self.workspace,
            "metadata": list(metadata.items()) if metadata is not None else None,
            "file_sha256": file.sha256,
            "inputs": document.text("inputs"),
            "outputs": document.text("outputs"),
            "extra": document.text("extra"),
        }
        return tuple(own[name] if name in own else _to_arrow(getattr(columns, name)) for name in RUNS.names)


def _read_batch(batch: _Batch) -> tuple[pa.RecordBatch, pa.RecordBatch, list[int]]:
    """The rows of some run files in `raw` and in `runs`, and the sizes of the latter."""
    raw, rows, sizes = [], [], []
    for name in batch.names:
        content = batch.reader.folder.read(name)
        digest = hashlib.sha256(content).digest()
        if digest != batch.reader.sums[name]:
            raise _differs(batch.reader.folder, name)
        file = parse_file(name, content, digest, batch.reader.day)
        raw.append((name, 0, file.key if isinstance(file, RunFile) else None, content))
        if isinstance(file, RunFile):
            rows.append(batch.reader.run_row(file))
            sizes.append(file.size)
    return _record_batch(raw, RAW), _record_batch(rows, RUNS), sizes


def _write_raw(raw: _Table, spill: _Spill, reader: _Reader, progress: Callable[[int], None]) -> None:
    """Writes every file of the folder into `raw`, and spills the rows of the runs."""
    names = sorted(name for name, _ in content_sums(reader.sums))
    small, large = list[str](), list[str]()
    for name in names:
        if may_hold_run(name):
            size = os.stat(name, dir_fd=reader.folder.descriptor).st_size
            (small if size <= PART_BYTES else large).append(name)
    batches = list(reader.batches(small))
    # A batch of few large files is little work in Python: it is not worth the memory of processes.
    here = _BATCHES_HERE if len(small) > _FEW_FILES * len(batches) else len(batches)
    work = in_processes(_read_batch, batches, [reader.folder.descriptor], here=here)
    with contextlib.closing(work) as results:
        for batch, rows, sizes in results:
            raw.add(batch, batch.nbytes)
            spill.add(rows, sizes)
            progress(len(rows))
    for name in large:
        content = reader.folder.read(name)
        file = parse_file(name, content, reader.sums[name], reader.day)
        del content
        is_run = isinstance(file, RunFile)
        _write_parts(raw, reader, name, file.key if is_run else None)
        if is_run:
            rows, size = _record_batch([reader.run_row(file)], RUNS), file.size
            del file
            spill.add(rows, [size])
            del rows
            progress(1)
    for name in (*(name for name in names if not may_hold_run(name)), SUMMARY, SUMS):
        _write_parts(raw, reader, name, None)


def _write_parts(raw: _Table, reader: _Reader, name: str, run_id: str | None) -> None:
    digest, part = hashlib.sha256(), 0
    with disk_errors(f"cannot read {reader.folder.path / name}"), reader.folder.open(name) as file:
        # An empty file has one empty part.
        while (content := file.read(PART_BYTES)) or not part:
            digest.update(content)
            raw.add(_record_batch([(name, part, run_id, content)], RAW), len(content))
            part += 1
    if reader.sums.get(name, digest.digest()) != digest.digest():
        raise _differs(reader.folder, name)


def _differs(folder: Folder, name: str) -> CorruptArchiveError:
    return CorruptArchiveError(f"{folder.path} is damaged", why=f"{name} differs from its checksum", hint=_RESTORE)


def _feedback(
    folder: Folder, project: str, day: date, sums: Mapping[str, bytes], workspace: str | None
) -> Iterator[tuple[Any, ...]]:
    for record in _records(folder, "feedback", sums):
        columns = feedback_columns(project, day, record, read_json=_json)
        score = None if columns.score is None else float(columns.score)
        yield _row(columns, FEEDBACK, workspace=workspace, score=score)


def _attachments(
    folder: Folder, project: str, day: date, sums: Mapping[str, bytes], workspace: str | None
) -> Iterator[tuple[Any, ...]]:
    for record in _records(folder, "attachments", sums):
        yield _row(attachment_columns(project, day, record), ATTACHMENTS, workspace=workspace)


_RECORDS = {"feedback": _feedback, "attachments": _attachments}


def _records(folder: Folder, kind: RecordKind, sums: Mapping[str, bytes]) -> Iterator[Record]:
    """The records of a day; an invalid line is in `raw` only, as it is in no row of the database."""
    return (record for record in read_records(folder, kind, sums) if isinstance(record, Record))


def _row(columns: Any, schema: pa.Schema, **own: Any) -> tuple[Any, ...]:
    return tuple(own[name] if name in own else _to_arrow(getattr(columns, name)) for name in schema.names)


def _json(raw: bytes) -> bytes | None:
    return None if raw == b"null" else raw


def _to_arrow(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return _cost(value) if isinstance(value, Decimal) else value


def _cost(value: Decimal) -> Decimal | None:
    if abs(value) >= COST_LIMIT:
        return None
    with localcontext(prec=100):
        return value.quantize(Decimal(1).scaleb(-COST_SCALE), ROUND_HALF_UP)


def _record_batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Table:
    """A table's file while it is written: row groups of a bounded size."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        repeating = [name for name in _leaves(schema) if name.partition(".")[0] not in CONTENTS]
        self._schema = schema
        self._writer = parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=repeating,
            write_statistics=repeating,
            write_page_index=True,
            data_page_size=_RAW_PAGE if schema is RAW else None,
        )
        self._group: list[pa.RecordBatch | pa.Table] = []
        self._bytes = 0
        self.rows = 0

    def add(self, rows: pa.RecordBatch | pa.Table, size: int) -> None:
        """Adds rows whose content has about this size in bytes."""
        if self._group and (self._bytes + size > _GROUP_BYTES):
            self.flush()
        self._group.append(rows)
        self._bytes += size
        self.rows += len(rows)

    def add_rows(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds rows one by one."""
        batch, size = list[tuple[Any, ...]](), 0
        for row in rows:
            batch.append(row)
            size += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(batch) >= _BATCH_FILES or size > _BATCH_BYTES:
                self.add(_record_batch(batch, self._schema), size)
                batch, size = [], 0
        if batch:
            self.add(_record_batch(batch, self._schema), size)

    def flush(self) -> None:
        tables = [part if isinstance(part, pa.Table) else pa.Table.from_batches([part]) for part in self._group]
        self._group, self._bytes = [], 0
        if tables:
            self._writer.write_table(pa.concat_tables(tables), row_group_size=_GROUP_ROWS)
            tables.clear()
            pa.default_memory_pool().release_unused()  # it would keep the memory of every group's buffers

    def close(self) -> None:
        self.flush()
        self._writer.close()

    def abandon(self) -> None:
        with contextlib.suppress(pa.ArrowException):
            self._writer.close()


def _leaves(schema: pa.Schema) -> Iterator[str]:
    """The paths of a schema's columns in Parquet."""
    for field in schema:
        if pa.types.is_list(field.type):
            yield f"{field.name}.list.element"
        elif pa.types.is_map(field.type):
            yield from (f"{field.name}.key_value.key", f"{field.name}.key_value.value")
        else:
            yield field.name


class _HashedFile:
    """Counts and hashes what is written to a file."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self._digest.update(content)
        self._size += len(content)
        if self._file is not None:
            self._file.write(content)
        return len(content)

    def discard(self) -> None:
        """Ignores all further writes."""
        self._file = None

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """The file is flushed when it is complete."""

    def close(self) -> None:
        """The file is closed by its owner."""

    def describe(self, key: str, rows: int) -> LakeFile:
        return LakeFile(key=key, rows=rows, bytes=self._size, sha256=self._digest.hexdigest())


@contextlib.contextmanager
def _table(place: LakePlace, name: str, project: str, day: date, written: dict[str, LakeFile]) -> Generator[_Table]:
    """Replaces a table's file when the block succeeds, and adds it to `written`."""
    key = table_key(name, project, day)
    with place.replace(key) as target:
        file = _HashedFile(target)
        table = _Table(file, TABLES[name])  # ty: ignore[invalid-argument-type]
        try:
            yield table
            table.close()
        except BaseException:
            file.discard()  # Parquet's writer writes when it is closed, or when it is collected
            table.abandon()
            raise
    written[name] = file.describe(key, table.rows)


class _Spill:
    """The rows of all runs on the local disk, in the order of their files; the first run of each id counts."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # Without a name: nothing is left of it after a kill.
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`
        self._writer = pa.ipc.new_file(self._file, RUNS)
        self._keys: list[pa.RecordBatch] = []
        self._sizes: list[int] = []
        self._seen: set[str] = set()

    def add(self, rows: pa.RecordBatch, sizes: Sequence[int]) -> None:
        first = []
        for run_id in rows.column("run_id").to_pylist():
            first.append(run_id not in self._seen)
            self._seen.add(run_id)
        if not all(first):
            rows = rows.filter(pa.array(first))
            sizes = [size for size, counts in zip(sizes, first, strict=True) if counts]
        if len(rows):
            with disk_errors("cannot write a temporary file of the lake"):
                self._writer.write_batch(rows)
            self._keys.append(rows.select(["trace_id", "start_time", "run_id"]))
            self._sizes += sizes

    def sorted_groups(self) -> Iterator[pa.Table]:
        """Yields the runs sorted by trace, start and id, in tables of a bounded size. Can be called once."""
        self._writer.close()
        self._file.flush()
        if not self._keys:
            return
        keys = pa.Table.from_batches(self._keys)
        numbered = keys.append_column("number", pa.array(np.arange(len(keys))))
        order = numbered.sort_by([(name, "ascending") for name in keys.column_names])["number"].to_numpy()
        starts = np.cumsum([0, *map(len, self._keys)])
        sizes = np.cumsum(np.asarray(self._sizes)[order])
        # Closed with the last table that has its pages.
        content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        with pa.ipc.open_file(pa.py_buffer(content)) as batches:
            first = 0
            while first < len(order):
                limit = (sizes[first - 1] if first else 0) + _GROUP_BYTES
                last = max(first + 1, int(np.searchsorted(sizes, limit, side="right")))
                yield _gathered(batches, starts, order[first:last])
                content.madvise(mmap.MADV_DONTNEED)  # its pages would count as this process' memory
                first = last

    def close(self) -> None:
        self._file.close()


def _gathered(batches: pa.ipc.RecordBatchFileReader, starts: np.ndarray, rows: np.ndarray) -> pa.Table:
    """The rows of these numbers, in this order; batch `i` begins with row `starts[i]`."""
    of_batch = np.searchsorted(starts, rows, side="right") - 1
    by_batch = np.argsort(of_batch, kind="stable")
    numbers, begins = np.unique(of_batch[by_batch], return_index=True)
    parts = []
    for number, positions in zip(numbers, np.split(by_batch, begins[1:]), strict=True):
        batch, wanted = batches.get_batch(int(number)), rows[positions] - starts[number]
        # A large run is a batch of its own, which is not copied.
        parts.append(batch if len(batch) == 1 else batch.take(pa.array(wanted)))
    if len(parts) == 1:
        return pa.Table.from_batches(parts)
    place = np.empty_like(by_batch)
    place[by_batch] = np.arange(len(by_batch))
    return pa.Table.from_batches(parts).take(pa.array(place))
