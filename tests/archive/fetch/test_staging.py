"""Staging: the next fetch reuses the intact part of an interrupted one."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest
from day_fixtures import DAY, END, START, day_paths, run, run_id

from lse_archive.days import Window, compact_time
from lse_archive.errors import ArchiveConflictError
from lse_archive.fetch.source import Page, UnservedRun
from lse_archive.fetch.staging import Staging
from lse_archive.layout import DayPaths

PROJECT_ID = "0190f0a0-0000-7000-8000-00000000000a"


@pytest.fixture
def paths(tmp_path: Path) -> DayPaths:
    return day_paths(tmp_path)


@contextlib.contextmanager
def staging(
    paths: DayPaths, api_version: str = "v2", project_id: str = PROJECT_ID, now: float = 1e9
) -> Generator[Staging]:
    with contextlib.closing(Staging(paths)) as opened:
        opened.resume(api_version=api_version, project_id=project_id, now=now)
        yield opened


def begin(paths: DayPaths) -> None:
    """Three runs, and the later half of the day complete."""
    with staging(paths) as first:
        report = first.add(Page([run(9), run(5), run(1)]))
        assert (report.new, report.newest, report.oldest, report.ordered) == (3, START + 9, START + 1, True)
        first.mark_complete(Window(START + 5, END))


LEFT = [Window(START, START + 5)]
ALL = [Window(START, END)]


def test_a_fetch_continues_where_it_stopped(paths):
    begin(paths)
    with staging(paths) as second:
        assert second.gaps() == LEFT
        assert second.served_runs() == 3
        assert second.add(Page([run(5), run(1), run(0)])).new == 1
        assert second.unknown([run_id(0), run_id(7)]) == [run_id(7)]
        assert [header.run_id for header, _ in second.headers()] == [run_id(number) for number in (0, 1, 5, 9)]
        names = [f"{run_id(number)}_{compact_time(START + number)}.json" for number in (0, 1, 5, 9)]
        assert [name for name, _ in second.sums()] == names
        assert dict(second.sums())[names[0]] == hashlib.sha256(run(0)).digest()


def test_gaps_are_the_windows_that_are_not_complete(paths):
    with staging(paths) as first:
        for low, high in (
            (START + 10, START + 20),
            (START + 15, START + 30),
            (START + 40, END),
            (START + 12, START + 13),
        ):
            first.mark_complete(Window(low, high))
        assert first.gaps() == [Window(START, START + 10), Window(START + 30, START + 40)]
        first.mark_complete(Window(START, END))
        assert first.gaps() == []


@pytest.mark.parametrize(
    "change",
    [
        {"api_version": "v1"},
        {"project_id": "0190f0a0-0000-7000-8000-00000000000b"},
        {"now": 1e9 + 25 * 3600},
        {"now": 1e9 - 60},
    ],
)
def test_runs_staged_under_other_conditions_are_fetched_again_and_kept_until_then(paths, change):
    begin(paths)
    with staging(paths, **change) as second:
        assert second.gaps() == ALL
        assert second.served_runs() == 0
        assert second.kept_ids() == [run_id(1), run_id(5), run_id(9)]
        assert second.add(Page([run(5)])).new == 1
        assert second.kept_ids() == [run_id(1), run_id(9)]
        with second.transaction():
            second.delete_stale()
        assert second.kept_ids() == []
        assert len(list(second.runs_folder.iterdir())) == 1


def test_the_age_counts_from_the_first_fetch(paths):
    begin(paths)
    for hours in (10, 20):
        with staging(paths, now=1e9 + hours * 3600) as again:
            assert again.gaps() == LEFT
    with staging(paths, now=1e9 + 25 * 3600) as late:
        assert late.gaps() == ALL


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x")])
def test_a_changed_staged_file_is_fetched_again(paths, damage):
    begin(paths)
    damage(next((paths.staging / "runs").iterdir()))
    with staging(paths) as second:
        assert second.gaps() == ALL
        assert second.served_runs() == 2
        assert len(list(second.runs_folder.iterdir())) == 2


def test_a_page_interrupted_by_a_kill_leaves_nothing(paths):
    begin(paths)
    (paths.staging / "runs" / f"{run_id(3)}_{compact_time(START + 3)}.json").write_bytes(run(3))
    with staging(paths) as second:
        assert second.gaps() == LEFT
        assert second.add(Page([run(3)])).new == 1


def test_the_runs_of_a_damaged_journal_stay_until_langsmith_serves_them_again(paths, caplog):
    begin(paths)
    (paths.staging / "journal.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    [torn, *_] = sorted((paths.staging / "runs").iterdir())
    torn.write_bytes(torn.read_bytes()[:-1])
    with staging(paths) as second:
        assert second.gaps() == ALL
        assert second.served_runs() == 0
        assert second.kept_ids() == [run_id(5), run_id(9)]
        assert second.add(Page([run(5), run(1)])).new == 2
        assert second.kept_ids() == [run_id(9)]
    assert "is damaged" in caplog.text


def test_a_failed_transaction_is_rolled_back(paths):
    begin(paths)
    with staging(paths) as second:
        with pytest.raises(ArchiveConflictError), second.transaction():
            _delete_and_fail(second)
        assert second.served_runs() == 3


def _delete_and_fail(staging: Staging) -> None:
    staging.delete_stale()
    staging._db.execute("DELETE FROM run")
    raise ArchiveConflictError("given up")


def test_only_runs_of_the_day_and_the_project_are_staged(paths):
    theirs = "0190f0a0-0000-7000-8000-00000000000b"
    with staging(paths) as first:
        page = [run(4, END), run(3, project_id=PROJECT_ID), run(2, session_id=theirs), run(1), run(5, START - 1)]
        assert first.add(Page(page)).new == 2
        assert first.misplaced == {run_id(2), run_id(4), run_id(5)}
        assert first.add(Page([run(1), run(1)])).new == 0
        assert first.served_runs() == 2


def test_bytes_that_are_no_run_are_kept_and_counted_once(paths):
    odd = b'{"id":"x"}'
    name = f"_unreadable_{hashlib.sha256(odd).hexdigest()}.bin"
    with staging(paths) as first:
        report = first.add(Page([run(7), odd, run(5)]))
        assert (report.new, report.oldest, report.newest, report.ordered) == (3, START + 5, START + 7, True)
        assert first.add(Page([odd])).new == 0
        first.mark_complete(Window(START + 5, END))
    with staging(paths) as second:
        assert second.gaps() == [Window(START, START + 5)]
        assert (second.served_runs(), second.incomplete(), second.others()) == (3, [name], [name])
        assert dict(second.sums())[name] == hashlib.sha256(odd).digest()
        assert (second.runs_folder / name).read_bytes() == odd
        (second.runs_folder / name).write_bytes(b"x")
    with staging(paths) as third:
        assert third.gaps() == ALL
        assert third.incomplete() == []
    with staging(paths, api_version="v1") as other:
        assert not other.is_incomplete()


def test_an_unserved_run_stays_recorded_until_it_is_served(paths):
    with staging(paths) as first:
        unserved = [UnservedRun(run_id(3), START + 3, [b"a part of it"]), UnservedRun(run_id(4), END)]
        report = first.add(Page([run(7)], unserved=unserved))
        assert (report.new, report.oldest, report.newest) == (2, START + 3, START + 7)
        assert first.add(Page([], unserved=unserved[:1])).new == 0
    with staging(paths) as second:
        assert (second.served_runs(), second.incomplete(), len(second.others())) == (1, [run_id(3)], 1)
        second.add(Page([run(3)]))
        assert (second.served_runs(), second.is_incomplete(), second.others()) == (2, False, [])
        names = [run_id(3), run_id(4), "_unreadable_00.bin"]
        assert [second.has_run(name) for name in names] == [True, False, False]
        assert second.add(Page([], unserved=unserved[:1])).new == 0
        assert not second.is_incomplete()
        assert len(list(second.runs_folder.iterdir())) == 2


def test_unsorted_pages_are_recognized(paths):
    with staging(paths) as first:
        assert not first.add(Page([run(1), run(2)])).ordered
        report = first.add(Page([run(9), run(2)]))
        assert (report.ordered, report.newest, report.oldest) == (True, START + 9, START + 2)
        empty = first.add(Page([]))
        assert (empty.new, empty.newest, empty.oldest, empty.ordered) == (0, None, None, True)


def test_discarding_deletes_everything(paths):
    begin(paths)
    with staging(paths) as second:
        second.discard()
    assert not paths.staging.exists()


def test_a_full_disk_does_not_discard_the_journal(paths, monkeypatch):
    begin(paths)

    def full(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("sqlite3.connect", full)
        with pytest.raises(sqlite3.OperationalError):
            Staging(paths)
    with staging(paths) as second:
        assert second.gaps() == LEFT
    assert paths.day == DAY
