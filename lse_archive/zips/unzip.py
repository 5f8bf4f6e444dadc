"""Extracts a day archive that is not trusted: refuses hostile or malformed zips, with the reason."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import day_window
from lse_archive.errors import ArchiveError, CorruptArchiveError, RefusedArchiveError
from lse_archive.folder.manifest import (
    SUMMARY,
    SUMS,
    Summary,
    content_hash,
    content_sums,
    parse_summary,
    parse_sums,
)
from lse_archive.folder.reader import may_hold_run
from lse_archive.runs.header import RunHeader, unwrap
from lse_archive.runs.scanner import NotARunError
from lse_archive.zips.reader import BROKEN, contents, file_name, has_checksums, opened

_LOCAL_HEADER_BYTES = 30
_NAME_BYTES = 255
# The end record with the longest comment, and the two of zip64 before it.
_TAIL_BYTES = 22 + 0xFFFF + 20 + 56
IN_MEMORY_BYTES = 512 << 20
"""The most that is read of one file into memory; the checksums of a million runs have 120 MB."""
# For archives without a manifest; deflate makes JSON 5 to 30 times smaller, and at most 1,032 times.
_PLAIN_RATIO = 200
_PLAIN_BYTES = 64 << 20
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))])


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of an archive, by its own manifest and directory.

    Attributes:
        sums: The checksums in it; None for an older tool's archive.
        summary: The summary in it; None for an older tool's archive. Without `sums`, its content hash is not checked
            yet.
        files: Files in it.
        bytes: Their size.
        hidden: Files of desktops (`.DS_Store`, `__MACOSX/…`) that are not extracted.
    """

    sums: dict[str, bytes] | None
    summary: Summary | None
    files: int
    bytes: int
    hidden: tuple[str, ...]


def extract(source: Path, target: Path, *, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Contents:
    """Writes an archive's files into a new folder, flat.

    Sizes are enforced while reading: the directory of the zip is not trusted. A `_summary.json` of another tool is
    written as `_summary.original.json`.

    Args:
        progress: Called with (done, total), in files.

    Raises:
        RefusedArchiveError: It is hostile or no day archive. Nothing was written outside `target`.
        CorruptArchiveError: It cannot be read.
        ArchiveError: It does not fit on the disk.
    """
    with _opened(source) as archive:
        entries, found = inspect(archive, source)
        if found.bytes > shutil.disk_usage(_existing_parent(target)).free:
            raise ArchiveError(f"{source.name} does not fit on the disk", why=f"it holds {found.bytes:,} bytes")
        target.mkdir(parents=True)
        directory = os.open(target, os.O_RDONLY)
        try:
            for done, (info, name) in enumerate(entries, 1):
                if found.summary is None and name == SUMMARY:
                    name = f"{Path(SUMMARY).stem}.original.json"
                _write(archive, info, name, directory, source)
                progress(done, len(entries))
        finally:
            os.close(directory)
    return found


@contextlib.contextmanager
def _opened(source: Path) -> Generator[zipfile.ZipFile]:
    try:
        with opened(source) as archive:
            yield archive
    except BROKEN as error:
        raise CorruptArchiveError(
            f"{source.name} is damaged", why=str(error) or type(error).__name__, hint="Nothing was restored"
        ) from error


def inspect(archive: zipfile.ZipFile, source: Path) -> tuple[list[tuple[zipfile.ZipInfo, str]], Contents]:
    """The files of an archive with their names on disk, and what its manifest says: what a restore accepts.

    `extract` starts with it, and so does `check_zip`: what cannot be restored is not written, uploaded or pruned.
    The contents of the files are not read.

    Args:
        archive: From `opened`.
        source: Named in errors.

    Raises:
        RefusedArchiveError: It is hostile, or its files are not those of its manifest.
        CorruptArchiveError: Its directory or manifest cannot be read.
    """
    assert archive.fp is not None
    size = os.fstat(archive.fp.fileno()).st_size
    if len(archive.infolist()) != (announced := _announced(archive.fp.fileno(), size)):
        raise CorruptArchiveError(
            f"{source.name} is damaged", why=f"its directory has {len(archive.infolist())} of {announced} entries"
        )
    entries, hidden, foreign = [], [], not has_checksums(archive)
    for info in archive.infolist():
        _check_entry(info, source, foreign=foreign)
        if info.is_dir():
            continue
        if info.filename.startswith("__MACOSX/") or file_name(info).startswith("."):
            hidden.append(info.filename)
        else:
            entries.append(info)
    check_overlaps(entries, size, source)
    named = _flat(entries, source)
    by_name = {name: info for info, name in named}
    total = sum(info.file_size for info in entries)
    sums = summary = None
    if SUMS in by_name:
        sums = parse_sums(_manifest(archive, by_name[SUMS], source), source)
        if SUMMARY not in by_name or set(by_name) != {*sums, SUMS}:
            differing = sorted(set(by_name) ^ {*sums, SUMS, SUMMARY})
            raise RefusedArchiveError(
                f"{source.name} is refused", why=f"its files are not those of its {SUMS}: {_shown(differing[0])}"
            )
        summary = parse_summary(_manifest(archive, by_name[SUMMARY], source), source)
        _check_summary(summary, sums, by_name, source)
    elif total > max(_PLAIN_BYTES, _PLAIN_RATIO * size):
        raise RefusedArchiveError(f"{source.name} is refused", why=f"its {size:,} bytes would extract to {total:,}")
    elif SUMMARY in by_name:
        with contextlib.suppress(CorruptArchiveError):  # it is another tool's
            summary = parse_summary(_manifest(archive, by_name[SUMMARY], source), source)
    return named, Contents(sums, summary, len(named), total, tuple(hidden))


def _announced(descriptor: int, size: int) -> int:
    """The number of entries in the zip's end record (PKWARE's APPNOTE.TXT, 4.3.14 and 4.3.16); `zipfile` ignores it."""
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    end = tail.rfind(b"PK\x05\x06")
    count = int.from_bytes(tail[end + 10 : end + 12], "little")
    if count < 0xFFFF:
        return count
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    return count if wide < 0 else int.from_bytes(tail[wide + 32 : wide + 40], "little")


def _check_entry(info: zipfile.ZipInfo, source: Path, *, foreign: bool) -> None:
    # Drives and devices mean something on Windows alone, where LSE does not run. In a zip with checksums they are names
    # of a folder on a system like this one; an older tool's zip may be from Windows.
    parts = info.filename.removesuffix("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    allowed_kinds = (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG)
    refusals = [
        ("\0" in info.orig_filename or not info.orig_filename, "a truncated name"),
        (info.filename.startswith("/") or (foreign and _DRIVE.match(info.filename)), "an absolute name"),
        (".." in parts or (parts[-1] == "." and not info.is_dir()), "a name that leads out of its folder"),
        (foreign and any(_is_device(part) for part in parts), "the name of a device"),
        (any(len(os.fsencode(part)) > _NAME_BYTES for part in parts), "a name that is too long"),
        (stat.S_ISLNK(kind), "a link"),
        (kind not in allowed_kinds, "an entry that is no file"),
        (info.flag_bits & _ENCRYPTED, "an encrypted file"),
        (info.compress_type not in _METHODS, f"a file in the unsupported compression {info.compress_type}"),
    ]
    for applies, reason in refusals:
        if applies:
            raise RefusedArchiveError(f"{source.name} is refused", why=f"it holds {reason}: {_shown(info.filename)}")


def check_overlaps(entries: Sequence[zipfile.ZipInfo], size: int, source: Path) -> None:
    """Refuses overlapping files: with them a small zip can extract to any size. Raises RefusedArchiveError."""
    after = 0
    for info in sorted(entries, key=lambda entry: entry.header_offset):
        if info.header_offset < after or info.header_offset + info.compress_size > size:
            raise RefusedArchiveError(
                f"{source.name} is refused", why=f"the position of {_shown(info.filename)} is false: files overlap"
            )
        after = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size


def _flat(entries: Sequence[zipfile.ZipInfo], source: Path) -> list[tuple[zipfile.ZipInfo, str]]:
    """The entries with their names without the folder; older tools put one folder around all files."""
    folders = {info.filename.rpartition("/")[0] for info in entries}
    if len(folders) > 1:
        first, second = sorted(folders)[:2]
        raise RefusedArchiveError(
            f"{source.name} is refused", why=f"it holds several folders: {_shown(first)}, {_shown(second)}"
        )
    named = [(info, file_name(info)) for info in entries]
    names = set()
    for _, name in named:
        if name in names:
            raise RefusedArchiveError(f"{source.name} is refused", why=f"it holds {_shown(name)} twice")
        names.add(name)
        meant = name.casefold().rstrip(". ")
        if meant in (SUMMARY, SUMS) and name != meant:
            raise RefusedArchiveError(
                f"{source.name} is refused",
                why=f"its {_shown(name)} is not named {meant}: the tool that wrote it changes names",
                hint="Zip the day again with a tool that keeps names as they are",
            )
    return named


def _check_summary(summary: Summary, sums: dict[str, bytes], by_name: dict[str, zipfile.ZipInfo], source: Path) -> None:
    unfit = set(summary.unfit_files)
    runs = sum(info.file_size for name, info in by_name.items() if may_hold_run(name) and name not in unfit)
    if runs != summary.bytes:
        raise RefusedArchiveError(
            f"{source.name} is refused", why=f"its runs have {runs:,} bytes, by its summary {summary.bytes:,}"
        )
    if summary.content_sha256 != content_hash(content_sums(sums)):
        raise RefusedArchiveError(
            f"{source.name} is refused", why=f"the content hash of its {SUMMARY} is not that of its {SUMS}"
        )


def _manifest(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> bytes:
    if info.file_size > IN_MEMORY_BYTES:
        raise RefusedArchiveError(f"{source.name} is refused", why=f"its {info.filename} is {info.file_size:,} bytes")
    with archive.open(info) as entry:
        return entry.read(IN_MEMORY_BYTES)


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, directory: int, source: Path) -> None:
    written = 0
    # O_EXCL: two entries must not become one file, for example on a case-insensitive file system.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o666, dir_fd=directory)
    try:
        for piece in contents(archive, info):
            written += len(piece)
            if written > info.file_size:
                break
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    if written != info.file_size:
        raise CorruptArchiveError(
            f"{source.name} is damaged", why=f"{_shown(info.filename)} does not have the size in its directory"
        )


def _is_device(name: str) -> bool:
    return name.partition(".")[0].rstrip(" ").lower() in _DEVICES


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _shown(name: str) -> str:
    return repr(name[:80])


def zip_runs(source: Path, day: date) -> Iterator[tuple[RunHeader, bytes]]:
    """The runs of a day's zip, each with its JSON; what holds no run of the day is left out.

    Raises:
        RefusedArchiveError: It is hostile or no day archive.
        CorruptArchiveError: It cannot be read to the end.
    """
    window = day_window(day)
    with _opened(source) as archive:
        for info, name in inspect(archive, source)[0]:
            if may_hold_run(name):
                with contextlib.suppress(NotARunError):
                    document, header = unwrap(b"".join(contents(archive, info)))
                    if header.start in window:
                        yield header, document
