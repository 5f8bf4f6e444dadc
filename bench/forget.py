"""Benchmark of an erasure: one run of a large day, and many runs of a year.

python bench/forget.py [--runs 50000] [--mean-bytes 5000] [--days 365] [--erased 10000]

The first is compared with zip, upload and load of the day, without the rewriting of the month's table. The second is
erased in a child process, whose peak memory is measured; it is killed once in the middle and goes on. A local Drive
server is the destination, and an embedded PostgreSQL the database. The figures go to `bench/results/forget.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Generator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from lse_archive.days import day_window, format_time
from lse_archive.folder.reader import run_file_name
from lse_archive.layout import DayPaths, Layout
from lse_archive.runs.header import read_header
from lse_archive.zips.day import zip_day
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.langsmith.store import LangSmithStore
from lse_operations.forget import engine
from lse_operations.forget.journal import Journal
from lse_operations.forget.places import Places
from lse_operations.forget.selection import Selectors
from lse_operations.upload import upload_day
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.destinations.google_drive.settings import DriveSettings
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.schema import migrate

RESULTS = Path(__file__).parent / "results" / "forget.json"
PROJECT = "bench"
FIRST = date(2025, 1, 1)
MAX_RATIO = 1.5
MAX_PEAK = 250.0
"""MB, of the process that erases 10,000 runs."""
_OTHERS = 3  # other runs of each day of the year


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--mean-bytes", type=int, default=5_000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--erased", type=int, default=10_000)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="lse-bench-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = EmbeddedServer(directory / "postgres")
        try:
            database = Database(server.start().url("lse"))
            migrate(database)
            with DriveServer(directory / "drive") as drive:
                drive.accounts.write_authorized_user(directory / "drive.json", USER, url=drive.url)
                folder = drive.store.add_folder("Archive", USER)
                settings = DriveSettings(folder, "oauth2", directory / "drive.json", directory / "t.json", drive.url)
                figures |= shown(one_of_many(directory, settings, database, options.runs, options.mean_bytes))
                figures |= shown(of_a_year(directory, settings, database, options.days, options.erased))
        finally:
            server.remove()
    ratio, peak = figures["one run, against zip, upload and load"], figures["a year: peak memory, MB"]
    print(
        f"at most {MAX_RATIO}: {'yes' if ratio <= MAX_RATIO else 'NO'}; at most {MAX_PEAK} MB: "
        f"{'yes' if peak <= MAX_PEAK else 'NO'}"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    found = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **machine, "options": vars(options)}
    RESULTS.write_text(json.dumps(found | {"figures": figures}, indent=2) + "\n")


def shown(figures: dict[str, float]) -> dict[str, float]:
    for what, value in figures.items():
        print(f"{what:60} {value:10.2f}", flush=True)
    return figures


@contextlib.contextmanager
def places_of(layout: Layout, settings: DriveSettings, database: Database) -> Generator[Places]:
    with GoogleDrive(settings) as drive:
        yield Places(layout, lambda: contextlib.nullcontext(drive), True, database)


def fill(paths: DayPaths, runs: int, mean_bytes: int) -> None:
    paths.folder.mkdir(parents=True)
    with LangSmithStore() as store:
        store.generate(PROJECT, paths.day, runs=runs, mean_bytes=mean_bytes)
        for run in store.runs(PROJECT):
            (paths.folder / run_file_name(read_header(run.v2))).write_bytes(run.v2)


def one_of_many(
    directory: Path, settings: DriveSettings, database: Database, runs: int, mean_bytes: int
) -> dict[str, float]:
    """Zips, uploads and loads a day, and erases one of its runs."""
    layout = Layout(directory / "one" / "data", directory / "one" / "archives")
    paths = layout.day(PROJECT, FIRST - timedelta(days=1))
    fill(paths, runs, mean_bytes)
    with places_of(layout, settings, database) as places, places.destination() as destination:
        assert destination is not None
        began = time.perf_counter()
        zip_day(paths)
        upload_day(destination, paths)
        load_day(database, PROJECT, paths.day, paths.folder)
        made = time.perf_counter() - began
        erased = next(paths.folder.glob("[0-9a-f]*.json")).name.partition("_")[0]
        rewritten: list[float] = []
        began = time.perf_counter()
        selectors = Selectors(runs=frozenset([erased]))
        engine.begin(places, engine.plan(places, PROJECT, selectors, progress=lambda *_: None), "")
        outcome = engine.complete(places, say=lambda _: rewritten.append(time.perf_counter()))
        ended = time.perf_counter()
        assert not outcome.errors, outcome.errors
    shutil.rmtree(directory / "one")
    # The rewriting is the last step but the last search.
    spent = rewritten[0] - began
    return {
        "zip, upload and load, s": made,
        "erase one run, without the rewriting, s": spent,
        "rewriting of the month and the last search, s": ended - rewritten[0],
        "one run, against zip, upload and load": spent / made,
    }


def of_a_year(directory: Path, settings: DriveSettings, database: Database, days: int, erased: int) -> dict[str, float]:
    """Erases runs of every day of a year in a child process, which is killed once."""
    layout = Layout(directory / "year" / "data", directory / "year" / "archives")
    ids: list[str] = []
    with places_of(layout, settings, database) as places, places.destination() as destination:
        assert destination is not None
        for number in range(days):
            paths = layout.day(PROJECT, FIRST + timedelta(days=number))
            paths.folder.mkdir(parents=True)
            here = erased // days + (number < erased % days)
            for index in range(here + _OTHERS):
                run_id = f"{number:08x}-0000-4000-8000-{index:012x}"
                start = day_window(paths.day).start + index
                document = {"id": run_id, "start_time": format_time(start), "inputs": {"text": run_id * 30}}
                content = json.dumps(document).encode()
                (paths.folder / run_file_name(read_header(content))).write_bytes(content)
                if index < here:
                    ids.append(run_id)
            zip_day(paths)
            upload_day(destination, paths)
            load_day(database, PROJECT, paths.day, paths.folder)
    spawn = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=erase_year, args=(layout, settings, database, ids, sender))
    child.start()
    while receiver.recv() < days // 2:
        pass
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    [intent] = Journal(layout).open_intents()
    done = sum(Journal(layout).day_done(intent, day) is not None for day in intent.days)
    child = spawn.Process(target=erase_year, args=(layout, settings, database, [], sender))
    child.start()
    peak = 0.0
    while (message := receiver.recv()) >= 0:
        pass
    peak = -message
    child.join()
    assert child.exitcode == 0
    [certificate] = Journal(layout).certificates()
    return {
        "a year: runs": certificate.selected["runs"],
        "a year: days done when it was killed": done,
        "a year: s": time.perf_counter() - began,
        "a year: peak memory, MB": peak,
    }


def erase_year(layout: Layout, settings: DriveSettings, database: Database, ids: list[str], sender: Any) -> None:
    """Begins the erasure of these runs, or completes an open one; sends the days done, and at the end -peak in MB."""
    with places_of(layout, settings, database) as places:
        if ids:
            selectors = Selectors(runs=frozenset(ids))
            engine.begin(places, engine.plan(places, PROJECT, selectors, progress=lambda *_: None), "")
        outcome = engine.complete(places, progress=lambda done, _: sender.send(done))
    assert not outcome.errors, outcome.errors
    sender.send(-_peak())


def _peak() -> float:
    """Peak memory of this process in MB. The system's `ru_maxrss` would count that of the parent, too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    main()
