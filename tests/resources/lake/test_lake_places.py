"""A day of the lake is replaced at once, on a disk and in an object store, also by a process that is killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from day_fixtures import DAY, day_paths, fill, run, run_id
from pyarrow import parquet
from s3_fixtures import seaweed_config

from lse_archive.errors import ArchiveError, CorruptArchiveError, DestinationError, RefusedArchiveError, SettingsError
from lse_archive.folder.contents import ensure_manifest
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.layout import DayPaths
from lse_operations.lake import build_day, check_lake
from lse_resources.lake.lake import Lake
from lse_resources.lake.place import LakePlace, LocalPlace, StorePlace, open_place
from lse_resources.lake.schema import RAW, manifest_key, table_key
from lse_resources.lake.source import LakeSource
from lse_resources.lake.writer import PART_BYTES, write_day

pytestmark = pytest.mark.slow

KILLS = 20
PROJECT = "shop / EMEA"
VERSIONS = {"old": 40, "new": 60}
_VERSIONS_OF_A_DAY = "SELECT count(*), min(name), max(name), count(DISTINCT run_id), min(inputs), max(inputs) FROM runs"


@dataclass(frozen=True)
class Rig:
    """A place with two versions of a day beside it."""

    place: LakePlace
    url: str
    config: dict[str, str]
    folders: dict[str, Path]
    contents: dict[str, str]
    scratch: Path

    def build(self, version: str) -> None:
        folder, content = self.folders[version], self.contents[version]
        write_day(self.place, PROJECT, DAY, folder, content, workspace=None, scratch=self.scratch)

    def ask(self) -> str:
        """The version that a query finds. Fails if it finds parts of two."""
        with Lake.of(self.place).stream(_VERSIONS_OF_A_DAY) as (_, rows):
            [(count, name, last_name, ids, inputs, last_inputs)] = rows
        assert (name, inputs) == (last_name, last_inputs)
        assert count == ids == VERSIONS[name]
        return name


def _written(directory: Path, version: str) -> tuple[DayPaths, str]:
    paths = day_paths(directory / version, PROJECT)
    inputs = {"text": version * 3000}
    fill(paths.folder, *(run(number, name=version, inputs=inputs) for number in range(1, VERSIONS[version] + 1)))
    return paths, ensure_manifest(paths).content_sha256


@pytest.fixture(params=["disk", "seaweed"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    url, config = str(tmp_path / "lake"), {}
    if request.param == "seaweed":
        url = f"s3://{request.getfixturevalue('seaweed_bucket')}/a lake"
        config = seaweed_config(request.getfixturevalue("seaweed_url"))
    written = {version: _written(tmp_path, version) for version in VERSIONS}
    folders = {version: paths.folder for version, (paths, _) in written.items()}
    contents = {version: content for version, (_, content) in written.items()}
    return Rig(open_place(url, config), url, config, folders, contents, tmp_path / "scratch")


def test_a_query_finds_one_version_of_a_day_while_it_is_replaced(rig: Rig) -> None:
    rig.build("old")
    done, ended = threading.Event(), threading.Semaphore(0)
    found, errors = list[str](), list[Exception]()

    def ask() -> None:
        while not done.is_set():
            try:
                found.append(rig.ask())
            except (ArchiveError, AssertionError) as error:
                errors.append(error)
            ended.release()

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(20):
        rig.build("new" if turn % 2 == 0 else "old")
        while ended.acquire(blocking=False):
            pass
        ended.acquire()  # one query has ended, the other is under way
    done.set()
    for reader in readers:
        reader.join()
    assert set(found) == {"old", "new"}
    assert [error for error in errors if isinstance(error, AssertionError)] == []
    if isinstance(rig.place, LocalPlace):
        assert list(map(str, errors)) == []
    assert rig.ask() == "old"


_CHILD = """
import json, os, signal, sys
from datetime import date
from pathlib import Path
from lse_resources.lake import place as places, writer
from lse_resources.lake.writer import write_day

def main():
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            work(order)
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)

def work(order):
    place = places.open_place(order["url"], order["config"])
    steps = 0

    def step(*_):
        nonlocal steps
        steps += 1
        if steps == order["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(lambda event, _: step() if event in ("os.rename", "os.remove") else None)
    for kind, name in ((writer._HashedFile, "write"), (places._Writer, "close")):
        method = getattr(kind, name)
        setattr(kind, name, lambda self, *a, method=method: (step(), method(self, *a), step())[1])
    delete = place.delete
    type(place).delete = lambda self, key: (step(), delete(key), step())
    write_day(place, order["project"], date.fromisoformat(order["day"]), Path(order["folder"]), order["content"],
              workspace=None, scratch=Path(order["scratch"]))
    Path(order["count"]).write_text(str(steps))

main()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that forks a build for each order, and kills it at one of its steps."""
    pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _CHILD], **pipe) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_a_killed_build_leaves_one_version_and_is_repeated(
    rig: Rig, child: subprocess.Popen[str], tmp_path: Path
) -> None:
    def order(kill_at: int) -> int:
        document = {"url": rig.url, "config": rig.config, "project": PROJECT, "day": str(DAY), "kill_at": kill_at}
        document |= {"folder": str(rig.folders["new"]), "content": rig.contents["new"], "scratch": str(rig.scratch)}
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(document | {"count": str(tmp_path / "count")}) + "\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    rig.build("old")
    assert order(0) == 0
    steps = int((tmp_path / "count").read_text())
    seen = set()
    for number in range(KILLS):
        rig.build("old")
        assert os.WTERMSIG(order(1 + number * (steps - 1) // (KILLS - 1))) == 9
        seen.add(version := rig.ask())
        content = rig.place.read(manifest_key(PROJECT, DAY))
        if content is not None:  # a manifest is never that of other files
            assert json.loads(content)["content_sha256"] == rig.contents[version]
            assert check_lake(rig.place, _day(tmp_path, version), detailed=True).verdict == "agrees"
    assert seen == {"old", "new"}
    paths = _day(tmp_path, "new")
    build_day(rig.place, paths, _no_destination)  # the last kill may have come after the manifest
    assert check_lake(rig.place, paths, detailed=True).verdict == "agrees"
    assert not build_day(rig.place, paths, _no_destination).written
    if isinstance(rig.place, LocalPlace):
        assert sorted(path.name for path in Path(rig.url).rglob("*") if path.is_file()) == [
            "_manifest.json",
            "attachments.parquet",
            "feedback.parquet",
            "raw.parquet",
            "runs.parquet",
        ]
    else:
        assert len(rig.place.keys("")) == 5
    assert list(rig.scratch.iterdir()) == []


def _day(directory: Path, version: str) -> DayPaths:
    return day_paths(directory / version, PROJECT)


def _no_destination() -> contextlib.AbstractContextManager[Any]:
    raise AssertionError("the destination is not needed")


def test_files_of_any_size_and_kind_come_back_from_raw(tmp_path: Path) -> None:
    place, paths = LocalPlace(tmp_path / "lake"), day_paths(tmp_path, PROJECT)
    fill(paths.folder, run(1), run(2, inputs={"text": "x" * (PART_BYTES + 17)}))
    (paths.folder / "broken.json").write_bytes(b"")
    (paths.folder / "older.json").write_bytes(b'{"trace": ' + run(3) + b', "other": 1}')
    (paths.folder / "again.json").write_bytes(run(1, name="again"))
    (paths.folder / "_attachment_large").write_bytes(os.urandom(2 * PART_BYTES + 1))
    ensure_manifest(paths)
    before = {path.name: path.read_bytes() for path in paths.folder.iterdir()}
    result = build_day(place, paths, _no_destination)
    assert result.runs == 3
    table = parquet.read_table(tmp_path / "lake" / table_key("runs", PROJECT, DAY), partitioning=None)
    assert sorted(table["run_id"].to_pylist()) == sorted(run_id(number) for number in (1, 2, 3))
    source, target = LakeSource(place), tmp_path / "made" / "day.zip"
    target.parent.mkdir()
    [folder] = source.project_folders()
    [file] = source.list_files(folder)
    source.download(file, target)
    with zipfile.ZipFile(target) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == before
    assert check_lake(place, paths, detailed=True).verdict == "agrees"


def test_a_damaged_folder_changes_nothing_in_the_lake(tmp_path: Path) -> None:
    place, paths = LocalPlace(tmp_path / "lake"), day_paths(tmp_path, PROJECT)
    fill(paths.folder, *map(run, range(1, 5)))
    ensure_manifest(paths)
    build_day(place, paths, _no_destination)
    before = {path: path.read_bytes() for path in (tmp_path / "lake").rglob("*") if path.is_file()}
    (tmp_path / "lake" / manifest_key(PROJECT, DAY)).unlink()
    victim = next(paths.folder.glob("0*.json"))
    victim.write_bytes(victim.read_bytes() + b" ")
    with pytest.raises(CorruptArchiveError, match="differs from its checksum"):
        build_day(place, paths, _no_destination)
    victim.unlink()
    with pytest.raises(ArchiveError):
        build_day(place, paths, _no_destination)
    after = {path: path.read_bytes() for path in (tmp_path / "lake").rglob("*") if path.is_file()}
    assert after == {path: content for path, content in before.items() if path.name != "_manifest.json"}


def test_every_difference_is_named(tmp_path: Path) -> None:
    place, paths = LocalPlace(tmp_path / "lake"), day_paths(tmp_path, PROJECT)
    fill(paths.folder, *map(run, range(1, 5)))
    ensure_manifest(paths)
    build_day(place, paths, _no_destination)
    runs = tmp_path / "lake" / table_key("runs", PROJECT, DAY)
    manifest = tmp_path / "lake" / manifest_key(PROJECT, DAY)
    content, listed = runs.read_bytes(), manifest.read_bytes()

    def found(detailed: bool = False) -> tuple[str, list[str]]:
        check = check_lake(place, paths, detailed=detailed)
        return check.verdict, [row.what for row in check.differences]

    runs.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    assert found() == ("differs", ["changed"])
    runs.write_bytes(content[:-1])
    assert found() == ("differs", ["bytes"])
    runs.unlink()
    assert found() == ("differs", ["missing"])
    # A table that agrees with its manifest, and lacks a run.
    runs.write_bytes(content)
    shorter = parquet.read_table(runs, partitioning=None).slice(1)
    parquet.write_table(shorter, runs)
    changed = json.loads(listed)
    digest = hashlib.sha256(runs.read_bytes()).hexdigest()
    changed["tables"]["runs"] |= {"bytes": runs.stat().st_size, "sha256": digest}
    manifest.write_text(json.dumps(changed))
    assert found() == ("differs", ["missing in the lake"])
    manifest.write_text(json.dumps(changed | {"content_sha256": "0"}))
    assert found() == ("differs", ["content"])
    manifest.write_text("{")
    assert found()[0] == "differs"
    manifest.unlink()
    assert found()[0] == "unproven"


def test_a_hostile_name_in_raw_is_refused(tmp_path: Path) -> None:
    place, paths = LocalPlace(tmp_path / "lake"), day_paths(tmp_path, PROJECT)
    fill(paths.folder, run(1))
    ensure_manifest(paths)
    build_day(place, paths, _no_destination)
    raw = tmp_path / "lake" / table_key("raw", PROJECT, DAY)
    source, target = LakeSource(place), tmp_path / "made" / "day.zip"
    target.parent.mkdir()
    [file] = source.list_files(source.project_folders()[0])
    for name in ("../evil", "/etc/evil", "..", ""):
        row = {"file": [name], "part": [0], "run_id": [None], "content": [b"x"]}
        parquet.write_table(pa.table(row, schema=RAW), raw)
        with pytest.raises(RefusedArchiveError):
            source.download(file, target)
    assert not target.exists()
    assert not (tmp_path / "evil").exists()
    raw.write_bytes(b"PAR1 nothing")
    with pytest.raises(CorruptArchiveError):
        source.download(file, target)


def test_errors_of_the_place_are_one_sentence_without_secrets(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LSE_LAKE_URL is not an object store"):
        open_place("http://example.org/lake", {})
    with pytest.raises(SettingsError, match="LSE_LAKE_URL contains credentials"):
        open_place("s3://key:secret@bucket/lake", {})
    config = {"endpoint": "http://127.0.0.1:9", "access_key_id": "key", "secret_access_key": "secret", "region": "r"}
    place = StorePlace("s3://bucket/lake", config)
    paths = day_paths(tmp_path, PROJECT)
    fill(paths.folder, run(1))
    for refused in (lambda: place.read("x"), lambda: list(place.folders("runs"))):
        with pytest.raises(DestinationError) as error:
            refused()
        assert "secret" not in str(error.value)
    check = check_lake(place, paths)
    assert check.verdict == "unknown"
    assert {SUMMARY, SUMS} & {path.name for path in paths.folder.iterdir()} == set()
