"""The records beside a day's runs: feedback and the list of attachments, whatever is in their lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from database_fixtures import RunFolder, attachment, feedback, feedback_id, run_id

from lse_archive.errors import ArchiveError
from lse_archive.folder.manifest import read_sums
from lse_archive.folder.records import FEEDBACK, InvalidRecord, Record, read_records

DEEP = b"[" * 5000 + b"]" * 5000


def test_a_folder_without_records_has_none(run_folder: RunFolder) -> None:
    assert list(read_records(run_folder.path, "feedback")) == []
    assert list(read_records(run_folder.path, "attachments")) == []


def test_records_are_read_exactly(run_folder: RunFolder) -> None:
    odd = (
        b'{"score": -0.0, "id": "'
        + feedback_id(2).upper().encode()
        + b'", "comment": "\\ud800 \\u0000 \xff", "x": NaN}'
    )
    deep = b'{"id":"' + feedback_id(3).encode() + b'","value":' + DEEP + b"}"
    run_folder.write_feedback(feedback(1, run=0), odd, deep)

    records = list(read_records(run_folder.path, "feedback"))

    assert [record.key for record in records if isinstance(record, Record)] == [feedback_id(n) for n in (1, 2, 3)]
    assert [record.document for record in records[1:] if isinstance(record, Record)] == [odd, deep]


def test_an_invalid_line_is_named_and_costs_no_other(run_folder: RunFolder) -> None:
    lines = [
        b"{",
        b"3",
        b'"x"',
        b"[1]",
        b'{"id": "x"}, {"id": "y"}',
        b"",
        b'{"id": "' + feedback_id(9).encode() + b'"',
    ]
    run_folder.write_feedback(feedback(1), *lines, feedback(2))

    found = list(read_records(run_folder.path, "feedback"))

    assert [record.key for record in found if isinstance(record, Record)] == [feedback_id(1), feedback_id(2)]
    invalid = {record.place: record.reason for record in found if isinstance(record, InvalidRecord)}
    assert list(invalid) == [f"{FEEDBACK} line {number}" for number in (2, 3, 4, 5, 6, 8)]
    assert invalid[f"{FEEDBACK} line 3"] == "it is not JSON (no single object)"


def test_a_record_without_a_uuid_has_a_key_that_stays_the_same_when_it_is_marked_as_deleted(
    run_folder: RunFolder,
) -> None:
    odd = [
        b'{"id":"x","score":1}',
        b'{"id":"x","score":2}',
        b'{"id":"\\ud800"}',
        b'{"score":1}',
        b'{"extra":{"id":7}}',
        b"{}",
    ]
    run_folder.write_feedback(*odd)
    keys = [record.key for record in read_records(run_folder.path, "feedback") if isinstance(record, Record)]
    marked = [line[:-1] + b',"lse_deleted_at":"2026-02-03T00:00:00Z"}' for line in odd[:-1]]

    run_folder.write_feedback(*marked, b'{"lse_deleted_at":"2026-02-03T00:00:00Z"}')

    assert len(set(keys)) == len(odd) - 1
    assert [record.key for record in read_records(run_folder.path, "feedback") if isinstance(record, Record)] == keys


def test_a_record_in_both_files_is_read_once_from_that_of_the_runs(run_folder: RunFolder) -> None:
    run_folder.write_feedback(feedback(1, run=0), feedback(1, run=1))
    run_folder.write_feedback(feedback(1, comment="apart"), feedback(2), apart=True)

    records = [json.loads(record.document) for record in read_records(run_folder.path, "feedback") if record]  # ty: ignore

    assert [(record["id"], record["run_id"]) for record in records] == [
        (feedback_id(1), run_id(0)),
        (feedback_id(2), None),
    ]


def test_a_file_that_differs_from_its_checksum_is_not_read(run_folder: RunFolder) -> None:
    path = run_folder.write_feedback(feedback(1))
    run_folder.write_feedback(feedback(2), apart=True)
    run_folder.record()
    path.write_bytes(path.read_bytes().replace(b"1.0", b"0.0"))

    found = list(read_records(run_folder.path, "feedback", read_sums(run_folder.path)))

    assert found[0] == InvalidRecord(FEEDBACK, "it differs from _sha256sums.txt")
    assert [record.key for record in found[1:] if isinstance(record, Record)] == [feedback_id(2)]


def test_attachments_have_a_key_of_run_and_name(run_folder: RunFolder) -> None:
    names = ["a.png", "", "../../etc/passwd", "a\x00b", "a\ufffdb", "\ud800", "n" * 70_000, '"},{"']
    entries = [attachment(run, name) for run in (0, 1) for name in names]
    path = run_folder.write_attachments(*entries)

    records = [record for record in read_records(run_folder.path, "attachments") if isinstance(record, Record)]

    assert [json.loads(record.document) for record in records] == entries
    assert len({record.key for record in records}) == len(entries)
    content = path.read_bytes().replace(b'"name": ""', b'"nom": ""', 1)
    path.write_bytes(content)
    assert [one.reason for one in read_records(run_folder.path, "attachments") if isinstance(one, InvalidRecord)] == [
        "it has no run_id or no name"
    ]


def test_a_file_that_cannot_be_read_is_an_error(run_folder: RunFolder) -> None:
    Path(run_folder.path / FEEDBACK).mkdir()
    with pytest.raises(ArchiveError, match=r"cannot read .*_feedback\.jsonl: Is a directory"):
        list(read_records(run_folder.path, "feedback"))
