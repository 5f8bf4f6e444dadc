"""JSON documents in one SQLite file: the state that the local Drive keeps between processes."""

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Documents:
    """Documents by kind and id. All are loaded at the start; every change is written to the file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE IF NOT EXISTS things (kind TEXT, id TEXT, doc TEXT, PRIMARY KEY (kind, id))")
        self._docs: dict[str, dict[str, Any]] = {}
        for kind, key, doc in self._db.execute("SELECT kind, id, doc FROM things ORDER BY rowid"):
            self._docs.setdefault(kind, {})[key] = json.loads(doc)

    def put(self, kind: str, key: str, doc: Mapping[str, Any]) -> None:
        """Stores `doc` under (kind, key); replaces an older one."""
        text = json.dumps(doc)
        with self._lock:
            self._docs.setdefault(kind, {})[key] = json.loads(text)
            self._db.execute("INSERT OR REPLACE INTO things VALUES (?, ?, ?)", (kind, key, text))

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """Returns the document, which must not be modified; None if there is none."""
        with self._lock:
            return self._docs.get(kind, {}).get(key)

    def all(self, kind: str) -> dict[str, Any]:
        """Returns all documents of a kind by id, oldest first."""
        with self._lock:
            return dict(self._docs.get(kind, {}))

    def remove(self, kind: str, key: str) -> None:
        """Deletes (kind, key) if it exists."""
        with self._lock:
            self._docs.get(kind, {}).pop(key, None)
            self._db.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, key))

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()
