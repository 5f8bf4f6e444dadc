"""The union of served and published runs, for any history of a day."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from day_fixtures import START, day_paths, fill, run, run_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lse_archive.fetch.source import Page
from lse_archive.fetch.staging import Staging
from lse_archive.fetch.union import Union, unite
from lse_archive.folder.contents import ensure_manifest, is_as_recorded
from lse_archive.folder.manifest import write_manifest
from lse_archive.folder.publish import recover
from lse_archive.layout import DayPaths
from lse_archive.runs.header import read_header

# The content version of each served run.
SERVED = st.dictionaries(st.integers(0, 9), st.integers(0, 2), max_size=10)


def document(number: int, version: int) -> bytes:
    return run(number, START + number, version=version, share_url=f"https://x/{version}")


def publish(paths: DayPaths, served: dict[int, int], *, allow_shrink: bool = False) -> tuple[int, int]:
    """Publishes runs without network and without fsync, which is too slow for a property test."""
    with contextlib.closing(Staging(paths)) as staging:
        staging.resume(api_version="v2", project_id="p")
        staging.add(Page([document(number, version) for number, version in sorted(served.items(), reverse=True)]))
        union = Union()
        if paths.folder.exists():
            with staging.transaction():
                union = unite(paths, staging, allow_shrink=allow_shrink)
            shutil.rmtree(paths.folder)
        write_manifest(staging.runs_folder, _summary(paths), staging.sums())
        staging.runs_folder.rename(paths.folder)
        staging.discard()
    assert is_as_recorded(paths.folder)
    return union.changed, union.unchanged


def _summary(paths: DayPaths):
    from lse_archive.folder.manifest import Tally

    return Tally(paths.day).summary(paths.project, "hash")


def content(paths: DayPaths) -> dict[str, bytes]:
    return {
        read_header(path.read_bytes()).run_id: path.read_bytes()
        for path in paths.folder.glob("*.json")
        if not path.name.startswith("_")
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SERVED, min_size=1, max_size=4))
def test_the_union_never_shrinks_and_has_the_newest_state(history):
    with tempfile.TemporaryDirectory() as directory:
        paths = day_paths(Path(directory))
        known: dict[int, int] = {}
        for served in history:
            changed, unchanged = publish(paths, served)
            assert changed == sum(known.get(number, version) != version for number, version in served.items())
            assert unchanged == sum(known.get(number) == version for number, version in served.items())
            known |= served
            assert content(paths) == {run_id(number): document(number, version) for number, version in known.items()}


def test_an_older_folder_keeps_its_file_names(tmp_path):
    paths = day_paths(tmp_path)
    fill(paths.folder, document(1, 0), document(2, 0))
    (paths.folder / "by-hand.json").write_bytes(b'{"trace":' + document(3, 0) + b"}")
    ensure_manifest(paths)
    assert publish(paths, {1: 0, 3: 0}) == (0, 2)
    assert (paths.folder / "by-hand.json").exists()
    assert len(list(paths.folder.glob("0*.json"))) == 2
    assert publish(paths, {3: 1}) == (1, 0)
    assert not (paths.folder / "by-hand.json").exists()
    assert publish(paths, {2: 1}, allow_shrink=True) == (1, 0)
    assert content(paths) == {run_id(2): document(2, 1)}


def test_published_runs_replace_older_ones_of_an_abandoned_fetch(tmp_path):
    paths = day_paths(tmp_path)
    with contextlib.closing(Staging(paths)) as abandoned:
        abandoned.resume(api_version="v2", project_id="p", now=0.0)
        abandoned.add(Page([document(2, 0), document(1, 0)]))
    fill(paths.folder, document(1, 1))
    publish(paths, {})
    assert content(paths) == {run_id(1): document(1, 1), run_id(2): document(2, 0)}
    recover(paths)


def test_a_run_that_has_ended_in_an_abandoned_fetch_replaces_the_published_pending_one(tmp_path):
    paths = day_paths(tmp_path)
    ended, pending = run(1, end_time="2026-01-02T00:00:01Z"), run(1)
    with contextlib.closing(Staging(paths)) as abandoned:
        abandoned.resume(api_version="v2", project_id="p", now=0.0)
        abandoned.add(Page([run(2), ended]))
    fill(paths.folder, pending, run(2, end_time="2026-01-02T00:00:01Z"))
    assert publish(paths, {}) == (0, 0)
    assert content(paths) == {run_id(1): ended, run_id(2): run(2, end_time="2026-01-02T00:00:01Z")}
