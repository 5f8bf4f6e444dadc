"""`lse search`, `lse sql` and `lse export`: output, questions and refusals."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from database_fixtures import attachment, feedback, feedback_id
from home_fixtures import DAY, PROJECT, Installation
from test_cli_prompts import terminal

from lse_archive.folder.contents import content_files
from lse_archive.folder.manifest import content_hash, content_sums, read_summary, write_manifest
from lse_archive.folder.reader import file_digests
from lse_archive.folder.records import ATTACHMENTS, FEEDBACK

pytestmark = pytest.mark.slow

_LSE = Path(sys.executable).with_name("lse")
_RANGE = ("--start-date", str(DAY), "--end-date", str(DAY))


@pytest.fixture
def loaded(installation: Installation) -> Installation:
    installation.fill(3)
    for step in ("fetch", "to-db"):
        assert installation.archive(step).code == 0
    return installation


def test_days_are_indexed_and_searched(loaded: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {run_id: row[-1]["name"] for run_id, row in loaded.rows().items()}
    name = min(names.values())
    before = loaded.lse("search", name)
    assert (before.code, before.out) == (0, "")
    assert "1 day is not, or not wholly, in the search index: lse archive index adds them" in before.err
    assert loaded.archive("index", "--json").entry["indexed"] == 3
    assert "3 runs in the search index (0 added)" in loaded.archive("index").out
    found = json.loads(loaded.lse("search", f'"{name}"', "--project", PROJECT, *_RANGE, "--json").out)
    assert {hit["run_id"] for hit in found["results"] if hit["place"] == "name"} == {
        run_id for run_id in names if names[run_id] == name
    }
    assert (found["more"], found["not_indexed"], found["cut"]) == (False, [], 0)
    shown = loaded.lse("search", name, "--limit", "1")
    assert f"  name: {name}" in shown.out
    assert loaded.lse("search", "...").code == 2
    assert loaded.lse("search", name, "--start-date", "2026-02-01", "--end-date", "2026-01-01").code == 2
    monkeypatch.setenv("LSE_SEARCH", "off")
    off = loaded.lse("search", name)
    assert (off.code, "LSE_SEARCH is off" in off.err) == (1, True)


def test_lines_have_the_text_format_of_copy(loaded: Installation) -> None:
    values = r"E'a\tb\nc\\d\x1b[31m' AS text, NULL AS nothing, '\x00ff'::bytea AS bytes, '{1,2}'::int[] AS list"
    values += ", chr(1564) || chr(8206) || chr(8303) AS order_marks"
    ended = loaded.lse("sql", f"SELECT {values}, '{{\"n\": 1.00000000000000000001}}'::jsonb AS json")
    assert ended.out.splitlines() == [
        "text\tnothing\tbytes\tlist\torder_marks\tjson",
        r"a\tb\nc\\d\x1b[31m" + "\t" + r"\N" + "\t" + r"\\x00ff" + "\t[1,2]\t"
        r"\xd8\x9c\xe2\x80\x8e\xe2\x81\xaf" + '\t{"n": 1.00000000000000000001}',
    ]


def test_json_output_is_lossless(loaded: Installation) -> None:
    numbers = "'NaN'::float8 AS nan, '{-Infinity,1}'::float8[] AS list, 'NaN'::numeric AS numeric"
    ended = loaded.lse(
        "sql", "--json", f"SELECT {numbers}, '\\x00ff'::bytea AS bytes, '{{\"n\": 1.10}}'::jsonb AS json"
    )
    assert ended.entry == {
        "nan": "NaN",
        "list": ["-Infinity", 1.0],
        "numeric": "NaN",
        "bytes": "\\x00ff",
        "json": {"n": 1.1},
    }
    assert "1.10" in ended.out  # digits as the server sends them
    twice = loaded.lse("sql", "--json", "SELECT 1 AS n, 2 AS n")
    assert (twice.code, twice.out, "two columns are named n" in twice.err) == (2, "", True)


@pytest.mark.parametrize(
    ("statement", "code", "hint"),
    [
        ("SELECT * FROM nope", 1, "docs/database.md"),
        ("SELECT nope FROM runs", 1, "docs/database.md"),
        ("SELECT nope(1)", 1, "the name of the function"),
        ("DELETE FROM runs", 1, "only read"),
        ("", 2, "the statement is empty"),
        (" -- nothing\n", 2, "the statement is empty"),
    ],
)
def test_a_failed_statement_is_a_clear_error(installation: Installation, statement: str, code: int, hint: str) -> None:
    ended = installation.lse("sql", statement)
    assert (ended.code, ended.out) == (code, "")
    assert hint in ended.err
    assert "db migrate" not in ended.err
    assert "primary" not in ended.err


def test_a_terminal_gets_short_cells_and_no_control_characters(loaded: Installation) -> None:
    wide = "SELECT repeat('x', 10000000) || E'\\x1b[31m' AS long, E'\\x1b[31mred' AS odd FROM generate_series(1, 3)"
    with terminal(loaded, "sql", wide) as shown:
        assert shown.end() == 0
    assert r"\x1b[31mred" in shown.screen
    assert "\x1b[31m" not in shown.screen
    assert shown.screen.count("x…") == 3
    with terminal(loaded, "sql", "SELECT * FROM runs CROSS JOIN run_facts f ORDER BY 1, f.run_id") as shown:
        assert shown.end() == 0
    assert "row 9" in shown.screen
    assert max(map(len, shown.screen.splitlines())) <= 200


def test_an_unknown_project_is_an_error_and_not_an_empty_export(loaded: Installation) -> None:
    target = loaded.directory / "out"
    ended = loaded.lse("export", "--project", "nonesuch", "--output", str(target), *_RANGE)
    assert (ended.code, "there is no project 'nonesuch'" in ended.err) == (2, True)
    assert loaded.lse("projects", "add", "new", "--start", str(DAY)).code == 0
    assert loaded.lse("export", "--project", "new", "--output", str(target), *_RANGE).out.startswith("0 runs in")


def test_an_export_replaces_a_file_only_with_force_and_keeps_a_symlink(loaded: Installation) -> None:
    target, link = loaded.directory / "elsewhere" / "target.csv", loaded.directory / "link.csv"
    target.parent.mkdir()
    target.write_text("mine")
    link.symlink_to(target)
    words = "export", "--project", PROJECT, "--format", "csv", "--output", str(link), *_RANGE
    refused = loaded.lse(*words)
    assert (refused.code, "--force replaces it" in refused.err, target.read_text()) == (1, True, "mine")
    assert loaded.lse(*words, "--force").code == 0
    assert link.is_symlink()
    assert len(list(csv.DictReader(io.StringIO(target.read_text())))) == 3
    assert [path.name for path in target.parent.iterdir()] == ["target.csv"]


def test_an_export_writes_into_a_named_pipe(loaded: Installation) -> None:
    fifo = loaded.directory / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # three runs fit into the pipe
    words = "export", "--project", PROJECT, *_RANGE
    ended = loaded.lse(*words, "--format", "jsonl", "--output", str(fifo))
    read = os.read(reader, 60_000)
    assert (ended.code, ended.out, ended.err) == (0, "", "3 runs\n")
    assert fifo.is_fifo()
    assert {json.loads(line)["id"] for line in read.splitlines()} == set(loaded.rows())
    refused = loaded.lse(*words, "--output", str(fifo))
    os.close(reader)
    assert (refused.code, "cannot write parquet" in refused.err) == (2, True)


@pytest.mark.parametrize("name", ["-", "out"])
def test_an_export_goes_to_standard_output(loaded: Installation, name: str) -> None:
    """Also when the output file is the same file as standard output, as with /dev/stdout."""
    out = loaded.directory / "out"
    with out.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        words = "export", "--project", PROJECT, "--format", "jsonl", "--output", name, *_RANGE
        ended = subprocess.run([_LSE, *words], cwd=loaded.directory, stdout=file, stderr=subprocess.PIPE, timeout=60)
        file.write(b"after\n")
    assert (ended.returncode, ended.stderr) == (0, b"3 runs\n")
    lines = out.read_bytes().splitlines()
    assert (lines[0], len(lines), lines[-1]) == (b"before", 5, b"after")


@pytest.fixture
def with_records(loaded: Installation) -> Installation:
    """The same day with two feedback records and an attachment in its folder."""
    folder, [run, *_] = loaded.paths().folder, sorted(loaded.rows())
    records = [feedback(1), feedback(2, score=0, comment="no")]
    lines = [json.dumps(record | {"run_id": run}) + "\n" for record in records]
    (folder / FEEDBACK).write_text("".join(lines))
    (folder / ATTACHMENTS).write_text("[\n" + json.dumps(attachment(0, "a/b\x1b") | {"run_id": run}) + "\n]\n")
    sums = content_sums(dict(file_digests(folder, [path.name for path in content_files(folder)])))
    summary = read_summary(folder)
    assert summary is not None
    write_manifest(folder, msgspec.structs.replace(summary, content_sha256=content_hash(sums)), sums)
    return loaded


def test_feedback_and_attachments_are_loaded_verified_repaired_and_exported(
    with_records: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(with_records.directory)  # exports are written there
    loaded = with_records.archive("to-db")
    assert loaded.code == 0
    assert "2 feedback records (2 written); 1 attachment (1 written)" in loaded.out
    again = with_records.archive("to-db", "--json").entry
    assert (again["feedback"], again["feedback_written"], again["attachments_written"]) == (2, 0, 0)
    with with_records.database.connect() as connection:
        connection.execute("UPDATE feedback SET data = data - 'comment' WHERE score = 0")

    found = with_records.archive("verify", "--json")
    assert found.code == 3
    [difference] = found.entry["inconsistent_records"]
    assert (difference["table"], difference["id"], difference["what"]) == ("feedback", feedback_id(2), "content")
    assert feedback_id(2) in with_records.archive("verify").out
    assert with_records.archive("verify", "--fix", "--json").entry["fixed_records"] == 1
    assert with_records.archive("verify", "--detailed", "--json").entry["inconsistent_records"] == []

    words = "export", "--project", PROJECT, *_RANGE, "--format"
    done = with_records.lse(*words, "csv", "--table", "feedback")
    assert (done.code, done.out.startswith("2 feedback records in ")) == (0, True)
    [target] = Path().glob("*_feedback.csv")
    with target.open(newline="") as file:
        assert [row["comment"] for row in csv.DictReader(file)] == ["", "no"]
    assert with_records.lse(*words, "jsonl", "--table", "attachments", "--output", "-").err == "1 attachment\n"
    unknown = with_records.lse(*words, "csv", "--table", "pets")
    assert (unknown.code, "Choose one of runs, feedback, attachments" in unknown.err) == (2, True)
