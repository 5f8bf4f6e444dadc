"""Every run that the store accepts is given back by every reader, and rows and files give the same values."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id
from document_strategies import DEEP, EXTREMES, LONG_INTEGER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lse_cli.terminal.rows import print_lines, print_objects
from lse_resources.postgres.analysis.frames import Runs, load_runs_from_files
from lse_resources.postgres.analysis.json_values import load_json
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

pytestmark = pytest.mark.slow

text = st.text(st.characters(exclude_categories=[]), max_size=6)
ascii_text = st.text(st.characters(max_codepoint=127), max_size=6)
numbers = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-0.0, 1e300, 10**400, 0.1, 1e18, 10**30])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(
    st.sampled_from(["ls_model_name", "thread_id", "metadata", "invocation_params", "model", "model_name", "x"]),
    values | st.dictionaries(st.sampled_from(["ls_model_name", "thread_id", "model"]), values, max_size=2),
    max_size=3,
)
times = st.datetimes().map(str) | st.sampled_from(["", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00"])
fields = st.fixed_dictionaries(
    {},
    optional={
        "name": values,
        "run_type": ascii_text | values,
        "status": ascii_text | st.none(),
        "error": values,
        "end_time": times | st.none(),
        "parent_run_id": st.uuids().map(str) | st.none(),
        "parent_run_ids": st.lists(st.uuids().map(str), max_size=2) | st.none(),
        "dotted_order": text | st.none(),
        "total_tokens": values,
        "prompt_tokens": st.integers(-1, 2**70) | st.decimals(allow_nan=False, allow_infinity=False).map(str),
        "total_cost": values | st.decimals(allow_nan=False, allow_infinity=False).map(str),
        "tags": values,
        "metadata": objects | values,
        "extra": objects | values,
        "thread_id": values,
    },
)


def members_text(run: dict[str, Any]) -> str:
    return json.dumps(run)[1:-1]


@pytest.fixture(scope="module")
def laws_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


def load(database: Database, base: Path, documents: list[str]) -> RunFolder:
    """Loads runs with these members added into an empty table."""
    shutil.rmtree(base / "day", ignore_errors=True)
    folder = RunFolder(base / "day")
    with database.connect() as connection:
        connection.execute("TRUNCATE runs")
    for number, document in enumerate(documents):
        run = {"id": run_id(number), "start_time": folder.run(number)["start_time"]}
        folder.write(number, f"{json.dumps(run)[:-1]}{', ' if document else ''}{document}}}".encode())
    load_day(database, PROJECT, DAY, folder.path)
    return folder


def assert_same(one: Any, other: Any) -> None:
    """Compares two values, their types included, without recursion."""
    stack = [(one, other)]
    while stack:
        left, right = stack.pop()
        assert type(left) is type(right), (type(left), type(right))
        if isinstance(left, dict):
            assert left.keys() == right.keys(), repr((left.keys(), right.keys()))[:500]
            stack += [(left[key], right[key]) for key in left]
        elif isinstance(left, list):
            assert len(left) == len(right)
            stack += zip(left, right, strict=True)
        elif not (pd.isna(left) and pd.isna(right)):
            assert left == right, repr((left, right))[:500]


def assert_same_frames(database: Database, folder: RunFolder) -> None:
    from_rows = Runs(database).load_runs(PROJECT, DAY)
    from_files = load_runs_from_files(PROJECT, [folder.path])
    assert len(from_rows) == len(Runs(database).get_run_ids(PROJECT, DAY))
    assert list(from_rows.dtypes) == list(from_files.dtypes)
    for column in from_rows.columns:
        assert_same(list(from_rows[column]), list(from_files[column]))


@pytest.mark.parametrize("document", EXTREMES, ids=range(len(EXTREMES)))
def test_rows_and_files_give_the_same_values_of_extreme_runs(
    database: Database, laws_folder: Path, document: str
) -> None:
    assert_same_frames(database, load(database, laws_folder, [document]))


def test_a_run_and_its_trace_are_given_back_with_every_level_and_digit(database: Database, laws_folder: Path) -> None:
    load(database, laws_folder, [f'"inputs": {LONG_INTEGER}, "outputs": {DEEP}'])
    run = Runs(database).get_run(run_id(0))
    assert run is not None
    assert run["inputs"] == int(Decimal(LONG_INTEGER))
    assert_same(run["outputs"], load_json(DEEP))
    [tree] = Runs(database).get_runs_for_trace(run_id(0))
    assert_same(tree.run, run)
    _, [(data,)] = Runs(database).query("SELECT data FROM runs")
    assert_same(data, run)


@pytest.mark.parametrize("as_json", [False, True])
def test_sql_prints_every_level_and_digit(
    database: Database, laws_folder: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    load(database, laws_folder, [f'"inputs": {LONG_INTEGER}, "outputs": {DEEP}'])
    with Runs(database).stream("SELECT data FROM runs", json_as_text=True) as (columns, rows):
        (print_objects if as_json else print_lines)(columns, rows)
    assert f'"inputs": {LONG_INTEGER}' in (out := capsys.readouterr().out)
    assert out.count('"a"') == 750


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(fields.map(members_text), min_size=1, max_size=12))
def test_rows_and_files_give_the_same_types_and_values(
    database: Database, laws_folder: Path, documents: list[str]
) -> None:
    assert_same_frames(database, load(database, laws_folder, documents))
