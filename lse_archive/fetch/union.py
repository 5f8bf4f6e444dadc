"""The union of what LangSmith serves now with what is published: nothing that was kept once is lost again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lse_archive.errors import CorruptArchiveError
from lse_archive.fetch.staging import Staging
from lse_archive.folder.contents import other_files
from lse_archive.folder.manifest import SUMMARY, SUMS, read_sums
from lse_archive.folder.reader import InvalidFile, RunFile, read_folder
from lse_archive.layout import DayPaths
from lse_archive.runs.header import unwrap

# Links that are signed anew at each look, and what only says where a payload lies.
VOLATILE_FIELDS = frozenset(
    {"share_url", "attachments", "s3_urls", "inputs_s3_urls", "outputs_s3_urls", "query_metadata"}
)


def unite(paths: DayPaths, staging: Staging, *, allow_shrink: bool) -> tuple[int, int]:
    """Takes over into staging what must stay of the published folder.

    Called within a transaction of the staging.

    Returns:
        How many runs LangSmith serves in another state than the folder has them, and how many in the same.

    Raises:
        CorruptArchiveError: A published file is damaged or gone, and LangSmith no longer serves its run.
        ArchiveConflictError: A kept file and a fetched one want the same name, or the folder holds another folder.
    """
    recorded = read_sums(paths.folder) or {}
    if allow_shrink:
        staging.forget_stale()
    changed = unchanged = 0
    lost = {name for name in recorded if name not in (SUMMARY, SUMS)}
    for file in read_folder(paths.folder, paths.day):
        intact = recorded.get(file.name, file.sha256) == file.sha256
        staged = staging.find(file.header.run_id) if isinstance(file, RunFile) else None
        if intact or staged:
            lost.discard(file.name)
        if staged is None and not intact:
            continue  # damaged: either LangSmith still serves a file of this name, or it is lost
        if isinstance(file, InvalidFile):
            staging.keep_other(paths.folder / file.name, file.sha256)
        elif staged is None or (intact and not staged.served):
            if not allow_shrink:
                staging.keep(paths.folder, file, served=False)
        elif (staged.name, staged.sha256) == (file.name, file.sha256):
            unchanged += 1
        elif intact and _same_run(file.document, staging.runs_folder / staged.name):
            staging.keep(paths.folder, file, served=True)
            unchanged += 1
        else:
            changed += 1
    for path in other_files(paths.folder):
        digest = hashlib.sha256(path.read_bytes()).digest()
        if recorded.get(path.name, digest) == digest:
            lost.discard(path.name)
        staging.keep_other(path, digest)
    lost = {name for name in lost if not staging.has_run(name)}
    if lost and not allow_shrink:
        raise CorruptArchiveError(
            f"{len(lost)} files of {paths.folder} are damaged or gone, and LangSmith no longer serves them",
            why=f"they differ from {SUMS}: {', '.join(sorted(lost)[:3])}{', …' if len(lost) > 3 else ''}",
            hint="Restore the day from its zip or from Drive, then fetch again",
        )
    return changed, unchanged


def _same_run(published: bytes, staged: Path) -> bool:
    """Whether two documents say the same, signed links and the order of keys aside; numbers to the last digit."""
    try:
        return _meaning(published) == _meaning(unwrap(staged.read_bytes())[0])
    except (ValueError, RecursionError):
        return False


def _meaning(document: bytes) -> dict[str, object]:
    run = json.loads(document, parse_float=_number, parse_int=_number)
    return {key: value for key, value in run.items() if key not in VOLATILE_FIELDS}


def _number(text: str) -> tuple[str]:
    return (text,)  # neither rounded, nor equal to a string of the same digits
