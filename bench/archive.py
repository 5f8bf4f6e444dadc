"""Zip, upload and restore against their peers: `zip -6`, a plain read-and-send, and `unzip`.

python bench/archive.py [--runs 20000] [--mean-bytes 5000] [--rounds 3]
python bench/archive.py --big          # 70,000 files, and a day of 5 GB: peak memory
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from lse_archive.days import day_window, format_time
from lse_archive.layout import DayPaths, Layout
from lse_archive.restore import clear, lay_out
from lse_archive.union import is_as_recorded
from lse_archive.zip_writer import write_zip
from lse_archive.zips import zip_day
from lse_demo.drive_server import USER, DriveServer
from lse_demo.http import Answer, LocalServer, Request
from lse_demo.langsmith_store import LangSmithStore
from lse_resources.drive_archive import upload_day
from lse_resources.drive_settings import DriveSettings
from lse_resources.google_drive import GoogleDrive
from lse_resources.restoring import copies, restore_day

DAY = date(2026, 1, 2)


def best(rounds: int, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Seconds of the quickest round."""
    times = []
    for _ in range(rounds):
        before()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def in_turn(rounds: int, **works: Callable[[], object]) -> dict[str, float]:
    """Seconds of the quickest round of each, by name; one after the other, so that a slow minute hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    return {name: min(found) for name, found in times.items()}


def fill(paths: DayPaths, runs: int, mean_bytes: int) -> int:
    """Writes made-up runs as run files; returns their bytes."""
    paths.folder.mkdir(parents=True)
    total = 0
    with LangSmithStore() as store:
        store.generate("bench", DAY, runs=runs, mean_bytes=mean_bytes)
        for run in store.runs("bench"):
            (paths.folder / f"{run.id}.json").write_bytes(run.v2)
            total += len(run.v2)
    return total


def show(what: str, seconds: float, size: int, peer: str, peer_seconds: float) -> None:
    print(
        f"{what:28} {size / seconds / 1e6:8.1f} MB/s   {peer_seconds / seconds:5.2f} x {peer} "
        f"({size / peer_seconds / 1e6:.1f} MB/s)"
    )


def bench_zip(paths: DayPaths, size: int, scratch: Path, rounds: int) -> None:
    peer, ours = scratch / "peer.zip", scratch / "ours.zip"
    files = sorted(paths.folder.iterdir())

    def by_zipfile() -> None:
        with zipfile.ZipFile(peer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path in files:
                archive.write(path, path.name)

    def by_us() -> None:
        with ours.open("wb") as file:
            for _ in write_zip(file, files):
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
    show("zip, written", seconds["written"], size, "zipfile deflate 6", seconds["zipfile"])
    print(f"{'':28} {ours.stat().st_size / peer.stat().st_size * 100 - 100:+8.1f} % bytes")
    show("zip, written and proven", seconds["proven"], size, "zipfile deflate 6", seconds["zipfile"])
    if "zip" in seconds:
        show("zip, written", seconds["written"], size, "zip -6", seconds["zip"])
        show("zip, written and proven", seconds["proven"], size, "zip -6", seconds["zip"])


class Sink(LocalServer):
    """Takes what is sent."""

    def handle(self, request: Request) -> Answer:
        return Answer(200, str(len(request.body)).encode())


def send(url: str, path: Path) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    with path.open("rb") as body:
        connection.request("PUT", "/", body, {"Content-Length": str(path.stat().st_size)})
        connection.getresponse().read()
    connection.close()


def bench_drive(paths: DayPaths, scratch: Path, rounds: int, latency: float) -> None:
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
            show(f"upload{note}", best(rounds, lambda: upload_day(drive, paths), forget), size, "read and send", plain)
            [copy] = copies(drive, "bench")
            other = Layout(scratch / "back", scratch / "back-zips").day("bench", DAY)

            def lose() -> None:
                shutil.rmtree(scratch / "back", ignore_errors=True)
                shutil.rmtree(scratch / "back-zips", ignore_errors=True)

            seconds = best(rounds, lambda: restore_day(drive, other, copy), lose)
            target = scratch / "unzipped"
            unzip = best(rounds, lambda: extract(paths.zip, target), lambda: shutil.rmtree(target, ignore_errors=True))
            peer = "unzip" if shutil.which("unzip") else "zipfile.extractall"
            show(f"restore{note}", seconds, size, peer, unzip)


def extract(archive: Path, target: Path) -> None:
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-q", str(archive), "-d", str(target)], check=True)
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)


def big(kind: str, scratch: Path) -> None:
    """Zips and restores a huge day in this process, and prints its peak memory."""
    paths = Layout(scratch / "data", scratch / "archives").day("big", DAY)
    paths.folder.mkdir(parents=True)
    start = day_window(DAY).start
    count, filler = (70_000, "") if kind == "files" else (200, os.urandom(12_000).hex() * 1_050)
    for number in range(count):
        run = {"id": f"{number:08x}-0000-4000-8000-000000000000", "start_time": format_time(start + number)}
        (paths.folder / f"{number:06}.json").write_text(json.dumps(run | {"filler": filler}))
    del filler
    began = time.perf_counter()
    zipped = zip_day(paths)
    laid = lay_out(paths, paths.zip)
    assert is_as_recorded(laid.paths)
    assert laid.summary.runs == count
    clear(paths)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{zipped.files:,} files, {zipped.bytes_in / 1e9:.2f} GB: zipped to {zipped.bytes / 1e6:.0f} MB, laid out in "
        f"{time.perf_counter() - began:.0f} s, peak memory {peak:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--mean-bytes", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", nargs="?", const="both", choices=["both", "files", "bytes"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lse-bench-") as directory:
        scratch = Path(directory)
        if options.big == "both":
            for kind in ("files", "bytes"):  # each in a process of its own: memory is measured
                subprocess.run([sys.executable, __file__, "--big", kind], check=True)
        elif options.big:
            big(options.big, scratch)
        else:
            paths = Layout(scratch / "data", scratch / "archives").day("bench", DAY)
            size = fill(paths, options.runs, options.mean_bytes)
            print(f"{options.runs:,} files, {size / 1e6:.1f} MB, best of {options.rounds}\n")
            bench_zip(paths, size, scratch, options.rounds)
            for latency in (0.0, 0.05):
                bench_drive(paths, scratch, options.rounds, latency)


if __name__ == "__main__":
    main()
