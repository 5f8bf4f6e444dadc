"""Marks and renderings of documents that JSONB cannot store, and their acceptance by a real server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from database_fixtures import DAY, PROJECT, RunFolder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lse_resources.postgres.database import Database
from lse_resources.postgres.jsonb import Rendering, render
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.verify.day import verify_day

pytestmark = pytest.mark.slow

CASES = [
    (rb'{"a": "x\u0000y"}', b'{"a":"x\xef\xbf\xbdy"}', ("nul",)),
    (rb'{"\u0000": 1}', b'{"\xef\xbf\xbd":1}', ("nul",)),
    (rb'["\ud800", "\udc00\ud800"]', b'["\xef\xbf\xbd","\xef\xbf\xbd\xef\xbf\xbd"]', ("lone_surrogate",)),
    (b'["\xff\xfe"]', b'["\xef\xbf\xbd\xef\xbf\xbd"]', ("invalid_utf8",)),
    (b'["\xed\xa0\x80"]', b'["\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"]', ("invalid_utf8",)),
    (b'["a\tb"]', b'["a\\tb"]', ("control_character",)),
    (b'\xef\xbb\xbf{"a": 1}', b'{"a":1}', ("bom",)),
    (b'{"a": 1, "b": {"a": 2}, "a": 3}', b'{"a":1,"b":{"a":2},"a":3}', ("duplicate_key",)),
    (rb'{"a": "\u0022", "a": 3}', b'{"a":"\\"","a":3}', ("duplicate_key",)),
    (rb'{"ab": 1, "\u0061b": 2}', b'{"ab":1,"ab":2}', ("duplicate_key",)),
    (b"[-0, -0.0, -0e7, -0.5, -10]", b"[-0,-0.0,-0e7,-0.5,-10]", ("negative_zero",)),
    (b"[1e131072, 1e-16384, 1e99999999]", b'["1e131072","1e-16384","1e99999999"]', ("number_range",)),
    (b"[NaN, Infinity, -Infinity]", b'["NaN","Infinity","-Infinity"]', ("not_a_number",)),
    (b'{"a" 1}', rb'"{\"a\" 1}"', ("not_json",)),
]
HELD = [
    b"{}",
    b'{"a": [1, 2.50, -0.5, 1e5, "-0", "2026-01-02"], "id": "4c9184f3-7cf0-4d4d-0acd-0e12-0"}',
    rb'{"a": "\\u0000 \" \u0022 \ud83d\ude00 \n"}',
    '{"ä": "\U0001f600"}'.encode(),
    b"1e131071",
    b"123456789012345678901234567890.000000000000000000000000001",
    b'{"a": {"a": {"a": 1}}, "b": {"a": 1}}',
    b"[" * 2000 + b"]" * 2000,
]


@pytest.mark.parametrize(("document", "data", "mark"), CASES, ids=range(len(CASES)))
def test_a_document_that_jsonb_cannot_store_is_rendered_and_marked(
    document: bytes, data: bytes, mark: tuple[str, ...]
) -> None:
    assert render(document, closely=True) == Rendering(data, mark)


@pytest.mark.parametrize(("document", "mark"), [(document, mark) for document, _, mark in CASES], ids=range(len(CASES)))
def test_the_quick_rendering_is_the_same_except_for_tiny_numbers(document: bytes, mark: tuple[str, ...]) -> None:
    assert render(document).mark == mark


@pytest.mark.parametrize("document", HELD, ids=range(len(HELD)))
@pytest.mark.parametrize("closely", [False, True])
def test_a_document_that_jsonb_can_store_is_unchanged(document: bytes, closely: bool) -> None:
    assert render(document, closely=closely) == Rendering(document)


def test_json_beyond_the_maximum_depth_becomes_a_string() -> None:
    rendering = render(b'{"a": ' + b"[" * 2500 + b'"\xff"' + b"]" * 2500 + b"}")

    assert rendering.mark == ("depth",)
    assert rendering.data == b'{"a":' + b"[" * 1999 + b'"' + b"[" * 501 + '\\"�\\"'.encode() + b"]" * 501 + b'"' + (
        b"]" * 1999 + b"}"
    )


def test_extreme_depth_needs_memory_only() -> None:
    assert render(b"[" * 1_000_000 + b"]" * 1_000_000).mark == ("depth",)
    assert render(b"[" * 1_000_000).mark == ("not_json",)


@pytest.mark.parametrize("document", [document for document, _, _ in CASES] + HELD)
def test_the_server_accepts_every_rendering(database: Database, document: bytes) -> None:
    data = render(document, closely=True).data
    assert data is not None
    with database.connect() as connection:
        connection.execute("SELECT %s::jsonb", (data.decode(),))


# ---- properties ----------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=[]), max_size=8)
numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([-0.0, 1e300, -1e-300, 10**400]),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def to_json_text(value: object, ascii_only: bool, doubled: bool) -> str:
    """Returns a value as JSON in one of several notations; lone surrogates stay as escapes or invalid bytes."""
    spelled = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":") if ascii_only else None)
    return f'{{"v": {spelled}, "v": {spelled}}}' if doubled else f'{{"v": {spelled}}}'


json_texts = st.builds(to_json_text, values, st.booleans(), st.booleans())


@pytest.fixture(scope="module")
def property_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties")


def fresh(base: Path, database: Database) -> RunFolder:
    shutil.rmtree(base / "day", ignore_errors=True)
    with database.connect() as connection:
        connection.execute("TRUNCATE runs")
    return RunFolder(base / "day")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_texts, min_size=1, max_size=8))
def test_every_loaded_document_is_consistent(database: Database, property_folder: Path, documents: list[str]) -> None:
    folder = fresh(property_folder, database)
    for number, document in enumerate(documents):
        folder.write(number, folder.with_text(number, document))

    loaded = load_day(database, PROJECT, DAY, folder.path, batch_size=3)
    result = verify_day(database, PROJECT, DAY, folder.path, detailed=True)

    assert loaded.successful_inserts == len(documents), loaded.errors
    assert result.is_consistent, result


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_texts, json_texts, st.booleans())
def test_every_change_is_found(
    database: Database, property_folder: Path, before: str, after: str, in_database: bool
) -> None:
    folder = fresh(property_folder, database)
    folder.fill(3).write(1, folder.with_text(1, before))
    load_day(database, PROJECT, DAY, folder.path)
    changed = folder.with_text(1, after)
    if in_database:
        data = render(changed, closely=True).data
        assert data is not None
        with database.connect() as connection:
            differs = connection.execute(
                "UPDATE runs SET data = %(new)s WHERE data->>'name' = 'run 1' AND data <> %(new)s::jsonb",
                {"new": data.decode()},
            ).rowcount
    else:
        differs = int(folder.write(1).read_bytes() != changed)
        folder.write(1, changed)
        differs = int(changed != folder.with_text(1, before))

    result = verify_day(database, PROJECT, DAY, folder.path)

    assert len(result.inconsistent_runs) == differs
    assert result.is_consistent == (not differs)
