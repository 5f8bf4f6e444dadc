"""Feedback that was found after a day's last fetch: it waits beside the data until the day is fetched again."""

from __future__ import annotations

from collections.abc import Iterable

from lse_archive.files import file_lock, publish_file
from lse_archive.layout import DayPaths
from lse_archive.runs.feedback import read_lines


def add_late_feedback(paths: DayPaths, lines: Iterable[bytes]) -> None:
    """Adds records, one a line; equal lines are added once.

    Raises:
        ArchiveError: Another process held the file's lock for ten minutes.
        OSError: It cannot be written.
    """
    with file_lock(paths.late_feedback):
        found = dict.fromkeys([*read_lines(paths.late_feedback), *lines])
        with publish_file(paths.late_feedback) as file:
            file.writelines(line + b"\n" for line in found)


def read_late_feedback(paths: DayPaths) -> list[bytes]:
    """The records, one a line; empty if the day does not wait for a fetch. Each is a JSON document."""
    return list(read_lines(paths.late_feedback))


def remove_late_feedback(paths: DayPaths, done: Iterable[bytes]) -> None:
    """Removes the records that are archived now; those that were added in the meantime stay. Raises as `add_…`."""
    if not paths.late_feedback.exists():
        return
    with file_lock(paths.late_feedback):
        archived = set(done)
        left = [line for line in read_lines(paths.late_feedback) if line not in archived]
        if not left:
            paths.late_feedback.unlink(missing_ok=True)
            return
        with publish_file(paths.late_feedback) as file:
            file.writelines(line + b"\n" for line in left)
