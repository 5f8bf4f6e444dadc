"""Imports run files of older tools into the UTC days of their runs. It changes no original and no archived run."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import NoReturn

import msgspec

from lse_archive.days import FIRST_DAY, day_of, require_past
from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, UsageError
from lse_archive.files import disk_errors, file_digest
from lse_archive.folder.attachments import (
    ATTACHMENTS,
    Attachment,
    attachment_file,
    attachment_lines,
    read_attachments,
    shown_name,
)
from lse_archive.folder.contents import content_files, ensure_manifest, is_as_recorded
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import (
    SUMMARY,
    SUMS,
    FeedbackSummary,
    content_sums,
    read_summary,
    read_sums,
    require_own,
    write_manifest,
)
from lse_archive.folder.pruned import is_pruned, require_restored
from lse_archive.folder.reader import InvalidFile, RunFile, read_folder, run_file_name
from lse_archive.folder.state import now_text, publish_day
from lse_archive.folder.tombstones import FORGOTTEN, read_tombstones
from lse_archive.layout import DayPaths, Layout
from lse_archive.results import ImportResult
from lse_archive.runs.header import unwrap
from lse_archive.runs.scanner import NotARunError
from lse_operations.restore.unpack import clear


@dataclass(frozen=True, slots=True)
class Candidate:
    """An older file with a run. Of several for one run, a finished one is used, then the youngest."""

    path: Path
    run_id: str
    day: date
    name: str
    sha256: bytes
    rank: tuple[bool, int, str]


@dataclass
class Survey:
    """The older files of a directory.

    Attributes:
        days: The files to import, by UTC day and run id.
        files: Number of files that were read.
        repeated: Number of files whose run another file holds in the same or a newer state.
        invalid: `path: reason` of files that hold no run.
        unread: `path: reason` of links and special files: they may hold runs.
        others: `path: reason` of other files and folders that were not read, without the manifests of older archives.
        attachments: The attachments that the folders of the files list, and their files, by run id.
    """

    days: dict[date, dict[str, Candidate]] = field(default_factory=dict)
    files: int = 0
    repeated: int = 0
    invalid: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    attachments: dict[str, list[tuple[Attachment, Path]]] = field(default_factory=dict)


def survey(directory: Path, *, progress: Callable[[int], None] = lambda _: None) -> Survey:
    """Reads every `*.json` below a directory, upper or lower case, except in hidden folders; links are not followed.

    Raises:
        UsageError: There is no such directory.
        ArchiveError: A file or a folder cannot be read.
    """
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}")
    found = Survey()
    best: dict[str, Candidate] = {}  # by run: files of one run may have different days
    for path in _json_files(directory, found):
        found.files += 1
        progress(found.files)
        try:
            content, touched = path.read_bytes(), path.stat().st_mtime_ns
            header = unwrap(content)[1]
        except NotARunError as reason:
            found.invalid.append(f"{path.relative_to(directory)}: {reason}")
            continue
        except OSError as error:
            raise ArchiveError(f"cannot read {path}", why=error.strerror or str(error)) from error
        rank = (header.end is not None, touched, str(path))
        digest = hashlib.sha256(content).digest()
        candidate = Candidate(path, header.run_id, day_of(header.start), run_file_name(header), digest, rank)
        if other := best.get(header.run_id):
            found.repeated += 1
            candidate = max(candidate, other, key=lambda one: one.rank)
        best[header.run_id] = candidate
    for candidate in best.values():
        found.days.setdefault(candidate.day, {})[candidate.run_id] = candidate
    return found


def _json_files(directory: Path, found: Survey) -> Iterator[Path]:
    """The files to read. All others are listed in `found`: a person may delete the originals."""
    for parent, folders, names in os.walk(directory, onerror=_cannot_be_read):
        subfolders = set(folders)
        folders.clear()
        attached = {ATTACHMENTS}
        for one in read_attachments(Path(parent)) if ATTACHMENTS in names else ():
            attached.add(file := attachment_file(one.sha256))
            found.attachments.setdefault(one.run_id, []).append((one, Path(parent, file)))
        for name in sorted([*subfolders, *names]):
            path = Path(parent, name)
            if path.is_symlink() or not (name in subfolders or path.is_file()):
                found.unread.append(f"{path.relative_to(directory)}: a link or special file is not followed")
            elif name in attached:
                continue
            elif reason := _not_a_run_file(name, is_folder=name in subfolders):
                found.others.append(f"{path.relative_to(directory)}: {reason}")
            elif name in subfolders:
                folders.append(name)
            elif name not in (SUMMARY, SUMS):
                yield path


def _not_a_run_file(name: str, *, is_folder: bool) -> str:
    """Why a file or folder of this name is not read; empty if it is, or if it is a manifest."""
    if name.startswith("."):
        return "it is hidden"
    if is_folder or name in (SUMMARY, SUMS):
        return ""
    if name.startswith("_"):
        return "its name starts with _"
    return "" if name.lower().endswith(".json") else "its name does not end in .json"


def _cannot_be_read(error: OSError) -> NoReturn:
    # Skipping it would lose its runs when the originals are deleted.
    raise ArchiveError(f"cannot read {error.filename}", why=error.strerror or str(error)) from error


def import_day(
    layout: Layout,
    project: str,
    day: date,
    runs: dict[str, Candidate],
    attachments: Mapping[str, Sequence[tuple[Attachment, Path]]] | None = None,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    on_wait: Callable[[str], None] | None = None,
) -> ImportResult:
    """Publishes the union of a day's folder with older files; runs that the folder has do not change.

    Args:
        runs, attachments: The older files by run id, see `survey`.
        dry_run: Return what would be done, and write nothing.
        progress: Called with (new files copied, new files in total).

    Raises:
        CorruptArchiveError: The day's folder differs from its checksums, or an attachment from its own.
        PrunedDayError: The day must be restored first.
        ArchiveConflictError: A file of the folder has the name of another run, or the folder is another project's.
        ArchiveError: It cannot be written.
    """
    began = time.monotonic()
    paths = layout.day(project, day)
    result = ImportResult(project=project, date=str(day), action="refused")
    try:
        require_past(day)
    except UsageError as error:
        result.why = error.why if day < FIRST_DAY else "the day is not over, in UTC"
        return result
    if dry_run:
        _compare(paths, runs, attachments or {}, result)
    else:
        what = f"{project} {day} cannot be written under {paths.data_dir}"
        hint = "Free disk space or fix the permissions; nothing was published in part"
        with disk_errors(what, hint), day_lock(paths, on_wait=on_wait):
            clear(paths)
            require_restored(paths)
            new, attached = _compare(paths, runs, attachments or {}, result)
            if new or attached:
                _publish(paths, new, attached, progress)
                result.action = "updated" if result.action == "would update" else "created"
            clear(paths)
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def _compare(
    paths: DayPaths,
    runs: dict[str, Candidate],
    attachments: Mapping[str, Sequence[tuple[Attachment, Path]]],
    result: ImportResult,
) -> tuple[dict[str, Candidate], list[tuple[Attachment, Path]]]:
    """Sets the counts of the result; returns the runs and the attachments that the day does not have."""
    for folder in (paths.folder, paths.pruned):
        require_own(folder, paths.project)
    tombstones = read_tombstones(paths)
    result.forgotten = sum(run in tombstones for run in runs)
    runs = {run: candidate for run, candidate in runs.items() if run not in tombstones}
    if not runs:
        result.action, result.why = "unchanged", "its runs were erased on purpose"
        return {}, []
    if is_pruned(paths):
        result.why = "the day was pruned: restore it first"
        return {}, []
    listed = {(one.run_id, one.name) for one in read_attachments(paths.folder)}
    attached = {(one.run_id, one.name): (one, path) for run in runs for one, path in attachments.get(run, ())}
    added = [one for key, one in attached.items() if key not in listed]
    result.attachments = len(added)
    if not paths.folder.is_dir():
        result.action, result.added, result.runs = "would create", len(runs), len(runs)
        return runs, added
    if read_sums(paths.folder) is not None and not is_as_recorded(paths.folder):
        raise CorruptArchiveError(
            f"{paths.folder} differs from its checksums", hint="Restore the day, then import again"
        )
    here = {
        file.header.run_id: file.sha256 for file in read_folder(paths.folder, paths.day) if isinstance(file, RunFile)
    }
    new = {run: candidate for run, candidate in runs.items() if run not in here}
    result.present = len(runs) - len(new)
    result.differing = sorted(run for run, one in runs.items() if run in here and here[run] != one.sha256)
    result.added, result.runs = len(new), len(here) + len(new)
    result.action = "would update" if new or added else "unchanged"
    return new, added


def _publish(
    paths: DayPaths,
    new: dict[str, Candidate],
    attachments: Sequence[tuple[Attachment, Path]],
    progress: Callable[[int, int], None],
) -> None:
    draft = replace(paths, data_dir=paths.restoring)
    draft.folder.mkdir(parents=True)
    before = read_summary(paths.folder) if paths.folder.is_dir() else None
    if paths.folder.is_dir():
        for path in content_files(paths.folder):
            shutil.copy2(path, draft.folder / path.name)
    if tombstones := read_tombstones(paths):
        (draft.folder / FORGOTTEN).write_bytes(b"".join(tombstones.lines()))
    for number, candidate in enumerate(new.values(), 1):
        content = candidate.path.read_bytes()
        if hashlib.sha256(content).digest() != candidate.sha256:
            raise ArchiveConflictError(f"{candidate.path} changed while it was imported", hint="Import again")
        try:
            with (draft.folder / candidate.name).open("xb") as file:
                file.write(content)
        except FileExistsError:
            raise ArchiveConflictError(
                f"{paths.folder / candidate.name} does not hold the run in its name",
                hint="Move it out of the folder, and import again",
            ) from None
        progress(number, len(new))
    listed = _add_attachments(draft.folder, attachments)
    invalid = [file.name for file in read_folder(draft.folder, paths.day) if isinstance(file, InvalidFile)]
    if lost := {one.name for one in new.values()} & set(invalid):
        raise CorruptArchiveError(
            f"{min(lost)} of {paths.project} {paths.day} cannot be imported", why="it holds no run of the day"
        )
    summary = ensure_manifest(draft)
    if before is not None:
        summary = msgspec.structs.replace(
            summary,
            langsmith_project_id=before.langsmith_project_id,
            langsmith_count=before.langsmith_count,
            api=before.api,
            tool=before.tool,
            incomplete=[item for item in before.incomplete if item not in new],
            **msgspec.structs.asdict(FeedbackSummary.of(before)),
            attachments=None if before.attachments is None else len(listed),
            attachments_missing=[
                one for one in before.attachments_missing if (one.run_id, one.name) not in _shown(listed)
            ],
        )
    size = sum({one.sha256: one.size for one in listed}.values())
    summary = msgspec.structs.replace(summary, attachment_bytes=size, changed_at=now_text())
    write_manifest(draft.folder, summary, content_sums(read_sums(draft.folder) or {}))
    publish_day(paths, draft.folder)


def _add_attachments(folder: Path, added: Iterable[tuple[Attachment, Path]]) -> list[Attachment]:
    """Copies attachments into a draft, and writes its list anew; returns what it lists."""
    listed = read_attachments(folder)
    for one, path in added:
        target = folder / attachment_file(one.sha256)
        if not target.exists():
            try:
                shutil.copyfile(path, target)
            except FileNotFoundError:
                raise CorruptArchiveError(f"{path} is missing", why=f"{path.parent / ATTACHMENTS} lists it") from None
            if (target.stat().st_size, file_digest(target)) != (one.size, one.sha256):
                raise CorruptArchiveError(f"{path} is damaged", why=f"{path.parent / ATTACHMENTS} has another checksum")
        listed.append(one)
    if listed:
        listed.sort(key=lambda one: (one.run_id, one.name))
        (folder / ATTACHMENTS).write_bytes(b"".join(attachment_lines(listed)))
    return listed


def _shown(attachments: Iterable[Attachment]) -> set[tuple[str, str]]:
    return {(one.run_id, shown_name(one.name)) for one in attachments}
