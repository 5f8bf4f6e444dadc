"""Trends: the numbers of days, charts, and what is remembered."""

from __future__ import annotations

import re
from datetime import timedelta

from database_fixtures import DAY, PROJECT, feedback
from viewer_fixtures import Viewer, text_of

from lse_archive.texts import number
from lse_resources.postgres.analysis.frames import Runs
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.load.rollback import rollback_load
from lse_viewer.charts import chart


def _table(html: str, title: str) -> list[str]:
    """The rows of a chart's table."""
    [found] = re.findall(rf'aria-label="{title} as a table">(.*?)</table>', html, re.DOTALL)
    return [text_of(row) for row in re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)]


def _fill(viewer: Viewer) -> None:
    for back in range(3):
        folder = viewer.folder(DAY - timedelta(days=back))
        for run in range(8):
            folder.write(
                20 * back + run,
                status="ERROR" if run == 1 else "SUCCESS",
                total_tokens=10 * (run + 1),
                total_cost=0.5,
                metadata={"ls_model_name": f"m{run % 2}"},
                run_type="CHAIN" if run == 0 else "LLM",
            )
        folder.write_feedback(
            feedback(back, run=20 * back, score=back / 4),
            feedback(9 + back, run=20 * back, lse_deleted_at="2026-02-02T00:00:00"),
        )
        viewer.load(folder)
        update_day(viewer.database, PROJECT, folder.day, {"rows": 8})


def test_the_numbers_are_those_of_the_view(viewer: Viewer) -> None:
    _fill(viewer)
    html = viewer.get("/archive/trends", project=PROJECT).text
    days = [str(DAY - timedelta(days=back)) for back in (2, 1, 0)]
    columns, rows = Runs(viewer.database).query("SELECT * FROM daily_facts ORDER BY run_date")
    facts = [dict(zip(columns, row, strict=True)) for row in rows]
    assert _table(html, "Runs") == [
        f"Day {PROJECT}",
        *(f"{day} {fact['runs']}" for day, fact in zip(days, facts, strict=True)),
    ]
    assert _table(html, "Traces")[1:] == [f"{day} {fact['traces']}" for day, fact in zip(days, facts, strict=True)]
    assert _table(html, "Errors")[1:] == [f"{day} 1" for day in days]
    assert _table(html, "Error rate")[1:] == [f"{day} 12.5 %" for day in days]
    assert _table(html, "Latency of root runs")[1:] == [f"{day} 1.5 s 1.5 s 1.5 s" for day in days]
    assert facts[0]["total_tokens"] == 350
    assert _table(html, "Tokens by model") == ["Day m1 m0", *(f"{day} 200 150" for day in days)]
    assert _table(html, "Cost by model")[1:] == [f"{day} $2.00 $1.50" for day in days]
    assert _table(html, "Feedback, mean score")[1:] == [f"{days[0]} 0.5", f"{days[1]} 0.25", f"{days[2]} 0"]


def test_what_is_remembered_changes_with_the_next_load_or_rollback(viewer: Viewer) -> None:
    folder = viewer.folder().fill(2)
    viewer.load(folder)
    before = viewer.get("/archive/trends", project=PROJECT, to=str(DAY)).text
    assert _table(before, "Runs")[1:] == [f"{DAY} 2"]
    with viewer.database.connect() as connection:  # not known to LSE: what is remembered stays
        connection.execute('UPDATE runs SET data = data || \'{"status": "error"}\'')
    assert _table(viewer.get("/archive/trends", project=PROJECT, to=str(DAY)).text, "Errors")[1:] == [f"{DAY} 0"]
    viewer.load(folder.fill(1, first=2))
    after = viewer.get("/archive/trends", project=PROJECT, to=str(DAY)).text
    assert _table(after, "Runs")[1:] == [f"{DAY} 3"]
    assert _table(after, "Errors")[1:] == [f"{DAY} 2"]
    with viewer.database.connect() as connection:
        [(load,)] = connection.execute("SELECT max(load_id) FROM loads").fetchall()
        connection.execute("UPDATE loads SET finished_at = NULL")  # a load that runs, or was killed
        connection.execute('UPDATE runs SET data = data || \'{"status": "success"}\'')
    assert _table(viewer.get("/archive/trends", project=PROJECT, to=str(DAY)).text, "Errors")[1:] == [f"{DAY} 0"]
    rollback_load(viewer.database, load)
    assert _table(viewer.get("/archive/trends", project=PROJECT, to=str(DAY)).text, "Runs")[1:] == [f"{DAY} 2"]


def test_projects_side_by_side_and_wrong_ranges(viewer: Viewer) -> None:
    viewer.load(viewer.folder().fill(2))
    viewer.load(viewer.folder(project="other").fill(4, first=4), "other")
    html = viewer.get("/archive/trends", project=[PROJECT, "other"], to=str(DAY)).text
    assert _table(html, "Runs") == [f"Day {PROJECT} other", f"{DAY} 2 4"]
    assert "Latency of root runs, p95" in html
    assert "Cost by model" not in html
    assert "no range" in viewer.text(
        "/archive/trends", 400, project=PROJECT, **{"from": "2026-02-01", "to": "2026-01-31"}
    )
    assert "no range" in viewer.text(
        "/archive/trends", 400, project=PROJECT, **{"from": "2024-01-01", "to": "2026-01-31"}
    )
    assert "7 projects" in viewer.text("/archive/trends", 400, project=[str(n) for n in range(7)])
    assert "has rows" in viewer.text("/archive/trends", project="absent")


def test_a_line_is_interrupted_where_a_day_has_no_value() -> None:
    drawn = chart("x", [("a", [1.0, 2.0, None, 4.0]), ("b", [None] * 4)], number)
    assert drawn is not None
    assert [len(part.split()) for part in drawn.lines[0].parts] == [2, 1]
    assert drawn.lines[1].parts == []
    ys = [y for _, y, _ in drawn.lines[0].points]
    assert ys == sorted(ys, reverse=True)
    assert [value for _, value in drawn.ticks] == [0, 1, 2, 3, 4]
    assert chart("x", [("a", [None])], number) is None
    assert chart("x", [("a", [0.0])], number) is not None
