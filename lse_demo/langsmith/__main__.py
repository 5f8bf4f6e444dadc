"""Runs the local LangSmith as a separate process, so that its CPU time is not counted for its clients."""

import argparse
import json
import signal
import sys
import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta

from lse_demo.langsmith.gate import RateLimit
from lse_demo.langsmith.server import DEMO_KEY, Behavior, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore


def main(arguments: list[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, or until standard input ends with `--watch-stdin`.

    The first line on standard output is the URL, the last one JSON: the number of answers by status (`statuses`)
    and the `violations`.
    """
    options = _parser().parse_args(arguments)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    behavior = Behavior(api_keys=frozenset((options.api_key,)), retry_after=options.retry_after)
    if options.limit:
        count, _, seconds = options.limit.partition("/")
        behavior.limit = RateLimit(int(count), float(seconds))
        behavior.stats_limit = RateLimit(1, 10.0)
    if options.no_v2:
        behavior.v2_status = 404
        behavior.flags = {"ch_query_enabled": True, "sdb_query_enabled": False}
    with LangSmithStore(options.store) as store:
        if options.seed_runs and not store.summary(store.project(options.seed_project).id)[0]:
            store.generate(
                options.seed_project, options.seed_day, runs=options.seed_runs, mean_bytes=options.mean_bytes
            )
        server = LangSmithServer(store, behavior=behavior, port=options.port, latency=options.latency_ms / 1000)
        with server:
            sys.stdout.write(f"{server.url}\n")
            sys.stdout.flush()
            if options.watch_stdin:
                threading.Thread(target=_wait_for_end, args=(done,), daemon=True).start()
            done.wait()
        statuses = Counter(str(request.status) for request in server.requests)
        sys.stdout.write(json.dumps({"statuses": statuses, "violations": server.violations}) + "\n")


def _wait_for_end(done: threading.Event) -> None:
    sys.stdin.read()
    done.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=":memory:", help="SQLite file (default: in memory)")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--api-key", default=DEMO_KEY)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="delay before each answer")
    parser.add_argument(
        "--limit", metavar="N/SECONDS", help="rate limit of run queries per key; /runs/stats then has 1/10"
    )
    parser.add_argument(
        "--retry-after", choices=("seconds", "date"), help="form of the header with 429 (default: no header)"
    )
    parser.add_argument("--no-v2", action="store_true", help="a deployment that has only v1")
    parser.add_argument("--seed-runs", type=int, default=0, metavar="N", help="runs to generate if there are none")
    parser.add_argument("--seed-project", default="bench")
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    parser.add_argument("--seed-day", type=date.fromisoformat, default=yesterday, metavar="YYYY-MM-DD")
    parser.add_argument("--mean-bytes", type=int, default=6000, help="mean size of a generated run")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when standard input ends")
    return parser


if __name__ == "__main__":
    main()
