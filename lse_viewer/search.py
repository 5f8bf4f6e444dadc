"""The search over the texts of all runs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from lse_archive.days import parse_day
from lse_archive.errors import SettingsError
from lse_archive.runs.words import read_query
from lse_platform.addresses import ROOT
from lse_resources.postgres.search.find import Found, Scope, search
from lse_viewer.archive import NotFoundError, archive_of, text_of
from lse_viewer.filters import address, cursor_text, read_cursor
from lse_viewer.rendering import page

_ROWS = 50


def search_page(request: Request) -> Response:
    """The runs that have the words of a query, newest first; without a query, only the form.

    Raises:
        NotFoundError: The search is off.
        UsageError: The query has no word, or a value is malformed.
    """
    archive = archive_of(request)
    try:
        archive.settings.require_search()
    except SettingsError as error:
        raise NotFoundError(error.what, why=error.why, hint=error.hint) from None
    names = ("q", "project", "from", "to")
    values = {name: value for name in names if (value := text_of(request, name).strip())}
    days = {name: parse_day(values[name]) for name in ("from", "to") if name in values}
    after = read_cursor(request, "start")
    found = None
    if "q" in values:
        scope = Scope(values.get("project"), days.get("from"), days.get("to"))
        with archive.reading() as connection:
            found = search(connection, read_query(values["q"]), scope, _ROWS, after)
    return page(
        "search.html",
        project=values.get("project", ""),
        values=values,
        found=found or Found(),
        is_asked=found is not None,
        is_first=after is None,
        start=address(f"{ROOT}/search", list(values.items())),
        following=_following(values, found),
    )


def _following(values: dict[str, str], found: Found | None) -> str | None:
    if found is None or found.following is None:
        return None
    return address(f"{ROOT}/search", list(values.items()), after=cursor_text(found.following))
