"""An unfinished fetch: its run files, and a journal of the windows that are complete.

The journal is an SQLite file beside the staged folder, so that memory does not grow with the day. A page's files are
written before its rows, and its rows before the window that they complete: the process may be killed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lse_archive.days import Window, day_window
from lse_archive.errors import ArchiveConflictError
from lse_archive.fetch.paginate import PageReport
from lse_archive.fetch.source import AttachmentLinks, Page, UnservedRun
from lse_archive.files import file_digest, link_file
from lse_archive.folder.attachments import (
    ATTACHMENT_PREFIX,
    ATTACHMENTS,
    Attachment,
    attachment_digest,
    attachment_file,
    attachment_lines,
    belongs_to_attachments,
)
from lse_archive.folder.publish import discard
from lse_archive.folder.reader import RunFile, run_file_name
from lse_archive.folder.tombstones import NONE, Tombstones, tombstone
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.runs.feedback import FEEDBACK_FILES
from lse_archive.runs.header import RunHeader, read_header
from lse_archive.runs.scanner import NotARunError

_log = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
  id BLOB NOT NULL UNIQUE, name BLOB NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL, origin TEXT NOT NULL,
  trace_id BLOB NOT NULL, start INTEGER NOT NULL, end INTEGER, trace_start INTEGER,
  is_root INTEGER NOT NULL, failed INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS extra (name BLOB PRIMARY KEY, sha256 BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS missing (id BLOB PRIMARY KEY);
CREATE TABLE IF NOT EXISTS unreadable (
  name BLOB PRIMARY KEY, sha256 BLOB NOT NULL, run_id BLOB, served INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS attachment (
  run_id BLOB NOT NULL, name BLOB NOT NULL, media_type TEXT, size INTEGER, sha256 BLOB, why TEXT, state TEXT NOT NULL,
  PRIMARY KEY (run_id, name)
);
CREATE TABLE IF NOT EXISTS covered (low INTEGER NOT NULL, high INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (digest BLOB PRIMARY KEY);
CREATE TABLE IF NOT EXISTS stats (run BLOB PRIMARY KEY, stats BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mark (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_RUN_COLUMNS = "id, name, sha256, size, origin, trace_id, start, end, trace_start, is_root, failed, tokens, cost"
_INSERT_RUN = f"INSERT OR REPLACE INTO run ({_RUN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# Of the journal; a journal of another format is not continued.
_FORMAT = "3"
# State of an attachment: `wanted` (not here, or of an earlier fetch), `refused` (over a limit), `here`, `stale` (of an
# earlier fetch, and not listed in this one). Only one with a sha256 has a file.
_LIST_ATTACHMENT = """
INSERT INTO attachment (run_id, name, state) VALUES (?, ?, 'wanted')
ON CONFLICT (run_id, name) DO UPDATE SET state = 'wanted' WHERE state = 'stale'
"""
_PUT_ATTACHMENT = """
INSERT INTO attachment VALUES (?1, ?2, ?3, ?4, ?5, NULL, 'here') ON CONFLICT (run_id, name) DO UPDATE
SET media_type = ?3, size = ?4, sha256 = ?5, why = NULL, state = 'here'
"""

# An interrupted fetch is continued for this long; after that its runs may have changed and are fetched again.
_FRESH_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class StagedRun:
    """A run in staging.

    Attributes:
        served: Whether LangSmith served it in this fetch; if not, in an earlier, interrupted one.
        ended: Whether it has an end time.
    """

    name: str
    sha256: bytes
    served: bool
    ended: bool


class Staging:
    """The staging folder of one project's day. Safe to use from several threads; the caller holds the day's lock.

    Args:
        tombstones: Runs that were erased on purpose: what is staged of them is erased, and nothing of them is written.
    """

    def __init__(
        self, paths: DayPaths, progress: Callable[[int], None] | None = None, tombstones: Tombstones = NONE
    ) -> None:
        self._paths = paths
        self._tombstones = tombstones
        self._progress = progress
        self.root = paths.staging
        self.runs_folder = paths.staging / "runs"
        self.downloads_folder = paths.staging / "downloads"
        self._window: Window = day_window(paths.day)
        self._lock = threading.RLock()
        self._project = project_folder(paths.project)  # any name as text
        self._project_id: str | None = None
        self.misplaced: set[str] = set()
        self.runs_folder.mkdir(parents=True, exist_ok=True)
        self._is_journal_lost = False
        self._db = self._open()
        if tombstones:
            self._forget()

    def _open(self) -> sqlite3.Connection:
        path = self.root / "journal.sqlite"
        try:
            return self._connect(path)
        except sqlite3.OperationalError:
            raise  # an error of the disk; the journal is not damaged
        except sqlite3.DatabaseError as error:
            _log.warning("%s is damaged (%s): the day is fetched again", path, error)
            self._is_journal_lost = True
            for damaged in self.root.glob("journal.sqlite*"):
                damaged.unlink()
            return self._connect(path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            # A write-ahead log keeps whole transactions in their order, also through a power failure. The exclusive
            # mode lets it work without shared memory, on network volumes too.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 10000")  # 40 MB: each one waits for the disk
            db.executescript(_SCHEMA)
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("damaged")
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    @property
    def journal(self) -> sqlite3.Connection:
        """The journal; changes belong into a `transaction`."""
        return self._db

    def close(self) -> None:
        self._db.close()

    def discard(self) -> None:
        """Removes the staging folder. Called after the publication, which an error here does not undo."""
        self._db.execute("PRAGMA synchronous = OFF")  # the journal is deleted: do not wait for the disk
        self.close()
        discard(self._paths, self.root)

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Runs a block as one transaction of the journal. Must not be nested."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # ---- resuming an interrupted fetch --------------------------------------------------------------------------

    def resume(self, *, api_version: str, project_id: str, now: float | None = None) -> None:
        """Resumes an interrupted fetch.

        Files that differ from the journal are fetched again. If the journal is of another API version or project, too
        old, or damaged, the whole day is fetched again; its runs stay until LangSmith serves them again.

        Args:
            now: Seconds since the epoch.

        Raises:
            ArchiveConflictError: It is the fetch of a project of another name, see `require_own`.
        """
        now = time.time() if now is None else now
        self._project_id = project_id.lower()
        wanted = {"api_version": api_version, "project_id": project_id, "format": _FORMAT}
        shutil.rmtree(self.downloads_folder, ignore_errors=True)
        self.downloads_folder.mkdir()
        with self.transaction() as db:
            db.execute("DELETE FROM run WHERE origin = 'kept'")
            db.execute("DELETE FROM extra")
            damaged = []
            journal = dict(db.execute("SELECT name, sha256 FROM run UNION ALL SELECT name, sha256 FROM unreadable"))
            incomplete = self._check_attachments()
            for path in self.runs_folder.iterdir():
                if belongs_to_attachments(path.name):
                    continue
                name = os.fsencode(path.name)
                digest, content = journal.pop(name, None), path.read_bytes()
                if digest is None and self._is_journal_lost and (row := self._row_of(path.name, content)):
                    db.execute(_INSERT_RUN, row)
                elif digest is None or hashlib.sha256(content).digest() != digest:
                    path.unlink()
                    damaged.append(name)
            damaged += journal
            names = [(name,) for name in damaged]
            incomplete |= db.executemany("DELETE FROM run WHERE name = ?", names).rowcount > 0
            incomplete |= db.executemany("DELETE FROM unreadable WHERE name = ?", names).rowcount > 0
            db.execute("DELETE FROM stats WHERE run NOT IN (SELECT id FROM run)")
            former = dict(db.execute("SELECT key, value FROM mark"))
            if (owner := former.pop("project", self._project)) != self._project:
                raise ArchiveConflictError(
                    f"{self.root} is an unfinished fetch of the project '{owner}', not of '{self._project}'",
                    why="on this disk the two names lead to one folder",
                    hint="Archive one of the projects on a disk that distinguishes the names (LSE_DATA_DIR)",
                )
            db.execute("INSERT OR REPLACE INTO mark VALUES ('project', ?)", (self._project,))
            age = now - float(former.pop("began", "-inf"))
            if former != wanted or not 0 <= age <= _FRESH_SECONDS:
                db.execute("UPDATE run SET origin = 'stale'")
                db.execute("UPDATE unreadable SET served = 0")
                db.execute("DELETE FROM missing")
                db.execute("DELETE FROM forgotten")
                self._unlist_attachments("TRUE")
                incomplete = True
                marks = [*wanted.items(), ("began", str(now))]
                db.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?)", marks)
            if incomplete:
                db.execute("DELETE FROM covered")

    def _check_attachments(self) -> bool:
        """Deletes files that the journal does not have, and rows without their file; returns whether there were any."""
        rows = {attachment_file(digest): digest for digest in self._attachment_digests()}
        for path in self.runs_folder.iterdir():
            if not belongs_to_attachments(path.name):
                continue
            if path.name in rows and file_digest(path) == rows[path.name]:
                del rows[path.name]
            else:
                path.unlink()
        lost = [(digest,) for digest in rows.values()]
        return self._db.executemany("DELETE FROM attachment WHERE sha256 = ?", lost).rowcount > 0

    def _unlist_attachments(self, condition: str, *values: object) -> None:
        self._db.execute(f"DELETE FROM attachment WHERE {condition} AND sha256 IS NULL", values)
        self._db.execute(f"UPDATE attachment SET state = 'stale' WHERE {condition}", values)

    def _attachment_digests(self) -> list[bytes]:
        query = "SELECT DISTINCT sha256 FROM attachment WHERE sha256 IS NOT NULL"
        return [digest for (digest,) in self._db.execute(query)]

    def _row_of(self, name: str, content: bytes) -> tuple[object, ...] | None:
        """The row of a whole run file of the day; None for any other file."""
        try:
            header = read_header(content)
        except NotARunError:
            return None
        if run_file_name(header) != name or header.start not in self._window:
            return None
        return _row(header, name, hashlib.sha256(content).digest(), len(content), "stale")

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

    # ---- the sink of the pagination ------------------------------------------------------------------------------

    def add(self, page: Page) -> PageReport:
        """Writes the runs that this fetch does not have yet, and records which attachments the runs have.

        A run that cannot be filed, because its id, trace or start time cannot be read, is kept as it came.
        """
        starts, rows, unreadable, forgotten = [], {}, [], dict[bytes, int | None]()
        for run in page.runs:
            try:
                header = read_header(run)
            except NotARunError:
                if digest := self._tombstones.owner("", run):
                    forgotten[digest] = None
                else:
                    unreadable.append(run)
                continue
            starts.append(header.start)
            if header.start not in self._window or header.project_id not in (None, self._project_id):
                self.misplaced.add(header.run_id)
            elif header.run_id in self._tombstones:
                forgotten[tombstone(header.run_id)] = header.start
            else:
                rows.setdefault(header.run_id, (header, run))
        ordered = all(earlier >= later for earlier, later in itertools.pairwise(starts))
        starts += [run.start for run in page.unserved]
        unserved = [run for run in page.unserved if run.run_id not in self._tombstones]
        forgotten |= {tombstone(run.run_id): run.start for run in page.unserved if run.run_id in self._tombstones}
        new, added = self._write(rows), 0
        if unreadable or unserved:
            missing, added = self._write_unreadable(unreadable, unserved)
            new += missing
        if forgotten:
            noted = self._note_forgotten(forgotten)
            new += [start for digest in noted if (start := forgotten[digest]) is not None]
            added += sum(forgotten[digest] is None for digest in noted)
        self._list_attachments(rows, page.attachments)
        if self._progress:
            self._progress(len(new) + added)
        return PageReport(len(new) + added, max(new, default=None), min(starts, default=None), ordered)

    def renew(self, page: Page) -> None:
        """Replaces runs that were served before by their present state; others are added.

        The attachments of a run that has changed are downloaded again.
        """
        rows = {}
        for run in page.runs:
            with contextlib.suppress(NotARunError):
                header = read_header(run)
                is_here = header.start in self._window and header.project_id in (None, self._project_id)
                if is_here and header.run_id not in self._tombstones:
                    rows[header.run_id] = (header, run)
        self._write(rows, again=True)
        self._list_attachments(rows, page.attachments)

    def _list_attachments(self, run_ids: Iterable[str], links: AttachmentLinks) -> None:
        listed = [(_key(run_id), _name_key(link.name)) for run_id in run_ids for link in links.get(run_id, ())]
        if listed:
            with self.transaction() as db:
                db.executemany(_LIST_ATTACHMENT, listed)

    def _write(self, runs: dict[str, tuple[RunHeader, bytes]], *, again: bool = False) -> list[int]:
        """Writes those runs that have not been served yet; returns their start times.

        Args:
            again: Also writes those that were served in another state.
        """
        named = {
            run_id: (run_file_name(header), hashlib.sha256(run).digest()) for run_id, (header, run) in runs.items()
        }
        folder = os.fspath(self.runs_folder)
        with self.transaction() as db:
            here = self._find(list(named))
            rows, starts = [], []
            for run_id, (name, digest) in named.items():
                staged = here.get(run_id)
                if staged and staged.served and not (again and staged.sha256 != digest):
                    continue
                header, run = runs[run_id]
                if staged:
                    (self.runs_folder / staged.name).unlink(missing_ok=True)
                _write_file(f"{folder}/{name}", run)
                rows.append(_row(header, name, digest, len(run), "served"))
                starts.append(header.start)
                if staged:
                    db.execute("DELETE FROM stats WHERE run = ?", (rows[-1][0],))
                    self._unlist_attachments("run_id = ?", rows[-1][0])
                if header.feedback_stats:
                    db.execute("INSERT OR REPLACE INTO stats VALUES (?, ?)", (rows[-1][0], header.feedback_stats))
            db.executemany(_INSERT_RUN, rows)
            if rows and db.execute("SELECT EXISTS (SELECT 1 FROM missing)").fetchone()[0]:
                self._clear_missing([row[0] for row in rows])
        return starts

    def _clear_missing(self, keys: list[object]) -> None:
        """Deletes what is recorded of runs that were not served before."""
        for key in keys:
            self._db.execute("DELETE FROM missing WHERE id = ?", (key,))
            self._delete_unreadable("run_id = ?", key)

    def _delete_unreadable(self, condition: str, *values: object) -> None:
        # Without RETURNING, which SQLite has since 3.35 only.
        for (name,) in self._db.execute(f"SELECT name FROM unreadable WHERE {condition}", values).fetchall():
            (self.runs_folder / os.fsdecode(name)).unlink(missing_ok=True)
        self._db.execute(f"DELETE FROM unreadable WHERE {condition}", values)

    def _write_unreadable(self, runs: list[bytes], unserved: Sequence[UnservedRun]) -> tuple[list[int], int]:
        """Records the runs that cannot be filed; returns the start times of new unserved ones, and the number of new
        unreadable ones."""
        starts = []
        with self.transaction() as db:
            for run in unserved:
                key = _key(run.run_id)
                if run.start not in self._window or self._find_served(key):
                    continue
                if db.execute("INSERT OR IGNORE INTO missing VALUES (?)", (key,)).rowcount:
                    starts.append(run.start)
                for content in run.rest:
                    self._keep_unreadable(content, key)
            return starts, sum(self._keep_unreadable(run, None) for run in runs)

    def _find_served(self, key: bytes) -> bool:
        found = self._db.execute("SELECT 1 FROM run WHERE id = ? AND origin = 'served'", (key,))
        return found.fetchone() is not None

    def _keep_unreadable(self, content: bytes, run_key: bytes | None) -> bool:
        """Writes bytes that are no run of the day; returns whether this fetch did not have them yet.

        Args:
            run_key: The run that they are a part of; None if they are a run themselves.
        """
        digest = hashlib.sha256(content).digest()
        name = _unreadable_name(digest)
        found = self._db.execute("SELECT served FROM unreadable WHERE name = ?", (os.fsencode(name),)).fetchone()
        if found is None:
            _write_file(os.fspath(self.runs_folder / name), content)
        row = (os.fsencode(name), digest, run_key, 1)
        self._db.execute("INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?, ?)", row)
        return found != (1,)

    def mark_complete(self, window: Window) -> None:
        with self.transaction() as db:
            db.execute("INSERT INTO covered VALUES (?, ?)", (window.start, window.end))

    def unknown(self, ids: list[str]) -> list[str]:
        """Those of the ids that have not been served yet; without runs that have tombstones."""
        self._note_forgotten([tombstone(run_id) for run_id in ids if run_id in self._tombstones])
        with self._lock:
            here = self._find(ids)
        missing = [run_id for run_id in ids if run_id not in here or not here[run_id].served]
        return [run_id for run_id in missing if run_id not in self._tombstones]

    # ---- runs that were erased on purpose ----------------------------------------------------------------------------

    def _note_forgotten(self, digests: Iterable[bytes]) -> list[bytes]:
        """Records that LangSmith lists runs which have tombstones; returns those that this fetch had not seen."""
        insert = "INSERT OR IGNORE INTO forgotten VALUES (?)"
        with self.transaction() as db:
            return [digest for digest in digests if db.execute(insert, (digest,)).rowcount]

    def forgotten_runs(self) -> int:
        """Runs with tombstones that LangSmith listed in this fetch."""
        return self._db.execute("SELECT count(*) FROM forgotten").fetchone()[0]

    def _forget(self) -> None:
        """Erases what an interrupted fetch staged of runs that have tombstones, from the journal's file too."""
        shutil.rmtree(self.downloads_folder, ignore_errors=True)
        is_forgotten = {
            key
            for (key,) in self._db.execute(
                "SELECT id FROM run UNION SELECT run_id FROM attachment UNION SELECT id FROM missing"
            )
            if _text(key) in self._tombstones
        }
        with self.transaction() as db:
            for name, key in db.execute("SELECT name, run_id FROM unreadable").fetchall():
                path = self.runs_folder / os.fsdecode(name)
                if key in is_forgotten or (path.exists() and self._tombstones.owner("", path.read_bytes())):
                    self._delete_unreadable("name = ?", name)
            for table, column in (("run", "id"), ("missing", "id"), ("attachment", "run_id"), ("stats", "run")):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(key,) for key in is_forgotten])
            db.execute("DROP TABLE IF EXISTS feedback")  # filled again before it is read
            listed = {attachment_file(digest) for digest in self._attachment_digests()}
            for path in self.runs_folder.iterdir():
                # By name: a killed process may have written a file without its row.
                is_unlisted = belongs_to_attachments(path.name) and path.name not in listed
                if is_unlisted or path.name in FEEDBACK_FILES or self._tombstones.owner(path.name, b""):
                    path.unlink()
        # Deleted rows stay in the journal's file and its log until both are written anew.
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ---- attachments -------------------------------------------------------------------------------------------------

    def wanted_attachments(self) -> dict[str, int]:
        """The runs of the day, with their start, that have attachments to be downloaded."""
        query = """
            SELECT id, start FROM run WHERE id IN (SELECT run_id FROM attachment WHERE state = 'wanted') ORDER BY id
        """
        with self._lock:
            return {_text(run_id): start for run_id, start in self._db.execute(query)}

    def wanted_names(self, run_ids: Iterable[str]) -> list[tuple[str, str]]:
        """Run id and name of each attachment of these runs that is to be downloaded."""
        query = "SELECT name FROM attachment WHERE run_id = ? AND state = 'wanted'"
        with self._lock:
            return [
                (run_id, _name_text(name))
                for run_id in run_ids
                for (name,) in self._db.execute(query, (_key(run_id),)).fetchall()
            ]

    def store_attachment(self, attachment: Attachment, download: Path) -> bool:
        """Moves a downloaded file into staging; returns whether it holds a content that was not here."""
        path = self.runs_folder / attachment_file(attachment.sha256)
        with self._lock:
            if is_new := not path.exists():
                download.rename(path)
            self._db.execute(_PUT_ATTACHMENT, _attachment_row(attachment))
            return is_new

    def keep_attachment(self, attachment: Attachment, folder: Path, *, replace: bool = False) -> None:
        """Links a published attachment into staging.

        Args:
            replace: False: only if there is none of its name that was downloaded.
        """
        row, name = _attachment_row(attachment), attachment_file(attachment.sha256)
        query = "SELECT 1 FROM attachment WHERE run_id = ? AND name = ? AND sha256 IS NOT NULL"
        with self._lock:
            if not replace and self._db.execute(query, row[:2]).fetchone():
                return
            with contextlib.suppress(FileExistsError):  # before the row, which is of a whole file
                link_file(folder / name, self.runs_folder / name)
            self._db.execute(_PUT_ATTACHMENT, row)

    def fail_attachment(self, run_id: str, name: str, why: str, *, final: bool = False) -> None:
        """Records why an attachment could not be downloaded; `final`: this fetch does not try it again."""
        state = "refused" if final else "wanted"
        with self.transaction() as db:
            sql = "UPDATE attachment SET why = ?, state = ? WHERE run_id = ? AND name = ?"
            db.execute(sql, (why, state, _key(run_id), _name_key(name)))

    def explain_attachments(self, why: str) -> None:
        """Records a reason for the attachments that were not tried."""
        with self.transaction() as db:
            db.execute("UPDATE attachment SET why = ? WHERE state = 'wanted' AND why IS NULL", (why,))

    def missing_attachments(self) -> list[tuple[str, str, str]]:
        """Run id, name and reason of each attachment that is not here, sorted."""
        query = "SELECT run_id, name, why FROM attachment WHERE sha256 IS NULL ORDER BY run_id, name"
        return [(_text(run_id), _name_text(name), why or "") for run_id, name, why in self._db.execute(query)]

    def attachments(self) -> Iterator[Attachment]:
        """The attachments that are here, sorted by run id and name."""
        query = """
            SELECT run_id, name, media_type, size, sha256 FROM attachment WHERE sha256 IS NOT NULL ORDER BY run_id, name
        """
        for run_id, name, media_type, size, digest in self._db.execute(query):
            yield Attachment(_text(run_id), _name_text(name), media_type, size, digest)

    def write_attachments(self) -> None:
        """Writes `_attachments.json`, if the day has any attachments; deletes files that nothing lists."""
        listed = set(map(attachment_file, self._attachment_digests()))
        recorded = listed.union(os.fsdecode(name) for (name,) in self._db.execute("SELECT name FROM extra"))
        for file in self.runs_folder.iterdir():
            if belongs_to_attachments(file.name) and file.name not in recorded:
                file.unlink()
        if listed:
            self.write_file(ATTACHMENTS, attachment_lines(self.attachments()))

    # ---- the union with what is published ----------------------------------------------------------------------------

    def find(self, run_id: str) -> StagedRun | None:
        """A staged run, None if there is none of this id."""
        with self._lock:
            return self._find([run_id]).get(run_id)

    def _find(self, ids: Sequence[str]) -> dict[str, StagedRun]:
        query = f"SELECT id, name, sha256, origin, end FROM run WHERE id IN ({','.join('?' * len(ids))})"
        return {
            _text(run_id): StagedRun(os.fsdecode(name), digest, origin == "served", end is not None)
            for run_id, name, digest, origin, end in self._db.execute(query, [_key(run_id) for run_id in ids])
        }

    def is_missing(self, run_id: str) -> bool:
        """Whether LangSmith listed the run in this fetch and did not serve it."""
        return self._db.execute("SELECT 1 FROM missing WHERE id = ?", (_key(run_id),)).fetchone() is not None

    def delete_stale(self) -> None:
        """Deletes the runs of an earlier fetch that LangSmith no longer lists."""
        condition = "origin = 'stale' AND id NOT IN (SELECT id FROM missing)"
        for (name,) in self._db.execute(f"SELECT name FROM run WHERE {condition}").fetchall():
            (self.runs_folder / os.fsdecode(name)).unlink(missing_ok=True)
        self._db.execute(f"DELETE FROM run WHERE {condition}")
        self._db.execute("DELETE FROM attachment WHERE run_id NOT IN (SELECT id FROM run)")
        self._delete_unreadable("NOT served")

    def keep(self, folder: Path, file: RunFile, *, served: bool) -> None:
        """Links a published run file into staging; it replaces a staged file of the same run.

        Called within a transaction, as are `keep_other` and `delete_stale`.

        Args:
            served: Whether LangSmith still serves the run (then its content is the same in other bytes).
        """
        # Never written in place: the staged file may be a hard link to a published one.
        if staged := self.find(file.header.run_id):
            (self.runs_folder / staged.name).unlink(missing_ok=True)
        # A file of an older tool may have the name of a run that was just fetched.
        name = _link(folder / file.name, self.runs_folder, file.name, run_file_name(file.header))
        if name is None:
            raise ArchiveConflictError(
                f"{folder / file.name} cannot be kept",
                why="other runs that were just fetched have its name, and that of its run",
                hint="Move the file out of the folder, and fetch again",
            )
        row = _row(file.header, name, file.sha256, file.size, "served" if served else "kept")
        self._db.execute(_INSERT_RUN, row)

    def write_file(self, name: str, pieces: Iterable[bytes]) -> int:
        """Writes and records a file that is no run, none without pieces; returns their number."""
        path, digest, count = self.runs_folder / name, hashlib.sha256(), 0
        path.unlink(missing_ok=True)  # of a fetch that was killed
        pieces = iter(pieces)
        if (first := next(pieces, None)) is None:
            return 0
        with path.open("xb") as file:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                digest.update(piece)
                count += 1
        self._record_other(name, digest.digest())
        return count

    def _record_other(self, name: str, digest: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO extra VALUES (?, ?)", (os.fsencode(name), digest))

    def keep_other(self, path: Path, digest: bytes) -> None:
        """Links a published file that is no run of the day into staging, unless the same bytes were fetched.

        If a run that was fetched has its name, it gets the name of unreadable bytes.
        """
        names = [path.name] if attachment_digest(path.name) == digest else [path.name, _unreadable_name(digest)]
        if name := _link(path, self.runs_folder, *names):
            self._record_other(name, digest)

    # ---- what will be published --------------------------------------------------------------------------------------

    def served_runs(self) -> int:
        """Runs that LangSmith served, with those that cannot be filed, and those that were erased on purpose."""
        query = """
            SELECT (SELECT count(*) FROM run WHERE origin = 'served')
                 + (SELECT count(*) FROM unreadable WHERE served AND run_id IS NULL)
                 + (SELECT count(*) FROM forgotten)
        """
        return self._db.execute(query).fetchone()[0]

    def is_incomplete(self) -> bool:
        """Whether LangSmith did not serve a run in this fetch, or not so that it can be filed."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM missing) OR EXISTS (SELECT 1 FROM unreadable WHERE served AND run_id IS NULL)"
        )
        return bool(self._db.execute(query).fetchone()[0])

    def incomplete(self) -> list[str]:
        """What the day lacks: ids of runs of which no state is here, and names of unreadable files, sorted."""
        missing = self._db.execute("SELECT id FROM missing WHERE id NOT IN (SELECT id FROM run)").fetchall()
        unreadable = self._db.execute("SELECT name FROM unreadable WHERE served AND run_id IS NULL").fetchall()
        return sorted([*(_text(run_id) for (run_id,) in missing), *(os.fsdecode(name) for (name,) in unreadable)])

    def kept_ids(self) -> list[str]:
        """Runs that LangSmith no longer serves, sorted."""
        rows = self._db.execute("SELECT id FROM run WHERE origin <> 'served' ORDER BY id")
        return [_text(run_id) for (run_id,) in rows]

    def has_file(self, name: str) -> bool:
        """Whether a file of this name was fetched, or kept as a run or an attachment."""
        if belongs_to_attachments(name):
            return (self.runs_folder / name).exists()
        query = "SELECT 1 FROM run WHERE name = ?1 UNION ALL SELECT 1 FROM unreadable WHERE name = ?1"
        return self._db.execute(query, (os.fsencode(name),)).fetchone() is not None

    def has_run(self, run_id: str) -> bool:
        """Whether a run of this id will be published; False for a text that is no id."""
        with contextlib.suppress(ValueError):
            return self.find(run_id) is not None
        return False

    def others(self) -> list[str]:
        """Names of the files that are no run of the day."""
        query = "SELECT name FROM extra UNION ALL SELECT name FROM unreadable ORDER BY name"
        return [os.fsdecode(name) for (name,) in self._db.execute(query)]

    def headers(self) -> Iterator[tuple[RunHeader, int]]:
        """Header and size of each run, in the order of file names."""
        for row in self._db.execute(f"SELECT {_RUN_COLUMNS} FROM run ORDER BY name"):
            run_id, _, _, size, _, trace_id, start, end, trace_start, is_root, failed, tokens, cost = row
            ids = _text(run_id), _text(trace_id)
            yield RunHeader(*ids, start, end, trace_start, bool(is_root), bool(failed), tokens, cost), size

    def sums(self) -> Iterator[tuple[str, bytes]]:
        """Names and checksums of all files, in the order of their names."""
        query = """
            SELECT name, sha256 FROM run UNION ALL SELECT name, sha256 FROM unreadable UNION ALL SELECT * FROM (
                SELECT name, sha256 FROM extra UNION
                SELECT CAST(? || lower(hex(sha256)) AS BLOB), sha256 FROM attachment WHERE sha256 IS NOT NULL
            ) ORDER BY name
        """
        for name, digest in self._db.execute(query, (ATTACHMENT_PREFIX,)):
            yield os.fsdecode(name), digest


def _key(run_id: str) -> bytes:
    return bytes.fromhex(run_id.replace("-", ""))


def _text(key: bytes) -> str:
    digits = key.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _name_key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # any text of JSON; its order is that of the characters


def _name_text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _attachment_row(one: Attachment) -> tuple[object, ...]:
    return _key(one.run_id), _name_key(one.name), one.media_type, one.size, one.sha256


def _row(header: RunHeader, name: str, digest: bytes, size: int, origin: str) -> tuple[object, ...]:
    return (
        _key(header.run_id),
        os.fsencode(name),
        digest,
        size,
        origin,
        _key(header.trace_id),
        header.start,
        header.end,
        header.trace_start,
        header.is_root,
        header.failed,
        header.tokens,
        header.cost,
    )


def _write_file(path: str, content: bytes) -> None:
    # Plain system calls: thousands of small files.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        written = os.write(descriptor, content)
        while written < len(content):  # a nearly full disk writes a part, and the next write fails
            written += os.write(descriptor, content[written:])
    finally:
        os.close(descriptor)


def _unreadable_name(digest: bytes) -> str:
    return f"_unreadable_{digest.hex()}.bin"


def _link(source: Path, folder: Path, *names: str) -> str | None:
    """Links a file under the first of the names that is free; returns that name, None if all are taken."""
    for name in names:
        with contextlib.suppress(FileExistsError):
            link_file(source, folder / name)
            return name
    return None
