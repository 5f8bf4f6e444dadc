"""One system call of a command fails: the command ends clearly, nothing is half-published or lost, the next succeeds.

A clean run of the commands counts the calls on files and sockets, by kind of call and class of file. A case lets the
first, a middle or the last of them fail. `make test` runs a few cases, `make test-nightly` 300.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from archive_fixtures import snapshot
from database_fixtures import recreate
from fault_process import SHORT, Fault, FaultProcess, Outcome
from home_fixtures import DAY, PROJECT, midnight, run_uuid, small_run
from nightly import NIGHTLY
from psycopg import sql

from lse_archive.folder.manifest import read_sums
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.publish import SCRATCH
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.day import check_zip, zip_sums
from lse_demo.google_drive.server import USER, DriveServer
from lse_demo.langsmith.server import DEMO_KEY, LangSmithServer
from lse_demo.langsmith.store import LangSmithStore
from lse_resources.postgres.database import Database
from lse_resources.postgres.schema import migrate

pytestmark = pytest.mark.slow

CASES = 300 if NIGHTLY else 20
_RUNS = 6
_SELECTED = ("--project", PROJECT)
_SWEEP = ("archive", "full-sweep", *_SELECTED, "--date", str(DAY), "--force", "--json")
COMMANDS = {
    "sweep": _SWEEP,
    "sweep of a changed day": _SWEEP,
    "prune": ("archive", "prune", *_SELECTED, "--older-than", "1d", "--force", "--json"),
    "restore": ("archive", "restore", *_SELECTED, "--force", "--json"),
    "export": ("export", *_SELECTED, "--start-date", str(DAY), "--end-date", str(DAY), "--force", "--format"),
}
# The errors of each kind of call. `*`: later calls fail too, as on a full, read-only or network file system.
ERRORS = {
    "open": "EIO",
    "create": "ENOSPC* EIO EROFS*",
    "read": f"EIO {SHORT}",
    "write": f"ENOSPC* EIO {SHORT}",
    "pwrite": f"ENOSPC* EIO {SHORT}",
    "fsync": "EIO EINVAL* ENOSPC",
    "syncfs": "EIO EINVAL* ENOSPC",
    "rename": "EIO ENOSPC EROFS*",
    "exchange": "EINVAL* EIO",
    "unlink": "EIO EROFS*",
    "rmdir": "EIO EROFS*",
    "mkdir": "ENOSPC* EIO EROFS*",
    "link": "EPERM* ENOSPC EIO",
    "flock": "ENOLCK* EIO",
    "fcntl": "ENOLCK* EIO",
    "close": "EIO ENOSPC*",
    "ftruncate": "EIO ENOSPC*",
    "list": "EIO",
    "send": f"ECONNRESET EIO {SHORT}",
    "recv": f"ECONNRESET EIO {SHORT}",
    "connect": "ECONNREFUSED* ENETUNREACH",
}


@dataclass(frozen=True)
class Case:
    """A command, and the fault in it."""

    command: str
    fault: Fault


@dataclass
class Place:
    """An empty installation: two LangSmiths (a day, and the same day changed), a Drive, a database."""

    process: FaultProcess
    directory: Path
    database_url: str
    langsmiths: tuple[str, str]
    drive: DriveServer
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> DayPaths:
        return Layout(self.directory / "data", self.directory / "archives").day(PROJECT, DAY)

    def reset(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("export", "home"):
            (self.directory / name).mkdir(parents=True)
        self.drive.accounts.write_authorized_user(self.directory / "drive.json", USER, url=self.drive.url)
        self.environment = {
            "LANGSMITH_API_KEY": DEMO_KEY,
            "GOOGLE_DRIVE_API_ROOT": self.drive.url,
            "GOOGLE_DRIVE_FOLDER_URL": self.drive.store.add_folder(f"Archive {uuid.uuid4()}", USER),
            "GOOGLE_DRIVE_CREDENTIALS_PATH": str(self.directory / "drive.json"),
            "LSE_DATABASE_URL": self.database_url,
            "LSE_HOME": str(self.directory / "home"),
            "LSE_DATA_DIR": str(self.directory / "data"),
            "LSE_ARCHIVE_DIR": str(self.directory / "archives"),
            "LSE_PROJECTS_FILE": str(self.directory / "projects.toml"),
            "LSE_ENV_FILE": os.devnull,
            "LSE_LANGSMITH_STATS_SECONDS": "0",
            "LSE_PATIENCE": "1",
        }
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("TRUNCATE runs, loads, replaced_runs, days")

    def run(self, command: str, fault: Fault | None = None) -> Outcome:
        changed = command != "sweep"
        environment = self.environment | {"LANGSMITH_ENDPOINT": self.langsmiths[changed]}
        arguments = COMMANDS[command]
        if command == "export":
            arguments = (*arguments, "jsonl", "--output", str(self.directory / "export" / "runs.jsonl"))
        return self.process.run(self.directory, environment, *arguments, fault=fault)

    def files(self) -> dict[str, bytes]:
        """The run files and others of the published day; verifies their checksums."""
        folder = self.paths.folder
        if not folder.exists():
            return {}
        files = snapshot(folder)
        sums = read_sums(folder)
        assert sums is not None
        assert {name: hashlib.sha256(files[name]).digest() for name in files if name != "_sha256sums.txt"} == sums
        return {name: content for name, content in files.items() if not name.startswith("_")}

    def zipped(self, path: Path) -> dict[str, bytes]:
        """The checksums of the files in a zip, which must be whole; empty if there is none."""
        if not path.exists():
            return {}
        sums = zip_sums(path)
        check_zip(path, path, sums)
        return {name: digest for name, digest in sums.items() if not name.startswith("_")}

    def copies(self) -> list[Path]:
        """The contents of the day's files on Drive."""
        store, root = self.drive.store, self.environment["GOOGLE_DRIVE_FOLDER_URL"]
        found = [doc for doc in store.named(self.paths.zip.name) if not doc["trashed"]]
        return [store.content(doc) for doc in found if store.doc(doc["parents"][0])["parents"][0] in root]

    def result(self) -> dict[str, object]:
        """Everything that the commands made, to compare it with that of other runs."""
        copies = self.copies()
        assert len(copies) == 1
        rows = "SELECT run_id::text, project, run_date, data::text, file_sha256, mark FROM runs ORDER BY 1"
        with psycopg.connect(self.database_url) as connection:
            return {
                "files": snapshot(self.paths.folder),
                "zip": self.paths.zip.read_bytes(),
                "copy": copies[0].read_bytes(),
                "export": snapshot(self.directory / "export"),
                "rows": connection.execute(rows).fetchall(),
            }


@dataclass
class Clean:
    """What the commands make and count without a fault."""

    result: dict[str, object]
    days: list[dict[str, bytes]]
    cases: list[Case]


@pytest.fixture(scope="module")
def place(postgres_server: Callable[[str], str]) -> Iterator[Place]:
    name = f"faults_{uuid.uuid4().hex[:12]}"
    recreate(postgres_server, name)
    url = postgres_server(name)
    migrate(Database(url))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        servers = [stack.enter_context(_langsmith(changed)) for changed in (False, True)]
        drive = stack.enter_context(DriveServer(directory / "drive"))
        process = stack.enter_context(FaultProcess(directory))
        yield Place(process, directory / "installation", url, (servers[0].url, servers[1].url), drive)
    with psycopg.connect(postgres_server("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def _langsmith(changed: bool) -> Generator[LangSmithServer]:
    """A LangSmith with a day of a few runs; in the changed day one run has ended, and one is new."""
    with LangSmithStore() as store, LangSmithServer(store) as server:
        project = store.add_project(PROJECT, project_id=run_uuid(999))
        for number in range(_RUNS + changed):
            run = small_run(number, midnight() + number * 1_000_000, project.id, None if number == 0 else 0)
            if number == 1 and not changed:
                run["end_time"] = None
            store.put_raw(PROJECT, json.dumps(run).encode())
        yield server


@pytest.fixture(scope="module")
def clean(place: Place) -> Clean:
    outcomes, days = {}, []
    for _ in range(2):  # the modules that a first run imports, and connections that it opens, are not counted
        place.reset()
        days.clear()
        for command in COMMANDS:
            outcomes[command] = place.run(command)
            assert outcomes[command].code == 0, outcomes[command]
            if "sweep" in command:
                days.append(place.files())
    return Clean(place.result(), days, _cases(outcomes))


def _cases(outcomes: dict[str, Outcome]) -> list[Case]:
    """All cases in a fixed order: the first have one kind of call each, and every kind and class come evenly."""
    groups: dict[str, dict[str, list[Case]]] = {}
    for command, outcome in outcomes.items():
        for (kind, file), count in sorted(outcome.counts.items()):
            for at, error in itertools.product(sorted({1, (count + 1) // 2, count}), ERRORS[kind].split()):
                fault = Fault(kind, file, at, error.rstrip("*"), error.endswith("*"))
                groups.setdefault(kind, {}).setdefault(file, []).append(Case(command, fault))
    by_kind = [_in_turn([_mixed(cases) for cases in files.values()]) for files in groups.values()]
    return _in_turn(by_kind)


def _mixed(cases: list[Case]) -> list[Case]:
    return random.Random(cases[0].fault.kind + cases[0].fault.file).sample(cases, len(cases))


def _in_turn(lists: list[list[Case]]) -> list[Case]:
    return [case for group in itertools.zip_longest(*lists) for case in group if case]


@pytest.mark.parametrize("number", range(CASES))
def test_a_failing_call_costs_nothing(place: Place, clean: Clean, number: int) -> None:
    case = clean.cases[number]
    commands = list(COMMANDS)
    begin = commands.index(case.command)
    place.reset()
    known: dict[str, bytes] = {}
    for command in commands[:begin]:
        assert place.run(command).code == 0
        known = place.files() or known
    outcome = place.run(case.command, case.fault)
    _check_said(case, outcome)
    _check_kept(place, clean, known)
    if outcome.code == 0:
        _check_done(place, clean, case.command)
    for command in commands[begin:]:  # the same command again, and those that follow
        again = place.run(command)
        assert again.code == 0, (case, outcome, command, again)
        _check_kept(place, clean, clean.days[command != "sweep"])
    assert place.result() == clean.result, case
    assert _leftovers(place) == [], case
    assert outcome.struck or case.fault.file in ("http", "database"), case


def _check_said(case: Case, outcome: Outcome) -> None:
    """The exit code is a documented one, and the message is one."""
    said = outcome.out + outcome.err
    assert outcome.code in (0, 1, 2, 3), (case, outcome)
    assert "Traceback" not in said, (case, outcome)
    assert "unexpected error" not in said, (case, outcome)
    if "--json" in COMMANDS[case.command] and outcome.out:
        assert list(json.loads(outcome.out)) == ["results"]
    assert outcome.code == 0 or said.strip(), (case, outcome)


def _check_kept(place: Place, clean: Clean, known: dict[str, bytes]) -> None:
    """Every place holds a whole day or nothing, and one of them the runs that were there."""
    files, days = place.files(), clean.days
    sums = [{name: hashlib.sha256(content).digest() for name, content in day.items()} for day in days]
    assert files in ({}, *days)
    copies = [place.zipped(path) for path in (place.paths.zip, *place.copies())]
    assert all(copy in ({}, *sums) for copy in copies)
    names = {name.partition("_")[0] for name in known}
    assert any(names <= {name.partition("_")[0] for name in held} for held in (files, *copies))
    if known and not files:
        assert is_pruned(place.paths) or place.paths.retired.exists()


def _check_done(place: Place, clean: Clean, command: str) -> None:
    """The command has done what its exit code 0 says."""
    if command == "prune":
        assert is_pruned(place.paths)
        return
    day = clean.days[command != "sweep"]
    assert place.files() == day
    if command == "export":
        assert snapshot(place.directory / "export") == clean.result["export"]
    if "sweep" in command:
        sums = {name: hashlib.sha256(content).digest() for name, content in day.items()}
        assert [place.zipped(path) for path in (place.paths.zip, *place.copies())] == [sums, sums]


def _leftovers(place: Place) -> list[str]:
    """The hidden files that should not remain: all except locks, states, records, and recent temporary files."""
    hidden = itertools.chain(
        place.paths.lock.parent.iterdir(), *(place.directory.glob(f"{name}/.*") for name in ("archives", "export"))
    )
    names = [path.name for path in hidden if not path.name.endswith((".lock", ".state.json", ".pruned", ".tmp"))]
    return sorted(name for name in names if not name.startswith(SCRATCH))
