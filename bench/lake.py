"""Measures the lake: building a day beside zip and load, its bytes, and ten questions beside Postgres and the zips.

python bench/lake.py [--runs 50000] [--rounds 3] [--days 90] [--day-runs 5000] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from database_data import DAY, PROJECT, write_runs

from lse_archive.folder.contents import ensure_manifest
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.day import zip_day
from lse_archive.zips.reader import contents, opened
from lse_operations.lake import build_day
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.lake.lake import Lake
from lse_resources.lake.place import LocalPlace
from lse_resources.lake.schema import day_folder
from lse_resources.postgres.analysis.frames import Runs, load_runs_from_files
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.schema import migrate

RESULTS = Path(__file__).parent / "results" / "lake.json"
BUILD_GOAL, RAW_GOAL, COLUMNS_GOAL, TEXT_GOAL, MONTH_GOAL = 1.0, 0.5, 50.0, 5.0, 2.0
WORD = "%zebra crossing%"
_MODELS = "GROUP BY model ORDER BY model"
# The same text in both; {inputs} is the text of the inputs.
QUESTIONS = {
    "runs by model": f"SELECT model, count(*) FROM run_facts {_MODELS}",
    "p95 by day": "SELECT run_date, p95_root_seconds FROM daily_facts ORDER BY run_date",
    "cost by tag": """SELECT tag, round(sum(total_cost), 6)
                      FROM (SELECT unnest(tags) AS tag, total_cost FROM run_facts) AS tagged
                      GROUP BY tag ORDER BY tag""",
    "one trace": "SELECT run_id, name, status FROM run_facts WHERE trace_id = '{trace}' ORDER BY run_id",
    "errors by name": "SELECT name, count(*) FROM run_facts WHERE status = 'error' GROUP BY name ORDER BY name",
    "tokens by model": f"SELECT model, sum(total_tokens) FROM run_facts {_MODELS}",
    "runs by hour": """SELECT extract(hour FROM start_time) AS hour, count(*) FROM run_facts GROUP BY 1 ORDER BY 1""",
    "slowest ten": "SELECT run_id FROM run_facts ORDER BY latency_seconds DESC, run_id LIMIT 10",
    "a day's traces": "SELECT count(*) FROM run_facts WHERE run_date = '{day}' AND is_root",
    "text in inputs": "SELECT count(*) FROM runs WHERE {inputs} LIKE '" + WORD + "'",
}
IN_LAKE, IN_DATABASE = {"inputs": "inputs"}, {"inputs": "(data -> 'inputs')::text"}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def build(base: Path, database: Database, runs: int, rounds: int) -> dict[str, Any]:
    """One day: zip, load and build in turn; the minimum of each."""
    paths = Layout(base / "day", base / "archives").day(PROJECT, DAY)
    size = write_runs(paths.folder, runs)
    ensure_manifest(paths)
    place = LocalPlace(base / "lake")
    seconds: dict[str, list[float]] = {"zip": [], "load": [], "build": []}
    for _ in range(rounds):
        paths.zip.unlink(missing_ok=True)
        seconds["zip"].append(timed(lambda: zip_day(paths))[0])
        with database.connect() as connection:
            connection.execute("TRUNCATE runs")
        seconds["load"].append(timed(lambda: load_day(database, PROJECT, DAY, paths.folder))[0])
        shutil.rmtree(base / "lake", ignore_errors=True)
        taken, built = timed(lambda: build_day(place, paths, nullcontext))  # ty: ignore[invalid-argument-type]
        seconds["build"].append(taken)
    best = {what: min(times) for what, times in seconds.items()}
    found = {"runs": runs, "bytes": size, "zip_bytes": paths.zip.stat().st_size, "bytes_without_raw": built.bytes}
    found |= {"raw_bytes": built.raw_bytes, "seconds": {what: round(taken, 2) for what, taken in best.items()}}
    print(f"{runs:,} runs, {size / 1e6:.0f} MB: " + ", ".join(f"{what} {taken:.2f} s" for what, taken in best.items()))
    show("build against load", best["build"] / best["load"], BUILD_GOAL, at_most=True)
    show("raw against the zip's bytes", built.raw_bytes / found["zip_bytes"], RAW_GOAL, at_most=True)
    print(f"  without raw: {built.bytes / found['zip_bytes']:.2f} of the zip's bytes")
    return found


def ask(base: Path, database: Database, days: int, day_runs: int) -> dict[str, Any]:
    """Ten questions over many days, each twice; the second counts."""
    with database.connect() as connection:
        connection.execute("TRUNCATE runs")
    layout, place = Layout(base / "days", base / "zips"), LocalPlace(base / "lake of days")
    sources: list[DayPaths] = []
    for number in range(days):
        paths = layout.day(PROJECT, DAY - timedelta(days=number))
        write_runs(paths.folder, day_runs, seed=number, day=paths.day)
        zip_day(paths)
        load_day(database, PROJECT, paths.day, paths.folder)
        build_day(place, paths, nullcontext)  # ty: ignore[invalid-argument-type]
        shutil.rmtree(paths.folder)
        sources.append(paths)
    with database.connect() as connection:
        connection.execute("ANALYZE")
    lake, rows = Lake(str(base / "lake of days")), Runs(database)
    [(trace,)] = rows.query("SELECT trace_id::text FROM runs ORDER BY run_id LIMIT 1")[1]
    zips = [paths.zip for paths in sources]
    by_columns = timed(lambda: load_runs_from_files(PROJECT, zips))[0]
    by_text = timed(lambda: sum(WORD.strip("%").encode() in content for content in texts(zips)))[0]
    print(f"{days} days of {day_runs:,} runs; the zips: columns {by_columns:.1f} s, text {by_text:.1f} s")
    found: dict[str, Any] = {"days": days, "day_runs": day_runs, "zips": {"columns": by_columns, "text": by_text}}
    for name, question in QUESTIONS.items():
        values = {"trace": trace, "day": str(DAY)}
        asked = question.format(**values, **IN_LAKE)
        in_lake = [timed(lambda asked=asked: lake.frame(asked)) for _ in range(2)]
        asked = question.format(**values, **IN_DATABASE)
        in_database = [timed(lambda asked=asked: rows.query(asked)) for _ in range(2)]
        assert in_lake[1][1].num_rows == len(in_database[1][1][1]), name
        first, second, postgres = in_lake[0][0], in_lake[1][0], in_database[1][0]
        found[name] = {"first": round(first, 3), "lake": round(second, 3), "postgres": round(postgres, 3)}
        print(f"  {name:16} lake {second:6.2f} s (first {first:.2f}), Postgres {postgres:6.2f} s", end="")
        is_text = name == "text in inputs"
        show("", (by_text if is_text else by_columns) / second, TEXT_GOAL if is_text else COLUMNS_GOAL, at_most=False)
    return found


def texts(zips: list[Path]) -> Any:
    for path in zips:
        with opened(path) as archive:
            for info in archive.infolist():
                yield b"".join(contents(archive, info))


def month(base: Path, projects: int) -> dict[str, Any]:
    """The first answer over one project's month, in a lake with a year of many projects: links to one day's files."""
    paths = Layout(base / "small", base / "small").day(PROJECT, DAY)
    write_runs(paths.folder, 100)
    build_day(LocalPlace(base / "year"), paths, nullcontext)  # ty: ignore[invalid-argument-type]
    for table in ("runs", "feedback", "attachments", "raw"):
        source = base / "year" / day_folder(table, PROJECT, DAY) / f"{table}.parquet"
        for project in range(projects):
            for number in range(365):
                folder = base / "year" / day_folder(table, f"project {project}", DAY - timedelta(days=number))
                folder.mkdir(parents=True)
                os.link(source, folder / source.name)
    lake = Lake(str(base / "year"))
    statement = f"""SELECT run_date, count(*), sum(total_cost) FROM run_facts
                    WHERE project = 'project 0' AND run_date > '{DAY - timedelta(days=30)}' GROUP BY 1"""
    taken, answer = timed(lambda: lake.frame(statement))
    assert answer.num_rows == 30
    print(f"a year of {projects} projects, one project's month: {taken:.2f} s")
    show("seconds to the first answer", taken, MONTH_GOAL, at_most=True)
    return {"projects": projects, "seconds": round(taken, 2)}


def show(what: str, ratio: float, goal: float, *, at_most: bool) -> None:
    met = ratio <= goal if at_most else ratio >= goal
    sense = "at most" if at_most else "at least"
    print(f"  {what or '× faster than the zips'}: {ratio:.2f} (goal: {sense} {goal:g}, {'ok' if met else 'MISSED'})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--day-runs", type=int, default=5_000)
    parser.add_argument("--projects", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path("/tmp"), help="where the data are written")
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{machine}; load {load}")
    report: dict[str, Any] = {"machine": machine, "load": load}
    base = Path(tempfile.mkdtemp(prefix="lse-bench-", dir=options.directory))
    base.chmod(0o755)
    embedded = EmbeddedServer(base / "postgres")
    try:
        database = Database(embedded.start().url("lse"))
        migrate(database)
        report["build"] = build(base, database, options.runs, options.rounds)
        report["month"] = month(base, options.projects)
        report["questions"] = ask(base, database, options.days, options.day_runs)
    finally:
        embedded.remove()
        shutil.rmtree(base, ignore_errors=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
