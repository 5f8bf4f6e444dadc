"""An unfinished fetch: the run files so far, and a journal of what is known to be complete.

The journal is an SQLite file beside the staged folder: a page's runs and the window that they complete are one
transaction, so that a killed process leaves whole pages only, and memory does not grow with the day.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from uuid import UUID

from lse_archive.days import Window, day_window
from lse_archive.documents import NotARunError, RunFacts, read_facts
from lse_archive.errors import ArchiveConflictError, SourceError
from lse_archive.folder import RunFile, run_file_name
from lse_archive.layout import DayPaths
from lse_archive.walk import PageReport

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
  id BLOB PRIMARY KEY, name BLOB NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL, origin TEXT NOT NULL,
  trace_id BLOB NOT NULL, start INTEGER NOT NULL, end INTEGER, trace_start INTEGER,
  is_root INTEGER NOT NULL, failed INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS extra (name BLOB PRIMARY KEY, sha256 BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS covered (low INTEGER NOT NULL, high INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS mark (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_RUN_COLUMNS = "id, name, sha256, size, origin, trace_id, start, end, trace_start, is_root, failed, tokens, cost"
_INSERT_RUN = f"INSERT OR REPLACE INTO run ({_RUN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Staging:
    """The staging folder of one project's day. Safe to use from several threads; the caller holds the day's lock."""

    def __init__(self, paths: DayPaths, progress: Callable[[int], None] | None = None) -> None:
        self._progress = progress
        self.root = paths.staging
        self.runs_folder = paths.staging / "runs"
        self._window: Window = day_window(paths.day)
        self._lock = threading.RLock()
        self.misplaced: set[str] = set()
        self.runs_folder.mkdir(parents=True, exist_ok=True)
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        path = self.root / "journal.sqlite"
        try:
            return self._connect(path)
        except sqlite3.DatabaseError:
            # Only a power failure damages it; the files stay, and are asked for again.
            path.unlink()
            return self._connect(path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            # A process that dies loses nothing by this; after a power failure the files' checksums decide.
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA journal_mode = TRUNCATE")
            db.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def close(self) -> None:
        self._db.close()

    def discard(self) -> None:
        """Removes the staging folder."""
        self.close()
        shutil.rmtree(self.root)

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Makes what happens within it one step; not nested."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # ---- what an earlier, interrupted fetch left ---------------------------------------------------------------

    def resume(self, *, dialect: str, fresh_enough: bool) -> None:
        """Takes up what an interrupted fetch left.

        Files that are not as the journal has them are asked for again. Runs that came in another dialect, or too
        long ago, stay until LangSmith serves them again, but what they cover is asked for again.
        """
        with self.transaction() as db:
            db.execute("DELETE FROM run WHERE origin = 'kept'")
            db.execute("DELETE FROM extra")
            damaged = []
            journal = dict(db.execute("SELECT name, sha256 FROM run"))
            for path in self.runs_folder.iterdir():
                name = os.fsencode(path.name)
                digest = journal.pop(name, None)
                if digest is None or hashlib.sha256(path.read_bytes()).digest() != digest:
                    path.unlink()
                    damaged.append(name)
            damaged += journal
            forgotten = db.executemany("DELETE FROM run WHERE name = ?", [(name,) for name in damaged]).rowcount > 0
            former = db.execute("SELECT value FROM mark WHERE key = 'dialect'").fetchone()
            if forgotten or not fresh_enough or former != (dialect,):
                db.execute("DELETE FROM covered")
                db.execute("UPDATE run SET origin = 'stale'")
            db.execute("INSERT OR REPLACE INTO mark VALUES ('dialect', ?)", (dialect,))

    def gaps(self) -> list[Window]:
        """The parts of the day that are not known to be complete, oldest first."""
        with self._lock:
            covered = self._db.execute("SELECT low, high FROM covered ORDER BY low").fetchall()
        gaps, position = [], self._window.start
        for low, high in covered:
            if low > position:
                gaps.append(Window(position, low))
            position = max(position, high)
        if position < self._window.end:
            gaps.append(Window(position, self._window.end))
        return gaps

    # ---- the sink of a walk --------------------------------------------------------------------------------------

    def add(self, runs: list[bytes]) -> PageReport:
        """Writes the runs that are not here yet.

        Raises:
            SourceError: A run has no id or start time.
        """
        starts, rows = [], {}
        for run in runs:
            try:
                facts = read_facts(run)
            except NotARunError as error:
                raise SourceError(
                    "LangSmith sent a run that cannot be filed", why=str(error), todo="Report it to LangSmith"
                ) from error
            starts.append(facts.start)
            if facts.start in self._window:
                rows.setdefault(facts.run_id, (facts, run))
            else:
                self.misplaced.add(facts.run_id)
        with self.transaction() as db:
            new = [(facts, run) for facts, run in rows.values() if not self._is_served(facts.run_id)]
            for facts, run in new:
                self._drop_file(facts.run_id)
                with (self.runs_folder / run_file_name(facts)).open("xb", buffering=0) as file:
                    file.write(run)
            db.executemany(
                _INSERT_RUN,
                [
                    _row(facts, run_file_name(facts), hashlib.sha256(run).digest(), len(run), "served")
                    for facts, run in new
                ],
            )
        if self._progress:
            self._progress(len(new))
        ordered = all(earlier >= later for earlier, later in itertools.pairwise(starts))
        return PageReport(len(new), max(starts, default=None), min(starts, default=None), ordered)

    def _is_served(self, run_id: str) -> bool:
        query = "SELECT 1 FROM run WHERE id = ? AND origin = 'served'"
        return self._db.execute(query, (_key(run_id),)).fetchone() is not None

    def _drop_file(self, run_id: str) -> None:
        # Never written in place: the file may be a hard link to a published one.
        if staged := self.find(run_id):
            (self.runs_folder / staged[0]).unlink(missing_ok=True)

    def cover(self, window: Window) -> None:
        with self.transaction() as db:
            db.execute("INSERT INTO covered VALUES (?, ?)", (window.start, window.end))

    def unknown(self, ids: list[str]) -> list[str]:
        """Those of the ids that have not been served yet."""
        with self._lock:
            return [run_id for run_id in ids if not self._is_served(run_id)]

    # ---- the union with what is published ----------------------------------------------------------------------------

    def find(self, run_id: str) -> tuple[str, bytes] | None:
        """File name and sha256 of a staged run."""
        query = "SELECT name, sha256 FROM run WHERE id = ?"
        found = self._db.execute(query, (_key(run_id),)).fetchone()
        return (os.fsdecode(found[0]), found[1]) if found else None

    def keep(self, folder: Path, file: RunFile, *, served: bool) -> None:
        """Takes a published run file over as it is, in the place of a staged one if there is one.

        Called within a transaction, as is `keep_other`.

        Args:
            served: Whether LangSmith still serves the run (then the file says the same in other bytes).
        """
        self._drop_file(file.facts.run_id)
        _link(folder / file.name, self.runs_folder / file.name)
        row = _row(file.facts, file.name, file.sha256, file.size, "served" if served else "kept")
        self._db.execute(_INSERT_RUN, row)

    def keep_other(self, path: Path, digest: bytes) -> None:
        """Takes over a file that is no run of the day."""
        _link(path, self.runs_folder / path.name)
        self._db.execute("INSERT OR REPLACE INTO extra VALUES (?, ?)", (os.fsencode(path.name), digest))

    # ---- what will be published --------------------------------------------------------------------------------------

    def served_runs(self) -> int:
        """Runs that LangSmith served."""
        return self._db.execute("SELECT count(*) FROM run WHERE origin = 'served'").fetchone()[0]

    def kept_ids(self) -> list[str]:
        """Runs that LangSmith no longer serves, sorted."""
        rows = self._db.execute("SELECT id FROM run WHERE origin <> 'served' ORDER BY id")
        return [str(UUID(bytes=run_id)) for (run_id,) in rows]

    def has_file(self, name: str) -> bool:
        """Whether a file of this name will be published."""
        return (self.runs_folder / name).exists()

    def others(self) -> list[str]:
        """Names of the files that are no run of the day."""
        return [os.fsdecode(name) for (name,) in self._db.execute("SELECT name FROM extra ORDER BY name")]

    def facts(self) -> Iterator[tuple[RunFacts, int]]:
        """Facts and size of each run, in the order of file names."""
        for row in self._db.execute(f"SELECT {_RUN_COLUMNS} FROM run ORDER BY name"):
            run_id, _, _, size, _, trace_id, start, end, trace_start, is_root, failed, tokens, cost = row
            ids = str(UUID(bytes=run_id)), str(UUID(bytes=trace_id))
            yield RunFacts(*ids, start, end, trace_start, bool(is_root), bool(failed), tokens, cost), size

    def sums(self) -> Iterator[tuple[str, bytes]]:
        """Names and checksums of all files, in the order of their names."""
        query = "SELECT name, sha256 FROM run UNION ALL SELECT name, sha256 FROM extra ORDER BY name"
        for name, digest in self._db.execute(query):
            yield os.fsdecode(name), digest


def _key(run_id: str) -> bytes:
    return bytes.fromhex(run_id.replace("-", ""))


def _row(facts: RunFacts, name: str, digest: bytes, size: int, origin: str) -> tuple[object, ...]:
    return (
        _key(facts.run_id),
        os.fsencode(name),
        digest,
        size,
        origin,
        _key(facts.trace_id),
        facts.start,
        facts.end,
        facts.trace_start,
        facts.is_root,
        facts.failed,
        facts.tokens,
        facts.cost,
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise ArchiveConflictError(
            f"{source} cannot be kept",
            why="a run that was fetched now has the same file name",
            todo="Move the file away, and fetch again",
        ) from None
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
