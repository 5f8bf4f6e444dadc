"""Questions are asked on a terminal only; Ctrl-C leaves no partial files."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from home_fixtures import DAY, PROJECT, Installation

from lse_demo.faults import Fault, on

pytestmark = pytest.mark.slow

_LSE = Path(sys.executable).with_name("lse")


class Terminal:
    """A process on a pseudo-terminal; its standard output may go elsewhere."""

    def __init__(self, installation: Installation, *words: str, stdout: int | None = None) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [_LSE, *words],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            cwd=installation.directory,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""
        self._read_so_far = 0

    def until(self, text: str) -> None:
        """Reads until the text appears after the text of the previous call."""
        while text not in self.screen[self._read_so_far :]:
            ready, _, _ = select.select([self._master], [], [], 60)
            part = self._read() if ready else ""
            assert part, self.screen
            self.screen += part
        self._read_so_far = self.screen.index(text, self._read_so_far) + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Sends Ctrl-C repeatedly: one between the prompt and the read of its answer is lost."""
        while self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)

    def end(self) -> int:
        """Reads to the end; returns the exit code."""
        while select.select([self._master], [], [], 60)[0] and (part := self._read()):
            self.screen += part
        return self.process.wait(60)

    def rows(self) -> list[str]:
        """Returns the screen as far as it was read."""
        rows, row, column = [""], 0, 0
        for part in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|[^\x1b]", self.screen):
            match part[0], part[1], part[2]:
                case "\r", _, _:
                    column = 0
                case "\n", _, _:
                    row += 1
                    rows += [""] * (row == len(rows))
                case _, number, "A":
                    row = max(0, row - int(number))
                case _, "2", "K":
                    rows[row] = ""
                case _, _, "m" | "h" | "l":
                    pass
                case text, None, None:
                    rows[row] = f"{rows[row][:column]:{column}}{text}{rows[row][column + 1 :]}"
                    column += 1
                case unknown:
                    raise AssertionError(unknown)
        return [text.rstrip() for text in rows]

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # Linux returns EIO when the other end is closed
            return ""

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(installation: Installation, *words: str, stdout: int | None = None) -> Generator[Terminal]:
    opened = Terminal(installation, *words, stdout=stdout)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def fetched(installation: Installation) -> Installation:
    """A fetched day that has changed in LangSmith since."""
    installation.fill(3)
    assert installation.lse("archive", "--project", PROJECT, "--date", str(DAY)).code == 0
    installation.store.generate(PROJECT, DAY, runs=2, mean_bytes=3000, seed=1)
    return installation


def files(installation: Installation) -> int:
    return len(list(installation.paths().folder.glob("*.json"))) - 1


def test_yes_continues_and_shows_progress(fetched: Installation) -> None:
    with terminal(fetched, "archive", "--project", PROJECT, "--date", str(DAY)) as shown:
        shown.until("no run is removed)? [y/N]: ")
        shown.type("y\n")
        shown.until("on Drive has other content")
        shown.until("[y/N]: ")
        shown.type("y\n")
        assert shown.end() == 0
    assert files(fetched) == 5
    assert "updated: 5 runs" in shown.screen
    assert "replaced: " in shown.screen


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04", "ctrl-c"], ids=["no", "enter", "ctrl-d", "ctrl-c"])
def test_anything_but_yes_changes_nothing(fetched: Installation, answer: str) -> None:
    with terminal(fetched, "archive", "fetch", "--project", PROJECT, "--date", str(DAY)) as shown:
        shown.until("[y/N]: ")
        if answer == "ctrl-c":
            shown.interrupt()
        else:
            shown.type(answer)
        # A second Ctrl-C, while the first one is ending the process, may end it at once.
        assert shown.end() in ((1, -signal.SIGINT) if answer == "ctrl-c" else (1,))
    assert "Traceback" not in shown.screen
    assert files(fetched) == 3


def test_force_skips_the_question(fetched: Installation) -> None:
    with terminal(fetched, "archive", "fetch", "--force", "--project", PROJECT, "--date", str(DAY)) as shown:
        assert shown.end() == 0
    assert "[y/N]" not in shown.screen


def test_an_interrupt_stops_the_whole_range_at_once(installation: Installation) -> None:
    installation.fill(5)
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go_on.wait(30)

    installation.langsmith.faults.add(Fault("call", on("POST", "/runs/query"), action=hold))
    words = ["archive", "full-sweep", "--project", PROJECT, "--start-date", "2026-01-01", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen([_LSE, *words], cwd=installation.directory, stdout=pipe, stderr=pipe) as process:
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            go_on.set()
            out, err = process.communicate(timeout=60)
        finally:
            go_on.set()
            process.kill()
    assert process.returncode == 130
    assert b"lse: interrupted" in err
    assert b"Traceback" not in err
    assert out == b""
    assert not installation.paths().folder.parent.exists() or not list(installation.paths().folder.parent.glob("2*"))
    with installation.instance() as instance:
        [run] = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE


def test_the_console_script_prints_one_object_and_nothing_else(installation: Installation) -> None:
    installation.fill(5)
    words = ["archive", "full-sweep", "--project", PROJECT, "--date", str(DAY)]
    ended = installation.script(*words, "--json")
    assert ended.returncode == 0, ended.stderr
    [entry] = json.loads(ended.stdout)["results"]
    assert list(entry)[:2] == ["project", "date"]
    assert ended.stderr == ""  # neither Dagster's log nor a warning
    again = installation.script("archive", "fetch", "--force", "--project", PROJECT, "--date", str(DAY))
    assert [line[:4] for line in again.stdout.splitlines()] == ["shop", "  ✓ "]
    assert again.stderr == ""
