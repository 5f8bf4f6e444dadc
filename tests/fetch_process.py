"""Fetches in processes of their own, without Dagster, that die where they are told to.

The process reads one JSON object a line and answers each with another one. It imports everything once and forks for
each fetch, so that a fetch costs no start-up. A fetch dies by SIGKILL at the n-th thing that Python's audit hooks see
it do (opening, moving and deleting files, sending), which is as good as a random moment and the same in each run.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any, Self

from langsmith_fixtures import PROJECT, quick_settings

from lse_archive.errors import ArchiveError
from lse_archive.fetch import FetchOptions, fetch_day
from lse_archive.layout import Layout
from lse_resources.langsmith import LangSmith
from lse_resources.langsmith_http import shared
from lse_resources.limiter import AdaptiveLimiter


class FetchProcess:
    """The process, from the outside."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def fetch(self, url: str, directory: Path, **order: Any) -> dict[str, Any]:
        """Fetches the day.

        Args:
            order: `page_size`; `die_at` (the n-th event), `die_before_move_to` (a path); `largest_file` (bytes).

        Returns:
            `status` (0, 1, or -9 if it was killed), `events` (how many there were), `outcome`, `error`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"url": url, "directory": str(directory), **order})
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    LangSmith(quick_settings("http://127.0.0.1")).close()  # imports the SDK
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            os._exit(_child(json.loads(line), writer))
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            report = json.loads(pipe.read() or b"{}")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{json.dumps(report | {'status': status})}\n")
        sys.stdout.flush()


def _child(order: dict[str, Any], writer: int) -> int:
    events = 0
    if size := order.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal events
        events += 1
        move = event == "os.rename" and str(arguments[1]) == order.get("die_before_move_to")
        if move or events == order.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        report, status = {"outcome": _fetch(order), "events": events}, 0
    except ArchiveError as error:
        report, status = {"error": str(error), "events": events}, 1
    os.write(writer, json.dumps(report).encode())
    return status


def _fetch(order: dict[str, Any]) -> str:
    settings = quick_settings(order["url"])
    shared(settings).queries = AdaptiveLimiter(1000, 0.02, ceiling=1000)
    directory = Path(order["directory"])
    paths = Layout(directory / "data", directory / "archives").day(PROJECT, date(2026, 1, 2))
    with contextlib.closing(LangSmith(settings)) as client, contextlib.closing(client.source(PROJECT)) as source:
        if size := order.get("page_size"):
            for dialect in source._dialects:
                dialect.max_page = size
            source._page_size = size
        return fetch_day(paths, source, FetchOptions(retention_days=None)).outcome


if __name__ == "__main__":
    _serve()
