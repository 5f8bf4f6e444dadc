"""The search index: the same runs as a full scan of the files, in every script; and rows that change leave it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from database_fixtures import DAY, PROJECT, RunFolder, run_id

from lse_archive.errors import UsageError
from lse_archive.runs.words import Place, Query, read_query, run_texts
from lse_resources.postgres.analysis.json_values import load_json
from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.erase import erase_rows
from lse_resources.postgres.erasures_table import Erasure, write_erasure
from lse_resources.postgres.load.day import load_day
from lse_resources.postgres.load.rollback import rollback_load
from lse_resources.postgres.pages.session import reading
from lse_resources.postgres.search.find import Found, Scope, search
from lse_resources.postgres.search.index import index_day

# Words of scripts with and without spaces, and forms that Unicode makes equal: full width, ligatures, case, marks.
_WORDS = (
    "refund Refund policy POLICY order_id don't ｒｅｆｕｎｄ ﬁne fine Straße STRASSE İstanbul naïve nai\u0308ve 42 4.5 "
    "退款 退款政策 政策 款 退 东京 東京都 テスト ﾃｽﾄ すし สวัสดี สวัสดีครับ ภาษาไทย မြန်မာ ខ្មែរ हिन्दी हिन्द "
    "भाषा العربية می\u200cخواهم שלום Ελλάδα Ελλάς привет ПРИВЕТ 한국어 한국어로 \U00020000\U00020001 𝐛𝐨𝐥𝐝 \U0001f600 "
    "a\u0000b \ud800 \u202e <script> — … “quoted” ½ ﷺ x" + "y" * 100
).split(" ")


def test_the_search_finds_what_a_scan_of_the_files_finds(database: Database, tmp_path: Path) -> None:
    chance = random.Random(17)
    days = [DAY - timedelta(days=back) for back in (0, 1, 40)]
    folders = [
        (project, RunFolder(tmp_path / str(number) / str(day), day))
        for number, project in enumerate((PROJECT, "东京"))
        for day in days
    ]
    for number, (project, folder) in enumerate(folders):
        for run in range(20):
            folder.write(
                number * 100 + run,
                name=_text(chance, 2),
                error=_text(chance, 3) if chance.random() < 0.3 else None,
                inputs={_text(chance, 1): [{"b": _text(chance, 12), "a": chance.choice([7, 1e2, 4.25, -42, True])}]},
                outputs=chance.choice([_text(chance, 8), {"z": _text(chance, 5), "aa": _text(chance, 5)}, None, []]),
            )
        folder.record(project)
        _load(database, project, folder)
        index_day(database, project, folder.day)
    runs = [(project, folder.day, *run) for project, folder in folders for run in _read(folder)]
    found = 0
    for query in map(read_query, [*(_term(chance) for _ in range(40)), "42", "100", "4.25", "7 refund", "退", "true"]):
        for scope in (Scope(), Scope("东京", last=DAY), Scope(PROJECT, days[1], days[0])):
            expected = {
                run
                for project, day, run, texts in runs
                if scope.project in (None, project) and (scope.first or date.min) <= day and query.excerpt(texts)
            }
            assert _search(database, query, scope) == expected, (query, scope)
            found += len(expected)
    assert found > 300


def test_only_the_first_part_of_long_values_and_runs_is_searched(database: Database, run_folder: RunFolder) -> None:
    run_folder.write(0, outputs={"long": "退 " * 60_000 + "beyond", "rest": ["word " * 19_000] * 12 + ["last"]})
    run_folder.write(1, name="x" * 64 + "y", error="退款政策", outputs="word")
    run_folder.record()
    _load(database, PROJECT, run_folder)
    assert index_day(database, PROJECT, DAY).cut == 1
    [(_, texts), _] = sorted(_read(run_folder))
    expected = {"退": {0, 1}, "退退": {0}, "word": {0, 1}, "beyond": set(), "last": set(), "x" * 64 + "z": {1}}
    for text, numbers in expected.items():
        assert _search(database, read_query(text)) == {run_id(number) for number in numbers}
        assert bool(read_query(text).excerpt(texts)) == (0 in numbers)
    with reading(database) as connection:
        page = search(connection, read_query("政策"), Scope(), 50)
    assert (page.cut, page.behind) == (1, [])
    assert page.hits[0].excerpt.parts == (("退款", False), ("政策", True))


@pytest.mark.parametrize("text", ["", '" "', "— …", "x" * 1001])
def test_a_query_without_a_word_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_query(text)


def test_rows_that_change_leave_the_index_until_it_is_made_again(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(6)
    run_folder.record()
    _load(database, PROJECT, run_folder)
    assert _day_behind(database) == [(PROJECT, DAY)]
    assert index_day(database, PROJECT, DAY).indexed == 6
    assert _day_behind(database) == []
    # A load that replaces a row: the former words are not found, and the new ones once the day is indexed again.
    run_folder.write(2, outputs="entirely different")
    run_folder.record()
    overwritten = load_day(database, PROJECT, DAY, run_folder.path, overwrite=True)
    assert _indexed(database) == {0, 1, 3, 4, 5}
    assert _day_behind(database) == [(PROJECT, DAY)]
    assert index_day(database, PROJECT, DAY).indexed == 1
    assert _search(database, read_query('"entirely different"')) == {run_id(2)}
    assert overwritten.load_id is not None
    rollback_load(database, overwritten.load_id)
    assert (_indexed(database), _day_behind(database)) == ({0, 1, 3, 4, 5}, [(PROJECT, DAY)])
    # A change by hand, also past the partitioned table; a month that is dropped, and loaded again.
    with database.session("change rows") as connection:
        connection.execute('UPDATE runs SET data = data || \'{"name": "by hand"}\' WHERE run_id = %s', (run_id(3),))
        connection.execute("DELETE FROM runs_2026_01 WHERE run_id = %s", (run_id(4),))
        assert _indexed(database) == {0, 1, 5}
        connection.execute("ALTER TABLE runs DETACH PARTITION runs_2026_01")
        assert _search(database, read_query("question")) == set()
        connection.execute("DROP TABLE runs_2026_01")
    load_day(database, PROJECT, DAY, run_folder.path)
    assert _indexed(database) == set()
    assert index_day(database, PROJECT, DAY).indexed == 6


def test_an_erased_run_leaves_the_index_and_is_counted(database: Database, run_folder: RunFolder) -> None:
    run_folder.fill(4)
    run_folder.record()
    _load(database, PROJECT, run_folder)
    index_day(database, PROJECT, DAY)
    erasure = str(uuid4())
    certificate = Erasure(
        erasure_id=erasure,
        project=PROJECT,
        requested_by="dpo",
        reason="asked",
        selection_sha256="0" * 64,
        started_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    write_erasure(database, certificate)
    erased = erase_rows(database, erasure, PROJECT, DAY, [run_id(1)])
    assert erased.rows == {"run_search_2026_01": 1, "runs_2026_01": 1}
    assert _indexed(database) == {0, 2, 3}


def _text(chance: random.Random, most: int) -> str:
    return "".join(
        chance.choice(_WORDS) + chance.choice([" ", " ", "\n", ", ", ""]) for _ in range(chance.randint(0, most))
    )


def _term(chance: random.Random) -> str:
    terms = []
    for _ in range(chance.randint(1, 2)):
        words = [word for word in chance.choices(_WORDS, k=chance.randint(1, 2)) if any(map(str.isalnum, word))]
        terms.append(f'"{" ".join(words)}"' if chance.random() < 0.5 else " ".join(words))
    return " ".join([*terms, "退款"] if not any(map(str.isalnum, "".join(terms))) else terms)


def _read(folder: RunFolder) -> Iterator[tuple[str, list[tuple[Place, str]]]]:
    for path in folder.path.glob("[0-9a-f]*.json"):
        run = load_json(path.read_bytes())
        yield run["id"], run_texts(run["name"], run.get("error"), run.get("inputs"), run.get("outputs"))[0]


def _load(database: Database, project: str, folder: RunFolder) -> None:
    result = load_day(database, project, folder.day, folder.path)
    assert result.errors == []
    update_day(database, project, folder.day, {"rows": result.rows})


def _search(database: Database, query: Query, scope: Scope | None = None) -> set[str]:
    """All hits, in pages of seven."""
    found: list[str] = []
    page = Found()
    with reading(database) as connection:
        while True:
            page = search(connection, query, scope or Scope(), 7, page.following)
            found += [str(hit.run_id) for hit in page.hits]
            if page.following is None:
                break
    assert len(found) == len(set(found))
    return set(found)


def _indexed(database: Database) -> set[int]:
    with database.session("read the index") as connection:
        return {row[0].int & 0xFFFF for row in connection.execute("SELECT run_id FROM run_search")}


def _day_behind(database: Database) -> list[tuple[str, date]]:
    with reading(database) as connection:
        return search(connection, read_query("question"), Scope(), 1).behind
