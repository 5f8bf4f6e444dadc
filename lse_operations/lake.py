"""Builds a day of the lake from its run files, its zip, or the destination; and compares the two."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyarrow import parquet

from lse_archive.errors import ArchiveError, CorruptArchiveError, DestinationError, ShrinkError
from lse_archive.files import disk_errors
from lse_archive.folder.contents import content_files, ensure_manifest
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import Summary, content_hash, content_sums, read_summary, read_sums
from lse_archive.folder.pruned import day_content, is_pruned, pruned_sums
from lse_archive.folder.reader import may_hold_run
from lse_archive.folder.tombstones import Tombstones, read_tombstones
from lse_archive.layout import DayPaths, Layout
from lse_archive.results import LakeResult
from lse_archive.texts import counted
from lse_archive.zips.day import zip_sums
from lse_archive.zips.inventory import contents_inventory, folder_inventory, shrink_error
from lse_operations.checks import (
    Difference,
    OpenDestination,
    StepCheck,
    differing,
)
from lse_operations.restore.copies import copies
from lse_operations.restore.restore import remove_downloads
from lse_operations.restore.unpack import clear, unpack_day
from lse_resources.destinations.history import ErasedHistory
from lse_resources.lake.manifest import LakeManifest, parse_manifest
from lse_resources.lake.place import FileReader, LakePlace
from lse_resources.lake.raw import read_raw, readable
from lse_resources.lake.schema import SCHEMA, TABLES, manifest_key, table_key
from lse_resources.lake.writer import write_day

_BUILD = "Build the day: lse lake build"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Source:
    """What a day is built from.

    Attributes:
        name: `run files`, `zip`, or the destination.
        content: Content hash of the day; None: known only when it is opened.
        open: Yields the folder of the day's files.
    """

    name: str
    content: str | None
    open: Callable[[], contextlib.AbstractContextManager[Path]]


def build_day(
    place: LakePlace,
    paths: DayPaths,
    open_destination: OpenDestination,
    *,
    workspace: str | None = None,
    allow_shrink: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    on_wait: Callable[[str], None] | None = None,
) -> LakeResult:
    """Replaces the day in the lake by the day's files, or leaves it as it is if it has their content.

    Nothing of the former files stays in the lake's place; a bucket with versions keeps them as former versions.

    Args:
        open_destination: For a day of which neither run files nor zip are here.
        workspace: Id of the LangSmith workspace, for the column `workspace`.
        progress: Called with the number of runs that were read since the last call.
        allow_shrink: The lake may lose runs and other files that the day no longer has.

    Raises:
        ShrinkError: The lake has something that the day's files do not. Not with `allow_shrink`.
        CorruptArchiveError: The day's files are damaged.
        DestinationError: The lake or the destination refuses or cannot be reached.
        ArchiveError: The day is nowhere, or the disk cannot be used.
    """
    began = time.monotonic()
    unusable = disk_errors(f"{paths.project} {paths.day} cannot be written to the lake")
    with unusable, day_lock(paths, on_wait=on_wait):
        source = _source(paths, open_destination)
        manifest = _read_manifest(place, paths, tolerant=True)
        written = source.content is None or not _is_current(place, manifest, source.content)
        if written:
            with source.open() as folder:
                content = content_hash(content_sums(read_sums(folder) or {}))
                if not allow_shrink and not (manifest and manifest.content_sha256 == content):
                    _check_superset(place, paths, folder)
                manifest = write_day(
                    place,
                    paths.project,
                    paths.day,
                    folder,
                    content,
                    workspace=workspace,
                    scratch=paths.lock.parent,
                    progress=progress,
                )
    assert manifest is not None
    tables = manifest.tables
    return LakeResult(
        project=paths.project,
        date=str(paths.day),
        written=written,
        source=source.name,
        runs=tables["runs"].rows,
        feedback=tables["feedback"].rows,
        attachments=tables["attachments"].rows,
        bytes=sum(file.bytes for name, file in tables.items() if name != "raw"),
        raw_bytes=tables["raw"].bytes,
        content_sha256=manifest.content_sha256,
        duration_seconds=round(time.monotonic() - began, 3),
    )


def _source(paths: DayPaths, open_destination: OpenDestination) -> _Source:
    """The nearest place that has the day's files. The caller holds the day's lock."""
    if paths.folder.exists():
        ensure_manifest(paths)
        return _Source("run files", day_content(paths), lambda: contextlib.nullcontext(paths.folder))
    if paths.zip.is_file():
        content = None
        with contextlib.suppress(CorruptArchiveError):  # an older tool's zip, or a damaged one: it is unpacked
            content = content_hash(content_sums(zip_sums(paths.zip)))
        return _Source("zip", content, lambda: _unpacked(paths, paths.zip))
    return _Source("destination", day_content(paths), lambda: _downloaded(paths, open_destination))


@contextlib.contextmanager
def _unpacked(paths: DayPaths, archive: Path) -> Generator[Path]:
    try:
        yield unpack_day(paths, archive).paths.folder
    finally:
        clear(paths)


@contextlib.contextmanager
def _downloaded(paths: DayPaths, open_destination: OpenDestination) -> Generator[Path]:
    with open_destination() as destination:
        layout = Layout(paths.data_dir, paths.archive_dir)
        found = copies(destination, paths.project, paths.day, paths.day, layout=layout)
        if not found:
            raise ArchiveError(
                f"{paths.project} {paths.day} cannot be written to the lake",
                why=f"neither its run files nor its zip are here, and {destination.place} does not have it",
                hint="Fetch the day first: lse archive fetch",
            )
        try:
            paths.archive_dir.mkdir(parents=True, exist_ok=True)
            destination.download(found[0].file, paths.incoming)
            with _unpacked(paths, paths.incoming) as folder:
                yield folder
        finally:
            remove_downloads(paths)


def _read_manifest(place: LakePlace, paths: DayPaths, *, tolerant: bool = False) -> LakeManifest | None:
    """The day's manifest, None if it is not there, or damaged and `tolerant`."""
    key = manifest_key(paths.project, paths.day)
    content = place.read(key)
    try:
        return None if content is None else parse_manifest(content, f"{key} in the lake")
    except CorruptArchiveError:
        if tolerant:
            return None
        raise


def _is_current(place: LakePlace, manifest: LakeManifest | None, content: str) -> bool:
    """Whether the lake has the day with this content, by its manifest and the sizes of its files."""
    if manifest is None or (manifest.content_sha256, manifest.schema) != (content, SCHEMA):
        return False
    found = {file.key: place.stat(file.key) for file in manifest.tables.values()}
    return manifest.tables.keys() == TABLES.keys() and all(
        (there := found[file.key]) and there.bytes == file.bytes for file in manifest.tables.values()
    )


def _check_superset(place: LakePlace, paths: DayPaths, folder: Path) -> None:
    """Checks law 1: the day's files must have what the lake has."""
    what = f"the lake's {paths.project} {paths.day}"
    hint = "Restore the day from the lake: lse archive restore --from lake; --allow-shrink drops the runs"
    try:
        there = contents_inventory(read_raw(place, paths.project, paths.day), read_tombstones(paths))
    except FileNotFoundError:
        return
    except CorruptArchiveError as error:
        hint = "Restore the object's former version; --allow-shrink drops what it may have"
        raise ShrinkError(f"{what} cannot be replaced", why=f"{error.what}: {error.why}", hint=hint) from error
    if lost := there.missing_from(folder_inventory(content_files(folder))):
        raise shrink_error(what, str(folder), lost, hint)


def has_day(place: LakePlace, paths: DayPaths) -> bool:
    """Whether the lake has a file of the day. Raises DestinationError."""
    return any(place.stat(table_key(table, paths.project, paths.day)) for table in TABLES)


def find_in_lake(place: LakePlace, paths: DayPaths, tombstones: Tombstones) -> int:
    """How many rows and files of runs with tombstones the day has in the lake.

    Raises:
        CorruptArchiveError: A file of the day is damaged.
        DestinationError: The lake refuses or cannot be reached.
    """
    found = 0
    for table in TABLES.keys() - {"raw"}:
        key = table_key(table, paths.project, paths.day)
        if place.stat(key) is not None:
            with readable(key):
                rows = parquet.ParquetFile(FileReader(place.version(key))).read(columns=["run_id"])
            found += sum(run_id in tombstones for run_id in rows["run_id"].to_pylist() if run_id)
    with contextlib.suppress(FileNotFoundError):
        found += contents_inventory(read_raw(place, paths.project, paths.day), tombstones).forgotten
    return found


def forget_in_lake(
    place: LakePlace, paths: DayPaths, open_destination: OpenDestination, on_wait: Callable[[str], None]
) -> ErasedHistory:
    """Builds a day of the lake anew, without the runs that its files no longer have, and erases what it was before.

    Raises:
        ArchiveError: See `build_day`.
    """
    if not has_day(place, paths):
        return ErasedHistory()
    build_day(place, paths, open_destination, allow_shrink=True, on_wait=on_wait)
    return place.erase_history(table_key(table, paths.project, paths.day) for table in TABLES)


def check_lake(place: LakePlace, paths: DayPaths, *, detailed: bool = False) -> StepCheck:
    """`lake_matches_files`: the day in the lake against its manifest there and against the day's checksums.

    The Parquet files are hashed, without `raw`, of which only the size is compared; and the ids and hashes of all runs
    are compared with the checksums.

    Args:
        detailed: Read `raw`, too, and compare the content of each file with its checksum.
    """
    name = "lake_matches_files"
    try:
        manifest = _read_manifest(place, paths)
        if manifest is None:
            return StepCheck(name, "unproven", "the lake does not have the day", _BUILD)
        content = day_content(paths)
        if content is not None and manifest.content_sha256 != content:
            row = Difference("the day", "content", content, manifest.content_sha256)
            return differing(name, "the lake has another content of the day", _BUILD, [row])
        rows = list(_differing_files(place, manifest, detailed=detailed))
        if not rows and content is not None:
            summary = read_summary(paths.pruned if is_pruned(paths) else paths.folder)
            sums = pruned_sums(paths) if is_pruned(paths) else read_sums(paths.folder) or {}
            rows = list(_differing_runs(place, paths, sums, summary))
            if detailed:
                rows += _differing_contents(place, paths, sums)
    except FileNotFoundError as error:
        return differing(name, "the lake lacks a file of the day", _BUILD, [Difference(str(error), "missing")])
    except CorruptArchiveError as error:
        return differing(name, error.what, error.hint or _BUILD, [Difference("the day", error.why)])
    except DestinationError as error:
        return StepCheck(name, "unknown", error.what, error.hint, 1, (Difference("the lake", error.why),))
    if rows:
        return differing(name, f"the lake and the files differ in {counted(len(rows), 'place')}", _BUILD, rows)
    runs = counted(manifest.tables["runs"].rows, "run agrees", "runs agree")
    return StepCheck(name, "agrees", f"{runs} in the lake and its manifest" + (", raw files too" if detailed else ""))


def _differing_files(place: LakePlace, manifest: LakeManifest, *, detailed: bool) -> Generator[Difference]:
    for name, file in manifest.tables.items():
        there = place.stat(file.key)
        if there is None:
            yield Difference(file.key, "missing")
        elif there.bytes != file.bytes:
            yield Difference(file.key, "bytes", str(file.bytes), str(there.bytes))
        elif name != "raw" or detailed:
            digest = hashlib.sha256()
            stream = FileReader(place.version(file.key))
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
            if digest.hexdigest() != file.sha256:
                yield Difference(file.key, "changed", file.sha256, digest.hexdigest())


def _differing_runs(
    place: LakePlace, paths: DayPaths, sums: Mapping[str, bytes], summary: Summary | None
) -> Generator[Difference]:
    left_out = set(summary.unfit_files) if summary else set()
    expected = {digest: name for name, digest in sums.items() if may_hold_run(name) and name not in left_out}
    key = table_key("runs", paths.project, paths.day)
    with readable(key):
        table = parquet.ParquetFile(FileReader(place.version(key))).read(columns=["run_id", "file_sha256"]).to_pydict()
    for run_id, digest in zip(table["run_id"], table["file_sha256"], strict=True):
        if expected.pop(digest, None) is None:
            yield Difference(run_id, "no file has the content of its row", "", digest.hex())
    for digest, name in expected.items():
        yield Difference(name, "missing in the lake", digest.hex())


def _differing_contents(place: LakePlace, paths: DayPaths, sums: Mapping[str, bytes]) -> Generator[Difference]:
    expected = dict(content_sums(sums))
    for name, pieces in read_raw(place, paths.project, paths.day):
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        if name in expected and (known := expected.pop(name)) != digest.digest():
            yield Difference(name, "changed in the lake's raw", known.hex(), digest.hexdigest())
    for name, digest in expected.items():
        yield Difference(name, "missing in the lake's raw", digest.hex())
