"""Feedback of the local LangSmith: records, their queries, and the statistics that runs are served with."""

import math
import random
import sqlite3
import statistics
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lse_demo.http import Answer, Request
from lse_demo.langsmith.encoding import dump, load
from lse_demo.langsmith.query import refusal
from lse_demo.langsmith.runs import micros, rfc3339

SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (id TEXT PRIMARY KEY, run TEXT, project TEXT, key TEXT NOT NULL,
    source TEXT, created_us INTEGER NOT NULL, thread INTEGER NOT NULL, failed INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS feedback_by_run ON feedback (run);
CREATE INDEX IF NOT EXISTS feedback_by_project ON feedback (project, created_us);
"""
_CHANGEABLE = ("score", "value", "correction", "comment")
_COPIED_NAMES = (
    "id key score value comment correction run_id trace_id session_id start_time feedback_source feedback_group_id "
    "comparative_experiment_id feedback_thread_id extra"
)
_COPIED: tuple[str, ...] = tuple(_COPIED_NAMES.split())


class FeedbackTable:
    """The feedback of a store; `count_errors` says whether `feedback_stats[key].n` counts records of failed
    evaluators, and `count_threads` whether it counts those of threads."""

    def __init__(self, db: sqlite3.Connection, lock: threading.RLock) -> None:
        self._db, self._lock = db, lock
        self.count_errors = self.count_threads = True
        with lock:
            db.executescript(SCHEMA)

    def create(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Stores the feedback of a `POST`; returns the record. Raises ValueError if it is malformed."""
        if not sent.get("run_id") and not sent.get("session_id"):
            raise ValueError("run_id or session_id is required")
        now = rfc3339(time.time_ns() // 1000)
        record: dict[str, Any] = {name: sent.get(name) for name in _COPIED}
        record["id"] = str(uuid.UUID(sent.get("id") or str(uuid.uuid4())))
        record["key"] = str(sent.get("key") or "unnamed")
        record["created_at"] = rfc3339(micros(sent.get("created_at") or now))
        record["modified_at"] = rfc3339(micros(sent.get("modified_at") or record["created_at"]))
        if sent.get("error"):
            record["extra"] = {**(record["extra"] or {}), "error": True}
        with self._lock, self._db:
            run = self._db.execute(
                "SELECT project, trace_id, start_us, parent_id FROM runs WHERE id = ?", (record["run_id"],)
            ).fetchone()
            if run:
                record["session_id"] = record["session_id"] or run[0]
                record["trace_id"] = record["trace_id"] or run[1]
                record["start_time"] = rfc3339(run[2])
            record["is_root"] = bool(run) and run[3] is None
            self._put(dump(record), record)
        return record

    def put_raw(self, body: bytes, *, run_id: str | None, session_id: str, key: str = "raw", created: int = 0) -> None:
        """Stores a record that is answered byte for byte; `created` is microseconds since 1970."""
        columns = {"run_id": run_id, "session_id": session_id, "key": key, "created_at": rfc3339(created)}
        with self._lock, self._db:
            self._put(body, {"id": str(uuid.uuid4()), **columns})

    def _put(self, body: bytes, record: Mapping[str, Any]) -> None:
        row = (
            record["id"],
            record["run_id"],
            record["session_id"],
            record["key"],
            (record.get("feedback_source") or {}).get("type"),
            micros(record["created_at"]),
            record.get("feedback_thread_id") is not None,
            bool((record.get("extra") or {}).get("error")),
            body,
        )
        self._db.execute(f"INSERT OR REPLACE INTO feedback VALUES ({','.join('?' * len(row))})", row)

    def get(self, feedback_id: str) -> dict[str, Any] | None:
        """Returns a record; None if there is none."""
        with self._lock:
            row = self._db.execute("SELECT body FROM feedback WHERE id = ?", (feedback_id,)).fetchone()
        return load(row[0]) if row else None

    def change(self, feedback_id: str, **fields: Any) -> bool:
        """Edits a record, as a `PATCH` does: `modified_at` is now unless it is given; False if there is none."""
        with self._lock, self._db:
            if (record := self.get(feedback_id)) is None:
                return False
            record |= {name: value for name, value in fields.items() if name in (*_CHANGEABLE, "modified_at")}
            record["modified_at"] = fields.get("modified_at") or rfc3339(time.time_ns() // 1000)
            self._put(dump(record), record)
        return True

    def delete(self, feedback_id: str) -> bool:
        """Deletes a record; False if there is none."""
        with self._lock, self._db:
            return self._db.execute("DELETE FROM feedback WHERE id = ?", (feedback_id,)).rowcount > 0

    def list(self, request: Request) -> Answer:
        """Answers `GET /feedback`. The fault `shuffle` changes the order with each request."""
        params: dict[str, list[str]] = {}
        for name, value in request.query_list:
            params.setdefault(name, []).append(value)
        limit, offset = _number(params, "limit", 100, 1, 100), _number(params, "offset", 0, 0, 1 << 31)
        conditions, values = ["1"], list[Any]()
        for name, column in (("run", "run"), ("session", "project"), ("key", "key"), ("source", "source")):
            if found := params.get(name):
                if name in ("run", "session"):
                    found = [_uuid(name, value) for value in found]
                conditions.append(f"{column} IN ({','.join('?' * len(found))})")
                values += found
        if level := params.get("level"):
            conditions.append(f"run IS {'NOT ' if level[-1] == 'run' else ''}NULL")
        for name, step in (("min_created_at", ">="), ("max_created_at", "<=")):
            if found := params.get(name):
                conditions.append(f"created_us {step} ?")
                values.append(_time(name, found[-1]))
        sql = f"SELECT body FROM feedback WHERE {' AND '.join(conditions)} ORDER BY created_us DESC, id"
        with self._lock:
            bodies = [body for (body,) in self._db.execute(sql, values)]
        if request.fault("shuffle"):
            random.shuffle(bodies)
        page = bodies[offset : offset + limit]
        request.details.update(api="feedback", runs=len(params.get("run", ())), offset=offset, records=len(page))
        return Answer.json(b"[" + b",".join(page) + b"]")

    def is_empty(self) -> bool:
        """Returns whether there is no feedback at all."""
        with self._lock:
            return self._db.execute("SELECT NOT EXISTS (SELECT 1 FROM feedback)").fetchone()[0] == 1

    def of_runs(self, run_ids: Sequence[str]) -> dict[str, bytes]:
        """Returns `feedback_stats` of the runs that have feedback, as JSON."""
        if self.is_empty():
            return {}
        by_run: dict[str, list[tuple[str, bool, bool, bytes]]] = {}
        with self._lock:
            sql = f"SELECT run, key, thread, failed, body FROM feedback WHERE run IN ({','.join('?' * len(run_ids))})"
            for run, *row in self._db.execute(f"{sql} ORDER BY created_us, id", tuple(run_ids)):
                by_run.setdefault(run, []).append(tuple(row))
        return {run: dump(self._statistics(rows)) for run, rows in by_run.items()}

    def of_window(self, where: str, values: Sequence[Any]) -> dict[str, Any]:
        """Returns `feedback_stats` of all runs that match, for `/runs/stats`."""
        if self.is_empty():
            return {}
        sql = f"SELECT key, thread, failed, body FROM feedback WHERE run IN (SELECT id FROM runs {where})"
        with self._lock:
            return self._statistics(self._db.execute(sql, tuple(values)))

    def _statistics(self, rows: Iterable[tuple[str, bool, bool, bytes]]) -> dict[str, Any]:
        by_key: dict[str, list[tuple[bool, bool, bytes]]] = {}
        for key, thread, failed, body in rows:
            by_key.setdefault(key, []).append((thread, failed, body))
        return {key: self._statistic(found) for key, found in by_key.items()}

    def _statistic(self, rows: Sequence[tuple[bool, bool, bytes]]) -> dict[str, Any]:
        records = [_loaded(body) for _, _, body in rows]
        given = [one.get("score") for one in records]
        scores = [float(score) for score in given if isinstance(score, int | float) and math.isfinite(score)]
        counted = [
            1 for thread, failed, _ in rows if (self.count_errors or not failed) and (self.count_threads or not thread)
        ]
        return {
            "n": len(counted),
            "avg": statistics.fmean(scores) if scores else None,
            "min": min(scores, default=None),
            "max": max(scores, default=None),
            "stdev": statistics.pstdev(scores) if scores else None,
            "values": {},
            "comments": [one["comment"] for one in records if isinstance(one.get("comment"), str)][:5],
            "errors": sum(bool(failed) for _, failed, _ in rows),
            "sources": [],
            "contains_thread_feedback": any(thread for thread, _, _ in rows),
        }


def _loaded(body: bytes) -> Mapping[str, Any]:
    try:
        found = load(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(params: Mapping[str, Sequence[str]], name: str, default: int, least: int, most: int) -> int:
    text = params.get(name, [str(default)])[-1]
    if not text.isdecimal() or not least <= int(text) <= most:
        raise refusal(422, f"{name}: must be between {least} and {most}")
    return int(text)


def _uuid(name: str, text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise refusal(422, f"{name}: not a UUID") from None


def _time(name: str, text: str) -> int:
    try:
        return micros(text)
    except ValueError:
        raise refusal(422, f"{name}: not a time") from None
