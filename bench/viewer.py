"""Measures the pages of the archive over a million runs, and what their indexes cost a load; writes a table and JSON.

    python bench/viewer.py [--runs 1000000] [--requests 50] [--load-runs 10000] [--rounds 21]

The runs of 90 days are made by the server, in an embedded one of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import psycopg
from database import fresh_database, in_process
from database_data import write_runs
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.postgres.database import Database
from lse_resources.postgres.schema import migrate
from lse_resources.postgres.search.index import index_day
from lse_resources.settings import Settings
from lse_viewer.app import create_app

RESULTS = Path(__file__).parent / "results" / "viewer.json"
LAST = date(2026, 3, 31)
DAYS = 90
PROJECT = "bench"
TARGET_MS = 300
LOAD_TARGET = 1.05
INDEX_TARGET = 4
LARGE_TRACE, LONG_TRACE, BIG_RUN = (uuid.UUID(int=number) for number in (1, 2, 3))

_FILL = """
INSERT INTO runs (run_id, trace_id, project, run_date, load_id, data)
SELECT id, trace, %(project)s, %(day)s, %(load)s, jsonb_build_object(
    'id', id, 'trace_id', trace, 'name', (ARRAY['ChatOpenAI', 'RunnableSequence', 'retriever', 'search'])[1 + n %% 4],
    'run_type', (ARRAY['LLM', 'CHAIN', 'RETRIEVER', 'TOOL'])[1 + n %% 4],
    'status', CASE WHEN n %% 33 = 0 THEN 'ERROR' ELSE 'SUCCESS' END,
    'start_time', to_char(start, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'end_time', to_char(start + (n %% 977) * interval '13 ms', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'parent_run_ids', CASE WHEN id <> trace THEN jsonb_build_array(trace) ELSE '[]' END,
    'total_tokens', n * 37 %% 4900, 'total_cost', (n * 37 %% 4900) * 2e-6,
    'metadata', jsonb_build_object('ls_model_name', 'model-' || n %% 5, 'thread_id', 'thread-' || n %% 997),
    'inputs', jsonb_build_object('messages', jsonb_build_array(jsonb_build_object(
        'role', 'user', 'content',
        substr(%(text)s, 1 + n * 7919 %% 3000, 900)))),
    'outputs', jsonb_build_object('role', 'assistant', 'content',
        substr(%(text)s, 1 + n %% 9973 * 104729 %% 3000, 900) || ' rare' || n))
FROM (SELECT n, lpad(to_hex(%(first)s + n), 32, '0')::uuid AS id,
             coalesce(%(trace)s, lpad(to_hex(%(first)s + n - n %% 8), 32, '0')::uuid) AS trace,
             %(day)s::timestamp + n * (interval '86399 s' / %(count)s) AS start
      FROM generate_series(0, %(count)s - 1) AS n) AS made
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--load-runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="lse-bench-", dir="/tmp"))
    base.chmod(0o755)
    server = EmbeddedServer(base / "postgres")
    report: dict[str, object] = {
        "runs": arguments.runs,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
    }
    try:
        url = server.start().url("lse")
        fill(url, arguments.runs)
        report["index_seconds"] = build_index(url)
        report["sizes"] = sizes(url)
        report["pages"] = measure(url, base, arguments.requests)
        report["load"] = measure_load(server.url("postgres"), base, arguments.load_runs, arguments.rounds)
    finally:
        server.remove()
        shutil.rmtree(base, ignore_errors=True)
    report["load_average"] = os.getloadavg()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def fill(url: str, runs: int) -> None:
    """Makes the runs, a trace of 1,000 and one of 25,000 runs, and a run with an output of 20 MB."""
    migrate(Database(url))
    text = " ".join(f"word{number * 7919 % 3001}" for number in range(500))
    started = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")

        def day(number: int, count: int, first: int, trace: uuid.UUID | None = None, project: str = PROJECT) -> None:
            when = LAST - timedelta(days=number)
            connection.execute("SELECT lse_ensure_month(%s)", (when,))
            [(load,)] = connection.execute(
                "INSERT INTO loads (kind, project, run_date, client, finished_at)"
                " VALUES ('load', %s, %s, 'bench', now()) RETURNING load_id",
                (project, when),
            ).fetchall()
            values = {"day": when, "count": count, "first": first, "trace": trace, "text": text}
            connection.execute(_FILL, values | {"project": project, "load": load})
            connection.execute("INSERT INTO days (project, run_date, rows) VALUES (%s, %s, %s)", (project, when, count))

        for number in range(DAYS):
            day(number, runs // DAYS, 1000 + number * (runs // DAYS))
        day(1, 1000, 1 << 40, LARGE_TRACE, "traces")
        day(2, 25_000, 1 << 41, LONG_TRACE, "traces")
        connection.execute(
            "INSERT INTO runs (run_id, trace_id, project, run_date, data) VALUES (%s, %s, 'traces', %s, %s)",
            (
                BIG_RUN,
                BIG_RUN,
                LAST - timedelta(days=1),
                json.dumps({"id": 1, "name": "big", "outputs": {"a": text * 5000}}),
            ),
        )
        print(f"{runs:,} runs made in {time.perf_counter() - started:.0f} s", flush=True)
        connection.execute("VACUUM ANALYZE")  # as autovacuum does after the loads of real days


def build_index(url: str) -> float:
    """Seconds to add all runs to the search index, day by day."""
    database = Database(url)
    started = time.perf_counter()
    for project, count in ((PROJECT, DAYS), ("traces", 3)):
        for number in range(count):
            index_day(database, project, LAST - timedelta(days=number))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE run_search")
    seconds = time.perf_counter() - started
    print(f"indexed in {seconds:.0f} s", flush=True)
    return seconds


def sizes(url: str) -> dict[str, int]:
    """MB of the table and of each kind of index."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT regexp_replace(relname, '_[0-9]{4}_[0-9]{2}', ''), sum(pg_relation_size(oid)) / 1000000"
            " FROM pg_class WHERE relname ~ '^(runs|run_search)_2' AND relkind IN ('r', 'i') GROUP BY 1 ORDER BY 1"
        ).fetchall()
    found = {name: int(size) for name, size in rows}
    print("MB:", found)
    return found


def measure(url: str, base: Path, requests: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the requests of each page: the median, the 95th percentile, and the first one."""
    os.environ |= {"LSE_HOME": str(base / "home"), "LSE_DATABASE_URL": url, "LSE_ENV_FILE": os.devnull}
    os.environ |= {"LSE_DATA_DIR": str(base / "data"), "LSE_ARCHIVE_DIR": str(base / "archives")}
    ninety = f"/archive/runs?project={PROJECT}&from={LAST - timedelta(days=DAYS - 1)}&to={LAST}"

    def far(number: int) -> date:
        return LAST - timedelta(days=40 + number % 40)

    models = [f"model-{number}" for number in range(5)]
    pages: dict[str, Callable[[int], str]] = {
        "list, two filters": lambda n: f"{ninety}&status=error&model={models[n % 5]}",
        "list, two filters on the content": lambda n: f"{ninety}&thread=thread-{n}&tokens={n}",
        "list, roots with errors, by latency": lambda n: f"{ninety}&root=1&status=error&sort=latency&seconds={n % 5}",
        "list, page 1": lambda _: ninety,
        "list, a page far down": lambda n: f"{ninety}&after={far(n)}~{far(n)}T12:00:00Z~{uuid.UUID(int=0)}",
        "trace of 1,000 runs": lambda _: f"/archive/trace/{LARGE_TRACE}",
        "trace of 25,000 runs": lambda _: f"/archive/trace/{LONG_TRACE}",
        "its rows 24,000 and on": lambda _: f"/archive/trace/{LONG_TRACE}/rows?begin=24000",
        "run with an output of 20 MB": lambda _: f"/archive/run/{BIG_RUN}/panel",
        "search, a word of every run": lambda _: "/archive/search?q=assistant",
        "search, a word of every fourth run": lambda n: f"/archive/search?q=word{n * 7919 % 3001}",
        "search, a rare word": lambda n: f"/archive/search?q=rare{n}&project={PROJECT}",
        "search, a word of no run": lambda n: f"/archive/search?q=none{n}",
        "search, a phrase": lambda n: (
            f"/archive/search?q=%22word{n * 7919 % 3001}+word{(n + 1) * 7919 % 3001}%22&from={LAST - timedelta(days=n)}"
        ),
        "trends of 90 days": lambda _: (
            f"/archive/trends?project={PROJECT}&from={LAST - timedelta(days=DAYS - 1)}&to={LAST}"
        ),
    }
    found = {}
    with TestClient(
        Starlette(routes=[Mount("/archive", create_app(Settings.load()))]), base_url="http://localhost"
    ) as client:
        for name, address in pages.items():
            taken = []
            for number in range(requests):
                started = time.perf_counter()
                response = client.get(address(number))
                taken.append((time.perf_counter() - started) * 1000)
                assert response.status_code == 200, response.text
            p95 = statistics.quantiles(taken, n=20, method="inclusive")[-1]
            found[name] = {"median": statistics.median(taken), "p95": p95, "first": taken[0]}
            verdict = "ok" if p95 <= TARGET_MS else "MISSED"
            figures = ", ".join(f"{what} {milliseconds:.0f} ms" for what, milliseconds in found[name].items())
            print(f"{name:36} {figures} ({verdict})", flush=True)
    return found


def measure_load(url: str, base: Path, runs: int, rounds: int) -> dict[str, float]:
    """Seconds and MB of WAL of a load with the indexes of the pages, with those before them, and of the search index.

    The ratio is the median of those of the rounds: the loads of a round are next to each other in time, and their order
    alternates, so that other load on the machine affects both alike.
    """
    write_runs(base / "day", runs)
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    index: list[float] = []
    wal: dict[str, float] = {}
    for number in range(rounds):
        for which in sorted(seconds, reverse=bool(number % 2)):
            with fresh_database(url) as fresh, psycopg.connect(fresh, autocommit=True) as connection:
                if which == "before":
                    connection.execute("DROP INDEX runs_day, runs_errors, runs_roots")
                    connection.execute("CREATE INDEX runs_day ON runs (project, run_date)")
                position = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float / 1e6"
                [(begin,)] = connection.execute(position).fetchall()
                seconds[which].append(in_process("load", fresh, base / "day")["seconds"])
                [(end,)] = connection.execute(position).fetchall()
                wal[which] = end - begin
                if which == "now":
                    index.append(in_process("index", fresh, base / "day")["seconds"])
    ratios = [now / before for before, now in zip(seconds["before"], seconds["now"], strict=True)]
    ratio, wal_ratio = statistics.median(ratios), wal["now"] / wal["before"]
    verdict = "ok" if ratio <= LOAD_TARGET else "MISSED"
    found = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(
        f"load of {runs:,} runs, medians of {rounds}: {found['before']:.2f} s before, {found['now']:.2f} s now:"
        f" {ratio:.3f} x ({verdict}); WAL {wal_ratio:.3f} x"
    )
    index_ratio = statistics.median(index) / found["now"]
    verdict = "ok" if index_ratio <= INDEX_TARGET else "MISSED"
    print(f"search index of them: {statistics.median(index):.2f} s, {index_ratio:.2f} x the load ({verdict})")
    return found | {
        "index_ratio": index_ratio,
        "ratio": ratio,
        "lowest": min(ratios),
        "highest": max(ratios),
        "wal_ratio": wal_ratio,
    }


if __name__ == "__main__":
    main()
