"""A folder of another tool gets a manifest; its files do not change."""

import msgspec
import pytest
from day_fixtures import day_paths, digests, fill, run

from lse_archive.errors import ArchiveError, CorruptArchiveError
from lse_archive.folder.contents import ensure_manifest, is_as_recorded
from lse_archive.folder.manifest import SUMMARY, SUMS, encode_summary, read_sums


def test_a_folder_of_an_older_tool_gets_a_manifest_and_its_files_are_unchanged(tmp_path):
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1), run(2))
    (paths.folder / "broken.json").write_bytes(b"{")
    (paths.folder / "notes.txt").write_bytes(b"by hand")
    before = digests(paths.folder)
    summary = ensure_manifest(paths)
    assert (summary.runs, summary.unfit_files, summary.api) == (2, ["broken.json", "notes.txt"], None)
    after = digests(paths.folder)
    del after[SUMS]
    assert after == before
    recorded = read_sums(paths.folder)
    assert recorded is not None
    assert {name: value.hex() for name, value in recorded.items() if name != SUMMARY} == before
    assert ensure_manifest(paths) == summary


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ArchiveError, match="has no run files"):
        ensure_manifest(day_paths(tmp_path))


def test_a_missing_summary_is_written_again_only_if_the_files_are_unchanged(tmp_path):
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1), run(2))
    summary = ensure_manifest(paths)
    (paths.folder / SUMMARY).unlink()
    assert ensure_manifest(paths) == summary
    (paths.folder / SUMMARY).unlink()
    fill(paths.folder, run(1, name="changed"))
    with pytest.raises(CorruptArchiveError, match="differs from its"):
        ensure_manifest(paths)
    (paths.folder / SUMS).unlink()
    assert ensure_manifest(paths).runs == 2


def test_missing_checksums_are_written_again_for_the_same_summary_only_if_the_files_are_unchanged(tmp_path):
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1), run(2))
    summary = msgspec.structs.replace(ensure_manifest(paths), incomplete=["x"], langsmith_count=3, api="v2", tool="t")
    (paths.folder / SUMMARY).write_bytes(encode_summary(summary))
    (paths.folder / SUMS).unlink()
    assert ensure_manifest(paths) == summary
    assert is_as_recorded(paths.folder)
    assert SUMMARY in (read_sums(paths.folder) or {})
    (paths.folder / SUMS).unlink()
    fill(paths.folder, run(1, name="changed"))
    with pytest.raises(CorruptArchiveError, match="differs from its"):
        ensure_manifest(paths)
