"""The manifest: numbers of the day, and checksums that `sha256sum -c` accepts."""

import subprocess
from datetime import date
from pathlib import Path

import pytest
from day_fixtures import DAY, END, START, run, run_id
from hypothesis import given
from hypothesis import strategies as st

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.manifest import (
    SUMMARY,
    SUMS,
    Tally,
    content_hash,
    content_sums,
    parse_sums,
    read_summary,
    read_sums,
    sort_key,
    sums_lines,
    write_manifest,
)
from lse_archive.runs.header import read_header

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=30)


def tally(*runs: bytes) -> Tally:
    result = Tally(DAY)
    for document in runs:
        result.add(read_header(document), len(document))
    return result


@given(st.dictionaries(NAMES, st.binary(min_size=32, max_size=32), max_size=6))
def test_checksums_are_read_back_unchanged(sums):
    ordered = sorted(sums.items(), key=lambda item: sort_key(item[0]))
    found = parse_sums(b"".join(sums_lines(b"{}", ordered)), Path("x"))
    assert {name: digest for name, digest in found.items() if name != SUMMARY} == {
        name: digest for name, digest in sums.items() if name != SUMMARY
    }


@pytest.mark.usefixtures("sha256sum")
@pytest.mark.parametrize("name", ["a.json", "ö b.json", "back\\slash.json", "new\nline.json", "\udcff.json"])
def test_sha256sum_accepts_the_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    sums = [(name, bytes.fromhex("2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"))]
    write_manifest(tmp_path, tally().summary("chat", content_hash(sums)), sums)
    assert read_sums(tmp_path) is not None
    subprocess.run(["sha256sum", "--strict", "--status", "-c", SUMS], cwd=tmp_path, check=True)
    (tmp_path / name).write_bytes(b"y")
    assert subprocess.run(["sha256sum", "--status", "-c", SUMS], cwd=tmp_path, check=False).returncode == 1


def test_the_content_hash_of_a_day_depends_only_on_its_files():
    one = {SUMMARY: b"1" * 32, SUMS: b"2" * 32, "b.json": b"b" * 32, "a.json": b"a" * 32}
    other = {"a.json": b"a" * 32, "b.json": b"b" * 32, SUMMARY: b"9" * 32}
    assert content_hash(content_sums(one)) == content_hash(content_sums(other))
    assert content_hash(content_sums({**one, "b.json": b"c" * 32})) != content_hash(content_sums(one))


def test_the_summary_counts_the_day():
    summary = tally(
        run(1, trace_id=run_id(1), is_root=True, status="ERROR", total_tokens=3, total_cost=0.1, end_time="2026-01-02"),
        run(2, trace_id=run_id(1), parent_run_ids=[run_id(1)], total_cost="0.2", total_tokens=4),
        run(3, END - 1, end_time="2026-01-03T00:00:00Z", dotted_order=f"20260102T235959999999Z{run_id(3)}"),
        run(4, START, trace_id=run_id(9), parent_run_id=run_id(9), dotted_order=f"20260101T235959999999Z{run_id(9)}"),
    ).summary("chat", "hash", ["odd.json"], langsmith_count=5, api="v2")
    assert (summary.project, summary.date, summary.runs, summary.traces) == ("chat", "2026-01-02", 4, 3)
    assert (summary.root_runs, summary.errors, summary.pending, summary.tokens, summary.cost) == (2, 1, 2, 7, 0.3)
    assert summary.continued_from_previous_day == [run_id(9)]
    assert summary.continued_into_next_day == [run_id(3)]
    assert summary.unfit_files == ["odd.json"]


@given(st.permutations([run(number, total_cost=0.1 * number, total_tokens=number) for number in range(6)]))
def test_the_order_of_runs_does_not_change_the_summary(runs):
    assert tally(*runs).summary("p", "h") == tally(*sorted(runs)).summary("p", "h")


def test_the_manifest_is_read_back_and_may_be_missing(tmp_path):
    assert read_summary(tmp_path) is None
    assert read_sums(tmp_path) is None
    summary = tally(run(1)).summary("chat", "hash")
    write_manifest(tmp_path, summary, [])
    assert read_summary(tmp_path) == summary
    assert list(read_sums(tmp_path) or {}) == [SUMMARY]


def test_a_damaged_manifest_is_named(tmp_path):
    write_manifest(tmp_path, tally().summary("chat", "hash"), [])
    for content in (b'{"project":', b'{"project":"\xff"}'):
        (tmp_path / SUMMARY).write_bytes(content)
        with pytest.raises(CorruptArchiveError, match=SUMMARY):
            read_summary(tmp_path)
    for line in (b"zz  a.json", b"00", b"\xff\xfe"):
        (tmp_path / SUMS).write_bytes(line)
        with pytest.raises(CorruptArchiveError, match=SUMS):
            read_sums(tmp_path)


def test_a_run_of_another_day_is_still_counted():
    header = read_header(run(1, START))
    other = Tally(date(2026, 1, 1))
    other.add(header, 1)
    assert other.summary("p", "h").runs == 1
