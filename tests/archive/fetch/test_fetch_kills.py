"""Fetches that are killed or run out of disk space: no partial day is published, and the next fetch completes it."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_process import FetchProcess
from langsmith_fixtures import START, Cloud, file_states, local_cloud

pytestmark = pytest.mark.slow

RUNS = 60
PAGE = 10
KILLS = 10


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
    """Changes, deletes and adds a run of an archived day."""
    changed, gone, *_ = sorted(cloud.served())
    cloud.store.change(changed, total_tokens=123_456)
    cloud.store.delete([gone])
    cloud.put(START + 12_345)


@pytest.mark.parametrize("existed", [False, True])
def test_a_fetch_killed_at_random_events_is_completed_by_the_next(cloud, process, existed):
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
    complete = old | cloud.served()
    events = process.fetch(cloud.server.url, directory(names[0]), page_size=PAGE)["events"]
    assert events > RUNS
    kill_points = random.Random(f"kill {existed}").sample(range(1, events), len(names) - 1)
    kills = 0
    for name, kill_point in zip(names[1:], kill_points, strict=True):
        where = directory(name)
        killed = process.fetch(cloud.server.url, where, page_size=PAGE, kill_at=kill_point)
        if killed["status"] == 0:  # this fetch had fewer events and ended before its kill point
            assert cloud.published() == complete
            continue
        assert killed["status"] == -9
        assert cloud.published() in ({}, old, complete)
        staged = cloud.paths.staging / "runs"
        asked = len(cloud.queries())
        missing = len(cloud.served()) - (len(list(staged.iterdir())) if staged.exists() else 0)
        result = process.fetch(cloud.server.url, where, page_size=PAGE)
        assert result["status"] == 0
        assert cloud.published() == complete
        assert not cloud.paths.staging.exists()
        assert not cloud.paths.retired.exists()
        again = sum(entry.details["runs"] for entry in cloud.queries()[asked:])
        assert again <= max(missing, 0) + 5 * PAGE or again == len(cloud.served())
        kills += 1
        if kills == KILLS:
            return
    pytest.fail(f"only {kills} of {len(kill_points)} fetches were killed")


def test_a_fetch_killed_while_it_downloads_attachments_is_completed_by_the_next(cloud, process):
    sent = {}
    for number, run_id in enumerate(sorted(cloud.served())[:20]):
        for name, content in (("own", b"%d" % number * 3000), ("same", b"the same")):
            cloud.attach(run_id, name, content)
            sent[run_id, name] = content
    published = cloud.served()

    def place(name: str) -> Path:
        where = cloud.directory / name
        cloud.paths = replace(cloud.paths, data_dir=where / "data", archive_dir=where / "archives")
        return where

    events = process.fetch(cloud.server.url, place("whole"), page_size=PAGE)["events"]
    assert cloud.attachments() == sent
    kills = 0
    for number, kill_point in enumerate(random.Random("attachments").sample(range(1, events), 20)):
        where = place(f"{number}")
        kills += process.fetch(cloud.server.url, where, page_size=PAGE, kill_at=kill_point)["status"] == -9
        assert (cloud.published(), cloud.attachments()) in (({}, {}), (published, sent))
        assert process.fetch(cloud.server.url, where, page_size=PAGE)["status"] == 0
        assert (cloud.published(), cloud.attachments()) == (published, sent)
        assert len(list(cloud.paths.folder.glob("_attachment_*"))) == 21
    assert kills > 10


def test_a_kill_after_the_exchange_of_a_publication_is_repaired(cloud, process):
    assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
    old = cloud.served()
    change(cloud)
    killed = process.fetch(cloud.server.url, cloud.directory, kill_before_move_of=str(cloud.paths.staging / "runs"))
    assert killed["status"] == -9
    assert cloud.published() == old | cloud.served()
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "unchanged"
    assert cloud.published() == old | cloud.served()
    assert not cloud.paths.staging.exists()
    assert not list(cloud.paths.lock.parent.glob("*.old*"))


def test_a_kill_between_the_moves_of_a_publication_is_repaired(cloud, process):
    assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
    old = cloud.served()
    change(cloud)
    order = {"two_renames": True, "kill_before_move_to": str(cloud.paths.folder)}
    killed = process.fetch(cloud.server.url, cloud.directory, **order)
    assert killed["status"] == -9
    assert not cloud.paths.folder.exists()
    cloud.server.behavior.api_keys = frozenset()  # the repair needs no LangSmith
    failed = process.fetch(cloud.server.url, cloud.directory)
    assert failed["status"] == 1
    cloud.server.behavior.api_keys = frozenset({cloud.settings.api_key})
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "updated"
    assert cloud.published() == old | cloud.served()
    assert not cloud.paths.retired.exists()


def test_a_partly_written_file_is_not_published(cloud, process):
    """A file size limit acts like a quota: the first write is partial, the next one fails."""
    big = cloud.put(START + 1, inputs={"text": "x" * 3_000_000})
    failed = process.fetch(cloud.server.url, cloud.directory, page_size=PAGE, largest_file=2_000_000)
    assert failed["status"] == 1
    assert "Free space" in failed["error"]
    assert not cloud.paths.folder.exists()
    assert len(list((cloud.paths.staging / "runs").iterdir())) >= RUNS - 2 * PAGE
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "created"
    assert cloud.published()[big] == cloud.served()[big]
    assert cloud.published() == cloud.served()


def test_a_full_disk(cloud, process):
    assert process.fetch(cloud.server.url, cloud.directory)["status"] == 0
    before = cloud.published()
    states = file_states(cloud.paths.folder)
    for number in range(40):
        cloud.put(START + number, inputs={"text": "x" * 100_000})
    with limited(cloud.directory / "data", 2_000_000) as limit:
        failed = process.fetch(cloud.server.url, cloud.directory, page_size=PAGE, **limit)
        assert failed["status"] == 1
        assert "Free space" in failed["error"]
        if cloud.paths.folder.exists():  # not where the small disk is mounted over it
            assert file_states(cloud.paths.folder) == states
    assert process.fetch(cloud.server.url, cloud.directory)["outcome"] == "updated"
    assert cloud.published() == before | cloud.served()


@contextlib.contextmanager
def limited(directory: Path, size: int) -> Generator[dict[str, int]]:
    """Mounts a disk of this size, or yields a file size limit if the user may not mount."""
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
