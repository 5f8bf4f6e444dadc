"""A fetch that is killed, or whose disk is full: never a part of a day is seen, and the next call finishes it."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fetch_process import FetchProcess
from langsmith_fixtures import START, Cloud, local_cloud, photograph

pytestmark = pytest.mark.slow

RUNS = 60
PAGE = 10
DEATHS = 10


@pytest.fixture(scope="module")
def process() -> Iterator[FetchProcess]:
    with FetchProcess() as process:
        yield process


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        cloud.generate(RUNS)
        yield cloud


def change(cloud: Cloud) -> None:
    """What happens to a day after it was archived: runs change, go and come."""
    changed, gone, *_ = sorted(cloud.served())
    cloud.store.change(changed, total_tokens=123_456)
    cloud.store.delete([gone])
    cloud.put(START + 12_345)


@pytest.mark.parametrize("existed", [False, True])
def test_killed_at_random_moments(cloud, process, existed):
    def directory(name: str) -> Path:
        cloud.paths = type(cloud.paths)(
            cloud.paths.project, cloud.paths.day, cloud.directory / name / "data", cloud.directory / name / "archives"
        )
        return cloud.directory / name

    names = [f"{number}" for number in range(15)]
    old = cloud.served() if existed else {}
    if existed:
        for name in names:
            assert process.fetch(cloud.server.url, directory(name))["status"] == 0
        change(cloud)
    whole = old | cloud.served()
    events = process.fetch(cloud.server.url, directory(names[0]), page_size=PAGE)["events"]
    assert events > RUNS
    moments = random.Random(f"kill {existed}").sample(range(1, events), len(names) - 1)
    deaths = 0
    for name, moment in zip(names[1:], moments, strict=True):
        where = directory(name)
        killed = process.fetch(cloud.server.url, where, page_size=PAGE, die_at=moment)
        if killed["status"] == 0:  # the threads took fewer steps this time: it ended before its moment
            assert cloud.published() == whole
            continue
        assert killed["status"] == -9
        assert cloud.published() in ({}, old, whole)
        staged = cloud.paths.staging / "runs"
        asked = len(cloud.queries())
        missing = len(cloud.served()) - (len(list(staged.iterdir())) if staged.exists() else 0)
        result = process.fetch(cloud.server.url, where, page_size=PAGE)
        assert result["status"] == 0
        assert cloud.published() == whole
        assert not cloud.paths.staging.exists()
        assert not cloud.paths.retired.exists()
        again = sum(entry.details["runs"] for entry in cloud.queries()[asked:])
        assert again <= max(missing, 0) + 5 * PAGE or again == len(cloud.served())
        deaths += 1
        if deaths == DEATHS:
            return
    pytest.fail(f"only {deaths} of {len(moments)} fetches were killed")


def test_killed_between_the_moves_of_a_publication(cloud, process):
    assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
    old = cloud.served()
    change(cloud)
    killed = process.fetch(cloud.server.url, cloud.directory, die_before_move_to=str(cloud.paths.folder))
    assert killed["status"] == -9
    assert not cloud.paths.folder.exists()
    cloud.server.behavior.api_keys = frozenset()  # the repair needs no LangSmith
    failed = process.fetch(cloud.server.url, cloud.directory)
    assert failed["status"] == 1
    cloud.server.behavior.api_keys = frozenset({cloud.settings.api_key})
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "updated"
    assert cloud.published() == old | cloud.served()
    assert not cloud.paths.retired.exists()


def test_a_file_that_the_system_takes_only_in_part(cloud, process):
    """A limit of file sizes acts like a quota: the first write is cut short, the next one fails."""
    big = cloud.put(START + 1, inputs={"text": "x" * 3_000_000})
    failed = process.fetch(cloud.server.url, cloud.directory, page_size=PAGE, largest_file=2_000_000)
    assert failed["status"] == 1
    assert "Free space" in failed["error"]
    assert not cloud.paths.folder.exists()
    assert len(list((cloud.paths.staging / "runs").iterdir())) >= RUNS - PAGE
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "created"
    assert cloud.published()[big] == cloud.served()[big]
    assert cloud.published() == cloud.served()


def test_a_full_disk(cloud, process):
    assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
    before = cloud.published()
    photo = photograph(cloud.paths.folder)
    for number in range(40):
        cloud.put(START + number, inputs={"text": "x" * 100_000})
    with limited(cloud.directory / "data", 2_000_000) as limit:
        failed = process.fetch(cloud.server.url, cloud.directory, page_size=PAGE, **limit)
        assert failed["status"] == 1
        assert "Free space" in failed["error"]
        if cloud.paths.folder.exists():  # not where the small disk lies over it
            assert photograph(cloud.paths.folder) == photo
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "updated"
    assert cloud.published() == before | cloud.served()


@contextlib.contextmanager
def limited(directory: Path, size: int) -> Generator[dict[str, int]]:
    """A disk of so many bytes under `directory`; where the user may mount none, files may not be larger than few."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    if not mounted:
        yield {"largest_file": 50_000}
        return
    try:
        yield {}
    finally:
        subprocess.run(["umount", str(directory)], check=True)
