"""The feedback of a day: what LangSmith has now, united with what was archived before, and compared with the runs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from uuid import UUID

from lse_archive.days import day_of, day_window
from lse_archive.fetch.feedback import FeedbackQuery, pack, read_feedback
from lse_archive.fetch.source import RunSource, WindowCount
from lse_archive.fetch.staging import Staging
from lse_archive.folder.late_feedback import read_late_feedback
from lse_archive.folder.manifest import FeedbackSummary, Summary
from lse_archive.folder.state import FeedbackSum, now_text
from lse_archive.layout import DayPaths
from lse_archive.runs.feedback import (
    FEEDBACK,
    FEEDBACK_APART,
    FeedbackRecord,
    KeyStats,
    marked_deleted,
    read_lines,
    read_record,
    read_stats,
    split_mark,
)

_SCHEMA = """
DROP TABLE IF EXISTS feedback;
CREATE TABLE feedback (
  id BLOB PRIMARY KEY, run BLOB, key BLOB NOT NULL, modified INTEGER, served INTEGER NOT NULL, deleted TEXT,
  failed INTEGER NOT NULL, thread INTEGER NOT NULL, created INTEGER, line BLOB NOT NULL
);
CREATE INDEX feedback_by_run ON feedback (run);
DROP TABLE IF EXISTS asked;
CREATE TABLE asked (run BLOB PRIMARY KEY, complete INTEGER NOT NULL);
"""
_IDS_PER_REQUEST = 100
_ROUNDS = 3

_Match = Literal["equal", "differs", "unproven"]


class _Found(NamedTuple):
    """The records of a run or day and a key, and how many of them are of failed evaluators, of threads, or new."""

    count: int = 0
    failed: int = 0
    of_threads: int = 0
    new: int = 0


@dataclass(slots=True)
class DayFeedback:
    """The feedback of one fetch, in the journal of its staging.

    Attributes:
        recorded: The summary of the published day.
        read_at: When the reading began, ISO 8601 UTC.
        late: The lines of `read_late_feedback` that it holds.
        differs: Ids of runs whose records are not as many as their `feedback_stats` say.
        unproven: Those for which that cannot be decided.
        sums: See `DayState.feedback_sums`.
    """

    staging: Staging
    paths: DayPaths
    recorded: Summary | None
    read_at: str = field(default_factory=now_text)
    late: list[bytes] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    sums: list[FeedbackSum] | None = None

    def read(self, source: RunSource, counted: WindowCount | None) -> None:
        """Reads the feedback of the day's runs, and compares it with the runs, and with LangSmith's count of it.

        Of a run whose records differ from its `feedback_stats`, both are read again, because feedback may have been
        given in between, until neither changes. If LangSmith counts more records than there are, the statistics of
        some runs lack them: all feedback since the beginning of the day is read.

        Args:
            counted: LangSmith's count, if it served as many runs.

        Raises:
            SourceError: LangSmith could not be read to the end.
        """
        self._start()
        self._read(source, self._runs_to_ask())
        found = self._settle(source)
        self.sums = self._compare_sums(counted)
        if any(one.verdict == "differs" for one in self.sums or ()) and (runs := self._search(source)):
            self._read_again(source, runs)
            found = self._settle(source)
            self.sums = self._compare_sums(counted)
        self.differs = sorted(run_id for run_id, (match, _) in found.items() if match == "differs")
        self.unproven = sorted(run_id for run_id, (match, _) in found.items() if match == "unproven")

    @property
    def is_complete(self) -> bool:
        """Whether no record is known to be missing."""
        return not self.differs and all(one.verdict == "unproven" for one in self.sums or ())

    def _settle(self, source: RunSource) -> dict[str, tuple[_Match, object]]:
        """Reads runs and feedback again until both agree, or do not change any more; returns how they compare."""
        before: dict[str, object] = {}
        for _ in range(_ROUNDS):
            found = self._compare()
            differing = {run_id: state for run_id, (match, state) in found.items() if match != "equal"}
            again = [run_id for run_id, state in differing.items() if before.get(run_id) != state]
            if not again:
                break
            before = differing
            self._read_again(source, again)
        else:
            found = self._compare()
        return found

    def _search(self, source: RunSource) -> list[str]:
        """Reads the feedback of the project since the beginning of the day; returns the runs that it adds."""
        read_feedback(source, [FeedbackQuery(since=day_window(self.paths.day).start)], self._add)
        query = """
            SELECT DISTINCT run.id FROM feedback JOIN run ON run.id = feedback.run
            WHERE feedback.served AND origin = 'served' AND run.id NOT IN (SELECT run FROM asked)
        """
        return [str(UUID(bytes=run)) for (run,) in self.staging.journal.execute(query)]

    def _compare_sums(self, counted: WindowCount | None) -> list[FeedbackSum] | None:
        """The keys whose records on the day's runs are not as many as LangSmith counts; None if it does not count."""
        if counted is None or counted.feedback is None:
            return None
        query = """
            SELECT key, count(*), sum(feedback.failed), sum(thread), sum(created >= ?)
            FROM feedback JOIN run ON run.id = feedback.run
            WHERE feedback.served AND origin = 'served' GROUP BY key
        """
        found = {}
        for key, *counts in self.staging.journal.execute(query, (counted.asked_at,)):
            found[key] = _Found(*(count or 0 for count in counts))
        sums = []
        for key in sorted(counted.feedback.keys() | found.keys()):
            stat, here = counted.feedback.get(key, KeyStats(0)), found.get(key, _Found())
            if stat.n is None or not stat.n <= here.count <= stat.n + here.new:
                # More records than LangSmith counts: it counts late, or deletes the day.
                verdict = "differs" if stat.n is not None and here.count < _least(stat, stat.n) else "unproven"
                sums.append(FeedbackSum(key.decode("utf-8", "replace"), stat.n, here.count, verdict))
        return sums

    def _start(self) -> None:
        """Fills the journal with the records that are archived, or were found since."""
        self.late = read_late_feedback(self.paths)
        folder = self.paths.folder
        archived = itertools.chain(read_lines(folder / FEEDBACK), read_lines(folder / FEEDBACK_APART))
        with self.staging.transaction() as db:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            for line in itertools.chain(archived, self.late):
                sent, deleted = split_mark(line)
                self._put(read_record(sent), served=False, deleted=deleted)

    def _put(self, record: FeedbackRecord, *, served: bool, deleted: str | None = None) -> None:
        """Adds a record, or replaces an older state of it; called within a transaction."""
        db = self.staging.journal
        known = db.execute("SELECT modified, deleted FROM feedback WHERE id = ?", (record.identity,)).fetchone()
        if known and known[0] is not None and (record.modified is None or record.modified < known[0]):
            if served:
                db.execute("UPDATE feedback SET served = 1, deleted = NULL WHERE id = ?", (record.identity,))
            return
        run = UUID(record.run_id).bytes if record.run_id else None
        deleted = None if served else deleted or (known[1] if known else None)
        db.execute(
            "INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.identity,
                run,
                record.key,
                record.modified,
                served,
                deleted,
                record.failed,
                record.of_thread,
                record.created,
                record.line,
            ),
        )

    def _add(self, records: Sequence[FeedbackRecord]) -> None:
        """Adds the records of an answer that belong to the day."""
        with self.staging.transaction():
            for record in records:
                here = record.run_id is not None and self.staging.has_run(record.run_id)
                if here or (record.run_id is None and self._is_of_day(record)):
                    self._put(record, served=True)

    def _is_of_day(self, record: FeedbackRecord) -> bool:
        moment = record.created if record.start is None else record.start
        return moment is None or day_of(moment) == self.paths.day

    def _runs_to_ask(self) -> dict[str, int]:
        """The served runs that have feedback, or had some, and the number of records to expect."""
        query = """
            SELECT run.id, stats.stats, (SELECT count(*) FROM feedback WHERE feedback.run = run.id)
            FROM run LEFT JOIN stats ON stats.run = run.id
            WHERE origin = 'served' AND (stats.run IS NOT NULL OR EXISTS (SELECT 1 FROM feedback WHERE run = run.id))
            ORDER BY run.start, run.id
        """
        asked = {}
        for key, stats, here in self.staging.journal.execute(query):
            counts = [one.n for one in read_stats(stats or b"{}").values()]
            if here or None in counts or any(counts):
                asked[str(UUID(bytes=key))] = max(here, sum(count or 0 for count in counts), 1)
        former = FeedbackSummary.of(self.recorded)
        named = [*former.feedback_differs, *former.feedback_unproven]
        return asked | {run_id: 1 for run_id in named if run_id not in asked and self._is_served(run_id)}

    def _is_served(self, run_id: str) -> bool:
        run = self.staging.find(run_id)
        return run is not None and run.served

    def _read(self, source: RunSource, expected: dict[str, int]) -> None:
        unread = {run_id for query in read_feedback(source, pack(expected), self._add) for run_id in query.runs}
        rows = [(UUID(run_id).bytes, run_id not in unread) for run_id in expected]
        with self.staging.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO asked VALUES (?, ?)", rows)

    def _read_again(self, source: RunSource, run_ids: Sequence[str]) -> None:
        starts = {}
        with self.staging.transaction() as db:
            for run_id in run_ids:
                key = (UUID(run_id).bytes,)
                starts[run_id] = db.execute("SELECT start FROM run WHERE id = ?", key).fetchone()[0]
                db.execute("UPDATE feedback SET served = 0 WHERE run = ?", key)
        window = day_window(self.paths.day)
        for begin in range(0, len(run_ids), _IDS_PER_REQUEST):
            part = {run_id: starts[run_id] for run_id in run_ids[begin : begin + _IDS_PER_REQUEST]}
            self.staging.renew(source.runs_by_id(part, window))
        again = self._runs_to_ask()
        self._read(source, {run_id: again.get(run_id, 1) for run_id in run_ids})

    def _compare(self) -> dict[str, tuple[_Match, object]]:
        """How the records of each asked run compare with its statistics, and both of them."""
        query = """
            SELECT asked.run, key, count(*), sum(failed), sum(thread)
            FROM asked JOIN feedback ON feedback.run = asked.run WHERE served GROUP BY asked.run, key
        """
        records: dict[bytes, dict[bytes, _Found]] = defaultdict(dict)
        for run, key, *counts in self.staging.journal.execute(query):
            records[run][key] = _Found(*counts)
        query = "SELECT asked.run, stats FROM asked LEFT JOIN stats ON stats.run = asked.run"
        compared = {}
        for run, raw in self.staging.journal.execute(query):
            stats, found = read_stats(raw or b"{}"), records.get(run, {})
            compared[str(UUID(bytes=run))] = _match(stats, found), (stats, found)
        return compared

    def write(self) -> FeedbackSummary:
        """Writes the files into the staged folder, after the union of the runs; returns the fields of the summary.

        A record that LangSmith no longer has is marked, if its run was served, its feedback read to the end, and both
        agree: an answer may lack records, too.
        """
        counts = dict.fromkeys((FEEDBACK, FEEDBACK_APART), 0)
        with self.staging.transaction() as db:
            disagreeing = [(UUID(run_id).bytes,) for run_id in (*self.differs, *self.unproven)]
            db.executemany("UPDATE asked SET complete = 0 WHERE run = ?", disagreeing)
            db.execute(
                """
                UPDATE feedback SET deleted = ? WHERE NOT served AND deleted IS NULL
                AND run IN (SELECT asked.run FROM asked JOIN run ON run.id = asked.run
                            WHERE complete AND origin = 'served')
                """,
                (self.read_at,),
            )
            for name, condition in ((FEEDBACK, "IS NOT NULL"), (FEEDBACK_APART, "IS NULL")):
                rows = db.execute(
                    f"""
                    SELECT line, deleted FROM feedback LEFT JOIN run ON run.id = feedback.run
                    WHERE run.id {condition} ORDER BY feedback.id
                    """
                )
                lines = ((marked_deleted(line, deleted) if deleted else line) + b"\n" for line, deleted in rows)
                counts[name] = self.staging.write_file(name, lines)
            deleted = db.execute(
                "SELECT count(*) FROM feedback JOIN run ON run.id = feedback.run WHERE deleted IS NOT NULL"
            ).fetchone()[0]
            asked = {str(UUID(bytes=run)) for (run,) in db.execute("SELECT run FROM asked")}
        # What an earlier read of a run missed stays named until the run is read again.
        former = FeedbackSummary.of(self.recorded)
        return FeedbackSummary(
            feedback=counts[FEEDBACK],
            feedback_deleted=deleted,
            feedback_apart=counts[FEEDBACK_APART],
            feedback_differs=sorted({*self.differs, *(set(former.feedback_differs) - asked)}),
            feedback_unproven=sorted({*self.unproven, *(set(former.feedback_unproven) - asked)}),
        )


def _match(stats: dict[bytes, KeyStats], found: dict[bytes, _Found]) -> _Match:
    """Compares the records of a run with its statistics.

    It is not documented whether `n` counts the records of failed evaluators and of threads: a difference that they
    explain is unproven.
    """
    verdict: _Match = "equal"
    for key in stats.keys() | found.keys():
        stat, here = stats.get(key, KeyStats(0)), found.get(key, _Found())
        if stat.n == here.count:
            continue
        if stat.n is None:
            verdict = "unproven"
            continue
        if not _least(stat, stat.n) <= here.count <= stat.n + here.failed + here.of_threads:
            return "differs"
        verdict = "unproven"
    return verdict


def _least(stat: KeyStats, n: int) -> int:
    """The fewest records that `n` can stand for, see `_match`."""
    return 0 if stat.has_threads else n - stat.errors
