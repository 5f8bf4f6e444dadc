"""The contents of a day's folder: its files, its manifest, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError
from lse_archive.files import file_digest, publish_file
from lse_archive.folder.manifest import (
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
from lse_archive.folder.opened import Folder, open_folder
from lse_archive.folder.pruned import require_restored
from lse_archive.folder.reader import RunFile, file_digests, may_hold_run, read_folder, run_file_names
from lse_archive.layout import DayPaths


def require_folder(paths: DayPaths) -> None:
    """Returns if the day's folder exists.

    Raises:
        PrunedDayError: The run files were pruned.
        ArchiveError: There is no folder.
    """
    require_restored(paths)
    try:
        with open_folder(paths.folder):
            return
    except (FileNotFoundError, NotADirectoryError):
        raise ArchiveError(
            f"{paths.project} {paths.day} has no run files",
            why=f"there is no folder {paths.folder}",
            hint="Fetch the day first: lse archive fetch",
        ) from None


def ensure_manifest(paths: DayPaths) -> Summary:
    """Returns the day's summary; first writes what the folder (an older tool's) lacks of the manifest.

    The caller holds the day's lock.

    Raises:
        ArchiveError: There is no folder.
        CorruptArchiveError: The manifest cannot be read, or one of its two files is missing and the other differs from
            the folder.
    """
    require_folder(paths)
    summary, sums = read_summary(paths.folder), read_sums(paths.folder)
    if summary is not None and sums is not None:
        return summary
    found: dict[str, bytes] = {}
    invalid = []
    tally = Tally(paths.day)
    for file in read_folder(paths.folder, paths.day):
        found[file.name] = file.sha256
        if isinstance(file, RunFile):
            tally.add(file.header, file.size)
        else:
            invalid.append(file.name)
    for path in other_files(paths.folder):
        found[path.name] = file_digest(path)
        invalid.append(path.name)
    ordered = content_sums(found)
    content = content_hash(ordered)
    if sums is not None and content_sums(sums) != ordered:
        raise _changed(paths, differs_from=SUMS, missing=SUMMARY)
    if summary is not None and summary.content_sha256 != content:
        raise _changed(paths, differs_from=SUMMARY, missing=SUMS)
    if summary is not None:  # it names what the files do not: for example which runs are missing
        encoded = (paths.folder / SUMMARY).read_bytes()
    else:
        summary = tally.summary(paths.project, content, invalid)
        encoded = encode_summary(summary)
        with publish_file(paths.folder / SUMMARY) as file:
            file.write(encoded)
    with publish_file(paths.folder / SUMS) as file:
        file.writelines(sums_lines(encoded, ordered))
    return summary


def _changed(paths: DayPaths, *, differs_from: str, missing: str) -> CorruptArchiveError:
    return CorruptArchiveError(
        f"{paths.folder} differs from its {differs_from}",
        why=f"its {missing} is missing, and other files are missing or changed too",
        hint="Restore the day from its zip or from Drive",
    )


def other_files(folder: Path | Folder) -> list[Path]:
    """The folder's files that hold no run and are not the manifest, sorted; without hidden files.

    Raises:
        ArchiveConflictError: The folder holds another folder.
    """
    with open_folder(folder) as opened:
        others = []
        for name, is_file in opened.entries():
            if may_hold_run(name) or name in (SUMMARY, SUMS) or name.startswith("."):
                continue
            if not is_file:
                raise ArchiveConflictError(
                    f"{opened.path} cannot be replaced",
                    why=f"it holds the folder '{name}'",
                    hint="Move that folder away",
                )
            others.append(opened.path / name)
        return others


def content_files(folder: Path | Folder) -> list[Path]:
    """All files of a day's folder except its manifest and hidden files. Raises as `other_files`."""
    with open_folder(folder) as opened:
        return [*(opened.path / name for name in run_file_names(opened)), *other_files(opened)]


def unrecorded(folder: Path, sums: Mapping[str, bytes]) -> list[str]:
    """The names in a day's folder that its checksums do not list, sorted; without hidden ones."""
    names = {path.name for path in folder.iterdir()} - sums.keys() - {SUMMARY, SUMS}
    return sorted(name for name in names if not name.startswith("."))


def is_as_recorded(folder: Path | Folder) -> bool:
    """Whether the folder has exactly the files, by name and content, that its checksums list."""
    with open_folder(folder) as opened:
        sums = read_sums(opened) or {}
        recorded = dict(content_sums(sums))
        if not is_summary_as_recorded(opened, sums):
            return False
        names = {path.name for path in content_files(opened)}
        return names == recorded.keys() and all(
            recorded[name] == digest for name, digest in file_digests(opened, recorded)
        )


def is_summary_as_recorded(folder: Path | Folder, sums: Mapping[str, bytes]) -> bool:
    """Whether the summary has the checksum that `sums` lists for it; True if they list none."""
    if SUMMARY not in sums:
        return True
    try:
        return all(digest == sums[SUMMARY] for _, digest in file_digests(folder, [SUMMARY]))
    except FileNotFoundError:
        return False
