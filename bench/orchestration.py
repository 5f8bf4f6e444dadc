"""Overhead of the platform: backfill and range per day, start of the code location, `lse status`.

python bench/orchestration.py [--days 10] [--runs 500] [--projects 100] [--years 2]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import msgspec

from lse_archive.days import today
from lse_archive.folder.state import DayState, now_text, read_state
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

RESULTS = Path(__file__).parent / "results" / "orchestration.json"
LSE = Path(sys.executable).with_name("lse")
TARGETS = {
    "backfill, 2 at once: beyond the work, s/day": 6.0,
    "range in one process: beyond the work, s/day": 3.0,
    "code location, s": 5.0,
    "lse status, s": 2.0,
}
NAME = "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--projects", type=int, default=100)
    parser.add_argument("--years", type=int, default=2)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="lse-bench-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        figures |= days_figures(Path(directory) / "days", options.days, options.runs)
        figures |= size_figures(Path(directory) / "size", options.projects, options.years * 365)
    for name, value in figures.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f"   at most {target}: {'yes' if value <= target else 'NO'}"
        print(f"{name:50} {value:8.2f}{verdict}")
    RESULTS.parent.mkdir(exist_ok=True)
    conditions = {"date": str(today()), "cpus": os.cpu_count(), "load": os.getloadavg()[0], "options": vars(options)}
    RESULTS.write_text(json.dumps(conditions | {"figures": figures}, indent=2) + "\n")


def days_figures(directory: Path, days: int, runs: int) -> dict[str, float]:
    """Returns seconds per day of a range in one process and of a backfill: total and overhead."""
    first = today() - timedelta(days=days)
    each_day = [first + timedelta(days=offset) for offset in range(days)]
    with home(directory) as environment, LangSmithStore(directory / "langsmith.sqlite") as store:
        for name in (f"{NAME} range", f"{NAME} backfill"):
            for day in each_day:
                store.generate(name, day, runs=runs, mean_bytes=3000)
            add_project(directory / "projects.toml", ProjectConfig(name, first, schedule="off"))
        with serving(store, directory, environment):
            lse(environment, "archive", "fetch", "--project", f"{NAME} range", "--date", str(first))  # warm-up
            span = ["--start-date", str(first), "--end-date", str(today() - timedelta(days=1))]
            began = time.monotonic()
            out = lse(environment, "archive", "full-sweep", "--force", "--json", "--project", f"{NAME} range", *span)
            range_seconds = (time.monotonic() - began) / days
            work = sum(entry["total_duration"] for entry in json.loads(out)["results"]) / days
            backfill_seconds = backfill(directory, environment, f"{NAME} backfill", each_day) / days
    return {
        "the work itself, s/day": work,
        "range in one process, s/day": range_seconds,
        "range in one process: beyond the work, s/day": range_seconds - work,
        "backfill, 2 at once, s/day": backfill_seconds,
        "backfill, 2 at once: beyond the work, s/day": backfill_seconds - work,
    }


def backfill(directory: Path, environment: dict[str, str], name: str, days: list[date]) -> float:
    """Returns the seconds from the command to the last materialized day."""
    log = directory / "up.log"
    with log.open("wb") as output:
        platform = subprocess.Popen([LSE, "up", "--port", free_port()], env=environment, stdout=output, stderr=output)
    try:
        until(lambda: "LSE is up" in log.read_text() or platform.poll() is not None)
        began = time.monotonic()
        lse(environment, "backfill", "--project", name, "--start-date", str(days[0]), "--end-date", str(days[-1]))
        layout = Settings.load(lse_data_dir=directory / "data", lse_archive_dir=directory / "archives").layout
        paths = [layout.day(name, day) for day in days]
        until(lambda: all(read_state(each).verified_at for each in paths))
        return time.monotonic() - began
    finally:
        platform.send_signal(signal.SIGINT)
        platform.wait(120)


def size_figures(directory: Path, projects: int, days: int) -> dict[str, float]:
    """Returns the seconds of the code location's start and of `lse status`, with many projects and years."""
    with home(directory) as environment:
        settings = Settings.load(lse_data_dir=directory / "data", lse_archive_dir=directory / "archives")
        first = today() - timedelta(days=days)
        text = ""
        for number in range(projects):
            name = f"project {number}"
            text += f'[[project]]\nname = "{name}"\nstart = {first}\n\n'
            fill(settings, name, first, days)
        (directory / "projects.toml").write_text(text)
        EmbeddedServer(directory / "home" / "postgres").start()
        lse(environment, "db", "migrate")
        figures = {"code location, s": code_location(environment)}
        for name, options in {
            "lse status, s": [],
            "lse status --json, all days, s": ["--json", "--start-date", str(first)],
        }.items():
            times = []
            for _ in range(3):
                began = time.monotonic()
                lse(environment, "status", *options)
                times.append(time.monotonic() - began)
            figures[name] = sorted(times)[1]
    return figures


def fill(settings: Settings, name: str, first: date, days: int) -> None:
    """Writes complete days with the files that `lse status` reads; without fsync."""
    state = DayState(
        last_fetched_at=now_text(), count_check="equal", verified_at=now_text(), verdict="proven", drive_sha256="0" * 64
    )
    encoded = msgspec.json.encode(state)
    settings.layout.archive_dir.mkdir(exist_ok=True)
    for offset in range(days):
        paths = settings.layout.day(name, first + timedelta(days=offset))
        paths.folder.mkdir(parents=True)
        paths.state.parent.mkdir(exist_ok=True)
        paths.state.write_bytes(encoded)
        paths.zip.touch()


def code_location(environment: dict[str, str]) -> float:
    """Returns the seconds from the start of a code server until it has listed its definitions."""
    from dagster._grpc.client import DagsterGrpcClient

    port = free_port()
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-m", "lse_location.definitions", "-p", port]
    began = time.monotonic()
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = DagsterGrpcClient(port=int(port), host="localhost")

        def answers() -> bool:
            try:
                return bool(client.list_repositories())
            except Exception:  # noqa: BLE001 - any error while it starts
                return False

        until(answers, every=0.05)
        return time.monotonic() - began
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def home(directory: Path) -> Generator[dict[str, str]]:
    """Creates the environment of a separate home; stops and deletes its database at the end."""
    directory.mkdir()
    own = {
        "LSE_HOME": str(directory / "home"),
        "LSE_DATA_DIR": str(directory / "data"),
        "LSE_ARCHIVE_DIR": str(directory / "archives"),
        "LSE_PROJECTS_FILE": str(directory / "projects.toml"),
        "LSE_ENV_FILE": os.devnull,
        "LSE_LANGSMITH_STATS_SECONDS": "0.1",
    }
    theirs = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in theirs} | own
    try:
        yield environment
    finally:
        EmbeddedServer(directory / "home" / "postgres").remove()


@contextmanager
def serving(store: LangSmithStore, directory: Path, environment: dict[str, str]) -> Generator[None]:
    """Runs a local LangSmith and Drive, and adds them to the environment."""
    with LangSmithServer(store) as langsmith, DriveServer(directory / "drive") as drive:
        drive.accounts.write_authorized_user(directory / "drive.json", USER, url=drive.url)
        environment |= {
            "LANGSMITH_API_KEY": DEMO_KEY,
            "LANGSMITH_ENDPOINT": langsmith.url,
            "GOOGLE_DRIVE_API_ROOT": drive.url,
            "GOOGLE_DRIVE_FOLDER_URL": drive.store.add_folder("Archive", USER),
            "GOOGLE_DRIVE_CREDENTIALS_PATH": str(directory / "drive.json"),
        }
        yield


def lse(environment: dict[str, str], *arguments: str) -> str:
    return subprocess.run([LSE, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def until(condition: Callable[[], bool], every: float = 0.2, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(every)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


if __name__ == "__main__":
    main()
