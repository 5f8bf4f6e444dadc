"""Benchmark of attachments: a fetch of a day with many of them, against plain streams of the same bytes in one run.

    python bench/attachments.py                                # 300 attachments, 650 MB
    python bench/attachments.py --attachments 100 --mean-mb 5

Both run against the same local LangSmith in a separate process, one after the other, in several rounds. The plain
variant downloads to files with eight threads of `httpx`, and knows the links. Both end with their files on the disk.
The result is the median of the rounds' ratios; the goal is at most 1.3. The exit code is 1 if it is missed. The ratio
of the CPU time of this process is printed, too: it depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import httpx

from lse_archive.days import day_window, format_time
from lse_archive.fetch.day import FetchOptions, fetch_day
from lse_archive.layout import Layout
from lse_demo.langsmith.server import DEMO_KEY
from lse_demo.langsmith.store import LangSmithStore
from lse_resources.langsmith.client import LangSmith
from lse_resources.langsmith.settings import LangSmithSettings

PROJECT = "bench"
DAY = date(2026, 1, 2)
GOAL = 1.3
_RESULTS = Path(__file__).with_name("results") / "attachments.json"
_STREAMS = 8


def fill(path: Path, attachments: int, mean_bytes: int) -> int:
    """Fills a store with runs of two attachments each, of 0 bytes to several times the mean; returns the bytes."""
    rng, total = random.Random(1), 0
    with LangSmithStore(path) as store:
        store.generate(PROJECT, DAY, runs=(attachments + 1) // 2)
        runs = [run.id for run in store.runs(PROJECT)]
        for number in range(attachments):
            size = 0 if number % 50 == 0 else int(rng.expovariate(1 / mean_bytes))
            store.attach(runs[number // 2], f"file {number}", rng.randbytes(size), "application/octet-stream")
            total += size
    return total


@contextlib.contextmanager
def serve(path: Path) -> Generator[str]:
    command = [sys.executable, "-m", "lse_demo.langsmith", "--store", str(path), "--watch-stdin"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield server.stdout.readline().strip()
        server.communicate()  # ends its standard input


def fetch(url: str, target: Path) -> tuple[float, int]:
    """Fetches the day; returns the seconds and the bytes."""
    client = LangSmith(LangSmithSettings(DEMO_KEY, url))
    paths = Layout(target / "data", target / "archives").day(PROJECT, DAY)
    with contextlib.closing(client), contextlib.closing(client.source(PROJECT)) as source:
        began = time.perf_counter()
        result = fetch_day(paths, source, FetchOptions(retention_days=None, ask_count=False))
        seconds = time.perf_counter() - began
    assert result.attachments_missing == []
    return seconds, result.attachment_bytes


def stream(url: str, target: Path) -> tuple[float, int]:
    """Downloads the same files with plain streams; returns the seconds and the bytes."""
    with httpx.Client(timeout=120) as client:
        links = _links(client, url)

        def one(numbered: tuple[int, str]) -> int:
            number, link = numbered
            with client.stream("GET", link) as answer, (target / f"{number}").open("wb") as file:
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    file.write(piece)
                return file.tell()

        began = time.perf_counter()
        with ThreadPoolExecutor(_STREAMS) as pool:
            total = sum(pool.map(one, enumerate(links)))
        os.sync()  # a fetch ends with its files on the disk
        return time.perf_counter() - began, total


def _links(client: httpx.Client, url: str) -> list[str]:
    key = {"X-API-Key": DEMO_KEY}
    [project] = client.get(f"{url}/sessions", params={"name": PROJECT}, headers=key).json()
    window, links, cursor = day_window(DAY), [], None
    while True:
        body = {
            "project_ids": [project["id"]],
            "min_start_time": format_time(window.start),
            "max_start_time": format_time(window.end),
            "page_size": 1000,
            "selects": ["ID", "ATTACHMENTS"],
        }
        body |= {"cursor": cursor} if cursor else {}
        page = client.post(f"{url}/api/v2/runs/query", json=body, headers=key).json()
        links += [link for run in page["items"] for link in run.get("attachments", {}).values()]
        cursor = page["next_cursor"]
        if not cursor:
            return links


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attachments", type=int, default=300)
    parser.add_argument("--mean-mb", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="Where files are written. Default: a temporary one.")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"lse": [], "httpx": []}
    cpu: dict[str, list[float]] = {"lse": [], "httpx": []}
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        total = fill(directory / "store.sqlite", options.attachments, int(options.mean_mb * 1e6))
        with serve(directory / "store.sqlite") as url:
            fetch(url, directory / "imports")  # the modules of the first fetch
            for number in range(options.rounds):
                for variant, run in (("httpx", stream), ("lse", fetch))[:: 1 if number % 2 else -1]:
                    target = directory / f"{variant}{number}"
                    target.mkdir()
                    os.sync()  # nobody waits for the writes of another
                    began = time.process_time()
                    taken, received = run(url, target)
                    cpu[variant].append(round(time.process_time() - began, 3))
                    assert received == total
                    seconds[variant].append(round(taken, 3))
                    speed = f"{total / taken / 1e6:6.0f} MB/s"
                    print(f"{variant:5}  {taken:6.2f} s  {speed}  {cpu[variant][-1]:6.2f} s of CPU", flush=True)
                    shutil.rmtree(target)
    ratio, cpu_ratio = (
        statistics.median(ours / plain for ours, plain in zip(one["lse"], one["httpx"], strict=True))
        for one in (seconds, cpu)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    what = f"{options.attachments:,} attachments, {total / 1e6:,.0f} MB"
    load = round(os.getloadavg()[0], 1)
    print(f"{what}: ratio {ratio:.2f} (goal {GOAL}), of CPU time {cpu_ratio:.2f}, peak {peak:.0f} MB, load {load}")
    result = {"attachments": options.attachments, "bytes": total, "peak_mb": round(peak), "load": load}
    result |= {"seconds": seconds, "ratio": round(ratio, 3), "cpu_seconds": cpu, "cpu_ratio": round(cpu_ratio, 3)}
    _RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
