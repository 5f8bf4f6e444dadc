"""Feedback that arrives after a day was fetched: a pass over a project finds it, and its days are fetched again.

An edit changes neither `created_at` nor anything else that LangSmith's `GET /feedback` can filter by. So the feedback
of each day is also read in full at fixed ages.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta

from lse_archive.days import Window, day_of, format_time, to_micros
from lse_archive.errors import CorruptArchiveError, SourceError
from lse_archive.fetch.feedback import FeedbackQuery, read_feedback
from lse_archive.fetch.source import RunSource
from lse_archive.files import disk_errors
from lse_archive.folder.late_feedback import add_late_feedback
from lse_archive.folder.pruned import is_pruned, pruned_records
from lse_archive.folder.records import Record, parse_records
from lse_archive.folder.state import DayState
from lse_archive.folder.tombstones import Tombstones, read_tombstones
from lse_archive.layout import DayPaths, Layout
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_FILES, FeedbackRecord, read_lines, read_record, split_mark
from lse_archive.runs.header import read_header
from lse_archive.runs.scanner import NotARunError
from lse_operations.day_selection import at_daily_time, last_day, moment
from lse_operations.project_state import read_project_state, retention, update_project_state
from lse_resources.projects import ProjectConfig

READ_AFTER_DAYS = (1, 3, 7)
"""The ages in days at which the feedback of a day is read in full."""
READ_BEFORE_EXPIRY_DAYS = 2
"""It is read once more when this many days are left until LangSmith deletes the day."""

# A record can be in LangSmith's index later than its `created_at` says.
_OVERLAP = timedelta(hours=6)
_BUFFER_BYTES = 8 << 20


def is_feedback_due(project: ProjectConfig, day: date, state: DayState, now: datetime, *, waits: bool) -> bool:
    """Whether the day is to be fetched for its feedback: some was found since, or the day has reached an age.

    Args:
        waits: Whether the day has late feedback, see `find_late_feedback`: that is fetched at any age.
    """
    if project.schedule == "off" or day >= (daily := at_daily_time(project, now)).date():
        return False
    if waits:
        return True
    if last_day(project, day) < now.astimezone(UTC).date():
        return False
    read_at = moment(state.feedback_read_at)
    ages = [*READ_AFTER_DAYS, project.retention_days - READ_BEFORE_EXPIRY_DAYS]
    times = [datetime.combine(day + timedelta(days=age), time(), UTC) for age in ages]
    return any(at <= daily and (read_at is None or read_at < at) for at in times)


def find_late_feedback(layout: Layout, project: ProjectConfig, source: RunSource, now: datetime) -> list[date]:
    """Finds the feedback of a project that was created since the last pass; the first goes back to the retention.

    Records that are not archived wait beside their day (`DayPaths.late_feedback`) until it is fetched: the UTC day in
    which their run started, or without a run that of their creation.

    Returns:
        The days that wait, oldest first.

    Raises:
        SourceError: LangSmith could not be read to the end; the next pass begins where this one did. Or more records
            were created at one moment than can be asked for: those that were found wait, and the next pass goes on.
        ArchiveError: The disk cannot be written.
    """
    since = moment(read_project_state(layout, project.name).feedback_read_until)
    if since is None:
        since = now - timedelta(days=retention(layout, project).days)
    found = _Finder(layout, project, now)
    with disk_errors(f"the late feedback of {project.name} cannot be written under {layout.data_dir}"):
        unread = read_feedback(source, [FeedbackQuery(since=to_micros(since - _OVERLAP))], found.add)
        found.finish(source)
        read_until = now.astimezone(UTC).isoformat(timespec="seconds")
        update_project_state(layout, project.name, feedback_read_until=read_until)
    if unread:
        moments = sorted(format_time(query.since) for query in unread if query.since is not None)
        raise SourceError(
            f"cannot find all late feedback of '{project.name}'",
            why=f"at least 100 records of one microsecond exist, and LangSmith answers 100: {', '.join(moments[:3])}",
            hint=f"Fetch the days of their runs again; LSE does so at these ages in days: {READ_AFTER_DAYS}",
        )
    return sorted(found.days)


class _Finder:
    """Files records with their days, without those that are archived."""

    def __init__(self, layout: Layout, project: ProjectConfig, now: datetime) -> None:
        self._layout = layout
        self._project = project.name
        self._now = to_micros(now)
        self._archived: dict[date, dict[bytes, int | None]] = {}
        self._pruned: dict[date, dict[str, bytes]] = {}
        self._tombstones: dict[date, Tombstones] = {}
        self._new: dict[date, list[bytes]] = defaultdict(list)
        self._bytes = 0
        self._undated: list[FeedbackRecord] = []
        self.days: set[date] = set()

    def add(self, records: Sequence[FeedbackRecord]) -> None:
        for record in records:
            if record.start is None and record.run_id is not None:
                self._undated.append(record)
            else:
                self._file(record, record.start if record.start is not None else record.created)

    def finish(self, source: RunSource) -> None:
        """Files the records without the start of their run, which is asked for; and writes what was found."""
        ids = dict.fromkeys([record.run_id for record in self._undated if record.run_id], 0)
        starts = {}
        if ids:
            window = Window(0, self._now + 2 * 86_400_000_000)
            for run in source.runs_by_id(ids, window).runs:
                with contextlib.suppress(NotARunError):
                    header = read_header(run)
                    starts[header.run_id] = header.start
        for record in self._undated:
            self._file(record, starts.get(record.run_id or "", record.created))
        self._write()

    def _file(self, record: FeedbackRecord, at: int | None) -> None:
        day = day_of(self._now if at is None else at)
        if self._is_archived(day, record) or record.run_id in self._tombstones_of(day):
            return
        self._new[day].append(record.line)
        self._bytes += len(record.line)
        if self._bytes > _BUFFER_BYTES:
            self._write()

    def _is_archived(self, day: date, record: FeedbackRecord) -> bool:
        paths = self._layout.day(self._project, day)
        if is_pruned(paths):
            found = next(parse_records(FEEDBACK, [record.line], set()), None)
            return isinstance(found, Record) and self._pruned_feedback(paths).get(found.key) == found.sha256
        if day not in self._archived:
            self._archived[day] = dict(_archived(paths))
        archived = self._archived[day]
        if record.identity not in archived:
            return False
        modified = archived[record.identity]
        return record.modified is None or (modified is not None and record.modified <= modified)

    def _tombstones_of(self, day: date) -> Tombstones:
        if day not in self._tombstones:
            self._tombstones[day] = read_tombstones(self._layout.day(self._project, day))
        return self._tombstones[day]

    def _pruned_feedback(self, paths: DayPaths) -> dict[str, bytes]:
        """The sha256 of each feedback record of a pruned day, by its key; without a list what was found waits."""
        if paths.day not in self._pruned:
            records = self._pruned[paths.day] = dict[str, bytes]()
            with contextlib.suppress(CorruptArchiveError):
                for read in filter(None, [pruned_records(paths).get("feedback")]):
                    records.update((one.key, one.sha256) for one in read())
        return self._pruned[paths.day]

    def _write(self) -> None:
        for day, lines in self._new.items():
            add_late_feedback(self._layout.day(self._project, day), lines)
            self.days.add(day)
        self._new.clear()
        self._bytes = 0


def _archived(paths: DayPaths) -> Iterator[tuple[bytes, int | None]]:
    """The ids of the day's archived records, and when they were modified."""
    for name in FEEDBACK_FILES:
        for line in read_lines(paths.folder / name):
            record = read_record(split_mark(line)[0])
            yield record.identity, record.modified
