"""The page of the search, and `lse search` beside it."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from database_fixtures import DAY, PROJECT, run_id
from viewer_fixtures import Viewer

from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.search.index import index_day


def _filled(viewer: Viewer, runs: int = 60) -> None:
    folder = viewer.folder()
    folder.fill(runs)
    hostile = '<img src=x onerror="alert(1)">\u202e'
    folder.write(100, name=hostile, error="refund policy", outputs={"text": f"{hostile} our Refund-Policy is strict"})
    viewer.load(folder)
    update_day(viewer.database, PROJECT, DAY, {"rows": runs + 1})


def test_hits_in_context_newest_first_and_in_pages(viewer: Viewer) -> None:
    _filled(viewer)
    assert "1 day is not, or not wholly, in the search index" in viewer.text("/archive/search", q="question")
    index_day(viewer.database, PROJECT, DAY)
    page = viewer.get("/archive/search", q="question", project=PROJECT).text
    assert page.index("run 59") < page.index("run 58")
    assert "not wholly" not in page
    assert page.count("<mark>question</mark>") == 50
    older = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    values = {name: value[0] for name, value in parse_qs(urlsplit(older).query).items()}
    assert viewer.get("/archive/search", **values).text.count("<mark>") == 11
    assert "No run has all of these words" in viewer.text("/archive/search", q='"policy refund"')
    assert "No run has all of these words" in viewer.text("/archive/search", q="refund", **{"to": "2026-01-30"})


def test_hostile_hits_are_escaped_and_queries_refused(viewer: Viewer) -> None:
    _filled(viewer, 1)
    index_day(viewer.database, PROJECT, DAY)
    html = viewer.get("/archive/search", q='"refund policy" img onerror').text
    assert f'href="/archive/run/{run_id(100)}"' in html
    assert "<mark>Refund-Policy</mark>" in html
    assert "<img" not in html
    assert "\u202e" not in html
    assert "has no word" in viewer.text("/archive/search", 400, q="…")
    assert "is not a day" in viewer.text("/archive/search", 400, q="x", **{"from": "yesterday"})
    assert "names no page" in viewer.text("/archive/search", 400, q="x", after="~")
    assert "<mark>" not in viewer.get("/archive/search").text


@pytest.mark.parametrize("viewer", [{"LSE_SEARCH": "off"}], indirect=True)
def test_a_search_that_is_off_says_so(viewer: Viewer) -> None:
    assert "LSE_SEARCH is off" in viewer.text("/archive/search", 404, q="x")
