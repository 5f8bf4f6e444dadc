"""Benchmark of zip, upload and restore against `zip -6`, a plain read-and-send loop, and `unzip`.

python bench/archive.py [--runs 20000] [--mean-bytes 5000] [--rounds 3]
python bench/archive.py --big          # 70,000 files, and a day of 5 GB: zip, upload, restore, and their peak memory

`--big` needs 18 GB below TMPDIR. The figures go to `bench/results/archive.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lse_archive.days import day_window, format_time
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.manifest import read_sums
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.day import zip_day
from lse_archive.zips.writer import write_zip
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.http import Answer, LocalServer, Request
from lse_demo.langsmith.store import LangSmithStore
from lse_operations.restore.copies import copies
from lse_operations.restore.restore import restore_day
from lse_operations.upload import upload_day
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.destinations.google_drive.settings import DriveSettings

DAY = date(2026, 1, 2)
RESULTS = Path(__file__).parent / "results" / "archive.json"
MAX_PEAK = 200.0  # MB, however large the day


def best(rounds: int, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Returns the seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        before()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def in_turn(rounds: int, **works: Callable[[], object]) -> dict[str, float]:
    """Returns the seconds of each task's fastest round; tasks alternate, so that a slow minute affects all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    return {name: min(found) for name, found in times.items()}


def fill(paths: DayPaths, runs: int, mean_bytes: int) -> int:
    """Writes generated runs as run files; returns the number of bytes."""
    paths.folder.mkdir(parents=True)
    total = 0
    with LangSmithStore() as store:
        store.generate("bench", DAY, runs=runs, mean_bytes=mean_bytes)
        for run in store.runs("bench"):
            (paths.folder / f"{run.id}.json").write_bytes(run.v2)
            total += len(run.v2)
    return total


Figures = dict[str, dict[str, float]]


def show(figures: Figures, what: str, seconds: float, size: int, peer: str, peer_seconds: float) -> None:
    ratio, speed = round(peer_seconds / seconds, 2), round(size / seconds / 1e6, 1)
    figures[f"{what}, against {peer}"] = {"MB/s": speed, "x peer": ratio}
    print(
        f"{what:28} {size / seconds / 1e6:8.1f} MB/s   {peer_seconds / seconds:5.2f} x {peer} "
        f"({size / peer_seconds / 1e6:.1f} MB/s)"
    )


def bench_zip(figures: Figures, paths: DayPaths, size: int, scratch: Path, rounds: int) -> None:
    peer, ours = scratch / "peer.zip", scratch / "ours.zip"
    files = sorted(paths.folder.iterdir())
    names = [path.name for path in files]

    def by_zipfile() -> None:
        with zipfile.ZipFile(peer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path in files:
                archive.write(path, path.name)

    def by_us() -> None:
        with ours.open("wb") as file:
            for _ in write_zip(file, paths.folder, names):
                pass

    def by_zip() -> None:
        peer.unlink(missing_ok=True)
        subprocess.run(["zip", "-6", "-q", "-r", str(peer), "."], cwd=paths.folder, check=True)

    def proven() -> None:
        paths.zip.unlink(missing_ok=True)
        zip_day(paths)

    works = {"zipfile": by_zipfile, "written": by_us, "proven": proven}
    seconds = in_turn(rounds, **works | ({"zip": by_zip} if shutil.which("zip") else {}))
    by_zipfile()
    show(figures, "zip, written", seconds["written"], size, "zipfile deflate 6", seconds["zipfile"])
    more = ours.stat().st_size / peer.stat().st_size * 100 - 100
    figures["zip, against zipfile deflate 6"] = {"% bytes": round(more, 1)}
    print(f"{'':28} {more:+8.1f} % bytes")
    show(figures, "zip, written and proven", seconds["proven"], size, "zipfile deflate 6", seconds["zipfile"])
    if "zip" in seconds:
        show(figures, "zip, written", seconds["written"], size, "zip -6", seconds["zip"])
        show(figures, "zip, written and proven", seconds["proven"], size, "zip -6", seconds["zip"])


class Sink(LocalServer):
    """Accepts requests and discards their bodies."""

    def handle(self, request: Request) -> Answer:
        return Answer(200, str(len(request.body)).encode())


def send(url: str, path: Path) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    with path.open("rb") as body:
        connection.request("PUT", "/", body, {"Content-Length": str(path.stat().st_size)})
        connection.getresponse().read()
    connection.close()


def bench_drive(figures: Figures, paths: DayPaths, scratch: Path, rounds: int, latency: float) -> None:
    payload = scratch / "payload"
    payload.mkdir(exist_ok=True)
    size = paths.zip.stat().st_size
    note = f" ({latency * 1000:.0f} ms)" if latency else ""
    with (
        DriveServer(scratch / f"drive-{latency}", latency=latency) as server,
        Sink(latency=latency) as sink,
    ):
        server.accounts.write_authorized_user(scratch / "user.json", USER, url=server.url)
        folder = server.store.add_folder("Archive", USER)
        settings = DriveSettings(folder, "oauth2", scratch / "user.json", scratch / f"token-{latency}", server.url)
        with GoogleDrive(settings) as drive:

            def forget() -> None:
                for copy in copies(drive, "bench"):
                    drive.trash(copy.file)

            plain = best(rounds, lambda: send(sink.url, paths.zip))
            uploaded = best(rounds, lambda: upload_day(drive, paths), forget)
            show(figures, f"upload{note}", uploaded, size, "read and send", plain)
            [copy] = copies(drive, "bench")
            # A new folder for each: ext4 creates files many times more slowly after many were deleted.
            folders = (scratch / f"back-{latency}-{number}" for number in itertools.count())

            def restore() -> None:
                back = next(folders)
                restore_day(drive, Layout(back / "data", back / "zips").day("bench", DAY), copy)

            seconds = in_turn(rounds, restore=restore, unzip=lambda: extract(paths.zip, next(folders)))
            peer = "unzip" if shutil.which("unzip") else "zipfile.extractall"
            show(figures, f"restore{note}", seconds["restore"], size, peer, seconds["unzip"])


def extract(archive: Path, target: Path) -> None:
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-q", str(archive), "-d", str(target)], check=True)
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)


def big(kind: str, scratch: Path) -> dict[str, float]:
    """Zips, uploads and restores a huge day; returns seconds, sizes and the peak memory of the processes.

    The day is created, Drive runs, and the steps run in separate processes.
    """
    data = Layout(scratch / "data", scratch / "archives")
    apart(make_big, data, kind)
    with DriveServer(scratch / "drive") as drive:
        folder = drive.store.add_folder("Archive", USER)
    command = [sys.executable, "-m", "lse_demo.google_drive", "--store", str(scratch / "drive")]
    command += ["--credentials", str(scratch / "user.json")]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            settings = DriveSettings(folder, "oauth2", scratch / "user.json", scratch / "token", url)
            figures = apart(work_big, data, Layout(scratch / "back", scratch / "back-zips"), settings)
        finally:
            server.terminate()
    steps = ", ".join(f"{step} {figures[f'{step}, s']:.0f} s" for step in ("zip", "upload", "restore"))
    verdict = "ok" if figures["peak, MB"] <= MAX_PEAK else "MISSED"
    print(
        f"{figures['files']:,} files, {figures['GB']:.2f} GB, zip of {figures['zip, GB']:.2f} GB: {steps}, "
        f"peak memory {figures['peak, MB']:.0f} MB (at most {MAX_PEAK:.0f}: {verdict})"
    )
    return figures


def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """Calls a function in a new process, so that its memory is measured alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def make_big(layout: Layout, kind: str) -> None:
    """Writes 70,000 small run files, or 2,000 of 25, 7 and 0.85 MB that a zip compresses to half."""
    paths, start = layout.day("big", DAY), day_window(DAY).start
    paths.folder.mkdir(parents=True)
    lengths = [100] if kind == "files" else [12_500_000] * 3 + [3_500_000] * 15 + [425_000] * 82
    for number in range(70_000 if kind == "files" else 2_000):
        length = lengths[number % len(lengths)]
        run = {"id": f"{number:08x}-0000-4000-8000-000000000000", "start_time": format_time(start + number)}
        (paths.folder / f"{number:06}.json").write_text(json.dumps(run | {"filler": os.urandom(length).hex()}))


def work_big(layout: Layout, back: Layout, settings: DriveSettings) -> dict[str, float]:
    """Runs the steps of LSE on the day."""
    paths, other = layout.day("big", DAY), back.day("big", DAY)
    figures: dict[str, float] = {}
    with GoogleDrive(settings) as drive:

        def measured(step: str, work: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            with PeakMemory() as memory:
                answer = work()
            figures[f"{step}, s"] = round(time.perf_counter() - began, 1)
            figures[f"peak of {step}, MB"] = round(memory.peak)
            return answer

        zipped = measured("zip", lambda: zip_day(paths))
        measured("upload", lambda: upload_day(drive, paths))
        [copy] = copies(drive, "big")
        measured("restore", lambda: restore_day(drive, other, copy))
    figures |= {"files": zipped.files, "GB": zipped.bytes_in / 1e9, "zip, GB": zipped.bytes / 1e9}
    figures["peak, MB"] = max(value for name, value in figures.items() if name.startswith("peak"))
    assert is_as_recorded(other.folder)
    assert read_sums(other.folder) == read_sums(paths.folder)
    return figures


class PeakMemory:
    """Peak memory of this process and its children together in MB, sampled twenty times a second.

    Not ru_maxrss: it starts with the parent's memory at the fork, and covers one process only. Shared memory counts
    for each process.
    """

    def __enter__(self) -> PeakMemory:
        self.peak = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
            pages = 0
            for process in ["self", *itertools.chain.from_iterable(children)]:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    pages += int(Path("/proc", process, "statm").read_text().split()[1])
            self.peak = max(self.peak, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def keep(**figures: Any) -> None:
    """Adds figures to the results file; keeps those of other calls."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    for name, found in figures.items():
        results[name] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine} | found
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--mean-bytes", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", nargs="?", const="both", choices=["both", "files", "bytes"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lse-bench-") as directory:
        scratch = Path(directory)
        if options.big:
            for kind in ("files", "bytes") if options.big == "both" else (options.big,):
                found = big(kind, scratch / kind)
                keep(**{f"big, {kind}": {name: round(value, 2) for name, value in found.items()}})
            return
        paths = Layout(scratch / "data", scratch / "archives").day("bench", DAY)
        size = fill(paths, options.runs, options.mean_bytes)
        print(f"{options.runs:,} files, {size / 1e6:.1f} MB, best of {options.rounds}\n")
        figures: Figures = {}
        bench_zip(figures, paths, size, scratch, options.rounds)
        for latency in (0.0, 0.05):
            bench_drive(figures, paths, scratch, options.rounds, latency)
        keep(day={"runs": options.runs, "bytes": size, "figures": figures})


if __name__ == "__main__":
    main()
