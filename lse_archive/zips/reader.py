"""Reads the files of a zip, the short ones without a file object each, which is faster."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

import deflate

from lse_archive.folder.manifest import SUMS

# Signature, lengths of the name and of the extra field: PKWARE's APPNOTE.TXT, 4.3.7.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"
_LONG_BYTES = 16 << 20
_UTF8 = 0x800
# The level of deflate, sizes after the content, a name in UTF-8; `zipfile` handles all other flags.
_PLAIN_FLAGS = 0x2 | 0x4 | 0x8 | _UTF8
_CHUNK = 1 << 20

BROKEN = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, zlib.error)
"""What the standard library raises for a damaged zip, depending on the damaged bytes."""


@contextlib.contextmanager
def opened(file: Path | IO[bytes]) -> Generator[zipfile.ZipFile]:
    """Opens a zip, and checks that no file starts before its beginning. Its names are normalized.

    Raises:
        BROKEN: It is no zip, or damaged.
    """
    if not isinstance(file, Path):
        file.flush()  # short files are read without its buffer
    with zipfile.ZipFile(file) as archive:
        if any(info.header_offset < 0 for info in archive.infolist()):
            raise zipfile.BadZipFile("its beginning is missing")
        normalize_names(archive)
        yield archive


def normalize_names(archive: zipfile.ZipFile) -> None:
    """Changes the names of a zip's files to those that every check uses, however the writing tool spelled them.

    - A path has no parts that lead nowhere: `./a//b` is `a/b`. A part `..` and a slash at the beginning stay.
    - "/" separates its parts (PKWARE's APPNOTE.TXT, 4.4.17). If no such path leads to a `SUMS`, "\\" separates them
      too: tools of Windows write it, on whose file systems it is in no name.
    - With a `SUMS` at such a path, a name that is not marked as UTF-8 is the name on disk, byte for byte: `write_zip`
      stores it so. `zipfile` reads such names as cp437, which older tools used.
    """
    is_from_here = has_checksums(archive)
    for info in archive.infolist():
        name = info.filename
        if not is_from_here:
            name = name.replace("\\", "/")
        elif not (info.flag_bits & _UTF8 or name.isascii()):
            name = os.fsdecode(name.encode("cp437"))
        *folders, last = name.split("/")
        path = "/".join([*(part for part in folders if part not in ("", ".")), last])
        info.filename = f"/{path}" if name.startswith("/") else path or "./"


def has_checksums(archive: zipfile.ZipFile) -> bool:
    """Whether the zip holds a `SUMS`; zips of older tools do not."""
    return any(file_name(info) == SUMS for info in archive.infolist())


def file_name(info: zipfile.ZipInfo) -> str:
    """The name of a file without its folders."""
    return info.filename.rpartition("/")[2]


def sha256(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The digest of a file; its name, size and CRC are checked as `zipfile` does.

    Raises:
        BROKEN: The file is damaged.
        OSError: The zip cannot be read.
    """
    digest = hashlib.sha256()
    for piece in contents(archive, info):
        digest.update(piece)
    return digest.digest()


def contents(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes | bytearray]:
    """A file's content in pieces, at most the size in the directory; a short file is one piece.

    Raises:
        BROKEN: The file is damaged.
        OSError: The zip cannot be read.
    """
    is_short = max(info.file_size, info.compress_size) <= _LONG_BYTES
    if is_short and info.compress_type == zipfile.ZIP_DEFLATED and not info.flag_bits & ~_PLAIN_FLAGS:
        yield _short(archive, info)
        return
    with archive.open(info) as entry:
        while chunk := entry.read(_CHUNK):
            yield chunk


def _short(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    assert archive.fp is not None
    descriptor = archive.fp.fileno()
    header = os.pread(descriptor, _LOCAL_HEADER.size, info.header_offset)
    if len(header) < _LOCAL_HEADER.size:
        raise zipfile.BadZipFile(f"it ends within {info.filename!r}")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size
    # One read for the name, the extra field and the content.
    rest = os.pread(descriptor, name_length + extra_length + info.compress_size, start)
    name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    if signature != _SIGNATURE or rest[:name_length] != name:
        raise zipfile.BadZipFile(f"its directory and the header of {info.filename!r} differ")
    try:
        content = deflate.deflate_decompress(rest[name_length + extra_length :], info.file_size)
    except deflate.DeflateError as error:
        raise zipfile.BadZipFile(f"{info.filename!r} cannot be decompressed to its recorded size") from error
    if len(content) != info.file_size or deflate.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename!r} differs from its recorded size or CRC")
    return content
