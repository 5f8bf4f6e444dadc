"""Benchmark of the fetch against other tools and fixed limits, with a local LangSmith in a separate process.

    python bench/fetch.py                      everything, about fifteen minutes
    python bench/fetch.py --only open --runs 5000

Sections: `open` (no limit, against two loops over the SDK), `limited` (10 requests in 10 s), `memory` (peak memory at
one and at four times the runs), `v1` (the older API, limited). Every variant runs in a separate process; times
are from the first request to the last file, without imports. CPU time is that of the client only.

On ext4 the allocator avoids inodes that were deleted recently: creating files after deleting many is up to twenty
times slower. Therefore files are deleted only at the end, not between two measurements;
`--directory /dev/shm/…` avoids the disk completely.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results") / "fetch.json"
PROJECT = "bench"
DAY = date(2026, 1, 2)
START = datetime(2026, 1, 2, tzinfo=UTC)
END = START + timedelta(days=1)
LATENCY_MS = 300
RATE = 1.0  # requests a second of the limited sections
SECTIONS = ("open", "limited", "memory", "v1")


@dataclass(frozen=True)
class Measured:
    """The result of one variant: seconds, runs, and resources of the client process."""

    wall: float
    cpu: float
    peak_mb: float
    runs: int
    requests: int = 0
    throttled: int = 0

    @property
    def cpu_per_run(self) -> float:
        """Microseconds."""
        return self.cpu / self.runs * 1e6


@dataclass(frozen=True)
class Bound:
    """A number and its upper limit."""

    section: str
    what: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


# ---- the variants, each in a separate process -----------------------------------------------------------------------


def lse(url: str, directory: Path) -> dict[str, int]:
    from lse_archive.fetch.day import FetchOptions, fetch_day
    from lse_archive.layout import Layout
    from lse_demo.langsmith.server import DEMO_KEY
    from lse_resources.langsmith.client import LangSmith
    from lse_resources.langsmith.http import LangSmithSettings

    paths = Layout(directory / "data", directory / "archives").day(PROJECT, DAY)
    client = LangSmith(LangSmithSettings(DEMO_KEY, url))
    with contextlib.closing(client), contextlib.closing(client.source(PROJECT)) as source:
        result = fetch_day(paths, source, FetchOptions(retention_days=None))
    if result.count_check != "equal":
        raise SystemExit(f"not complete: {result}")
    return {"runs": result.runs, "requests": result.requests, "throttled": result.throttled}


def sdk_v2(url: str, directory: Path) -> dict[str, int]:
    from langsmith import Langsmith
    from langsmith.types.run_select_field import RunSelectField

    from lse_demo.langsmith.server import DEMO_KEY

    selects = [name for name in RunSelectField.__args__ if name not in ("SHARE_URL", "ATTACHMENTS")]
    runs = 0
    with Langsmith(api_key=DEMO_KEY, base_url=url) as client:
        for run in client.runs.query_v2(
            project_ids=[_project_id(url)], min_start_time=START, max_start_time=END, selects=selects, page_size=1000
        ):
            assert run.start_time is not None
            (directory / f"{run.id}_{run.start_time:%Y%m%dT%H%M%S%fZ}.json").write_text(run.to_json(indent=None))
            runs += 1
    return {"runs": runs}


def list_runs(url: str, directory: Path) -> dict[str, int]:
    from langsmith import Client

    from lse_demo.langsmith.server import DEMO_KEY

    warnings.simplefilter("ignore", DeprecationWarning)
    client = Client(url, api_key=DEMO_KEY, auto_batch_tracing=False)
    window = f'and(gte(start_time, "{START.isoformat()}"), lt(start_time, "{END.isoformat()}"))'
    runs = 0
    for run in client.list_runs(project_id=_project_id(url), start_time=START, filter=window):
        (directory / f"{run.id}_{run.start_time:%Y%m%dT%H%M%S%fZ}.json").write_text(run.model_dump_json())
        runs += 1
    client.close()
    return {"runs": runs}


def _project_id(url: str) -> str:
    import httpx

    from lse_demo.langsmith.server import DEMO_KEY

    return httpx.get(f"{url}/sessions", params={"name": PROJECT}, headers={"X-API-Key": DEMO_KEY}).json()[0]["id"]


VARIANTS = {"lse": lse, "SDK v2 pager": sdk_v2, "Client.list_runs": list_runs}


def _variant(name: str, url: str, directory: Path) -> None:
    """Runs in the separate process: warms up, measures, prints."""
    import httpx  # noqa: F401
    import langsmith
    import langsmith.client

    langsmith.Langsmith(api_key="x", base_url=url).close()  # reads the certificates once per process
    directory.mkdir(parents=True)
    began, cpu = time.perf_counter(), time.process_time()
    found = VARIANTS[name](url, directory)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = sum(1 for path in directory.rglob("*.json") if not path.name.startswith("_"))
    if files < found["runs"]:
        raise SystemExit(f"{name} wrote {files} files for {found['runs']} runs")
    print(json.dumps({"wall": wall, "cpu": cpu, "peak_mb": peak, **found}))


# ---- the server and the measurements -------------------------------------------------------------------------------


class Bench:
    """Seeds stores, starts servers and measures variants below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._count = 0

    @contextlib.contextmanager
    def server(self, runs: int, *options: str) -> Generator[str]:
        store = self._directory / f"store-{runs}.sqlite"
        command = [sys.executable, "-m", "lse_demo.langsmith", "--store", str(store), "--watch-stdin"]
        command += ["--seed-runs", str(runs), "--seed-project", PROJECT, "--seed-day", str(DAY), *options]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            report, _ = process.communicate()
        found = json.loads(report)
        if found["violations"]:
            raise SystemExit(f"the server reports violations: {found['violations']}")

    def measure(self, variant: str, url: str, runs: int) -> Measured:
        self._count += 1
        target = self._directory / f"{self._count}"
        command = [sys.executable, __file__, "--variant", variant, "--url", url, "--directory", str(target)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=_environment())
        found = Measured(**json.loads(done.stdout))
        if found.runs != runs:
            raise SystemExit(f"{variant} got {found.runs} of {runs} runs")
        row = f"  {variant:18} {found.wall:8.1f} s {found.cpu_per_run:9.0f} µs/run {found.peak_mb:7.0f} MB"
        print(f"{row} {found.requests or '':>6} {f'{found.throttled} x 429' if found.throttled else ''}", flush=True)
        return found


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run_section(bench: Bench, name: str, runs: int) -> tuple[dict[str, Measured], list[Bound]]:
    latency = ("--latency-ms", str(LATENCY_MS))
    limit = ("--limit", f"{RATE * 10:.0f}/10")
    if name == "open":
        with bench.server(runs, *latency) as url:
            found = {variant: bench.measure(variant, url, runs) for variant in VARIANTS}
        ours, loop, old = found.values()
        return found, [
            Bound(name, "wall against the SDK v2 pager", ours.wall / loop.wall, 1 / 3),
            Bound(name, "wall against Client.list_runs", ours.wall / old.wall, 1 / 10),
            Bound(name, "CPU per run against the SDK v2 pager", ours.cpu_per_run / loop.cpu_per_run, 1 / 3),
        ]
    if name == "memory":
        found = {}
        for label, size in (("lse", runs), ("lse, four times", 4 * runs)):
            with bench.server(size) as url:
                found[label] = bench.measure("lse", url, size)
        one, four = found.values()
        return found, [
            Bound(name, "peak MB", max(one.peak_mb, four.peak_mb), 350),
            Bound(name, "peak at four times the runs", four.peak_mb / one.peak_mb, 1.2),
        ]
    size, page, extra = (runs * 2 // 5, 100, ("--no-v2",)) if name == "v1" else (runs, 1000, ())
    with bench.server(size, *latency, *limit, *extra) as url:
        ours = bench.measure("lse", url, size)
    bounds = [Bound(name, "wall against runs ÷ page ÷ rate", ours.wall / (math.ceil(size / page) / RATE), 1.2)]
    if name == "limited":
        bounds.append(Bound(name, "answers of 429", ours.throttled, 2))
    return {"lse": ours}, bounds


def machine(directory: Path) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()] if sys.platform == "linux" else []
    under = [mount for mount in mounts if directory.resolve().is_relative_to(mount[1])]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "files_on": max(under, key=lambda mount: len(mount[1]))[2] if under else "unknown",
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50_000, help="runs of the day; v1 uses two fifths of them")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; can be repeated")
    parser.add_argument(
        "--directory", type=Path, help="directory of stores and files (default: a new temporary directory)"
    )
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        _variant(options.variant, options.url, options.directory)
        return 0
    directory = Path(tempfile.mkdtemp(prefix="lse-bench-", dir=options.directory))
    described = machine(directory)
    print(json.dumps(described))
    measured: dict[str, dict[str, Any]] = {}
    bounds: list[Bound] = []
    try:
        for section in options.only or SECTIONS:
            print(f"{section}: {options.runs} runs", flush=True)
            found, ours = run_section(Bench(directory / section), section, options.runs)
            measured[section] = {
                name: asdict(one) | {"cpu_us_per_run": round(one.cpu_per_run, 1)} for name, one in found.items()
            }
            bounds += ours
    finally:
        shutil.rmtree(directory)
    print(f"\n{'section':9} {'':40} {'measured':>9} {'at most':>9}")
    for bound in bounds:
        mark = "" if bound.holds else "  MISSED"
        print(f"{bound.section:9} {bound.what:40} {bound.value:9.3f} {bound.limit:9.3f}{mark}")
    RESULTS.parent.mkdir(exist_ok=True)
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": options.runs,
        "machine": described,
        "measured": measured,
        "bounds": [asdict(bound) | {"holds": bound.holds} for bound in bounds],
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(bound.holds for bound in bounds) else 1


if __name__ == "__main__":
    sys.exit(main())
