"""Run documents as JSON allows them, and bytes that it does not, through every way of a day; many share one day.

What goes in comes out byte for byte; one bad document costs no other; nothing raises; every reader has each run once.
`make test` tries 500 documents, always the same; `make test-nightly` 10,000 new ones.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import sys
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from archive_fixtures import snapshot
from document_strategies import DRAFTS, Draft
from drive_rig import FakeSleep
from hypothesis import HealthCheck, Phase, given, settings
from langsmith_fixtures import DAY, PROJECT, START, local_cloud
from nightly import NIGHTLY
from pyarrow import parquet

from lse_archive.folder.contents import content_files
from lse_archive.folder.manifest import read_summary, read_sums
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.layout import DayPaths, Layout
from lse_archive.zips.day import zip_day
from lse_demo.google_drive.server import USER, DriveServer
from lse_operations.restore.copies import copies
from lse_operations.restore.restore import restore_day
from lse_operations.upload import upload_day
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.destinations.google_drive.settings import DriveSettings
from lse_resources.postgres.analysis.export import Format, export_facts
from lse_resources.postgres.analysis.frames import Runs, load_runs_from_files
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_day

pytestmark = pytest.mark.slow

_DOCUMENTS, _DAY_SIZE = (10_000, 250) if NIGHTLY else (500, 125)
_JSON_SPACE, _BOM = b" \t\r\n", b"\xef\xbb\xbf"
_MAX_FAILURES = 10
_PLAIN_EVERY = 10  # every tenth document is a usual run, which no other may cost


@dataclass(frozen=True)
class Document:
    """A document of a day.

    Attributes:
        is_run: It is JSON with an id and a start time, so every reader must read it.
    """

    run_id: str
    content: bytes
    is_run: bool

    @property
    def name(self) -> str:
        return f"{self.run_id}.json"


def drafts() -> list[Draft]:
    """The examples, without the search for a smaller one: a failing document is shown as it is."""
    found: list[Draft] = []

    @settings(
        max_examples=_DOCUMENTS,
        derandomize=not NIGHTLY,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(DRAFTS)
    def collect(draft: Draft) -> None:
        found.append(draft)

    collect()
    return found


def days() -> Iterator[list[Document]]:
    """The examples, many in one day."""
    found = drafts()
    for begin in range(0, len(found), _DAY_SIZE):
        yield [_document(draft, number) for number, draft in enumerate(found[begin : begin + _DAY_SIZE])]


def _document(draft: Draft, number: int) -> Document:
    run_id = _document_id(number)
    if number % _PLAIN_EVERY == 0:
        draft = Draft([], b"", (b"", b""), str, str, None)
    content = draft.build(run_id, START + number)
    return Document(run_id, content, draft.is_json)


def _document_id(number: int) -> str:
    return f"0190f0a0-0000-7000-9000-{number:012x}"


@dataclass
class Rig:
    """Where a day of documents goes through."""

    directory: Path
    database: Database
    drive: DriveServer

    @property
    def paths(self) -> DayPaths:
        return Layout(self.directory / "data", self.directory / "archives").day(PROJECT, DAY)

    def destination(self) -> GoogleDrive:
        """A new folder on Drive."""
        folder = self.drive.store.add_folder("Archive", USER)
        credentials, token = self.directory / "user.json", self.directory / "token.json"
        self.drive.accounts.write_authorized_user(credentials, USER, url=self.drive.url)
        return GoogleDrive(
            DriveSettings(folder, "oauth2", credentials, token, self.drive.url), retries=FakeSleep().retries()
        )

    def reset(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        with self.database.connect() as connection:
            connection.execute("TRUNCATE runs, loads, replaced_runs, days")


Write = Callable[[Rig, list[Document]], list[bytes]]
"""Brings documents into a day; returns the contents that the day's files must have."""


@pytest.fixture
def rig(tmp_path: Path, database: Database) -> Iterator[Rig]:
    with DriveServer(tmp_path / "drive") as drive:
        yield Rig(tmp_path / "rig", database, drive)
        assert drive.violations == []


@pytest.mark.parametrize("origin", ["LangSmith", "an older tool"])
def test_documents_come_out_as_they_went_in(rig: Rig, origin: str) -> None:
    write = _fetch if origin == "LangSmith" else _write
    failures: list[str] = []
    for documents in days():
        while len(failures) < _MAX_FAILURES and (failing := _smallest(rig, write, documents)):
            failures.append(_describe(rig, write, failing))
            documents = [document for document in documents if document not in failing]
    assert not failures, "\n".join(failures)


def _describe(rig: Rig, write: Write, documents: list[Document]) -> str:
    rig.reset()
    try:
        _check_day(rig, write, documents)
        error = "not every time"
    except Exception:  # noqa: BLE001 - it is shown
        error = traceback.format_exc(limit=-3)
    return "\n".join(["", *(repr(document.content)[:2000] for document in documents), error])


def _smallest(rig: Rig, write: Write, documents: list[Document]) -> list[Document]:
    """Few documents with which a day fails; none if it does not fail."""
    if not _fails(rig, write, documents):
        return []
    while len(documents) > 1:
        middle = len(documents) // 2
        half = next((part for part in (documents[:middle], documents[middle:]) if _fails(rig, write, part)), None)
        if half is None:
            break
        documents = half
    return documents


def _fails(rig: Rig, write: Write, documents: list[Document]) -> bool:
    rig.reset()
    try:
        _check_day(rig, write, documents)
    except Exception:  # noqa: BLE001 - the test raises it again
        return True
    return False


def _fetch(rig: Rig, documents: list[Document]) -> list[bytes]:
    """Fetches the documents from a LangSmith that sends them as they are.

    Of those that are not JSON, the fetch keeps the bytes, or names the run; then the day is incomplete. A usual run is
    beside them: a LangSmith that serves no run of a day at all is an error.
    """
    with local_cloud() as cloud:
        cloud.put(START + _DAY_SIZE, run_id=_document_id(_DAY_SIZE))
        for number, document in enumerate(documents):
            cloud.put(START + number, run_id=document.run_id)
            cloud.rewrite(document.run_id, document.content or b" ")  # the local server joins pages of no empty items
        cloud.paths = rig.paths
        cloud.settings = replace(cloud.settings, patience=1.0)  # runs that are not JSON are tried for so long
        incomplete = cloud.fetch().incomplete
    files = {path.name: path.read_bytes() for path in content_files(rig.paths.folder)}
    contents = list(files.values())
    assert {name for name in files if name.endswith(".bin")} <= set(incomplete)
    wanted = []
    for document in documents:
        content = document.content.strip(_JSON_SPACE)  # it is no part of an element of an array
        if document.is_run and not content.startswith(_BOM):
            assert document.run_id not in incomplete
            wanted.append(content)
        elif document.run_id not in incomplete:
            assert _is_kept(content, [*contents, b""]) or any(name.startswith(document.run_id) for name in files)
    assert not Counter(wanted) - Counter(contents)
    return sorted(contents)


def _is_kept(content: bytes, contents: list[bytes]) -> bool:
    """Whether all bytes are there. A comma outside of strings makes two elements of what is not JSON."""
    return content in contents or any(
        content[:at].strip(_JSON_SPACE) in contents and _is_kept(content[at + 1 :].strip(_JSON_SPACE), contents)
        for at, byte in enumerate(content)
        if byte == ord(",")
    )


def _write(rig: Rig, documents: list[Document]) -> list[bytes]:
    """Writes the documents into a folder without a manifest."""
    rig.paths.folder.mkdir(parents=True)
    for document in documents:
        (rig.paths.folder / document.name).write_bytes(document.content)
    return sorted(document.content for document in documents)


def _check_day(rig: Rig, write: Write, documents: list[Document]) -> None:
    paths, database = rig.paths, rig.database
    wanted = write(rig, documents)
    zip_day(paths)
    files = {path.name: path.read_bytes() for path in paths.folder.iterdir()}
    contents = sorted(content for name, content in files.items() if name not in ("_summary.json", "_sha256sums.txt"))
    assert contents == wanted

    readable = {file.header.run_id: file for file in read_folder(paths.folder, DAY) if isinstance(file, RunFile)}
    runs = {document.run_id for document in documents if document.is_run}
    if write is _fetch:  # a byte order mark is no JSON within a page
        runs -= {document.run_id for document in documents if document.content.startswith(_BOM)}
    assert runs <= readable.keys()
    summary, sums = read_summary(paths.folder), read_sums(paths.folder)
    assert summary is not None
    assert sums is not None
    assert summary.runs == len(readable)
    assert sums == {name: hashlib.sha256(content).digest() for name, content in files.items() if name in sums}
    assert set(sums) == files.keys() - {"_sha256sums.txt"}

    with zipfile.ZipFile(paths.zip) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
    with closing(rig.destination()) as destination:
        upload_day(destination, paths)
        elsewhere = Layout(rig.directory / "restored", rig.directory / "restored archives").day(PROJECT, DAY)
        [copy] = copies(destination, PROJECT, DAY, DAY)
        restore_day(destination, elsewhere, copy)
    assert snapshot(elsewhere.folder) == files
    assert elsewhere.zip.read_bytes() == paths.zip.read_bytes()

    loaded = load_day(database, PROJECT, DAY, paths.folder)
    assert (loaded.total_runs, loaded.rows) == (len(readable), len(readable)), loaded.errors
    with database.connect() as connection:
        rows = dict(connection.execute("SELECT run_id::text, file_sha256 FROM runs").fetchall())
    assert rows == {run_id: file.sha256 for run_id, file in readable.items()}
    verified = verify_day(database, PROJECT, DAY, paths.folder, detailed=True)
    assert verified.is_consistent, verified

    _check_exports(rig, set(readable))
    _check_frames(rig, elsewhere, set(readable))


def _check_exports(rig: Rig, run_ids: set[str]) -> None:
    exported: dict[Format, Path] = {}
    for format in ("jsonl", "csv", "parquet"):
        exported[format] = rig.directory / f"runs.{format}"
        export_facts(rig.database, PROJECT, DAY, DAY, exported[format], format, contents=format != "jsonl")
    lines = exported["jsonl"].read_bytes().split(b"\n")
    assert len(lines) == len(run_ids) + 1
    csv.field_size_limit(sys.maxsize)
    table = list(csv.DictReader(io.StringIO(exported["csv"].read_text(encoding="utf-8"), newline="")))
    assert sorted(row["run_id"] for row in table) == sorted(run_ids)
    assert sorted(parquet.read_table(exported["parquet"]).column("run_id").to_pylist()) == sorted(run_ids)


def _check_frames(rig: Rig, restored: DayPaths, run_ids: set[str]) -> None:
    runs = Runs(rig.database)
    frame = runs.load_runs(PROJECT, DAY)
    assert sorted(map(str, frame["run_id"])) == sorted(run_ids)
    for source in (rig.paths.folder, restored.zip):
        pd.testing.assert_frame_equal(load_runs_from_files(PROJECT, [source]), frame)
    for run_id in run_ids:
        assert runs.get_run(run_id), run_id
    _, rows = runs.query("SELECT run_id::text, data FROM runs")
    assert {row[0] for row in rows} == run_ids
