"""The state of the local LangSmith in one SQLite file: projects, the exact bytes of every run, attachments."""

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self

from lse_demo.langsmith.encoding import Members, dump, join, load, split
from lse_demo.langsmith.feedback import FeedbackTable
from lse_demo.langsmith.filter import Condition
from lse_demo.langsmith.generate import generate_runs
from lse_demo.langsmith.runs import RunColumns, columns_of, merge, micros

_RUN_COLUMNS = (
    "id TEXT NOT NULL UNIQUE, trace_id TEXT NOT NULL, parent_id TEXT, start_us INTEGER NOT NULL, end_us INTEGER, "
    "name TEXT, run_type TEXT, status TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER, "
    "prompt_cost REAL, completion_cost REAL, total_cost REAL"
)
# Pages of 32 KB hold whole runs, so a query for a thousand runs in order reads few pages.
_SCHEMA = f"""
PRAGMA page_size = 32768;
PRAGMA journal_mode = TRUNCATE;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS projects (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_us INTEGER NOT NULL,
    reference_dataset_id TEXT, extra TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs ({_RUN_COLUMNS}, project TEXT NOT NULL, posted INTEGER NOT NULL, share TEXT,
    v1 BLOB, v2 BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (project, start_us, id);
CREATE TABLE IF NOT EXISTS files (run TEXT NOT NULL, name TEXT NOT NULL, mime TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (run, name));
"""
# Sets all columns of a run except `share`, which keeps its value.
_INSERT = (
    f"INSERT OR REPLACE INTO runs VALUES ({', '.join(f'?{n}' for n in range(1, 17))}, "
    "(SELECT share FROM runs WHERE id = ?1), ?17, ?18)"
)


@dataclass(frozen=True, slots=True)
class Project:
    """A tracing project. `created` is microseconds since 1970."""

    id: str
    name: str
    created: int
    reference_dataset_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A stored run: `v2` is answered byte for byte, `v1` is None if it is derived from `v2`."""

    id: str
    start: int
    v2: bytes
    v1: bytes | None = None
    share: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One run, or one `feedback`, of an ingest request: `kind` is `post`, `patch` or `feedback`, `files` are name ->
    (media type, content)."""

    kind: str
    id: str
    members: Members
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measures:
    """Columns of the same length, one value per run: microseconds, tokens, US dollars."""

    start_us: Sequence[int] = ()
    end_us: Sequence[int | None] = ()
    status: Sequence[str] = ()
    prompt_tokens: Sequence[int] = ()
    completion_tokens: Sequence[int] = ()
    total_tokens: Sequence[int] = ()
    prompt_cost: Sequence[float] = ()
    completion_cost: Sequence[float] = ()
    total_cost: Sequence[float] = ()


class LangSmithStore:
    """A thread-safe store; `path` is a file, created if missing, or `:memory:`."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self.feedback = FeedbackTable(self._db, self._lock)
        self.tenant_id = self._setting("tenant_id", str(uuid.uuid4()))
        self.secret = self._setting("secret", uuid.uuid4().hex)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _setting(self, name: str, default: str) -> str:
        with self._lock, self._db:
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
            return self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0]

    # Projects

    def projects(self) -> list[Project]:
        """Returns all projects, newest first."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM projects ORDER BY created_us DESC, id").fetchall()
        return [Project(*row[:4], extra=json.loads(row[4])) for row in rows]

    def project(self, name: str) -> Project:
        """Returns the project of this name; creates it if missing."""
        with self._lock:
            return next((p for p in self.projects() if p.name == name), None) or self.add_project(name)

    def add_project(
        self,
        name: str,
        *,
        project_id: str | None = None,
        reference_dataset_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Project:
        """Creates a project. Raises sqlite3.IntegrityError if the name or the id is taken."""
        created = time.time_ns() // 1000
        project = Project(project_id or str(uuid.uuid4()), name, created, reference_dataset_id, extra or {})
        row = (project.id, name, created, reference_dataset_id, json.dumps(project.extra))
        with self._lock, self._db:
            self._db.execute("INSERT INTO projects VALUES (?, ?, ?, ?, ?)", row)
        return project

    def rename_project(self, name: str, new_name: str) -> None:
        """Renames a project; its id and runs stay the same."""
        with self._lock, self._db:
            self._db.execute("UPDATE projects SET name = ? WHERE name = ?", (new_name, name))

    def delete_project(self, name: str) -> None:
        """Deletes a project and its runs."""
        with self._lock, self._db:
            self._db.execute("DELETE FROM runs WHERE project = (SELECT id FROM projects WHERE name = ?)", (name,))
            self._db.execute("DELETE FROM projects WHERE name = ?", (name,))

    # Writing runs

    def ingest(self, operations: Iterable[Operation]) -> list[str]:
        """Applies the operations of one request in one transaction; returns the ids of runs that were already posted.

        Raises ValueError or KeyError for a malformed run; then nothing is stored.
        """
        with self._lock, self._db:
            return [operation.id for operation in operations if not self._ingest(operation)]

    def _ingest(self, operation: Operation) -> bool:
        if operation.kind == "feedback":
            self.feedback.create(load(join(operation.members)))
            return True
        sent = operation.members | {"id": dump(operation.id)}
        found = self._db.execute("SELECT v2, posted, project FROM runs WHERE id = ?", (operation.id,)).fetchone()
        old = split(found[0]) if found else {}
        if operation.kind == "post" and found:
            if found[1]:
                return False
            # The patch arrived before the post: its values are newer.
            sent = {
                name: value for name, value in sent.items() if name == "inputs" or old.get(name, b"null") == b"null"
            }
        project_id = found[2] if found else self._project_of(sent)
        run = merge(old, sent, project_id=project_id, tenant_id=self.tenant_id)
        posted = operation.kind == "post" or bool(found and found[1])
        self._put(project_id, columns_of(run), join(run), posted=posted)
        rows = [(operation.id, name, mime, body) for name, (mime, body) in operation.files.items()]
        self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
        return True

    def _project_of(self, sent: Mapping[str, bytes]) -> str:
        named = load(sent.get("session_id", b"null"))
        return named or self.project(load(sent.get("session_name", b"null")) or "default").id

    def _put(
        self, project_id: str, columns: RunColumns, v2: bytes, *, v1: bytes | None = None, posted: bool = True
    ) -> None:
        self._db.execute(_INSERT, (*asdict(columns).values(), project_id, posted, v1, v2))

    def put_raw(
        self,
        project: str,
        v2: bytes,
        *,
        v1: bytes | None = None,
        run_id: str | None = None,
        start_time: datetime | None = None,
    ) -> str:
        """Stores a run whose v2 answer is exactly `v2`; returns its id.

        The columns are read from `v2` if it can be decoded; `run_id` and `start_time` override it. Raises ValueError or
        KeyError without an id or a start time.
        """
        try:
            members = split(v2)
        except ValueError:
            members = {}
        if run_id is not None:
            members["id"] = dump(run_id)
        if start_time is not None:
            members["start_time"] = dump(start_time.isoformat())
        columns = columns_of(members)
        with self._lock, self._db:
            self._put(self.project(project).id, columns, v2, v1=v1)
        return columns.id

    def change(self, run_id: str, **fields: Any) -> None:
        """Changes properties of a v2 run, as LangSmith does when tokens, costs or feedback arrive."""
        with self._lock, self._db:
            sql = "SELECT v2, project FROM runs WHERE id = ?"
            v2, project_id = self._db.execute(sql, (run_id,)).fetchone()
            members = split(v2) | {name: dump(value) for name, value in fields.items()}
            self._put(project_id, columns_of(members), join(members))

    def attach(self, run_id: str, name: str, content: bytes, media_type: str = "text/plain") -> None:
        """Attaches a file to a run, as a multipart request does."""
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (run_id, name, media_type, content))

    def delete(self, run_ids: Iterable[str]) -> None:
        """Deletes runs, as LangSmith does after its retention."""
        with self._lock, self._db:
            self._db.executemany("DELETE FROM runs WHERE id = ?", [(run_id,) for run_id in run_ids])

    def share(self, run_id: str) -> str:
        """Shares a run publicly; returns the token of the share URL."""
        token = str(uuid.uuid4())
        with self._lock, self._db:
            self._db.execute("UPDATE runs SET share = ? WHERE id = ?", (token, run_id))
        return token

    def generate(self, project: str, day: date, *, runs: int, mean_bytes: int = 6000, seed: int = 0) -> None:
        """Fills a day (UTC) with `runs` runs of about `mean_bytes` each; the same arguments create the same ids."""
        owner = self.project(project)
        made = generate_runs(
            day,
            runs=runs,
            mean_bytes=mean_bytes,
            seed=f"{seed}/{project}",
            project_id=owner.id,
            tenant_id=self.tenant_id,
        )
        with self._lock, self._db:
            self._db.executemany(_INSERT, ((*columns, owner.id, True, None, v2) for columns, v2 in made))

    # Reading runs

    def runs(self, project: str, start: datetime | None = None, end: datetime | None = None) -> list[StoredRun]:
        """Returns the runs of a project that started in [start, end), oldest first."""
        conditions = []
        if start:
            conditions.append(Condition("start_us >= ?", (micros(start.isoformat()),)))
        if end:
            conditions.append(Condition("start_us < ?", (micros(end.isoformat()),)))
        return self.page(self.project(project).id, conditions, newest_first=False)

    def run(self, run_id: str) -> StoredRun | None:
        """Returns a run by its id; None if there is none."""
        with self._lock:
            row = self._db.execute("SELECT id, start_us, v2, v1, share FROM runs WHERE id = ?", (run_id,)).fetchone()
        return StoredRun(*row) if row else None

    def page(
        self,
        project_id: str,
        conditions: Sequence[Condition],
        *,
        after: tuple[int, str] | None = None,
        limit: int = -1,
        newest_first: bool = True,
    ) -> list[StoredRun]:
        """Returns up to `limit` runs of a project, ordered by (start, id), that follow `after`."""
        order, step = ("DESC", "<") if newest_first else ("ASC", ">")
        if after:
            conditions = [*conditions, Condition(f"(start_us, id) {step} (?, ?)", after)]
        where, values = _where(project_id, conditions)
        sql = f"SELECT id, start_us, v2, v1, share FROM runs {where} ORDER BY start_us {order}, id {order} LIMIT ?"
        with self._lock:
            return [StoredRun(*row) for row in self._db.execute(sql, (*values, limit))]

    def measures(self, project_id: str, conditions: Sequence[Condition]) -> Measures:
        """Returns the measures of all runs that match."""
        where, values = _where(project_id, conditions)
        with self._lock:
            rows = self._db.execute(f"SELECT {', '.join(Measures.__dataclass_fields__)} FROM runs {where}", values)
            columns = list(zip(*rows, strict=True))
        return Measures(*columns) if columns else Measures()

    def feedback_stats(self, project_id: str, conditions: Sequence[Condition]) -> dict[str, Any]:
        """Returns the statistics of the feedback on all runs that match."""
        return self.feedback.of_window(*_where(project_id, conditions))

    def summary(self, project_id: str) -> tuple[int, int | None]:
        """Returns a project's number of runs and the start of its last run (microseconds since 1970)."""
        with self._lock:
            sql = "SELECT count(*), max(start_us) FROM runs WHERE project = ?"
            return self._db.execute(sql, (project_id,)).fetchone()

    def files(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Returns the attachments of these runs: run id -> name -> media type."""
        found: dict[str, dict[str, str]] = {}
        with self._lock:
            marks = ",".join("?" * len(run_ids))
            for run, name, mime in self._db.execute(
                f"SELECT run, name, mime FROM files WHERE run IN ({marks})", run_ids
            ):
                found.setdefault(run, {})[name] = mime
        return found

    def file(self, run_id: str, name: str) -> tuple[str, bytes] | None:
        """Returns media type and content of an attachment; None if there is none."""
        with self._lock:
            return self._db.execute(
                "SELECT mime, body FROM files WHERE run = ? AND name = ?", (run_id, name)
            ).fetchone()


def _where(project_id: str, conditions: Sequence[Condition]) -> tuple[str, tuple[Any, ...]]:
    parts = [Condition("project = ?", (project_id,)), *conditions]
    return "WHERE " + " AND ".join(part.sql for part in parts), tuple(value for part in parts for value in part.values)
