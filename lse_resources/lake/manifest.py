"""The manifest of a day in the lake: which files the day has, and of which content they were made."""

from __future__ import annotations

import msgspec

from lse_archive.errors import UNDECODABLE, CorruptArchiveError
from lse_archive.folder.manifest import TOOL
from lse_resources.lake.schema import SCHEMA


class LakeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A table's file: its key in the lake, its rows, its size and SHA-256."""

    key: str
    rows: int
    bytes: int
    sha256: str


class LakeManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a day's `_manifest.json`.

    Attributes:
        content_sha256: Identity of the day whose files the tables were made of, see `content_hash`.
        tables: By name, see `lse_resources.lake.schema.TABLES`.
        schema: Version of the tables' columns.
    """

    project: str
    run_date: str
    content_sha256: str
    tables: dict[str, LakeFile]
    schema: int = SCHEMA
    tool: str = TOOL


def encode_manifest(manifest: LakeManifest) -> bytes:
    """The bytes of `_manifest.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def parse_manifest(content: bytes, origin: str) -> LakeManifest:
    """Reads a `_manifest.json`; `origin` is named in the error.

    Raises:
        CorruptArchiveError: It is not a manifest.
    """
    try:
        return msgspec.json.decode(content, type=LakeManifest)
    except UNDECODABLE as error:
        raise CorruptArchiveError(
            f"{origin} is damaged", why=str(error), hint="Build the day again: lse lake build"
        ) from error
