"""Plans, begins and completes erasures. One process erases at a time; any process completes what another began."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import LiteralString

from lse_archive.errors import ArchiveError, DatabaseError, DestinationError
from lse_archive.files import disk_errors
from lse_archive.folder.records import Record, RecordKind, read_records, record_run
from lse_archive.folder.state import now_text, read_state
from lse_archive.folder.tombstones import Tombstones, add_tombstones, read_tombstones
from lse_archive.texts import counted
from lse_operations.forget.day import OnWait, check_day, forget_day
from lse_operations.forget.journal import Certificate, DayDone, DayIntent, Intent, Journal
from lse_operations.forget.places import Places
from lse_operations.forget.selection import Selected, Selectors, select_runs
from lse_operations.lake import has_day
from lse_resources.postgres import erasures_table
from lse_resources.postgres.database import Database
from lse_resources.postgres.erase import find_rows, pending_rewrite, rewrite
from lse_resources.postgres.loads_table import user_and_host

Progress = Callable[[int, int | None], None]

_RECORDS: dict[RecordKind, LiteralString] = {
    "feedback": "SELECT run_date, id::text FROM feedback WHERE project = %s AND run_id = ANY(%s::uuid[])",
    "attachments": "SELECT run_date, id::text FROM attachments WHERE project = %s AND run_id = ANY(%s::uuid[])",
}


class _FoundError(ArchiveError):
    """Something of the runs came into a place while they were erased."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an erasure would erase.

    Attributes:
        records: By day, the ids of their feedback records and attachments.
        counts: Numbers of runs, traces, feedback records and attachments.
        places: By day, the places that hold the day.
        selection_sha256: See `Selectors.sha256`.
    """

    project: str
    selected: Selected
    records: dict[date, list[str]]
    counts: dict[str, int]
    places: dict[date, list[str]]
    selection_sha256: str


@dataclass(slots=True)
class Outcome:
    """What was completed.

    Attributes:
        certificates: Of the erasures that are complete now.
        errors: Why a day, or a place that is common to all days (None), is not done: the erasure stays open.
    """

    certificates: list[Certificate] = field(default_factory=list)
    errors: list[tuple[date | None, ArchiveError]] = field(default_factory=list)


def plan(places: Places, project: str, selectors: Selectors, *, progress: Progress) -> Plan:
    """Finds what the selectors name, and whether all of it can be erased. Changes nothing.

    Raises:
        NoKeyError: A copy is encrypted, and no key here decrypts it.
        ArchiveError: See `select_runs` and `check_day`.
    """
    with places.destination() as destination:
        selected = select_runs(places, destination, project, selectors, progress=progress)
        where: dict[date, list[str]] = {}
        in_rows = _days_in_rows(places, project, selected)
        for day in sorted(selected.days):
            paths = places.layout.day(project, day)
            is_copied = check_day(destination, paths)
            here = {
                "run files": paths.folder.is_dir(),
                "pruned files": paths.pruned.is_dir(),
                "zip": paths.zip.is_file(),
                "lake": places.lake is not None and has_day(places.lake, paths),
                destination.place if destination else "": is_copied,
                "rows": day in in_rows,
            }
            where[day] = [name for name, is_here in here.items() if is_here]
    records = _records(places, project, selected)
    counts = {"runs": selected.runs, "traces": len(selected.traces)}
    counts |= {kind: sum(map(len, by_day.values())) for kind, by_day in records.items()}
    by_day = {day: sorted(key for one in records.values() for key in one.get(day, ())) for day in selected.days}
    return Plan(project, selected, by_day, counts, where, selectors.sha256(project))


def _days_in_rows(places: Places, project: str, selected: Selected) -> set[date]:
    if places.database is None:
        return set()
    with places.database.session(f"cannot search the rows of {project}") as connection:
        query = "SELECT DISTINCT run_date FROM runs WHERE project = %s AND run_date = ANY(%s)"
        return {day for (day,) in connection.execute(query, (project, sorted(selected.days)))}


def _records(places: Places, project: str, selected: Selected) -> dict[str, dict[date, set[str]]]:
    """The ids of the feedback records and attachments of the selected runs, in files and rows, by kind and day."""
    found: dict[str, dict[date, set[str]]] = {}
    for kind, query in _RECORDS.items():
        by_day: dict[date, set[str]] = {day: set() for day in selected.days}
        for day, runs in selected.days.items():
            if (folder := places.layout.day(project, day).folder).is_dir():
                for record in read_records(folder, kind):
                    if isinstance(record, Record) and (record_run(record.document) or "").lower() in runs:
                        by_day[day].add(record.key)
        if places.database is not None:
            ids = sorted(run for runs in selected.days.values() for run in runs)
            with places.database.session(f"cannot search the {kind} of {project}") as connection:
                for day, key in connection.execute(query, (project, ids)):
                    by_day.setdefault(day, set()).add(key)
        found[kind] = by_day
    return found


def begin(places: Places, planned: Plan, reason: str) -> Intent:
    """Writes the intent and the tombstones: from now on nothing brings the runs back. `complete` erases them.

    Raises:
        ArchiveError: The disk cannot be written; nothing was erased.
    """
    days = {}
    for day, runs in sorted(planned.selected.days.items()):
        paths = places.layout.day(planned.project, day)
        days[day] = DayIntent(
            run_ids=sorted(runs),
            record_ids=planned.records[day],
            files_pruned=not paths.folder.is_dir(),
            zip_pruned=not paths.zip.is_file()
            and not (paths.folder.is_dir() and read_state(paths).zip_pruned_at is None),
        )
    intent = Intent(
        id=str(uuid.uuid4()),
        project=planned.project,
        requested_by=user_and_host(),
        reason=reason,
        selection_sha256=planned.selection_sha256,
        started_at=now_text(),
        selected=planned.counts,
        days=days,
    )
    with disk_errors(f"the erasure cannot be recorded under {places.layout.erasures}"):
        Journal(places.layout).begin(intent)
        _add_tombstones(places, intent)
    return intent


def _add_tombstones(places: Places, intent: Intent) -> None:
    for day, one in intent.days.items():
        add_tombstones(places.layout.day(intent.project, day), Tombstones.of(one.run_ids))


def complete(
    places: Places,
    *,
    wait: bool = True,
    progress: Progress = lambda _done, _total: None,
    say: Callable[[str], None] = lambda _: None,
    on_wait: OnWait = lambda _: None,
) -> Outcome:
    """Completes all erasures that have begun.

    Args:
        wait: Wait for another process that erases; if not, return at once.
        progress: Called with (days done, days in total) of an erasure.
        say: Called with a line when something takes long or locks a table.
        on_wait: Called with the holder of a day's lock.

    Raises:
        CorruptArchiveError: The journal cannot be read.
        ArchiveError: Another process erased for too long.
    """
    journal, outcome = Journal(places.layout), Outcome()
    busy = disk_errors(f"the erasure cannot be recorded under {places.layout.erasures}")
    with busy, journal.lock(wait=wait, on_wait=lambda: on_wait("another erasure")) as is_held:
        done = set[str]()
        # Another process may begin one in the meantime.
        while is_held and (left := [one for one in journal.open_intents() if one.id not in done]):
            done.add(left[0].id)
            if not _is_certified(journal, left[0]):
                _complete(places, journal, left[0], outcome, progress, say, on_wait)
        if is_held:
            journal.sweep()
    return outcome


def _is_certified(journal: Journal, intent: Intent) -> bool:
    return any(one.id == intent.id for one in journal.certificates())


def _complete(
    places: Places,
    journal: Journal,
    intent: Intent,
    outcome: Outcome,
    progress: Progress,
    say: Callable[[str], None],
    on_wait: OnWait,
) -> None:
    failed = len(outcome.errors)
    try:
        with disk_errors(f"tombstones of {intent.project} cannot be written"):
            _add_tombstones(places, intent)
        if places.database is not None:
            record(places, places.database, intent, intent.days)
    except ArchiveError as error:
        outcome.errors.append((None, error))
    results = list[DayDone]()
    for number, (day, one) in enumerate(intent.days.items()):
        progress(number, len(intent.days))
        result = journal.day_done(intent, day)
        if result is None:
            try:
                result = forget_day(places, places.layout.day(intent.project, day), intent.id, one, on_wait)
            except ArchiveError as error:
                outcome.errors.append((day, error))
                if isinstance(error, DestinationError | DatabaseError):  # every other day would fail, too
                    return
                continue
            journal.finish_day(intent, day, result)
        results.append(result)
    progress(len(intent.days), len(intent.days))
    if len(outcome.errors) > failed:
        return
    try:
        certificate = _certify(places, intent, results, say)
    except _FoundError as error:
        journal.reopen(intent)
        outcome.errors.append((None, error))
        return
    except ArchiveError as error:
        outcome.errors.append((None, error))
        return
    journal.finish(certificate)
    outcome.certificates.append(certificate)


def record(places: Places, database: Database, erasure: Intent | Certificate, days: Iterable[date]) -> None:
    """Writes an erasure and the tombstones of days into the tables. Raises DatabaseError."""
    row = _row(erasure)
    erasures_table.write_erasure(database, row)
    tombstones = ((day, read_tombstones(places.layout.day(erasure.project, day)).digests) for day in days)
    runs = ((day, digest) for day, digests in tombstones for digest in digests)
    erasures_table.add_tombstones(database, erasure.project, erasure.id, runs, erased_at=row.started_at)


def _certify(places: Places, intent: Intent, results: list[DayDone], say: Callable[[str], None]) -> Certificate:
    """Erases what is common to all days, searches again, and writes the certificate into the database."""
    run_ids = [run_id for one in intent.days.values() for run_id in one.run_ids]
    erased: dict[str, Counter[str]] = {}
    checked = Counter[str]()
    for result in results:
        for place, kinds in result.erased.items():
            erased.setdefault(place, Counter()).update(kinds)
        checked.update(result.checked)
    left = [line for result in results for line in result.left]
    ids = [*run_ids, *(key for one in intent.days.values() for key in one.record_ids)]
    events, events_left = places.erase_events(intent.id, ids)
    erased["platform"] = Counter(events)
    left += events_left
    checked["platform"] = sum(places.find_events(ids).values())
    if places.database is not None:
        left += _rewrite(places.database, intent, say)
        checked["rows"] = sum(one.rows for one in find_rows(places.database, run_ids)[0])
    found = {place: entries for place, entries in checked.items() if entries}
    if found and not left:
        place = min(found)
        raise _FoundError(
            f"the erasure {intent.id} is not complete",
            why=f"{counted(found[place], 'entry', 'entries')} found in: {place}",
            hint="Run it again: lse forget --resume",
        )
    certificate = Certificate(
        id=intent.id,
        project=intent.project,
        requested_by=intent.requested_by,
        reason=intent.reason,
        selection_sha256=intent.selection_sha256,
        started_at=intent.started_at,
        finished_at=now_text(),
        selected=intent.selected,
        days=list(intent.days),
        erased={place: dict(kinds) for place, kinds in erased.items() if kinds},
        checked=dict(checked),
        left=left,
        notes=[line for result in results for line in result.notes],
    )
    if places.database is not None:
        erasures_table.write_erasure(places.database, _row(certificate))
    return certificate


def _rewrite(database: Database, intent: Intent, say: Callable[[str], None]) -> list[str]:
    """Rewrites the tables whose files still hold erased rows; returns what is left."""
    pending = pending_rewrite(database, intent.id)
    if pending.tables:
        megabytes = pending.needs / 1e6
        say(f"rewriting {', '.join(pending.tables)}: {megabytes:,.0f} MB are needed, and each is locked meanwhile")
    return rewrite(database, intent.id)


def _row(erasure: Intent | Certificate) -> erasures_table.Erasure:
    row = erasures_table.Erasure(
        erasure_id=erasure.id,
        project=erasure.project,
        requested_by=erasure.requested_by,
        reason=erasure.reason,
        selection_sha256=erasure.selection_sha256,
        started_at=datetime.fromisoformat(erasure.started_at),
    )
    if isinstance(erasure, Intent):
        return row
    return replace(
        row,
        finished_at=datetime.fromisoformat(erasure.finished_at),
        counts={"selected": erasure.selected, **erasure.erased},
        checked=erasure.checked,
        left_behind=erasure.left,
    )
