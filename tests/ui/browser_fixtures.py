"""The demo's platform in a real browser: `lse demo --up` over a demo of its own, and alert targets on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest
from alert_targets import MailServer, Webhook, mail_server, webhook
from playwright.sync_api import Page, sync_playwright

from lse_archive.days import today
from lse_demo.langsmith_store import LangSmithStore
from lse_resources._postgres_place import find_location
from lse_resources.embedded_postgres import EmbeddedServer

PROJECT = "support-bot"
RUNS = 60
_LSE = Path(sys.executable).with_name("lse")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_START_SECONDS = 120.0


@dataclass
class Platform:
    """A platform that is up, over a demo in which the days before the last three are not archived yet."""

    url: str
    directory: Path
    process: subprocess.Popen[bytes]
    hook: Webhook
    mail: MailServer

    @property
    def database(self) -> str:
        return EmbeddedServer(self.directory / "home" / "postgres").url("lse")

    def rows(self, day: date) -> list[str]:
        """The run ids in the database."""
        with psycopg.connect(self.database) as connection:
            found = connection.execute(
                "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s ORDER BY 1", (PROJECT, day)
            )
            return [run for (run,) in found]

    def sql(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.database) as connection:
            connection.execute(statement.encode(), values)

    def alerts(self, about: str) -> list[str]:
        """First lines of the messages about something."""
        return [text.splitlines()[0] for text in self.hook.texts if about in text]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.fail(
        "there is no Chromium. Get it with: apt-get install chromium (Debian), then: make test-ui", pytrace=False
    )


@pytest.fixture(scope="session")
def platform(chromium: str) -> Generator[Platform]:
    """Makes a demo, gives it more days, and brings the platform up over it."""
    directory = Path(tempfile.mkdtemp(prefix="lse-ui-", dir="/tmp"))
    directory.chmod(0o755)
    demo = directory / "demo"
    try:
        subprocess.run([_LSE, "demo", "--directory", demo], check=True, stdout=subprocess.DEVNULL)
        _more_days(demo)
        with webhook() as hook, mail_server() as mail:
            (demo / ".env").write_text(
                f"LSE_ALERT_WEBHOOK_URL={hook.url}\nLSE_ALERT_SMTP_URL={mail.url}\nLSE_ALERT_EMAIL=oncall@example.com\n"
            )
            port, log = _free_port(), directory / "up.log"
            command = [_LSE, "demo", "--up", "--directory", demo, "--port", str(port)]
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                wait_until(lambda: "LSE is up" in log.read_text() or process.poll() is not None, _START_SECONDS)
                assert process.poll() is None, log.read_text()
                yield Platform(f"http://127.0.0.1:{port}", demo, process, hook, mail)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)
    finally:
        server = EmbeddedServer(demo / "home" / "postgres")
        server.stop()
        shutil.rmtree(find_location(server.home).place, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


def _more_days(demo: Path) -> None:
    projects = demo / "projects.toml"
    first, earlier = today() - timedelta(days=3), today() - timedelta(days=10)
    text = projects.read_text()
    assert str(first) in text
    projects.write_text(text.replace(f"start = {first}", f"start = {earlier}"))
    with LangSmithStore(demo / "langsmith.sqlite") as store:
        for back in range(4, 11):
            store.generate(PROJECT, today() - timedelta(days=back), runs=RUNS, mean_bytes=2000)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Asks until it holds.

    Raises:
        AssertionError: It did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


class Browser:
    """A person at the UI."""

    def __init__(self, page: Page, platform: Platform) -> None:
        self.page = page
        self._url = platform.url

    def open(self, path: str) -> None:
        self.page.goto(self._url + path)

    def materialize(self, path: str, button: str, days: str, launch: str) -> None:
        """Clicks a materialize button, types days, and launches."""
        self.open(path)
        self.page.get_by_role("button", name=button).click()
        dialog = self.page.get_by_role("dialog")
        text = dialog.get_by_role("textbox").first
        text.fill(days)
        text.press("Enter")
        dialog.get_by_role("button", name=launch).click()
        dialog.wait_for(state="hidden")

    def wait_for_day(self, day: date, step: str, seconds: float = 120) -> None:
        """Loads the page of a day's step until it is green: an open page would stay as it was."""
        self.wait_for(
            f"/assets/{PROJECT}/{step}?view=partitions&partition={day}",
            re.compile(rf"{day}\s+Materialized\s+Latest materialization"),
            seconds,
        )

    def wait_for(self, path: str, text: re.Pattern[str], seconds: float = 120) -> str:
        """Loads a page until it says something; returns what it says."""
        deadline = time.monotonic() + seconds
        while True:
            self.open(path)
            settled = min(time.monotonic() + 6, deadline)
            while time.monotonic() < settled:
                body = self.page.inner_text("body")
                if text.search(body):
                    return body
                self.page.wait_for_timeout(250)
            assert time.monotonic() < deadline, f"{text.pattern!r} did not appear:\n{body}"

    def screenshot(self, name: str) -> None:
        """Keeps a picture for the documentation, if LSE_SCREENSHOTS names a directory."""
        if directory := os.environ.get("LSE_SCREENSHOTS"):
            self.page.wait_for_timeout(1500)  # animations
            self.page.screenshot(path=Path(directory) / f"{name}.png")


@pytest.fixture
def browser(chromium: str, platform: Platform) -> Generator[Browser]:
    """A fresh browser."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        page = started.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(60_000)
        yield Browser(page, platform)
        started.close()
