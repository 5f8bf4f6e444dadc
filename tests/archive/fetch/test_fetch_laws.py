"""A second fetch of a day: it keeps every run, and writes nothing if nothing changed."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from langsmith_fixtures import PROJECT, START, Cloud, file_states, local_cloud

from lse_archive.days import format_time
from lse_archive.errors import AccessError, CorruptArchiveError
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.folder.reader import run_file_name
from lse_archive.folder.state import read_state
from lse_archive.runs.header import read_header

DIALECTS = ("v2", "v1")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


def test_a_fetch_without_changes_writes_nothing(cloud):
    cloud.generate(50)
    cloud.fetch()
    before = file_states(cloud.paths.folder)
    result = cloud.fetch(page_size=7)
    assert (result.outcome, result.unchanged, result.added) == ("unchanged", 50, 0)
    assert file_states(cloud.paths.folder) == before
    assert read_state(cloud.paths).last_fetched_at is not None


def test_an_unchanged_day_is_read_once(cloud):
    """Counts how often each published file is opened for reading."""
    cloud.generate(50)
    cloud.fetch()
    (cloud.paths.folder / "notes.txt").write_bytes(b"by hand")
    assert cloud.fetch().outcome == "updated"
    opened: Counter[str] = Counter()
    recording = True

    def record(event: str, arguments: tuple[object, ...]) -> None:
        if recording and event == "open":
            path, _, flags = arguments
            if isinstance(path, str | Path) and isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY:
                opened[Path(path).name] += 1

    sys.addaudithook(record)
    result = cloud.fetch()
    recording = False
    assert result.outcome == "unchanged"
    names = {path.name for path in cloud.paths.folder.iterdir()} - {SUMMARY, SUMS}
    assert len(names) == 51
    assert {name: opened[name] for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("change", ["a file more", "another summary", "no checksums"])
def test_a_folder_that_differs_from_its_checksums_is_published_again(cloud, change):
    cloud.generate(5)
    cloud.fetch()
    before = file_states(cloud.paths.folder)
    if change == "a file more":
        (cloud.paths.folder / "notes.txt").write_bytes(b"by hand")
    elif change == "another summary":
        summary = cloud.paths.folder / SUMMARY
        summary.write_bytes(summary.read_bytes() + b"\n")
    else:
        (cloud.paths.folder / SUMS).unlink()
    assert cloud.fetch().outcome == "updated"
    assert is_as_recorded(cloud.paths.folder)
    assert file_states(cloud.paths.folder) != before
    assert cloud.fetch().outcome == "unchanged"


def damage_fewer(cloud: Cloud) -> None:
    cloud.store.delete(list(cloud.served())[:20])


def damage_none(cloud: Cloud) -> None:
    cloud.store.delete(cloud.served())


def damage_key(cloud: Cloud) -> None:
    cloud.server.behavior.api_keys = frozenset({"another"})


def damage_name(cloud: Cloud) -> None:
    cloud.store.rename_project(PROJECT, "renamed")


def damage_project(cloud: Cloud) -> None:
    cloud.store.delete_project(PROJECT)


@pytest.mark.parametrize("damage", [damage_fewer, damage_none, damage_key, damage_name, damage_project])
def test_runs_deleted_in_langsmith_are_kept(cloud, damage):
    cloud.generate(50)
    cloud.fetch()
    before = file_states(cloud.paths.folder)
    damage(cloud)
    if damage in (damage_fewer, damage_none):
        result = cloud.fetch()
        assert (result.outcome, result.runs, result.no_longer_served) == ("unchanged", 50, 50 - len(cloud.served()))
        assert len(read_state(cloud.paths).no_longer_served) == result.no_longer_served
    else:
        with pytest.raises(AccessError):
            cloud.fetch()
    assert file_states(cloud.paths.folder) == before


def test_the_union_is_published(cloud):
    cloud.generate(30)
    cloud.fetch()
    first = cloud.served()
    gone, changed = sorted(first)[:2]
    cloud.store.delete([gone])
    cloud.store.change(changed, total_tokens=999_999)
    added = cloud.put(START + 77)
    result = cloud.fetch(page_size=7)
    assert (result.outcome, result.runs) == ("updated", 31)
    assert (result.added, result.changed, result.unchanged, result.no_longer_served) == (1, 1, 28, 1)
    assert cloud.published() == first | cloud.served()
    assert added in cloud.published()
    assert read_state(cloud.paths).no_longer_served == [gone]
    # The run is served again: only the mark changes.
    before = file_states(cloud.paths.folder)
    cloud.store.put_raw(PROJECT, first[gone])
    assert cloud.fetch().no_longer_served == 0
    assert file_states(cloud.paths.folder) == before


def test_runs_are_removed_only_with_allow_shrink(cloud):
    cloud.generate(30)
    cloud.fetch()
    cloud.store.delete(list(cloud.served())[:10])
    assert cloud.fetch().runs == 30
    result = cloud.fetch(allow_shrink=True)
    assert (result.outcome, result.runs, result.no_longer_served) == ("updated", 20, 0)
    assert cloud.published() == cloud.served()


def test_key_order_and_signed_links_are_no_change(cloud):
    run_id = cloud.put(START + 1, inputs={"a": 1.0, "b": [1]}, share_url="https://x/1")
    cloud.fetch()
    before = file_states(cloud.paths.folder)
    for same in (b'{"share_url":"https://x/2","inputs":{"b":[1],"a":1.0},', b'{"inputs": {"a":1.0, "b":[1]},'):
        rest = b'"run_type":"CHAIN","status":"SUCCESS","start_time":"%s","id":"%s"}'
        cloud.store.put_raw(PROJECT, same + rest % (format_time(START + 1).encode(), run_id.encode()))
        assert cloud.fetch().unchanged == 1
    assert file_states(cloud.paths.folder) == before
    other = b'{"inputs":{"b":[1],"a":1.00},' + rest % (format_time(START + 1).encode(), run_id.encode())
    cloud.store.put_raw(PROJECT, other)
    assert cloud.fetch().changed == 1


def test_folders_of_older_tools_are_adopted(cloud):
    runs = {cloud.put(START + number): START + number for number in range(4)}
    same, wrapped, changed, fresh = runs
    served = cloud.served()
    folder = cloud.paths.folder
    folder.mkdir(parents=True)
    (folder / "direct.json").write_bytes(served[same])
    (folder / "wrapped.json").write_bytes(b'{"trace": ' + served[wrapped] + b', "exported": true}')
    (folder / "changed.json").write_bytes(served[changed].replace(b"SUCCESS", b"PENDING"))
    (folder / "old.json").write_bytes(b'{"id":"%s","start_time":"2026-01-02T05:00:00Z"}' % (b"0" * 31 + b"1"))
    (folder / "broken.json").write_bytes(b"{")
    (folder / "notes.txt").write_bytes(b"by hand")
    result = cloud.fetch()
    assert (result.added, result.changed, result.unchanged, result.no_longer_served) == (1, 1, 2, 1)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"direct.json", "wrapped.json", "old.json", "broken.json", "notes.txt"}
    assert "changed.json" not in names
    assert cloud.summary().unfit_files == ["broken.json", "notes.txt"]
    assert any(name.startswith(fresh) for name in names)
    before = file_states(folder)
    assert cloud.fetch().outcome == "unchanged"
    assert file_states(folder) == before


@pytest.mark.parametrize("links", [True, False])
def test_files_with_the_names_of_fetched_runs_are_kept_under_other_names(cloud, monkeypatch, links):
    ids = [cloud.put(START + number) for number in range(2)]
    other = b'{"id":"00000000-0000-4000-8000-000000000007","start_time":"2026-01-02T05:00:00Z"}'
    folder = cloud.paths.folder
    folder.mkdir(parents=True)
    for run_id, content in zip(ids, (b"{", other), strict=True):
        name = run_file_name(read_header(cloud.served()[run_id]))
        (folder / name).write_bytes(content)
    if not links:
        monkeypatch.setattr(os, "link", _refuse_links)
    result = cloud.fetch()
    assert (result.outcome, result.runs, result.no_longer_served) == ("updated", 3, 1)
    published = cloud.published()
    assert {run_id: published[run_id] for run_id in ids} == cloud.served()
    assert published["00000000-0000-4000-8000-000000000007"] == other
    assert list(cloud.unreadable().values()) == [b"{"]
    assert cloud.fetch().outcome == "unchanged"


def _refuse_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no links here")


def damage_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"SUCCESS", b"PENDING"))


def damage_id(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"id":"0', b'"id":"1'))


def damage_json(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("damage", [damage_text, damage_id, damage_json, Path.unlink])
def test_a_damaged_file_is_repaired_while_langsmith_serves_its_run(cloud, damage):
    for number in range(4):
        cloud.put(START + number, name="x" * 50)
    cloud.fetch()
    before = cloud.published()
    damage(next(cloud.paths.folder.glob("0*.json")))
    assert cloud.fetch().outcome == "updated"
    assert cloud.published() == before


@pytest.mark.parametrize("damage", [damage_text, damage_id, damage_json, Path.unlink])
def test_a_damaged_file_whose_run_is_no_longer_served_stops_the_fetch(cloud, damage):
    for number in range(4):
        cloud.put(START + number, name="x" * 50)
    cloud.fetch()
    victim = next(cloud.paths.folder.glob("0*.json"))
    cloud.store.delete([victim.name.partition("_")[0]])
    damage(victim)
    before = file_states(cloud.paths.folder)
    with pytest.raises(CorruptArchiveError, match="damaged or missing"):
        cloud.fetch()
    assert file_states(cloud.paths.folder) == before
    assert cloud.fetch(allow_shrink=True).runs == 3


def test_a_damaged_summary_is_written_again(cloud):
    cloud.generate(5)
    cloud.fetch()
    (cloud.paths.folder / "_summary.json").write_bytes(b"{")
    assert cloud.fetch().outcome == "updated"
    assert cloud.published() == cloud.served()
