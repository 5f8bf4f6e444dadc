"""What protects the pages: headers, host names, escaping, and sessions that cannot write."""

from __future__ import annotations

import pytest
from database_fixtures import DAY
from viewer_fixtures import Viewer

from lse_archive.errors import DatabaseError
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.pages import session
from lse_resources.postgres.pages.session import SlowStatementError, reading

_HOSTILE = '<script>alert(1)</script>\u202e" onload="x" \x1b[2J'


@pytest.mark.parametrize(
    ("address", "status"),
    [("/archive/", 200), ("/archive/days", 400), ("/archive/x", 404), ("/archive/static/pages.css", 200)],
)
def test_every_response_has_the_headers(viewer: Viewer, address: str, status: int) -> None:
    headers = viewer.get(address, status).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("viewer", [{"LSE_UI_URL": "https://LSE.example.org/"}], indirect=True)
def test_a_foreign_host_name_is_refused(viewer: Viewer) -> None:
    known = (
        "127.0.0.1:3000",
        "localhost",
        "LOCALHOST:1",
        "[::1]:3000",
        "10.0.0.7",
        "lse.example.org",
        "lse.example.org:8443",
    )
    foreign = ("evil.example.org", "127.0.0.1.evil.example.org", "localhost@evil.example.org", "lse.example.org.", "")
    for host in (*known, *foreign):
        response = viewer.client.get("/archive/", headers={"Host": host})
        assert response.status_code == (200 if host in known else 421), host
    assert "LSE_UI_URL" in response.text


def test_hostile_names_are_escaped_and_visible(viewer: Viewer) -> None:
    update_day(viewer.database, _HOSTILE, DAY, {"rows": 1, "verdict": "proven"})
    for address in ("/archive/", "/archive/days"):
        html = viewer.get(address, project=_HOSTILE).text
        assert "<script>alert" not in html
        assert "\u202e" not in html
        assert '" onload' not in html
        assert "\\u202e" in html
        assert "\\x1b[2J" in html


def test_no_page_has_inline_script_or_style(viewer: Viewer) -> None:
    update_day(viewer.database, "p", DAY, {"rows": 1, "verdict": "proven"})
    for address in ("/archive/", "/archive/days", "/archive/x"):
        html = viewer.client.get(address, params={"project": "p"}).text
        assert " style=" not in html
        assert "<style" not in html
        assert html.count("<script") == html.count("<script src=") == 1


def test_a_value_that_postgres_cannot_compare_is_an_error_page(viewer: Viewer) -> None:
    assert "it contains a NUL character" in viewer.text("/archive/days", 400, project="a\0b")


def test_a_session_of_the_pages_cannot_write(viewer: Viewer) -> None:
    with pytest.raises(DatabaseError, match="read-only transaction"), reading(viewer.database) as connection:
        connection.execute("DELETE FROM runs")


def test_a_slow_statement_ends_with_what_to_do(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STATEMENT_SECONDS", 0.05)
    with pytest.raises(SlowStatementError, match="Choose fewer days"), reading(viewer.database) as connection:
        connection.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("viewer", [{"LSE_DATABASE_URL": "postgresql://me:hush@127.0.0.1:9/archive"}], indirect=True)
def test_without_a_database_the_page_says_so_without_the_password(viewer: Viewer) -> None:
    text = viewer.text("/archive/", 503)
    assert "Check that the server runs" in text
    assert "hush" not in text
