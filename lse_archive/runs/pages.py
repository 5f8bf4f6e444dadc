"""Pages of runs: splits an answer of LangSmith into the bytes of its runs."""

from __future__ import annotations

import msgspec

from lse_archive.errors import UNDECODABLE
from lse_archive.runs.scanner import NULL, NotARunError, check_json, elements, load_as, members


class _Page(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    next_cursor: str | None = None
    runs: list[msgspec.Raw] | None = None
    cursors: dict[str, str | None] | None = None


_page_decoder = msgspec.json.Decoder(_Page)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def cut_page(body: bytes, *, strict: bool = True) -> tuple[list[bytes], str | None]:
    """Splits a page of `POST /api/v2/runs/query` or `POST /runs/query` into the bytes of its runs and the next cursor.

    Args:
        strict: Refuse a page with a run that is not JSON. If False, such a run is returned, as long as its brackets
            and strings are closed.

    Raises:
        NotARunError: The body is not JSON, or holds no list of runs: the request must be repeated.
    """
    try:
        page = _page_decoder.decode(body)
    except (*UNDECODABLE, RecursionError):
        page = _cut_page_tolerantly(body, strict=strict)
    if page.items is not None:
        return [bytes(item) for item in page.items], page.next_cursor or None
    if page.runs is not None:
        return [bytes(run) for run in page.runs], (page.cursors or {}).get("next") or None
    raise NotARunError("the answer holds no list of runs")


def cut_list(body: bytes, *, strict: bool = True) -> list[bytes]:
    """Splits an answer that is a JSON array into the bytes of its elements; `strict` as in `cut_page`.

    Raises:
        NotARunError: The body is no array, or not complete.
    """
    try:
        return [bytes(one) for one in _list_decoder.decode(body)]
    except (*UNDECODABLE, RecursionError):
        return [check_json(one) if strict else one for one in elements(body)]


def _cut_page_tolerantly(body: bytes, *, strict: bool) -> _Page:
    def cut(runs: bytes) -> list[msgspec.Raw]:
        return [msgspec.Raw(check_json(run) if strict else run) for run in elements(runs)]

    found = members(body)
    page = _Page(next_cursor=load_as(found.get("next_cursor", NULL), str))
    page.cursors = load_as(found.get("cursors", NULL), dict)
    if found.get("items", NULL) != NULL:
        page.items = cut(found["items"])
    if found.get("runs", NULL) != NULL:
        page.runs = cut(found["runs"])
    return page
