"""What is known of a day beside its content: when it was last looked at, and what was found then.

Kept next to the data, so that the file hops need no database; the table `days` mirrors it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lse_archive.files import publish_file
from lse_archive.folder.publish import publish_folder
from lse_archive.layout import DayPaths


class DayState(msgspec.Struct, frozen=True, kw_only=True):
    """All times are ISO 8601 UTC.

    Attributes:
        last_fetched_at: When LangSmith was last asked for the whole day.
        served_runs: Runs that LangSmith served then.
        langsmith_count: Its own count then.
        count_check: See `FetchResult.count_check`.
        proven_content: Content hash of the day when its count was last found equal.
        no_longer_served: Ids of runs that are kept here though LangSmith no longer serves them.
        drive_file_id, drive_sha256, drive_content: The upload as it was last confirmed.
        verified_at: When all hops were last found to agree.
        zip_pruned_at, copy_pruned_at: When the local zip, or the copy elsewhere, was given up to save space.
    """

    last_fetched_at: str | None = msgspec.field(default=None, name="looked_at")
    served_runs: int | None = None
    langsmith_count: int | None = None
    count_check: str | None = msgspec.field(default=None, name="proof")
    proven_content: str | None = None
    no_longer_served: list[str] = []
    drive_file_id: str | None = None
    drive_sha256: str | None = None
    drive_content: str | None = None
    uploaded_at: str | None = None
    verified_at: str | None = None
    zip_pruned_at: str | None = None
    copy_pruned_at: str | None = None


def read_state(paths: DayPaths) -> DayState:
    """The day's state; an empty one where there is none, or where it cannot be read: it can always be found again."""
    try:
        return msgspec.json.decode(paths.state.read_bytes(), type=DayState)
    except (FileNotFoundError, msgspec.DecodeError):
        return DayState()


def update_state(paths: DayPaths, **changes: Any) -> DayState:
    """Replaces fields of the day's state."""
    state = msgspec.structs.replace(read_state(paths), **changes)
    with publish_file(paths.state) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
    return state


def publish_day(paths: DayPaths, staged: Path) -> None:
    """Publishes a folder as the day's, see `publish_folder`.

    What was verified of the former content goes first: whenever this process ends, no other content counts as verified.
    """
    forget_proof(paths)
    publish_folder(paths, staged)


def forget_proof(paths: DayPaths) -> None:
    """The day counts as verified no longer; done before anything of it is replaced."""
    if read_state(paths).verified_at is not None:
        update_state(paths, verified_at=None)


def now_text() -> str:
    """The current time as it stands in states and summaries."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
