"""Measures the peak memory of each step with large runs, each step in a process of its own, and prints a table.

The day also has four attachments of 50 MB.

    python bench/memory.py                              # 2,000 runs of 2 MB, then one of 200 MB; 30 GB of disk
    python bench/memory.py --runs 200 --bytes 2000000   # one measurement

The limit is 350 MB, or 250 MB and three times the largest run if that is more. The exit code is 1 if a step misses it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
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
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.day import zip_day
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.langsmith.client import LangSmith
from lse_resources.langsmith.settings import LangSmithSettings
from lse_resources.postgres.database import Database
from lse_resources.postgres.schema import migrate

PROJECT = "bench"
DAY = date(2026, 1, 31)
_ATTACHMENTS, _ATTACHMENT_BYTES = 4, 50_000_000
_LINE = 100  # characters; a run has many short strings, as chats have


def limit_mb(largest: int) -> float:
    return max(350.0, 250 + 3 * largest / 1e6)


# ---- the steps, each in a process of its own -----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    paths: DayPaths
    langsmith: str
    database: Database


def fetch(at: Place) -> None:
    client = LangSmith(LangSmithSettings(DEMO_KEY, at.langsmith))
    with contextlib.closing(client), contextlib.closing(client.source(PROJECT)) as source:
        result = fetch_day(at.paths, source, FetchOptions(retention_days=None))
    assert result.count_check == "equal", result


def make_zip(at: Place) -> None:
    zip_day(at.paths)


def unpack(at: Place) -> None:
    from lse_operations.restore.unpack import publish, unpack_day

    incoming = at.paths.incoming
    shutil.copy(at.paths.zip, incoming)
    publish(at.paths, unpack_day(at.paths, incoming), incoming)


def import_files(at: Place) -> None:
    from lse_operations.importing import import_day, survey

    found = survey(at.paths.folder)
    import_day(Layout(at.paths.data_dir.parent / "imported", at.paths.archive_dir), PROJECT, DAY, found.days[DAY])


def load(at: Place) -> None:
    from lse_resources.postgres.load.day import load_day

    result = load_day(at.database, PROJECT, DAY, at.paths.folder)
    assert not result.failed_inserts, result.errors


def verify(at: Place) -> None:
    from lse_resources.postgres.verify.day import verify_day

    assert verify_day(at.database, PROJECT, DAY, at.paths.folder).is_consistent


def verify_detailed(at: Place) -> None:
    from lse_resources.postgres.verify.day import verify_day

    assert verify_day(at.database, PROJECT, DAY, at.paths.folder, detailed=True).is_consistent


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

        target = at.paths.data_dir.parent / "export"
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
    "restore": unpack,
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


def work(step: str, base: str, url: str, database: str) -> None:
    """Executes a step and prints its peak memory: of this process, and of the largest child process for each core."""
    paths = Layout(Path(base, "data"), Path(base, "archives")).day(PROJECT, DAY)
    began = time.perf_counter()
    STEPS[step](Place(paths, url, Database(database)))
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


@contextlib.contextmanager
def servers(base: Path, runs: int, size: int) -> Generator[tuple[str, str]]:
    """Yields the URLs of a LangSmith with these runs, and of an empty database."""
    postgres = EmbeddedServer(base / "postgres")
    with LangSmithStore(base / "store.sqlite") as store:
        store.project(PROJECT)
        ids = [store.put_raw(PROJECT, document) for document in documents(runs, size)]
        for number in range(_ATTACHMENTS):
            store.attach(ids[number % len(ids)], f"file {number}", os.urandom(_ATTACHMENT_BYTES))
        try:
            url = postgres.start().url("lse")
            migrate(Database(url))
            with LangSmithServer(store) as server:
                yield server.url, url
        finally:
            postgres.remove()


def measure(base: Path, runs: int, size: int) -> bool:
    """Prints a table; returns whether every step is below the limit."""
    limit, met = limit_mb(size), True
    print(f"{runs:,} runs of {size / 1e6:g} MB, limit {limit:.0f} MB")
    base.chmod(0o755)  # the embedded server of root runs as another user
    with servers(base, runs, size) as (langsmith, database):
        for step in STEPS:
            command = [sys.executable, __file__, "--work", step, str(base), langsmith, database]
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
    parser.add_argument("--directory", type=Path, help="directory of the files (default: a new temporary directory)")
    parser.add_argument(
        "--work", nargs=4, metavar=("STEP", "DIRECTORY", "LANGSMITH", "DATABASE"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return 0
    met = True
    for runs, size in [(options.runs, options.bytes)] if options.runs else [(2000, 2_000_000), (1, 200_000_000)]:
        with tempfile.TemporaryDirectory(prefix="lse-memory-", dir=options.directory) as base:
            met = measure(Path(base), runs, size) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
