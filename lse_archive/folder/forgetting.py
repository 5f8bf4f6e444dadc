"""Erases the runs that have tombstones from a day's folder. Everything else of the day stays, to the byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from lse_archive.files import link_file
from lse_archive.folder.attachments import (
    ATTACHMENTS,
    Attachment,
    attachment_digest,
    attachment_file,
    attachment_lines,
    read_attachments,
)
from lse_archive.folder.contents import ensure_manifest, other_files
from lse_archive.folder.late_feedback import read_late_feedback, remove_late_feedback
from lse_archive.folder.manifest import Summary, Tally, content_hash, content_sums, read_sums, write_manifest
from lse_archive.folder.publish import discard
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.folder.state import now_text, publish_day, read_state, update_state
from lse_archive.folder.tombstones import FORGOTTEN, Tombstones, folder_tombstones
from lse_archive.layout import DayPaths
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_APART, FEEDBACK_FILES, read_lines, read_record, split_mark


@dataclass(slots=True)
class Erased:
    """How much of a day was erased: runs, feedback records, entries of attachments, and other files."""

    runs: int = 0
    feedback: int = 0
    attachments: int = 0
    files: int = 0

    def __bool__(self) -> bool:
        return bool(self.runs or self.feedback or self.attachments or self.files)


def forget_published(paths: DayPaths, tombstones: Tombstones) -> Erased:
    """Erases runs from the day's published folder, from its state, and from the feedback that waits beside it.

    LangSmith's count proves the new content as it proved the old one: only these runs are gone. The caller holds the
    day's lock, and has added the tombstones beside the day (`add_tombstones`).

    Raises:
        CorruptArchiveError: The day's manifest or its list of attachments cannot be read.
        OSError: The disk cannot be written.
    """
    late = [line for line in read_late_feedback(paths) if is_feedback_of(line, tombstones)]
    remove_late_feedback(paths, late)
    erased = Erased()
    state = read_state(paths)
    kept = [run_id for run_id in state.no_longer_served if run_id not in tombstones]
    if kept != state.no_longer_served:
        update_state(paths, no_longer_served=kept)
    if paths.folder.is_dir():
        draft = replace(paths, data_dir=paths.restoring)
        discard(paths, paths.restoring)
        before = ensure_manifest(paths).content_sha256
        if copied := copy_without(paths, draft.folder, tombstones):
            erased, content = copied
            publish_reduced(paths, draft.folder, before=before, content=content)
            discard(paths, paths.restoring)
        _keep_proof(paths)
    erased.feedback += len(late)
    return erased


def publish_reduced(paths: DayPaths, staged: Path, *, before: str, content: str) -> None:
    """Publishes what `copy_without` left of a day; a proof of the content before holds for it.

    Raises:
        OSError: Nothing was published.
    """
    # Written before the content that it proves, so that a killed process does not lose the proof.
    if read_state(paths).proven_content == before:
        update_state(paths, proven_next=content)
    publish_day(paths, staged)
    _keep_proof(paths)


def _keep_proof(paths: DayPaths) -> None:
    state, summary = read_state(paths), ensure_manifest(paths)
    if state.proven_next == summary.content_sha256:
        update_state(
            paths,
            proven_content=state.proven_next,
            proven_next=None,
            attachments_missing=len(summary.attachments_missing),
        )


def copy_without(paths: DayPaths, target: Path, tombstones: Tombstones) -> tuple[Erased, str] | None:
    """Links the files of a day's folder into a new one, without those of the runs that have tombstones.

    Files that differ from their checksums, and checksums without a file, stay what they are: a fetch or a restore
    repairs them.

    Args:
        paths: The day; its folder has a manifest.

    Returns:
        What was left out, and the content hash of the new folder; None if the folder holds none of it, and lists these
        tombstones: nothing was written then.

    Raises:
        CorruptArchiveError: The manifest or the list of attachments cannot be read.
        OSError: The disk cannot be written.
    """
    folder, erased, tally = paths.folder, Erased(), Tally(paths.day)
    kept, gone, invalid = list[str](), set[str](), list[str]()
    for file in read_folder(folder, paths.day):
        if isinstance(file, RunFile) and file.header.run_id in tombstones:
            erased.runs += 1
            gone.add(file.name)
            continue
        if isinstance(file, RunFile):
            tally.add(file.header, file.size)
        elif tombstones.owner(file.name, (folder / file.name).read_bytes()):
            erased.files += 1
            gone.add(file.name)
            continue
        else:
            invalid.append(file.name)
        kept.append(file.name)
    listed = read_attachments(folder)
    attachments = [one for one in listed if one.run_id not in tombstones]
    erased.attachments = len(listed) - len(attachments)
    gone |= {attachment_file(one.sha256) for one in listed} - {attachment_file(one.sha256) for one in attachments}
    rewritten = {FORGOTTEN: list(tombstones.lines())}
    if erased.attachments:
        rewritten[ATTACHMENTS] = list(attachment_lines(attachments)) if attachments else []
    feedback = dict[str, list[bytes]]()
    for name in FEEDBACK_FILES:
        lines = list(read_lines(folder / name))
        feedback[name] = [line for line in lines if not is_feedback_of(line, tombstones)]
        if gone_lines := len(lines) - len(feedback[name]):
            erased.feedback += gone_lines
            rewritten[name] = [line + b"\n" for line in feedback[name]]
    for path in other_files(folder):
        if path.name in gone or path.name in rewritten:
            continue
        if attachment_digest(path.name) is None and _is_of(path, tombstones):
            erased.files += 1
            gone.add(path.name)
        else:
            kept.append(path.name)
            invalid.append(path.name)
    sums = read_sums(folder) or {}
    gone |= {name for name in sums if tombstones.owner(name, b"")}  # also of files that are missing
    if not (erased or gone & sums.keys()) and folder_tombstones(folder).digests == tombstones.digests:
        return None
    target.mkdir(parents=True)
    for name in kept:
        link_file(folder / name, target / name)
    new = {name: digest for name, digest in content_sums(sums) if name not in gone and name not in rewritten}
    for name, lines in rewritten.items():
        if content := b"".join(lines):
            (target / name).write_bytes(content)
            new[name] = hashlib.sha256(content).digest()
    ordered = content_sums(new)
    summary = tally.summary(paths.project, content_hash(ordered), invalid)
    write_manifest(target, _described(paths, summary, attachments, feedback, tombstones, gone), ordered)
    return erased, summary.content_sha256


def _described(
    paths: DayPaths,
    summary: Summary,
    attachments: list[Attachment],
    feedback: Mapping[str, Sequence[bytes]],
    tombstones: Tombstones,
    gone: set[str],
) -> Summary:
    """The summary of the remaining files, with what the former one says of them."""
    before = ensure_manifest(paths)

    def without(run_ids: Iterable[str]) -> list[str]:
        return [item for item in run_ids if item not in tombstones and item not in gone]

    collected = before.feedback is not None
    return msgspec.structs.replace(
        summary,
        langsmith_project_id=before.langsmith_project_id,
        langsmith_count=before.langsmith_count,
        api=before.api,
        changed_at=now_text(),
        incomplete=without(before.incomplete),
        feedback=len(feedback[FEEDBACK]) if collected else None,
        feedback_deleted=sum(split_mark(line)[1] is not None for line in feedback[FEEDBACK]) if collected else 0,
        feedback_apart=len(feedback[FEEDBACK_APART]) if collected else 0,
        feedback_differs=without(before.feedback_differs),
        feedback_unproven=without(before.feedback_unproven),
        attachments=len(attachments) if before.attachments is not None else None,
        attachment_bytes=sum({one.sha256: one.size for one in attachments}.values()),
        attachments_missing=[one for one in before.attachments_missing if one.run_id not in tombstones],
    )


def is_feedback_of(line: bytes, tombstones: Tombstones) -> bool:
    """Whether a line of a feedback file is a record of a run that has a tombstone."""
    return read_record(split_mark(line)[0]).run_id in tombstones


def _is_of(path: Path, tombstones: Tombstones) -> bool:
    return tombstones.owner(path.name, path.read_bytes()) is not None
