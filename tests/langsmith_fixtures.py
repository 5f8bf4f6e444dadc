"""What the tests of the fetch share: a local LangSmith, one project's day, and a look at what was published."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from lse_archive.days import day_window, format_time
from lse_archive.fetch import FetchOptions, fetch_day
from lse_archive.layout import DayPaths, Layout
from lse_archive.manifest import Summary, read_summary, read_sums
from lse_archive.results import FetchResult
from lse_archive.source import RunSource
from lse_demo.http import Logged
from lse_demo.langsmith_server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith_store import LangSmithStore
from lse_resources.langsmith import LangSmith
from lse_resources.langsmith_http import LangSmithSettings, shared
from lse_resources.limiter import AdaptiveLimiter

DAY = date(2026, 1, 2)
START = day_window(DAY).start
END = day_window(DAY).end
PROJECT = "chat"
_FOR_EVER = FetchOptions(retention_days=None)
_numbers = itertools.count(1)


class Cloud:
    """A local LangSmith with a client that waits for nothing, and the directory into which its days are fetched."""

    def __init__(self, store: LangSmithStore, server: LangSmithServer, directory: Path) -> None:
        self.store = store
        self.server = server
        self.directory = directory
        self.paths: DayPaths = Layout(directory / "data", directory / "archives").day(PROJECT, DAY)
        self.settings = quick_settings(server.url)

    def put(
        self, start: int = START, *, run_id: str | None = None, project: str = PROJECT, tail: bytes = b"", **fields: Any
    ) -> str:
        """Places a run that started at `start` (microseconds); `tail` is raw JSON, such as `,"x":1`."""
        run_id = run_id or str(UUID(int=next(_numbers) << 64 | 1 << 63))
        run = {"id": run_id, "start_time": format_time(start), "status": "SUCCESS", "run_type": "CHAIN", **fields}
        self.store.put_raw(project, orjson.dumps(run)[:-1] + tail + b"}")
        return run_id

    def speak(self, dialect: str) -> None:
        """Makes the server an older deployment, which has no v2, if the dialect is `v1`."""
        if dialect == "v1":
            behaviour = self.server.behaviour
            behaviour.v2_status, behaviour.version, behaviour.flags = 404, "0.15.3", {"ch_query_enabled": True}

    def summary(self) -> Summary:
        """The summary of the published day."""
        found = read_summary(self.paths.folder)
        assert found is not None
        return found

    def rewrite(self, run_id: str, raw: bytes) -> None:
        """Makes the server answer exactly `raw` for a run, in both dialects, wherever the run stands."""
        with self.store._lock, self.store._db:
            self.store._db.execute("UPDATE runs SET v1 = ?, v2 = ? WHERE id = ?", (raw, raw, run_id))

    def generate(self, runs: int, *, seed: int = 0, mean_bytes: int = 2500) -> None:
        """Fills the day with realistic runs."""
        self.store.generate(PROJECT, DAY, runs=runs, seed=seed, mean_bytes=mean_bytes)

    def fetch(self, *, page_size: int | None = None, day: date = DAY, **options: Any) -> FetchResult:
        """Fetches the day as a new process would."""
        with self.source(page_size) as source:
            paths = replace(self.paths, day=day)
            return fetch_day(paths, source, replace(_FOR_EVER, **options))

    @contextlib.contextmanager
    def source(self, page_size: int | None = None) -> Generator[RunSource]:
        """A source of the project's runs, with smaller pages than usual if told so."""
        shared.cache_clear()
        shared(self.settings).queries = AdaptiveLimiter(1000, 0.02, ceiling=1000)
        client = LangSmith(self.settings)
        with contextlib.closing(client), contextlib.closing(client.source(PROJECT)) as source:
            if page_size is not None:
                for dialect in source._dialects:
                    dialect.max_page = page_size
                source._page_size = page_size
            yield source

    def served(self) -> dict[str, bytes]:
        """The bytes of the day's runs by id, as v2 answers them."""
        start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
        return {run.id: run.v2 for run in self.store.runs(PROJECT, start, start + timedelta(days=1))}

    def published(self) -> dict[str, bytes]:
        """The bytes of the published run files by run id; their checksums and names are verified."""
        return published(self.paths)

    def queries(self) -> list[Logged]:
        """The requests for pages that were answered, so far."""
        return [entry for entry in self.server.requests if entry.path.endswith("/runs/query")]


def quick_settings(url: str, **changes: Any) -> LangSmithSettings:
    """Settings that do not wait for a limit, and not long for anything else."""
    base = LangSmithSettings(DEMO_KEY, url, timeout=10.0, patience=5.0, stats_seconds=0.001, backoff=0.001)
    return replace(base, **changes)


def published(paths: DayPaths) -> dict[str, bytes]:
    """The published run files by run id, their checksums and names verified; none if there is no folder."""
    if not paths.folder.exists():
        return {}
    sums = read_sums(paths.folder)
    assert sums is not None
    files = {path.name: path.read_bytes() for path in paths.folder.iterdir() if path.name != "_sha256sums.txt"}
    assert {name: hashlib.sha256(content).digest() for name, content in files.items()} == sums
    return {name.partition("_")[0]: content for name, content in files.items() if not name.startswith("_")}


def photograph(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, modification time and inode of every file, to see that nothing was touched."""
    found = {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    return found | {".": (b"", folder.stat().st_mtime_ns, folder.stat().st_ino)}


@contextlib.contextmanager
def local_cloud() -> Generator[Cloud]:
    """A local LangSmith without faults and without a limit; at the end it must have seen nothing that is forbidden.

    Its days are fetched to memory where the system has such a place: a disk that others write to is slow to flush.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as directory,
        LangSmithStore() as store,
        LangSmithServer(store) as server,
    ):
        store.project(PROJECT)
        yield Cloud(store, server, Path(directory))
    assert server.violations == []
