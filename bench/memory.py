"""Measures the peak memory of each step, each step in a process of its own, and prints a table.

    python bench/memory.py                              # the three days below; 30 GB of disk
    python bench/memory.py --runs 200 --bytes 2000000   # one day
    python bench/memory.py --runs 3000 --bytes 5000 --attachments 1000 --feedback 30000   # 2 GB; 15 GB of disk

The days: 2,000 runs of 2 MB; one of 200 MB; 3,000 small ones with 1,000 attachments and 30,000 feedback records. The
attachments have 0 bytes to 50 MB, hostile names, one content many times, and the same names at several runs.

Each day goes through all places: it is restored into an empty directory, compared there byte for byte with what was
fetched and with what LangSmith has, and loaded and verified from there.

The limit is 350 MB, or 250 MB and three times the largest run if that is more. The exit code is 1 if a step misses it
or fails.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.fetch.day import FetchOptions, fetch_day
from lse_archive.folder.attachments import read_attachments
from lse_archive.layout import DayPaths, Layout
from lse_archive.runs.feedback import FEEDBACK
from lse_archive.zips.day import zip_day
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore
from lse_resources.destinations.google_drive.settings import DriveSettings
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.langsmith.client import LangSmith
from lse_resources.langsmith.settings import LangSmithSettings
from lse_resources.postgres.database import Database
from lse_resources.postgres.schema import migrate

PROJECT = "bench"
DAY = date(2026, 1, 31)
_LARGEST = 50_000_000  # bytes of each of the first four attachments
_NAMES = ("image.png", "../../x", "nul\0", "a" * 10_000, "", "\u202etxt.exe", "a/b\\c", 'quo"te\n', "\x1b[31m", "CON")
_LINE = 100  # characters; a run has many short strings, as chats have


def limit_mb(largest: int) -> float:
    return max(350.0, 250 + 3 * largest / 1e6)


# ---- the steps, each in a process of its own -----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a day is."""

    base: Path
    langsmith: str
    database: Database
    drive: DriveSettings

    @property
    def paths(self) -> DayPaths:
        return Layout(self.base / "data", self.base / "archives").day(PROJECT, DAY)

    @property
    def restored(self) -> DayPaths:
        return Layout(self.base / "restored", self.base / "restored-zips").day(PROJECT, DAY)


def fetch(at: Place) -> None:
    client = LangSmith(LangSmithSettings(DEMO_KEY, at.langsmith))
    with contextlib.closing(client), contextlib.closing(client.source(PROJECT)) as source:
        result = fetch_day(at.paths, source, FetchOptions(retention_days=None))
    assert result.count_check == "equal", result


def make_zip(at: Place) -> None:
    zip_day(at.paths)


def upload(at: Place) -> None:
    from lse_operations.upload import upload_day
    from lse_resources.destinations.google_drive.client import GoogleDrive

    with GoogleDrive(at.drive) as drive:
        upload_day(drive, at.paths)


def restore(at: Place) -> None:
    from lse_operations.restore.copies import copies
    from lse_operations.restore.restore import restore_day
    from lse_resources.destinations.google_drive.client import GoogleDrive

    with GoogleDrive(at.drive) as drive:
        [copy] = copies(drive, PROJECT)
        restore_day(drive, at.restored, copy)


def compare(at: Place) -> None:
    fetched, restored = at.paths.folder, at.restored.folder
    names, others = (sorted(file.name for file in folder.iterdir()) for folder in (fetched, restored))
    assert names == others
    assert filecmp.cmpfiles(fetched, restored, names, shallow=False) == (names, [], [])
    sent = json.loads((at.base / "sent.json").read_bytes())
    assert [[one.run_id, one.name, one.sha256.hex()] for one in read_attachments(restored)] == sent["attachments"]
    if sent["feedback"]:
        with (restored / FEEDBACK).open("rb") as lines:
            assert sorted(json.loads(line)["id"] for line in lines) == sent["feedback"]


def import_files(at: Place) -> None:
    from lse_operations.importing import import_day, survey

    found = survey(at.paths.folder)
    import_day(Layout(at.base / "imported", at.paths.archive_dir), PROJECT, DAY, found.days[DAY], found.attachments)


def load(at: Place) -> None:
    from lse_resources.postgres.load.day import load_day

    result = load_day(at.database, PROJECT, DAY, at.restored.folder)
    assert not result.failed_inserts, result.errors


def verify(at: Place) -> None:
    from lse_resources.postgres.verify.day import verify_day

    assert verify_day(at.database, PROJECT, DAY, at.restored.folder).is_consistent


def verify_detailed(at: Place) -> None:
    from lse_resources.postgres.verify.day import verify_day

    assert verify_day(at.database, PROJECT, DAY, at.restored.folder, detailed=True).is_consistent


def build_lake(at: Place) -> None:
    from lse_operations.lake import build_day
    from lse_resources.lake.place import LocalPlace

    build_day(LocalPlace(at.paths.data_dir.parent / "lake"), at.paths, contextlib.nullcontext)  # ty: ignore[invalid-argument-type]


def check_lake(at: Place) -> None:
    from lse_operations import lake
    from lse_resources.lake.place import LocalPlace

    check = lake.check_lake(LocalPlace(at.paths.data_dir.parent / "lake"), at.paths, detailed=True)
    assert check.verdict == "agrees", check


def load_runs(at: Place) -> None:
    from lse_resources.postgres.analysis.frames import Runs

    assert len(Runs(at.database).load_runs(PROJECT, DAY))


def load_runs_from_files(at: Place) -> None:
    from lse_resources.postgres.analysis import frames

    assert len(frames.load_runs_from_files(PROJECT, [at.paths.folder]))


def load_runs_from_zip(at: Place) -> None:
    from lse_resources.postgres.analysis import frames

    assert len(frames.load_runs_from_files(PROJECT, [at.paths.zip]))


def _export(format: str, *, contents: bool) -> Callable[[Place], None]:
    def export(at: Place) -> None:
        from lse_resources.postgres.analysis.export import export_facts

        target = at.base / "export"
        exported = export_facts(at.database, PROJECT, DAY, DAY, target, format, contents=contents)  # ty: ignore[invalid-argument-type]
        assert exported.rows
        target.unlink()

    return export


def _sql(*, as_json: bool) -> Callable[[Place], None]:
    def sql(at: Place) -> None:
        from lse_cli.terminal.rows import print_lines, print_objects
        from lse_resources.postgres.analysis.frames import Runs

        with (
            Path(os.devnull).open("w") as null,
            contextlib.redirect_stdout(null),
            Runs(at.database).stream("SELECT data FROM runs", json_as_text=True) as (columns, rows),
        ):
            (print_objects if as_json else print_lines)(columns, rows)

    return sql


STEPS: dict[str, Callable[[Place], None]] = {
    "fetch": fetch,
    "fetch again": fetch,
    "zip": make_zip,
    "upload": upload,
    "restore": restore,
    "compare": compare,
    "import": import_files,
    "load": load,
    "verify": verify,
    "verify --detailed": verify_detailed,
    "lake": build_lake,
    "lake, verify --detailed": check_lake,
    "load_runs": load_runs,
    "load_runs_from_files, folder": load_runs_from_files,
    "load_runs_from_files, zip": load_runs_from_zip,
    "export csv": _export("csv", contents=False),
    "export csv --contents": _export("csv", contents=True),
    "export jsonl": _export("jsonl", contents=False),
    "export parquet": _export("parquet", contents=False),
    "export parquet --contents": _export("parquet", contents=True),
    "sql": _sql(as_json=False),
    "sql --json": _sql(as_json=True),
}


def work(step: str, base: str, url: str, database: str, drive: str, folder: str) -> None:
    """Executes a step and prints its peak memory: of this process, and of the largest child process for each core."""
    settings = DriveSettings(folder, "oauth2", Path(base, "user.json"), Path(base, "token"), drive)
    began = time.perf_counter()
    STEPS[step](Place(Path(base), url, Database(database), settings))
    seconds = time.perf_counter() - began
    # Not ru_maxrss of this process: it includes the memory of the parent at the fork.

    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 * 2
    print(json.dumps({"seconds": seconds, "mb": (peak + children) / 1e6}))


# ---- the data and the servers --------------------------------------------------------------------------------------


def documents(runs: int, size: int) -> Iterator[bytes]:
    for number in range(runs):
        run_id = str(uuid.UUID(int=(0x0197 << 112) | (7 << 76) | (8 << 60) | number))
        lines = [f"{line} of {number} ".ljust(_LINE, "x") for line in range(size // (_LINE + 4))]
        run = {
            "id": run_id,
            "trace_id": run_id,
            "name": "large",
            "run_type": "LLM",
            "status": "SUCCESS",
            "start_time": f"{DAY}T{number % 24:02}:{number // 24 % 60:02}:00.{number:06}Z",
            "end_time": f"{DAY}T23:59:59Z",
            "inputs": {"lines": lines},
            "metadata": {"number": number},
        }
        yield json.dumps(run).encode()


@dataclass(frozen=True)
class Day:
    """How much a day has: runs, bytes of a run, attachments and feedback records."""

    runs: int
    size: int
    attachments: int = 4
    feedback: int = 0


def fill(store: LangSmithStore, day: Day) -> dict[str, list[object]]:
    """Fills a store; returns what it has: run id, name and sha256 of each attachment, and the ids of the feedback."""
    store.project(PROJECT)
    ids = [store.put_raw(PROJECT, document) for document in documents(day.runs, day.size)]
    rng, common, attachments = random.Random(1), os.urandom(_LARGEST // 100), []
    for number in range(day.attachments):
        run_id, name = ids[number // 2 % len(ids)], _NAMES[number % len(_NAMES)] + str(number % 2)
        size = 0 if number % 50 == 49 else min(_LARGEST, int(rng.expovariate(25 / _LARGEST)))
        content = common if number % 10 == 9 else os.urandom(_LARGEST if number < 4 else size)
        store.attach(run_id, name, content, "application/octet-stream")
        attachments.append((run_id, name, hashlib.sha256(content).hexdigest()))
    feedback = [
        store.feedback.create({"run_id": ids[number % len(ids)], "key": f"key {number % 7}", "score": number % 11 / 10})
        for number in range(day.feedback)
    ]
    return {"attachments": sorted(attachments), "feedback": sorted(one["id"] for one in feedback)}


@contextlib.contextmanager
def servers(base: Path, day: Day) -> Generator[tuple[str, ...]]:
    """Yields the URL of a LangSmith with this day, that of an empty database, and URL and folder of a Drive."""
    postgres = EmbeddedServer(base / "postgres")
    with LangSmithStore(base / "store.sqlite") as store:
        (base / "sent.json").write_text(json.dumps(fill(store, day)))
        try:
            url = postgres.start().url("lse")
            migrate(Database(url))
            with LangSmithServer(store) as langsmith, DriveServer(base / "drive") as drive:
                drive.accounts.write_authorized_user(base / "user.json", USER, url=drive.url)
                yield langsmith.url, url, drive.url, drive.store.add_folder("Archive", USER)
        finally:
            postgres.remove()


def measure(base: Path, day: Day) -> bool:
    """Prints a table; returns whether every step is below the limit."""
    limit, met = limit_mb(day.size), True
    what = f"{day.runs:,} runs of {day.size / 1e6:g} MB, {day.attachments:,} attachments, {day.feedback:,} records"
    print(f"{what} of feedback, limit {limit:.0f} MB")
    base.chmod(0o755)  # the embedded server of root runs as another user
    with servers(base, day) as urls:
        for step in STEPS:
            command = [sys.executable, __file__, "--work", step, str(base), *urls]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"  {step:30} FAILED", flush=True)
                met = False
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            met = met and found["mb"] <= limit
            missed = "" if found["mb"] <= limit else "  MISSED"
            print(f"  {step:30} {found['mb']:6.0f} MB {found['seconds']:7.1f} s{missed}", flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--bytes", type=int, default=2_000_000, help="bytes of a run")
    parser.add_argument("--attachments", type=int, default=4)
    parser.add_argument("--feedback", type=int, default=0, help="feedback records")
    parser.add_argument("--directory", type=Path, help="directory of the files (default: a new temporary directory)")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return 0
    days = [Day(2000, 2_000_000), Day(1, 200_000_000), Day(3000, 5_000, attachments=1000, feedback=30_000)]
    if options.runs:
        days = [Day(options.runs, options.bytes, options.attachments, options.feedback)]
    met = True
    for day in days:
        with tempfile.TemporaryDirectory(prefix="lse-memory-", dir=options.directory) as base:
            met = measure(Path(base), day) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
