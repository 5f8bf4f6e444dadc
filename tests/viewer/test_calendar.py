"""The first page and the calendar of days."""

from __future__ import annotations

import re
from datetime import timedelta

from database_fixtures import DAY, PROJECT
from viewer_fixtures import Viewer, text_of

from lse_archive.folder.state import update_state
from lse_resources.postgres.days_table import update_day


def test_an_empty_archive_says_what_to_do(viewer: Viewer) -> None:
    assert "lse projects add NAME --start DAY" in viewer.text("/archive/")


def test_the_first_page_counts_the_days_of_each_project(viewer: Viewer) -> None:
    viewer.settings.projects_file.write_text('[[project]]\nname = "new"\nstart = 2026-01-01\n')
    update_day(viewer.database, PROJECT, DAY, {"rows": 1234, "verdict": "proven"})
    update_day(viewer.database, PROJECT, DAY + timedelta(days=1), {"rows": 1, "verdict": "wrong"})
    text = viewer.text("/archive/")
    assert f"{PROJECT} 2026-01-31 2026-02-01 2 1,235 1 0 1" in text
    assert "new nothing archived yet" in text


def test_the_calendar_shows_the_verdict_of_each_day(viewer: Viewer) -> None:
    for back, verdict in enumerate(["proven", "not_provable", "wrong", None]):
        folder = viewer.folder(DAY - timedelta(days=back)).fill(1, first=back)
        viewer.load(folder)
        update_day(viewer.database, PROJECT, folder.day, {"rows": 1})
        update_state(viewer.settings.layout.day(PROJECT, folder.day), verdict=verdict)
    html = viewer.get("/archive/days", project=PROJECT).text
    cells = dict(re.findall(r'<td class="(\w+)" title="(\S+): ', html))
    states = {day: state for state, day in cells.items()}
    assert states == {
        "2026-01-31": "proven",
        "2026-01-30": "unprovable",
        "2026-01-29": "wrong",
        "2026-01-28": "open",
    }
    assert "2026-01-31: proven, 1 run" in html
    # January 2026 begins on a Thursday, and its last day is a Saturday.
    weeks = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert "2026-01-31" in weeks[-1].split("<td")[6]


def test_a_calendar_has_one_year(viewer: Viewer) -> None:
    for year in ("2025-12-31", "2026-01-01"):
        update_day(viewer.database, PROJECT, DAY.fromisoformat(year), {"rows": 1, "verdict": "proven"})
    assert "January 2026" in viewer.text("/archive/days", project=PROJECT)
    html = viewer.get("/archive/days", project=PROJECT, year="2025").text
    assert "December 2025" in text_of(html)
    assert "January 2026" not in text_of(html)
    assert 'year=2026"' in html
    assert "No day of 2024 is archived" in viewer.text("/archive/days", project=PROJECT, year="2024")


def test_what_is_not_there_is_an_error_page(viewer: Viewer) -> None:
    assert "No day of 'absent' is archived" in viewer.text("/archive/days", 404, project="absent")
    assert "The address names no project" in viewer.text("/archive/days", 400)
    update_day(viewer.database, PROJECT, DAY, {"rows": 1})
    assert "'x' is not a year" in viewer.text("/archive/days", 400, project=PROJECT, year="x")
