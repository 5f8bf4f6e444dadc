"""The state of a day beside its content: when it was last fetched and verified, and the results.

It is stored beside the data, so that the file steps need no database; the table `days` mirrors it.
"""

from __future__ import annotations

import contextlib
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from lse_archive.errors import UNDECODABLE, CorruptArchiveError
from lse_archive.files import disk_errors, publish_file
from lse_archive.folder.pruned import day_content
from lse_archive.folder.publish import publish_folder
from lse_archive.folder.tombstones import add_tombstones, folder_tombstones
from lse_archive.layout import DayPaths

_log = logging.getLogger(__name__)
DayVerdict = Literal["proven", "not_provable", "wrong"]
"""What the last comparison of all places of a day showed."""

_PROOF = re.compile(rb'"proven_content"\s*:\s*"([0-9a-f]{64})"')


class FeedbackSum(msgspec.Struct, frozen=True):
    """The feedback of one key on a day, where LangSmith's own statistics of the day's runs count other feedback.

    Attributes:
        key: The name of the metric.
        counted: LangSmith's number of records; None if it cannot be read.
        here: The records that it served.
        verdict: `differs`, records are missing here; or `unproven`: that cannot be decided.
    """

    key: str
    counted: int | None
    here: int
    verdict: Literal["differs", "unproven"]


class DayState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a day. All times are ISO 8601 UTC.

    Attributes:
        last_fetched_at: When the whole day was last fetched from LangSmith.
        feedback_read_at: When the feedback of the whole day was last read, and nothing was missing.
        feedback_sums: The keys whose sum over the day was not LangSmith's then; None if that was not compared.
        served_runs: Number of runs that LangSmith served when the whole day was last fetched.
        langsmith_count: LangSmith's count then.
        count_check: See `FetchResult.count_check`.
        proven_content: Content hash of the day when the counts were last equal.
        proven_next: Content hash that the count proves as soon as the day has it: a forget is publishing it.
        attachments_missing: Number of attachments that could not be downloaded.
        no_longer_served: Ids of kept runs that LangSmith no longer serves.
        drive_file_id, drive_sha256, drive_content: The last confirmed upload.
        verified_at: When all places last agreed; None since their content has changed.
        verdict: `proven`: they agree, and LangSmith's count proves that the day is complete; `not_provable`: they
            agree, and its completeness cannot be proven; `wrong`: a check found a difference; None: this content was
            not compared.
        zip_pruned_at, copy_pruned_at: When the local zip, or the copy at the destination, was pruned.
    """

    last_fetched_at: str | None = msgspec.field(default=None, name="looked_at")
    feedback_read_at: str | None = None
    feedback_sums: list[FeedbackSum] | None = None
    served_runs: int | None = None
    langsmith_count: int | None = None
    count_check: str | None = msgspec.field(default=None, name="proof")
    proven_content: str | None = None
    proven_next: str | None = None
    attachments_missing: int = 0
    no_longer_served: list[str] = []
    drive_file_id: str | None = None
    drive_sha256: str | None = None
    drive_content: str | None = None
    uploaded_at: str | None = None
    verified_at: str | None = None
    verdict: DayVerdict | None = None
    zip_pruned_at: str | None = None
    copy_pruned_at: str | None = None

    @property
    def is_incomplete(self) -> bool:
        """Whether LangSmith did not serve every run and attachment when the day was last fetched."""
        return self.count_check == "fewer" or self.attachments_missing > 0

    def __post_init__(self) -> None:
        for time in filter(None, (self.last_fetched_at, self.zip_pruned_at)):  # they are columns of the table `days`
            datetime.fromisoformat(time)


def read_state(paths: DayPaths) -> DayState:
    """The day's state; an empty one if there is none; of a damaged one, what is certain.

    Certain is the proof that LangSmith's count was equal, if the damaged file names the content that the day has. The
    rest is found again: a day without a fetch and a verification is archived again.

    States of version 0.1.0 have no verdict: `verified_at` was set for days that cannot be proven, too.
    """
    try:
        content = paths.state.read_bytes()
    except FileNotFoundError:
        return DayState()
    try:
        state = msgspec.json.decode(content, type=DayState)
    except UNDECODABLE as error:
        _log.warning("%s is damaged (%s): the day counts as neither fetched nor verified", paths.state, error)
    else:
        if state.verdict or not state.verified_at:
            return state
        proven = state.count_check == "equal" and has_content(paths, state.proven_content)
        return msgspec.structs.replace(state, verdict="proven" if proven else "not_provable")
    proof = _PROOF.search(content)
    if proof and has_content(paths, proof[1].decode()):
        return DayState(count_check="equal", proven_content=proof[1].decode())
    return DayState()


def has_content(paths: DayPaths, content: str | None) -> bool:
    """Whether the day's run files have this content hash; False if their checksums cannot be read."""
    with contextlib.suppress(CorruptArchiveError):
        return content is not None and content == day_content(paths)
    return False


def repair_state(paths: DayPaths) -> None:
    """Writes a damaged state again from what is certain; the damaged file stays beside it. Called under the day's lock.

    Raises:
        OSError: The state cannot be read or written.
    """
    try:
        msgspec.json.decode(paths.state.read_bytes(), type=DayState)
    except FileNotFoundError:
        pass
    except UNDECODABLE:
        state = read_state(paths)
        paths.state.replace(paths.state.with_name(f"{paths.state.name}.damaged"))
        _write(paths, state)


def update_state(paths: DayPaths, **changes: Any) -> DayState:
    """Replaces fields of the day's state. The caller holds the day's lock.

    Raises:
        ArchiveError: It cannot be written.
    """
    state = msgspec.structs.replace(read_state(paths), **changes)
    hint = "What was done before is done. Free space or fix the permissions, and run the command again"
    with disk_errors(f"the state of {paths.project} {paths.day} cannot be written", hint):
        _write(paths, state)
    return state


def _write(paths: DayPaths, state: DayState) -> None:
    with publish_file(paths.state) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


def publish_day(paths: DayPaths, staged: Path) -> None:
    """Publishes a folder as the day's, see `publish_folder`.

    Clears the verdict first: even if the process is killed, it counts for no other content. The tombstones in the
    folder are added beside the day: they hold without the folder, too.
    """
    clear_verified(paths)
    add_tombstones(paths, folder_tombstones(staged))
    publish_folder(paths, staged)


def clear_verified(paths: DayPaths) -> None:
    """Clears the verdict; called before anything of the day is replaced."""
    state = read_state(paths)
    if state.verdict or state.verified_at:
        update_state(paths, verdict=None, verified_at=None)


def now_text() -> str:
    """The current time in the format of states and summaries."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
