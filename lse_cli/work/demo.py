"""`lse demo`: traces two sample projects, archives three days, damages rows and repairs them, on local servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Generator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lse_archive.days import today
from lse_archive.errors import ArchiveError
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.reader import run_file_names
from lse_archive.folder.state import read_state
from lse_archive.texts import counted
from lse_cli.selection import Selection
from lse_cli.terminal.console import LineConsole, Terminal
from lse_cli.terminal.texts import size
from lse_cli.work.days import work
from lse_demo.agent import fill, give_late_feedback
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore
from lse_operations.steps import day_steps
from lse_platform.platform import run_platform
from lse_platform.process_registry import Registry
from lse_resources.postgres.database import Database
from lse_resources.postgres.urls import application_url, embedded_server
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings

_PROJECTS = ("support-bot", "Sales / EMEA agent")
_FOLDER = "LangSmith archive"
_DAYS = 3
_TRACES = 42


def run_demo(directory: Path) -> None:
    """Runs the whole demo in an empty directory, and stops everything that it started.

    Raises:
        ArchiveError: A step of the demo failed.
    """
    directory = directory.absolute()
    out = LineConsole()
    began = time.monotonic()
    _clear(directory)
    with _servers(directory) as settings, contextlib.ExitStack() as exits:
        exits.callback(embedded_server(settings).stop)
        last = today() - timedelta(days=1)
        days = [last - timedelta(days=back) for back in reversed(range(_DAYS))]
        _heading(out, "A small agent runs for three days; the LangSmith SDK traces it")
        _trace(out, settings, days)
        for name in _PROJECTS:
            add_project(settings.projects_file, ProjectConfig(name, days[0]))
        _heading(out, f"lse archive full-sweep --start-date {days[0]} --end-date {days[-1]}")
        projects = [ProjectConfig(name, days[0]) for name in _PROJECTS]
        terminal = Terminal(json=False, force=True)
        entries, code = work(settings, terminal, Selection(projects, days), list(day_steps(settings)), sweep=True)
        _require(code == 0, "the sweep failed")
        _break_and_repair(out, settings, Selection(projects[:1], days[1:2]))
        _late_feedback(out, settings, Selection(projects[:1], days[:1]))
        _heading(out, "The archive")
        # On a narrow terminal, long lines are easier to read than cells with broken words.
        Console(width=max(120, out.width)).print(_table(settings, entries))
        for line in _places(settings, directory):
            out.put(line)
        out.put(f"Done in {time.monotonic() - began:.0f} s. Open it in the browser with: lse demo --up")


def run_demo_platform(directory: Path, *, port: int) -> None:
    """Runs the platform on the data of `run_demo`.

    Raises:
        ArchiveError: The demo has not been run, or the platform cannot be started.
    """
    directory = directory.absolute()
    if not (directory / "projects.toml").exists():
        raise ArchiveError(f"there is no demo in {directory}", hint="Run it first: lse demo")
    out = LineConsole()
    with _servers(directory) as settings:
        run_platform(settings, port=port, say=out.put)


def _clear(directory: Path) -> None:
    with _environment(directory, {}) as settings:
        if running := Registry(settings.home / "run").running():
            raise ArchiveError(
                f"the demo's platform is running (process {next(iter(running.values())).pid})",
                hint="Stop it with Ctrl-C, then run the demo again",
            )
        if directory.exists():
            if not (directory / "projects.toml").exists() and any(directory.iterdir()):
                raise ArchiveError(f"{directory} is not a demo's directory", hint="Choose another with --directory")
            embedded_server(settings).remove()
            shutil.rmtree(directory)
    directory.mkdir(parents=True)


@contextlib.contextmanager
def _servers(directory: Path) -> Generator[Settings]:
    """Starts the local LangSmith and Drive servers, and points the environment to them."""
    (directory / "drive").mkdir(exist_ok=True)
    with (
        LangSmithStore(directory / "langsmith.sqlite") as store,
        LangSmithServer(store) as langsmith,
        DriveServer(directory / "drive") as drive,
    ):
        credentials = directory / "drive-credentials.json"
        drive.accounts.write_authorized_user(credentials, USER, url=drive.url)
        folders = drive.store.named(_FOLDER)
        folder = folders[0]["id"] if folders else drive.store.add_folder(_FOLDER, USER)
        values = {
            "LANGSMITH_API_KEY": DEMO_KEY,
            "LANGSMITH_ENDPOINT": langsmith.url,
            "GOOGLE_DRIVE_API_ROOT": drive.url,
            "GOOGLE_DRIVE_FOLDER_URL": folder,
            "GOOGLE_DRIVE_AUTH_TYPE": "oauth2",
            "GOOGLE_DRIVE_CREDENTIALS_PATH": str(credentials),
            # The local server has no rate limit for counts.
            "LSE_LANGSMITH_STATS_SECONDS": "0.1",
        }
        with _environment(directory, values) as settings:
            yield settings


@contextlib.contextmanager
def _environment(directory: Path, values: dict[str, str]) -> Generator[Settings]:
    """Sets the environment of this process and its children to the demo's settings, without those of the user."""
    before = dict(os.environ)
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    os.environ.update(
        values,
        LSE_ENV_FILE=str(directory / ".env"),
        LSE_HOME=str(directory / "home"),
        LSE_DATA_DIR=str(directory / "data"),
        LSE_ARCHIVE_DIR=str(directory / "archives"),
        LSE_PROJECTS_FILE=str(directory / "projects.toml"),
        LANGSMITH_DISABLE_RUN_COMPRESSION="true",
    )
    try:
        yield Settings.load()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _heading(out: LineConsole, text: str) -> None:
    out.put("")
    out.put(f"── {text}", style="bold")


def _trace(out: LineConsole, settings: Settings, days: list[date]) -> None:
    from langsmith import Client

    began, total = time.monotonic(), 0
    client = Client(api_url=settings.langsmith_endpoint, api_key=DEMO_KEY)
    for seed, name in enumerate(_PROJECTS):
        for day in days:
            total += fill(client, name, day, _TRACES, seed)
    client.cleanup()
    seconds = time.monotonic() - began
    out.put(f"{counted(total, 'run')} in the projects {' and '.join(map(repr, _PROJECTS))} ({seconds:.1f} s)")


def _break_and_repair(out: LineConsole, settings: Settings, one_day: Selection) -> None:
    """Changes a row and deletes another; the verification must name exactly these two."""
    project, day = one_day.projects[0].name, one_day.days[0]
    with Database(application_url(settings)).session("cannot change the demo's rows") as connection:
        rows = connection.execute(
            "SELECT run_id::text FROM runs WHERE project = %s AND run_date = %s ORDER BY run_id LIMIT 2", (project, day)
        ).fetchall()
        (changed,), (deleted,) = rows
        key = "run_date = %s AND run_id = %s"
        connection.execute(f'UPDATE runs SET data = data || \'{{"name": "by hand"}}\' WHERE {key}', (day, changed))
        connection.execute(f"DELETE FROM runs WHERE {key}", (day, deleted))
    _heading(out, f"The row of run {changed} is changed, and the row of run {deleted} is deleted")
    verify = f"lse archive verify --project {project} --date {day}"
    out.put(f"$ {verify}")
    result, code = _verify(settings, one_day)
    named = {*result["missing_runs_in_db"], *(run["run_id"] for run in result["inconsistent_runs"])}
    _require(code == 3 and named == {changed, deleted}, "the verification did not name exactly these two runs")
    out.put(f"$ {verify} --fix")
    _, code = _verify(settings, one_day, fix=True)
    _require(code == 0, "differences remain after the repair")
    out.put(f"$ {verify}")
    _, code = _verify(settings, one_day)
    _require(code == 0, "the day is not consistent after the repair")


def _late_feedback(out: LineConsole, settings: Settings, one_day: Selection) -> None:
    """Gives feedback to an archived run; the next sweep of its day must archive it."""
    from langsmith import Client

    project, day = one_day.projects[0].name, one_day.days[0]
    paths = settings.layout.day(project, day)
    before = read_summary(paths.folder)
    run_id = next(name for name in run_file_names(paths.folder)).partition("_")[0]
    client = Client(api_url=settings.langsmith_endpoint, api_key=DEMO_KEY)
    give_late_feedback(client, project, run_id)
    client.cleanup()
    _heading(out, f"A customer gives feedback to run {run_id}, days later")
    out.put(f"$ lse archive full-sweep --force --project {project} --date {day}")
    _, code = work(settings, Terminal(json=False, force=True), one_day, list(day_steps(settings)), sweep=True)
    after = read_summary(paths.folder)
    archived = before and after and (after.feedback or 0) - (before.feedback or 0)
    _require(code == 0 and archived == 1, "the late feedback was not archived")


def _verify(settings: Settings, one_day: Selection, **config: object) -> tuple[dict[str, Any], int]:
    terminal = Terminal(json=False, force=False)
    entries, code = work(settings, terminal, one_day, ["verification"], {"verification": config})
    return entries[0], code


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ArchiveError(f"the demo failed: {what}", hint="Please report it with the output above")


def _table(settings: Settings, entries: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("project", "day"):
        table.add_column(column, no_wrap=True)
    for column in ("runs", "traces", "bytes"):
        table.add_column(column, justify="right")
    for column in ("files", "zip", "Drive", "Postgres", "verified"):
        table.add_column(column, justify="center")
    table.add_column("seconds", justify="right")
    for entry in entries:
        paths = settings.layout.day(entry["project"], date.fromisoformat(entry["date"]))
        checks = {check["name"]: check["verdict"] == "agrees" for check in entry["checks"]}
        fetched = entry["fetch_result"]
        places = ("run_files_intact", "zip_matches_files", "drive_matches_zip", "runs_match_files")
        marks = [checks[place] for place in places] + [read_state(paths).verdict == "proven"]
        table.add_row(
            entry["project"],
            entry["date"],
            f"{fetched['runs']:,}",
            f"{fetched['traces']:,}",
            size(fetched["bytes"]),
            *["[green]✓[/]" if mark else "[red]✗[/]" for mark in marks],
            f"{entry['total_duration']:.1f}",
        )
    return table


def _places(settings: Settings, directory: Path) -> tuple[str, ...]:
    return (
        f"  run files  {settings.layout.data_dir}",
        f"  archives   {settings.layout.archive_dir}",
        f"  Drive      {directory / 'drive'}  (a local server)",
        f"  Postgres   {settings.home / 'postgres'}  (embedded, stopped now)",
    )
