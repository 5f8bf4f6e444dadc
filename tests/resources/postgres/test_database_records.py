"""Feedback and attachments: their rows follow the files, and every difference is reported and repaired."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, attachment, feedback, feedback_id, run_id, trace_id
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from lse_archive.errors import UsageError
from lse_archive.folder.records import Record, read_records
from lse_archive.results import VerificationResult
from lse_operations.checks import check_rows
from lse_resources.postgres.analysis.export import export_facts
from lse_resources.postgres.analysis.frames import (
    Runs,
    load_attachments_from_files,
    load_feedback_from_files,
    load_runs_from_files,
)
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import PartlyLoadedError, load_day
from lse_resources.postgres.load.rollback import rollback_load
from lse_resources.postgres.verify.day import verify_day

MORNING = datetime(2026, 2, 1, 8, tzinfo=UTC)


def select(database: Database, statement: str) -> list[tuple[Any, ...]]:
    return Runs(database).query(statement)[1]


@pytest.fixture
def filled(run_folder: RunFolder) -> RunFolder:
    """Four runs, four feedback records and three attachments."""
    run_folder.fill(4)
    run_folder.write_feedback(
        feedback(1, run=0),
        feedback(2, run=0, score=False, comment="no", value={"a": [1, None]}, correction={"b": 2}),
        feedback(3, run=1, key="thumbs", score=None, value="up", feedback_source=None)
        | {"lse_deleted_at": "2026-02-03T00:00:00Z"},
    )
    run_folder.write_feedback(feedback(4, session_id="s", created_at="2026-01-31T10:00:00+02:00"), apart=True)
    run_folder.write_attachments(attachment(0, "a"), attachment(1, "a", media_type=None), attachment(1, "b", bytes=0))
    return run_folder


def test_records_are_loaded_with_typed_columns(database: Database, filled: RunFolder) -> None:
    result = load_day(database, PROJECT, DAY, filled.path)

    assert (result.feedback, result.feedback_written, result.attachments, result.attachments_written) == (4, 4, 3, 3)
    assert (result.errors, result.rows, result.refused) == ([], 4, 0)
    columns = "id::text, run_id::text, trace_id::text, project, run_date, key, score, value, comment, correction"
    assert select(database, f"SELECT {columns} FROM feedback ORDER BY id") == [
        (feedback_id(1), run_id(0), trace_id(0), PROJECT, DAY, "correctness", Decimal("1.0"), None, None, None),
        (feedback_id(2), run_id(0), trace_id(0), PROJECT, DAY, "correctness", 0, {"a": [1, None]}, "no", {"b": 2}),
        (feedback_id(3), run_id(1), trace_id(1), PROJECT, DAY, "thumbs", None, "up", None, None),
        (feedback_id(4), None, None, PROJECT, DAY, "correctness", Decimal("1.0"), None, None, None),
    ]
    rest = select(database, "SELECT source_type, created_at, modified_at, deleted, mark FROM feedback ORDER BY id")
    assert rest[0] == ("app", MORNING, MORNING, False, None)
    assert rest[2] == (None, MORNING, MORNING, True, None)
    assert rest[3][1] == datetime(2026, 1, 31, 8, tzinfo=UTC)
    columns = (
        "run_id::text, run_date, project, name, media_type, bytes, length(sha256), starts_with(file, '_attachment_')"
    )
    assert select(database, f"SELECT {columns} FROM attachments ORDER BY run_id, name") == [
        (run_id(0), DAY, PROJECT, "a", "image/png", 7, 64, True),
        (run_id(1), DAY, PROJECT, "a", None, 7, 64, True),
        (run_id(1), DAY, PROJECT, "b", "image/png", 0, 64, True),
    ]


def test_only_changed_records_are_written(database: Database, filled: RunFolder) -> None:
    load_day(database, PROJECT, DAY, filled.path)
    before = dict(select(database, "SELECT id::text, xmin::text FROM feedback"))
    again = load_day(database, PROJECT, DAY, filled.path)
    assert (again.feedback, again.feedback_written, again.attachments_written) == (4, 0, 0)
    filled.write_feedback(feedback(1, run=0), feedback(2, run=0, score=0.25), feedback(5, run=3))
    filled.write_attachments(attachment(0, "a", bytes=8), attachment(1, "a", media_type=None))

    assert load_day(database, PROJECT, DAY, filled.path, dry_run=True).feedback_written == 2
    changed = load_day(database, PROJECT, DAY, filled.path)

    assert (changed.feedback, changed.feedback_written, changed.attachments_written) == (4, 2, 1)
    after = dict(select(database, "SELECT id::text, xmin::text FROM feedback"))
    assert {key for key in after if after[key] != before.get(key)} == {feedback_id(2), feedback_id(5)}
    assert after.keys() - before.keys() == {feedback_id(5)}  # a row without a record stays
    assert select(database, "SELECT score FROM feedback WHERE comment IS NULL AND score < 1") == [(Decimal("0.25"),)]
    assert select(database, "SELECT bytes FROM attachments ORDER BY bytes") == [(0,), (7,), (8,)]


def test_what_jsonb_cannot_hold_is_marked(database: Database, run_folder: RunFolder) -> None:
    run_folder.write_feedback(
        feedback(1, comment="nul \x00"),
        b'{"id": "' + feedback_id(2).encode() + b'", "score": 1e131072, "value": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        feedback(3, key="k" * 100_000, score=float("nan"), created_at="never", run_id="x", feedback_source=[1]),
        feedback(4),
    )
    run_folder.write_attachments(attachment(0, "\x00"), attachment(0, "\ufffd"), attachment(0, "x" * 100_000))

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.feedback_written, result.attachments_written, result.marked, result.errors) == (4, 3, 4, [])
    marks = dict(select(database, "SELECT id::text, mark FROM feedback"))
    expected = {1: ["nul"], 2: ["depth", "number_range"], 3: ["not_a_number"], 4: None}
    assert marks == {feedback_id(number): mark for number, mark in expected.items()}
    assert select(database, "SELECT count(*) FROM attachments WHERE name = '\ufffd'") == [(2,)]


def test_an_invalid_line_is_reported_and_the_others_are_loaded(database: Database, run_folder: RunFolder) -> None:
    run_folder.write_feedback(feedback(1), b"{broken", feedback(2))

    result = load_day(database, PROJECT, DAY, run_folder.path)

    assert (result.feedback, result.feedback_written, result.failed_inserts, result.refused) == (2, 2, 1, 0)
    assert result.errors[0].startswith("_feedback.jsonl line 2: it is not JSON")


def test_a_damaged_file_is_not_loaded(database: Database, filled: RunFolder) -> None:
    filled.record()
    path = filled.write_feedback(feedback(1, run=0, score=0))

    with pytest.raises(PartlyLoadedError, match=rf"not loaded: 1 file of .*: {path.name} differs"):
        load_day(database, PROJECT, DAY, filled.path)
    assert select(database, "SELECT id::text FROM feedback") == [(feedback_id(4),)]
    assert select(database, "SELECT count(*) FROM attachments") == [(3,)]


def test_a_refused_record_costs_no_other(database: Database, filled: RunFolder) -> None:
    with database.connect() as connection:
        connection.execute("ALTER TABLE feedback ADD CHECK (comment <> 'no')")

    result = load_day(database, PROJECT, DAY, filled.path)

    assert (result.feedback, result.feedback_written, result.refused, result.failed_inserts) == (4, 3, 1, 1)
    assert feedback_id(2) in result.errors[0]


def test_a_rollback_deletes_what_the_load_inserted(database: Database, filled: RunFolder) -> None:
    first = load_day(database, PROJECT, DAY, filled.path)
    filled.write_feedback(feedback(1, run=0, score=0.5), feedback(5, run=0))
    second = load_day(database, PROJECT, DAY, filled.path)
    assert second.load_id is not None
    assert first.load_id is not None

    rollback_load(database, second.load_id)
    assert select(database, "SELECT count(*) FROM feedback") == [(4,)]
    assert select(database, "SELECT count(*) FROM attachments") == [(3,)]
    rollback_load(database, first.load_id)
    assert select(database, "SELECT count(*) FROM feedback") == [(0,)]
    assert select(database, "SELECT count(*) FROM attachments") == [(0,)]
    assert load_day(database, PROJECT, DAY, filled.path).feedback_written == 3


ODD_FEEDBACK = [
    '"score": true, "value": false, "comment": {"b": 1.50, "a": []}, "correction": null',
    '"score": "0.5", "key": 7, "value": [1e2, -0.0, {"x": 1e400}], "correction": "text", "created_at": "2026-01-31"',
    '"score": 1e29, "key": "k", "modified_at": "2026-01-31T12:00:00.1234565+05:30", "feedback_source": "app"',
    '"score": -1e-20, "key": "k"',
    '"score": 1e30, "key": "k", "comment": "\\u0000\\ud800", "lse_deleted_at": null',
    '"score": 0.1, "key": "three"',
    '"score": 0.2, "key": "three"',
    '"score": 0.3, "key": "three", "feedback_source": {"type": ["x"]}',
    '"score": null, "key": "none"',
    '"score": 5, "run_id": "{0197}"',
    '"score": 1e-16384, "key": "\\u0000"',
]


def test_frames_of_feedback_and_attachments_are_the_same_from_rows_folder_and_zip(
    database: Database, run_folder: RunFolder, tmp_path: Path
) -> None:
    run_folder.fill(3)
    lines = [
        f'{{"id": "{feedback_id(number)}", "run_id": "{run_id(number % 2)}", {document}}}'.encode()
        for number, document in enumerate(ODD_FEEDBACK)
    ]
    run_folder.write_feedback(*lines, b"{broken")
    run_folder.write_feedback(feedback(0), feedback(99, created_at=None), apart=True)
    run_folder.write_attachments(
        attachment(1, "b", bytes="3"), attachment(0, "\ud800"), attachment(0, "\x00"), attachment(0, "Z", media_type=3)
    )
    run_folder.record()
    load_day(database, PROJECT, DAY, run_folder.path)
    zipped = Path(shutil.make_archive(str(tmp_path / "day"), "zip", run_folder.path))
    runs = Runs(database)

    frames = runs.load_runs(PROJECT, DAY), runs.load_feedback(PROJECT, DAY), runs.load_attachments(PROJECT, DAY)

    assert [len(frame) for frame in frames] == [3, len(ODD_FEEDBACK) + 1, 4]
    scores = [{"k": 10**29, "three": 0.2}, {"7": 0.5, "k": 0, "three": 0.2}, None]
    assert frames[0]["feedback_scores"].tolist() == scores
    for source in (run_folder.path, zipped):
        assert_frame_equal(load_runs_from_files(PROJECT, [source, source]), frames[0])
        assert_frame_equal(load_feedback_from_files(PROJECT, [source, source]), frames[1])
        assert_frame_equal(load_attachments_from_files(PROJECT, [source, source]), frames[2])
    assert runs.load_feedback("other", DAY).empty
    assert str(runs.load_feedback("other", DAY)["created_at"].dtype).endswith("UTC]")


def test_a_record_filed_under_two_days_is_one_fact(database: Database, tmp_path: Path) -> None:
    """First apart, under the day on which it was given; then under the day of its run."""
    own, later = RunFolder(tmp_path / str(DAY)).fill(1), RunFolder(tmp_path / "2026-02-01", date(2026, 2, 1))
    own.write_feedback(feedback(1, run=0, score=0), feedback(2, run=0, score=0.5))
    edited = "2026-02-02T00:00:00"
    later.write_feedback(feedback(1, run=0, score=0), feedback(2, run=0, score=1, modified_at=edited), apart=True)
    for folder in (own, later):
        load_day(database, PROJECT, folder.day, folder.path)
        load_day(database, "other", folder.day, folder.path)
    statement = f"SELECT run_date, score FROM feedback_facts WHERE project = '{PROJECT.replace(chr(39), chr(39) * 2)}'"

    assert select(database, f"{statement} ORDER BY id") == [(DAY, 0), (later.day, 1)]
    from_files = load_feedback_from_files(PROJECT, [later.path, own.path])
    assert_frame_equal(from_files, Runs(database).load_feedback(PROJECT, DAY, later.day))
    assert Runs(database).load_runs(PROJECT, DAY)["feedback_scores"].tolist() == [{"correctness": 0.5}]


@pytest.mark.parametrize(("table", "rows"), [("feedback", 4), ("attachments", 3)])
def test_records_are_exported(database: Database, filled: RunFolder, tmp_path: Path, table: str, rows: int) -> None:
    load_day(database, PROJECT, DAY, filled.path)
    frame = getattr(Runs(database), f"load_{table}")(PROJECT, DAY)
    target = tmp_path / "out"

    assert export_facts(database, PROJECT, DAY, DAY, target, "csv", table=table).rows == rows
    with target.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == list(frame.columns)
    assert len(lines) == rows + 1
    assert export_facts(database, PROJECT, DAY, DAY, target, "parquet", table=table).rows == rows
    read = parquet.read_table(target)
    assert read.column_names == list(frame.columns)
    assert [str(value) for value in read.column("run_id").to_pylist()] == [str(value) for value in frame["run_id"]]
    assert export_facts(database, PROJECT, DAY, DAY, target, "jsonl", table=table).rows == rows
    found = [json.loads(line) for line in target.read_bytes().splitlines()]
    records = [record for record in read_records(filled.path, table) if isinstance(record, Record)]  # ty: ignore
    assert len(found) == rows
    assert all(json.loads(record.document) in found for record in records)
    with pytest.raises(UsageError, match="have no inputs and outputs"):
        export_facts(database, PROJECT, DAY, DAY, target, "csv", table=table, contents=True)


def test_a_thread_is_one_row_over_all_its_days(database: Database, tmp_path: Path) -> None:
    days = [date(2026, 1, 31), date(2026, 2, 1)]
    for number, day in enumerate(days):
        folder = RunFolder(tmp_path / str(day), day)
        for run in range(8 * number, 8 * number + 8):
            fields: dict[str, Any] = {"total_cost": 0.25}
            if run % 4 == 0:  # a root
                fields["extra"] = {"metadata": {"thread_id": "a" if run else "b"}}
                fields["run_type"] = "chain"
            folder.write(run, **fields)
        load_day(database, PROJECT, day, folder.path)

    rows = select(
        database,
        "SELECT thread_id, first_run_id::text, last_run_id::text, first_date, last_date, turns, runs, errors,"
        " total_tokens, total_cost FROM thread_facts ORDER BY thread_id",
    )
    tokens = sum(run for run in range(5, 16) if run % 4)
    assert rows == [
        ("a", run_id(4), run_id(12), *days, 3, 12, 0, tokens, Decimal("2.25")),
        ("b", run_id(0), run_id(0), days[0], days[0], 1, 4, 0, 1 + 2 + 3, Decimal("0.75")),
    ]


def found_in(result: VerificationResult) -> dict[str, str]:
    return {f"{record.table} {record.id}": record.what for record in result.inconsistent_records}


def update(database: Database, statement: LiteralString, *parameters: object) -> None:
    with database.connect() as connection:
        assert connection.execute(statement, parameters).rowcount == 1


@pytest.mark.parametrize("detailed", [False, True])
def test_loaded_records_are_consistent(database: Database, filled: RunFolder, detailed: bool) -> None:
    filled.write_feedback(
        *(f'{{"id": "{feedback_id(number)}", {text}}}'.encode() for number, text in enumerate(ODD_FEEDBACK))
    )
    load_day(database, PROJECT, DAY, filled.path)

    result = verify_day(database, PROJECT, DAY, filled.path, detailed=detailed)

    assert result.is_consistent
    assert result.inconsistent_records == []
    assert (result.feedback_in_files, result.feedback_in_db) == (len(ODD_FEEDBACK), len(ODD_FEEDBACK))
    assert (result.attachments_in_files, result.attachments_in_db) == (3, 3)
    assert "11 feedback records and 3 attachments" in check_rows(result).says


@pytest.mark.parametrize("detailed", [False, True])
def test_every_difference_of_records_is_found_and_repaired(
    database: Database, filled: RunFolder, detailed: bool
) -> None:
    load_day(database, PROJECT, DAY, filled.path)
    one, two, three = (feedback_id(number) for number in (1, 2, 3))
    update(database, "DELETE FROM feedback WHERE id = %s", one)
    update(database, "UPDATE feedback SET data = jsonb_set(data, '{score}', '1') WHERE id = %s", two)
    update(database, "UPDATE feedback SET line_sha256 = '\\x00' WHERE id = %s", three)
    update(database, "DELETE FROM attachments WHERE name = 'b'")
    insert = "INSERT INTO feedback (id, project, run_date, data) VALUES (%s, %s, %s, '{}')"
    update(database, insert, feedback_id(7), PROJECT, DAY)

    result = verify_day(database, PROJECT, DAY, filled.path, detailed=detailed)

    expected = {
        f"feedback {one}": "missing in the database",
        f"feedback {two}": "content",
        f"feedback {three}": "file",
        f"feedback {feedback_id(7)}": "missing in the files",
    }
    found = found_in(result)
    missing = found.keys() - expected.keys()
    assert found == expected | {next(iter(missing)): "missing in the database"}
    assert not result.is_consistent
    assert result.inconsistent_runs == []
    assert check_rows(result).verdict == "differs"
    assert f"feedback {two}" in {row.item for row in check_rows(result).differences}
    part = verify_day(database, PROJECT, DAY, filled.path, detailed=detailed, fix_missing=True)
    assert (part.fixed_records, len(part.inconsistent_records)) == (2, 3)
    whole = verify_day(database, PROJECT, DAY, filled.path, detailed=detailed, fix=True)
    assert (whole.fixed_records, found_in(whole)) == (2, {f"feedback {feedback_id(7)}": "missing in the files"})
    assert select(database, f"SELECT score FROM feedback WHERE id = '{two}'") == [(0,)]


def test_a_changed_record_with_a_forged_hash_is_found_by_contents(database: Database, filled: RunFolder) -> None:
    load_day(database, PROJECT, DAY, filled.path)
    update(database, "UPDATE feedback SET data = jsonb_set(data, '{value,a}', '2') WHERE id = %s", feedback_id(2))
    forge = "UPDATE feedback SET row_sha256 = sha256(convert_to(data::text, 'UTF8')) WHERE id = %s"
    update(database, forge, feedback_id(2))

    assert verify_day(database, PROJECT, DAY, filled.path).is_consistent
    [record] = verify_day(database, PROJECT, DAY, filled.path, detailed=True).inconsistent_records
    assert (record.id, record.what, record.paths) == (feedback_id(2), "content", ["$.value.a"])
    assert verify_day(database, PROJECT, DAY, filled.path, detailed=True, fix=True).is_consistent


def test_an_edited_record_that_was_not_loaded_is_a_difference(database: Database, filled: RunFolder) -> None:
    load_day(database, PROJECT, DAY, filled.path)
    filled.write_feedback(feedback(1, run=0, score=0), feedback(2, run=0), feedback(3, run=1))

    assert len(verify_day(database, PROJECT, DAY, filled.path).inconsistent_records) == 3
    load_day(database, PROJECT, DAY, filled.path)
    assert verify_day(database, PROJECT, DAY, filled.path, detailed=True).is_consistent


def test_damage_in_the_files_of_records_is_reported(database: Database, filled: RunFolder) -> None:
    filled.write_feedback(feedback(1, run=0), b"{broken")
    filled.record()
    load_day(database, PROJECT, DAY, filled.path)

    result = verify_day(database, PROJECT, DAY, filled.path)
    assert result.is_consistent  # the line came so
    assert [name.partition(": ")[0] for name in result.broken_files] == ["_feedback.jsonl line 2"]
    filled.write_feedback(feedback(1, run=0, score=0))
    damaged = verify_day(database, PROJECT, DAY, filled.path, fix=True)
    assert not damaged.is_consistent
    assert "_feedback.jsonl: it differs from _sha256sums.txt" in damaged.broken_files
    assert select(database, "SELECT score FROM feedback WHERE run_id IS NOT NULL") == [(1,)]
