"""Gives a folder that has no manifest (an older tool's) its summary and checksums; run files stay untouched."""

from __future__ import annotations

import hashlib

from lse_archive.errors import ArchiveError
from lse_archive.folder import RunFile, read_folder
from lse_archive.layout import DayPaths
from lse_archive.manifest import (
    SUMMARY,
    SUMS,
    Summary,
    Tally,
    content_hash,
    content_sums,
    encode_summary,
    read_summary,
    read_sums,
    sums_lines,
)
from lse_archive.publish import publish_file
from lse_archive.union import other_files


def require_folder(paths: DayPaths) -> None:
    """Returns if the day's run files are there.

    Raises:
        ArchiveError: They are not.
    """
    if not paths.folder.is_dir():
        raise ArchiveError(
            f"{paths.project} {paths.day} has no run files",
            why=f"there is no folder {paths.folder}",
            todo="Fetch the day first: lse archive fetch",
        )


def sealed_summary(paths: DayPaths) -> Summary:
    """The day's summary; a folder without a manifest gets one first.

    The caller holds the day's lock.

    Raises:
        ArchiveError: There is no folder.
        CorruptArchiveError: The manifest is there and cannot be read.
    """
    require_folder(paths)
    summary, sums = read_summary(paths.folder), read_sums(paths.folder)
    if summary is not None and sums is not None:
        return summary
    found: dict[str, bytes] = {}
    unfit = []
    tally = Tally(paths.day)
    for file in read_folder(paths.folder, paths.day):
        found[file.name] = file.sha256
        if isinstance(file, RunFile):
            tally.add(file.facts, file.size)
        else:
            unfit.append(file.name)
    for path in other_files(paths.folder):
        found[path.name] = hashlib.sha256(path.read_bytes()).digest()
        unfit.append(path.name)
    ordered = content_sums(found)
    summary = tally.summary(paths.project, content_hash(ordered), unfit)
    encoded = encode_summary(summary)
    with publish_file(paths.folder / SUMMARY) as file:
        file.write(encoded)
    with publish_file(paths.folder / SUMS) as file:
        file.writelines(sums_lines(encoded, ordered))
    return summary
