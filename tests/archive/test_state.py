"""The state of a day: what is certain of a damaged one is kept, and nothing counts as new in silence."""

from __future__ import annotations

import pytest
from day_fixtures import day_paths, fill, run

from lse_archive.errors import ArchiveError
from lse_archive.folder.contents import ensure_manifest
from lse_archive.folder.locks import day_lock
from lse_archive.folder.state import DayState, clear_verified, read_state, update_state
from lse_archive.layout import DayPaths


@pytest.fixture
def paths(tmp_path) -> DayPaths:
    """A day whose completeness was proven, and whose places agreed."""
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1))
    content = ensure_manifest(paths).content_sha256
    update_state(
        paths, last_fetched_at="2026-01-03T02:00:00Z", count_check="equal", proven_content=content, verified_at="now"
    )
    return paths


def damage(paths: DayPaths) -> bytes:
    """Makes the file unreadable after its proof, as a bad sector would."""
    damaged = paths.state.read_bytes().replace(b'"verified_at": "now"', b'"verified_at": \x00\x00\x00')
    paths.state.write_bytes(damaged)
    return damaged


def test_a_damaged_state_keeps_the_proof_of_the_content_that_the_day_has(paths, caplog):
    proven = read_state(paths).proven_content
    damaged = damage(paths)
    assert read_state(paths) == DayState(count_check="equal", proven_content=proven)
    assert "is damaged" in caplog.text
    assert paths.state.read_bytes() == damaged  # only a writer repairs it
    with day_lock(paths):
        pass
    assert paths.state.with_name(f"{paths.state.name}.damaged").read_bytes() == damaged
    caplog.clear()
    assert update_state(paths, served_runs=1).proven_content == proven
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("proof", "changed", "verdict"),
    [("equal", False, "proven"), ("equal", True, "not_provable"), ("unproven", False, "not_provable")],
)
def test_the_mark_of_an_older_version_is_read_as_a_verdict(paths, proof, changed, verdict):
    update_state(paths, verdict=None, count_check=proof)
    assert b'"verdict": null' in paths.state.read_bytes()
    if changed:  # since the count
        fill(paths.folder, run(2))
        for name in ("_summary.json", "_sha256sums.txt"):
            (paths.folder / name).unlink()
        ensure_manifest(paths)
    paths.state.write_bytes(paths.state.read_bytes().replace(b'  "verdict": null,\n', b""))
    assert read_state(paths).verdict == verdict
    clear_verified(paths)
    assert (read_state(paths).verified_at, read_state(paths).verdict) == (None, None)


def test_a_state_with_a_time_that_is_none_is_damaged(paths):
    paths.state.write_text(paths.state.read_text().replace("2026-01-03T02:00:00Z", "yesterday"))
    assert read_state(paths).last_fetched_at is None
    assert read_state(paths).count_check == "equal"


def test_a_damaged_state_proves_no_other_content(paths):
    damage(paths)
    fill(paths.folder, run(2))
    for name in ("_summary.json", "_sha256sums.txt"):
        (paths.folder / name).unlink()
    ensure_manifest(paths)
    assert read_state(paths) == DayState()


@pytest.mark.parametrize("content", [b"", b"{", b'{"proof": 3}', b"\xff\xfe", b'{"proof": "\xff"}'])
def test_an_unreadable_state_is_kept_beside_the_new_one(paths, content):
    paths.state.write_bytes(content)
    with day_lock(paths):
        assert read_state(paths) == DayState()
    assert paths.state.with_name(f"{paths.state.name}.damaged").read_bytes() == content


def test_a_state_that_cannot_be_written_says_that_the_work_before_it_is_done(paths, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lse_archive.files.os.fsync", full)
    with pytest.raises(ArchiveError, match=r"the state of chat .* cannot be written.* What was done before is done"):
        update_state(paths, served_runs=1)
