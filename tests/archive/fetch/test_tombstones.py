"""A fetch leaves out the runs that were erased on purpose, and proves the day without them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langsmith_fixtures import START, Cloud, local_cloud

from lse_archive.errors import CorruptArchiveError
from lse_archive.fetch.staging import Staging
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.state import read_state
from lse_archive.folder.tombstones import FORGOTTEN, Tombstones, add_tombstones, read_tombstones, tombstone
from lse_demo.faults import Fault, on

WORDS = b"what a person said"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


def put(cloud: Cloud, count: int = 5) -> list[str]:
    """Runs, each with an attachment and a feedback record; those of the first two are of a person."""
    ids = [cloud.put(START + number, name=f"run {number}") for number in range(count)]
    for number, run_id in enumerate(ids):
        # A name is in the journal of the fetch, too.
        cloud.attach(run_id, WORDS.decode() if number < 2 else "file", WORDS if number < 2 else b"a picture")
        comment = WORDS.decode() if number < 2 else "fine"
        cloud.store.feedback.create({"run_id": run_id, "key": "note", "score": 1, "comment": comment})
    return ids


def holds_words(cloud: Cloud) -> list[str]:
    files = [path for path in cloud.directory.rglob("*") if path.is_file()]
    return [str(path.relative_to(cloud.directory)) for path in files if WORDS in path.read_bytes()]


@pytest.mark.parametrize("archived", [False, True])
def test_erased_runs_are_left_out_and_the_others_proven(cloud: Cloud, archived: bool) -> None:
    ids = put(cloud)
    if archived:
        cloud.fetch()
        assert holds_words(cloud)
    before = cloud.published() if archived else {}
    add_tombstones(cloud.paths, Tombstones.of(ids[:2]))
    result = cloud.fetch()
    assert (result.runs, result.forgotten, result.count_check) == (3, 2, "equal")
    assert sorted(cloud.published()) == sorted(ids[2:])
    assert not archived or cloud.published().items() <= before.items()
    assert holds_words(cloud) == []
    assert is_as_recorded(cloud.paths.folder)
    assert (cloud.paths.folder / FORGOTTEN).read_text().split() == sorted(tombstone(run).hex() for run in ids[:2])
    summary = cloud.summary()
    assert (summary.feedback, summary.attachments, summary.unfit_files, summary.incomplete) == (3, 3, [], [])
    assert read_state(cloud.paths).proven_content == summary.content_sha256
    assert cloud.fetch().outcome == "unchanged"
    cloud.paths.tombstones.unlink()  # those in the folder hold, too
    assert cloud.fetch().forgotten == 2


@pytest.mark.parametrize(
    ("deleted", "offset", "verdict"),
    [
        (2, 0, "equal"),  # LangSmith has deleted them
        (1, 0, "equal"),
        (2, 2, "unproven"),  # it may count them still, or count two others that it does not list
        (0, -2, "unproven"),
        (0, 1, "fewer"),
        (0, -3, "more"),
    ],
)
def test_a_count_proves_nothing_if_erased_runs_explain_it(
    cloud: Cloud, deleted: int, offset: int, verdict: str
) -> None:
    ids = [cloud.put(START + number) for number in range(5)]
    add_tombstones(cloud.paths, Tombstones.of(ids[:2]))
    cloud.store.delete(ids[:deleted])
    cloud.server.behavior.stats_offset = offset
    assert cloud.fetch().count_check == verdict


def test_an_interrupted_fetch_holds_nothing_of_them(cloud: Cloud) -> None:
    ids = put(cloud)
    kept = cloud.put(START + 100)
    cloud.server.faults.add(Fault("status", on("GET", "/feedback"), status=403, body=b"{}"))
    with pytest.raises(Exception, match="403"):
        cloud.fetch()
    assert holds_words(cloud)
    add_tombstones(cloud.paths, Tombstones.of(ids[:2]))
    Staging(cloud.paths, tombstones=read_tombstones(cloud.paths)).close()
    assert holds_words(cloud) == []
    staged = {path.name for path in (cloud.paths.staging / "runs").glob("*.json")}
    assert {name.partition("_")[0] for name in staged} == {*ids[2:], kept}
    cloud.store.delete([kept])  # law 1 holds for what is staged
    cloud.server.faults.clear()
    assert cloud.fetch().runs == 4
    assert holds_words(cloud) == []


def test_a_damaged_list_is_an_error_not_an_empty_one(cloud: Cloud) -> None:
    ids = put(cloud)
    add_tombstones(cloud.paths, Tombstones.of(ids[:2]))
    cloud.paths.tombstones.write_text("not a hash\n")
    with pytest.raises(CorruptArchiveError, match="not the sha256 of a run id"):
        cloud.fetch()
    assert not cloud.paths.folder.exists()


def test_bytes_that_are_no_run_belong_to_the_run_they_name() -> None:
    erased = "01980000-0000-7000-8000-000000000001"
    tombstones = Tombstones.of([erased])
    assert tombstones.owner("", f'{{"id": "{erased}", "start'.encode())
    assert tombstones.owner(f"{erased}_20260101T000000000000Z.json", b"")
    assert not tombstones.owner("", f'{{"id":"other","parent_run_id":"{erased}"}}'.encode())
    assert not Tombstones().owner(f"{erased}_2026.json", b"")
