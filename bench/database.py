"""Measures how fast a day is loaded and verified, against a bare COPY, executemany and dlt; writes a table and JSON.

    python bench/database.py [--runs 50000] [--rounds 3]

Servers: an embedded one, and that of LSE_DATABASE_URL if it is set (in databases named lse_bench_…).
dlt is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from database_data import DAY, PROJECT, change_some, write_runs
from database_peers import copy_file, copy_twice, dlt_load, naive_load, staged_load, write_copy_file
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lse_archive.folder.reader import RunFile, read_folder
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.postgres.database import Database
from lse_resources.postgres.jsonb import render
from lse_resources.postgres.load.day import load_day, write_rows
from lse_resources.postgres.loads_table import begin_load
from lse_resources.postgres.schema import migrate
from lse_resources.postgres.search.index import index_day
from lse_resources.postgres.verify.day import verify_day

RESULTS = Path(__file__).parent / "results" / "database.json"
NAME = "lse_bench"
# Measurements compared with the first load, and the required ratio.
TARGETS = {
    "COPY": ("x the rows/s of a bare COPY", 0.85),
    "naive": ("x the rows/s of executemany", 1.8),
    "dlt": ("x the rows/s of dlt", 6.0),
    "unchanged": ("x faster than the first load", 4.0),
    "1 % changed": ("x faster than the first load", 3.5),
    "verify": ("of the first load's time", 0.6),
    "verify --detailed": ("of the first load's time", 1.2),
}
# The maximum of the server, and the parts of the first load, each alone.
PARTS = (
    "COPY from memory, two connections",
    "through a staging table, two connections",
    "read and hash the files",
    "render the rows",
    "write rows held in memory",
)
FASTER = ("unchanged", "1 % changed")
AT_MOST = ("verify", "verify --detailed")
MEMORY_TARGET = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--memory-runs", type=int, default=200_000, help="runs of the large day for the peak memory; 0: none"
    )
    parser.add_argument("--work", nargs=3, metavar=("WHAT", "URL", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(work(*arguments.work)))
        return
    base = Path(tempfile.mkdtemp(prefix="lse-bench-", dir="/tmp"))
    base.chmod(0o755)
    try:
        report = measure_all(base, arguments.runs, arguments.rounds, arguments.memory_runs)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def measure_all(base: Path, runs: int, rounds: int, memory_runs: int) -> dict[str, object]:
    size = write_runs(base / "day", runs)
    write_copy_file(base / "day", base / "rows.copy")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    print(f"{runs} runs of {size / runs / 1000:.1f} KB; {machine}")
    report: dict[str, object] = {"runs": runs, "bytes": size, "machine": machine}
    with servers(base) as urls:
        if memory_runs:
            write_runs(base / "large", memory_runs, seed=2)
        for name, url in urls.items():
            seconds = [one_round(url, base, number) for number in range(rounds)]
            # The minimum: other load on the machine only adds time.
            found = {what: min(one[what] for one in seconds if what in one) for what in seconds[0]}
            report[name] = show(name, url, runs, found) | memory(url, base, memory_runs)
    return report


@contextmanager
def servers(base: Path) -> Generator[dict[str, str]]:
    embedded = EmbeddedServer(base / "postgres")
    urls = {"embedded": embedded.start().url("postgres")}
    if other := os.environ.get("LSE_DATABASE_URL"):
        urls["LSE_DATABASE_URL"] = other
    try:
        yield urls
    finally:
        embedded.remove()


@contextmanager
def fresh_database(url: str) -> Generator[str]:
    """A migrated database with the month's partition, dropped afterwards."""
    name = f"{NAME}_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        fresh = make_conninfo(url, dbname=name)
        try:
            migrate(Database(fresh))
            with psycopg.connect(fresh, autocommit=True) as inside:
                inside.execute("SELECT lse_ensure_month(%s)", (DAY,))
                inside.execute("CHECKPOINT")
            yield fresh
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def one_round(url: str, base: Path, number: int) -> dict[str, float]:
    """Seconds of each measurement, once, in sequence: other load on the machine affects all alike."""
    seconds: dict[str, float] = {}
    peers: dict[str, Callable[[str], object]] = {
        "COPY": lambda fresh: copy_file(fresh, base / "rows.copy"),
        PARTS[0]: lambda fresh: copy_twice(fresh, base / "rows.copy"),
        PARTS[1]: lambda fresh: staged_load(fresh, base / "rows.copy"),
        "naive": lambda fresh: naive_load(fresh, base / "day"),
    }
    if number == 0 and importlib.util.find_spec("dlt"):
        peers["dlt"] = lambda fresh: dlt_load(fresh, base / "day")
    for name, peer in peers.items():
        with fresh_database(url) as fresh:
            started = time.perf_counter()
            peer(fresh)
            seconds[name] = time.perf_counter() - started
    day = base / f"day-{number}"
    shutil.copytree(base / "day", day)
    with fresh_database(url) as fresh:
        for what, kind in (("first load", "load"), ("unchanged", "load"), ("verify", "verify")):
            seconds[what] = in_process(kind, fresh, day)["seconds"]
        seconds["verify --detailed"] = in_process("detailed", fresh, day)["seconds"]
        change_some(day, 0.01)
        seconds["1 % changed"] = in_process("overwrite", fresh, day)["seconds"]
    with fresh_database(url) as fresh:
        parts = in_process("parts", fresh, day)
        seconds |= {what: parts[what] for what in PARTS if what in parts}
    shutil.rmtree(day)
    print("  " + ", ".join(f"{what} {taken:.2f} s" for what, taken in seconds.items()), flush=True)
    return seconds


def memory(url: str, base: Path, memory_runs: int) -> dict[str, object]:
    """Peak memory in MB of a process that loads, and of one that verifies."""
    peaks: dict[str, dict[str, int]] = {}
    for folder in ("day", "large") if memory_runs else ("day",):
        with fresh_database(url) as fresh:
            for kind in ("load", "verify", "detailed"):
                peak = round(in_process(kind, fresh, base / folder)["peak"])
                peaks.setdefault(f"MB, {folder}", {})[kind] = peak
    for name, found in peaks.items():
        verdict = "ok" if max(found.values()) <= MEMORY_TARGET else "MISSED"
        print(f"  peak {name}: {found} (at most {MEMORY_TARGET}: {verdict})")
    return {"peak_memory": peaks}


def in_process(kind: str, url: str, folder: Path) -> dict[str, float]:
    """Runs LSE's part in a process of its own, to measure its memory; the start of the process does not count."""
    command = [sys.executable, __file__, "--work", kind, url, str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def work(kind: str, url: str, folder: str) -> dict[str, float]:
    database, path = Database(url), Path(folder)
    database.connect().close()
    if kind == "parts":
        return parts(database, path)
    started = time.perf_counter()
    if kind in ("load", "overwrite"):
        load_day(database, PROJECT, DAY, path, overwrite=kind == "overwrite")
    elif kind == "index":
        index_day(database, PROJECT, DAY)
    elif not verify_day(database, PROJECT, DAY, path, detailed=kind == "detailed").is_consistent:
        raise SystemExit("the day is not consistent")
    seconds = time.perf_counter() - started
    # Not ru_maxrss: it includes the memory of the parent at the fork.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return {"seconds": seconds, "peak": peak}


def parts(database: Database, folder: Path) -> dict[str, float]:
    """Seconds of each part of a first load alone; only the writing is parallel."""
    marks = [time.perf_counter()]
    files = [file for file in read_folder(folder, DAY) if isinstance(file, RunFile)]
    marks.append(time.perf_counter())
    for file in files:
        render(file.document)
    marks.append(time.perf_counter())
    with database.session("cannot begin") as connection:
        load_id = begin_load(connection, "load", PROJECT, DAY)
    written = sum(outcome.inserted for outcome in write_rows(database, PROJECT, DAY, files, "keep", load_id))
    marks.append(time.perf_counter())
    if written != len(files):
        raise SystemExit(f"{written} of {len(files)} rows were written")
    return dict(zip(PARTS[2:], (end - start for start, end in itertools.pairwise(marks)), strict=True))


def show(name: str, url: str, runs: int, seconds: dict[str, float]) -> dict[str, object]:
    with psycopg.connect(url) as connection:
        version = connection.info.parameter_status("server_version")
    first = seconds["first load"]
    print(f"\n{name}: PostgreSQL {version}\n  {'first load':18} {first:7.2f} s {runs / first:8.0f} rows/s")
    ratios = {}
    for what, (meaning, target) in TARGETS.items():
        if what not in seconds:
            continue
        ratio = first / seconds[what] if what in FASTER else seconds[what] / first
        met = ratio <= target if what in AT_MOST else ratio >= target
        ratios[what] = round(ratio, 2)
        verdict = "ok" if met else "MISSED"
        print(f"  {what:18} {seconds[what]:7.2f} s  {ratio:6.2f} {meaning} (target {target}: {verdict})")
    print("  where the first load's time goes:")
    for what in PARTS:
        ratio = seconds["COPY"] / seconds[what]
        print(f"    {what:41} {seconds[what]:7.2f} s  {ratio:6.2f} x as fast as the bare COPY")
    rounded = {what: round(taken, 3) for what, taken in seconds.items()}
    return {"version": version, "seconds": rounded, "ratios": ratios}


if __name__ == "__main__":
    main()
