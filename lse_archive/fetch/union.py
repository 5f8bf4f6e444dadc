"""The union of the runs that LangSmith serves with the published runs: no published run is lost."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lse_archive.errors import CorruptArchiveError
from lse_archive.fetch.staging import Staging
from lse_archive.files import file_digest
from lse_archive.folder.attachments import ATTACHMENTS, attachment_digest, attachment_file, read_attachments
from lse_archive.folder.contents import is_summary_as_recorded, other_files
from lse_archive.folder.manifest import SUMS, content_sums, read_summary, read_sums
from lse_archive.folder.reader import InvalidFile, read_folder
from lse_archive.layout import DayPaths
from lse_archive.runs.header import unwrap
from lse_archive.runs.scanner import members
from lse_archive.texts import counted

# Links that are signed again for each answer, and fields that only hold the location of a payload.
VOLATILE_FIELDS = frozenset(
    {"share_url", "attachments", "s3_urls", "inputs_s3_urls", "outputs_s3_urls", "query_metadata"}
)

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Union:
    """The comparison of the published folder with the runs that LangSmith serves.

    Attributes:
        changed: Published runs that LangSmith serves in another state.
        unchanged: Published runs that LangSmith serves in the same state.
        as_recorded: Whether the folder has exactly the files, by name and content, that its checksums list.
    """

    changed: int = 0
    unchanged: int = 0
    as_recorded: bool = False


def unite(paths: DayPaths, staging: Staging, *, allow_shrink: bool, rewritten: Collection[str] = frozenset()) -> Union:
    """Copies into staging the published files that must stay. Reads each published file once.

    Called within a transaction of the staging.

    Args:
        allow_shrink: Runs that LangSmith no longer lists need not stay; those that it lists and did not serve stay.
        rewritten: Names of files that the caller writes into staging, with all that the published ones hold.

    Raises:
        CorruptArchiveError: A published file is damaged or missing, and LangSmith no longer serves its run.
        ArchiveConflictError: A published file has no free name, or the folder holds another folder.
    """
    sums = read_sums(paths.folder) or {}
    expected = dict(content_sums(sums))  # without the files that were read
    as_recorded = is_summary_as_recorded(paths.folder, sums)
    damaged: set[str] = set()
    changed = unchanged = 0
    if allow_shrink:
        staging.delete_stale()

    for file in read_folder(paths.folder, paths.day):
        recorded = expected.pop(file.name, None)
        as_recorded = as_recorded and recorded == file.sha256
        intact = recorded in (None, file.sha256)
        if isinstance(file, InvalidFile):
            if intact:
                staging.keep_other(paths.folder / file.name, file.sha256)
            else:
                damaged.add(file.name)
            continue
        staged = staging.find(file.header.run_id)
        if staged is None and not intact:
            damaged.add(file.name)
        elif staged is None or not staged.served:
            is_staged_better = staged is not None and (not intact or (staged.ended and file.header.end is None))
            if not is_staged_better and (not allow_shrink or staging.is_missing(file.header.run_id)):
                staging.keep(paths.folder, file, served=False)
        elif (staged.name, staged.sha256) == (file.name, file.sha256):
            unchanged += 1
        elif intact and _same_run(file.document, staging.runs_folder / staged.name):
            staging.keep(paths.folder, file, served=True)
            unchanged += 1
        else:
            changed += 1

    listed = expected.pop(ATTACHMENTS, None)
    others = {path: file_digest(path) for path in other_files(paths.folder)}
    found = others.pop(paths.folder / ATTACHMENTS, None)
    is_list_intact = found == listed or not sums  # a folder without checksums is an older tool's
    whole = {digest for path, digest in others.items() if attachment_digest(path.name) == digest}
    if is_list_intact:
        _keep_attachments(paths.folder, staging, whole, allow_shrink=allow_shrink)
    elif not _lists_all(paths.folder, staging, sums):
        damaged.add(ATTACHMENTS)
    as_recorded = as_recorded and is_list_intact
    for path, digest in others.items():
        recorded = expected.pop(path.name, None)
        as_recorded = as_recorded and recorded == digest
        if recorded not in (None, digest):
            damaged.add(path.name)
            if attachment_digest(path.name):
                continue
        # Without the runs that LangSmith no longer lists, only the attachments that are listed stay.
        is_unlisted = allow_shrink and attachment_digest(path.name) == digest
        if path.name not in rewritten and not is_unlisted:
            staging.keep_other(path, digest)

    missing = expected.keys()
    lost = sorted(name for name in damaged | missing if not staging.has_file(name))
    if lost and not allow_shrink:
        raise CorruptArchiveError(
            f"{counted(len(lost), 'file')} of {paths.folder} damaged or missing, and no longer in LangSmith",
            why=f"they differ from {SUMS}: {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}",
            hint="Restore the day from its zip or from Drive, then fetch again",
        )
    return Union(changed, unchanged, as_recorded and not missing)


def _keep_attachments(folder: Path, staging: Staging, whole: Collection[bytes], *, allow_shrink: bool) -> None:
    """Keeps what the published folder lists, unless it was downloaded again; `whole` are the contents in it."""
    for one in read_attachments(folder):
        is_here = one.sha256 in whole or staging.has_file(attachment_file(one.sha256))
        if is_here and (not allow_shrink or staging.has_run(one.run_id)):
            staging.keep_attachment(one, folder)


def _lists_all(folder: Path, staging: Staging, sums: Mapping[str, bytes]) -> bool:
    """Whether the staging has as many attachments as a folder whose list is damaged, and all their contents."""
    here = [one.sha256 for one in staging.attachments()]
    try:
        summary = read_summary(folder)
    except CorruptArchiveError:
        return False
    recorded = {digest for name in sums if (digest := attachment_digest(name))}
    return summary is not None and len(here) >= (summary.attachments or 0) and recorded <= set(here)


def _same_run(published: bytes, staged: Path) -> bool:
    """Whether two documents are equal except for volatile fields and key order. Numbers are compared as text.

    Only fields whose bytes differ are parsed, which takes several times their size in memory.
    """
    try:
        one, other = _lasting_fields(published), _lasting_fields(unwrap(staged.read_bytes())[0])
        return one.keys() == other.keys() and all(
            one[key] == other[key] or _parsed(one[key]) == _parsed(other[key]) for key in one
        )
    except (ValueError, RecursionError):
        return False


def _lasting_fields(document: bytes) -> dict[str, msgspec.Raw]:
    try:
        fields = _fields_decoder.decode(document)
    except (msgspec.DecodeError, RecursionError):
        fields = {key: msgspec.Raw(value) for key, value in members(document).items()}
    return {key: value for key, value in fields.items() if key not in VOLATILE_FIELDS}


def _parsed(value: msgspec.Raw) -> object:
    return json.loads(bytes(value), parse_float=_number, parse_int=_number)


def _number(text: str) -> tuple[str]:
    return (text,)  # not rounded, and not equal to a string of the same digits
