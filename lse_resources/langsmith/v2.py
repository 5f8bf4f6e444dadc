"""The v2 api_version: `POST /api/v2/runs/query` through the SDK's generated client, raw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from lse_archive.days import Window, format_time

if TYPE_CHECKING:
    from langsmith import Langsmith
    from langsmith.types.run_select_field import RunSelectField

MAX_PAGE = 1000
# Presigned links are secrets that expire: they are not asked for.
_LEFT_OUT = frozenset({"SHARE_URL", "ATTACHMENTS"})


def filter_of(window: Window) -> str:
    """The window in LangSmith's filter language; both dialects understand it, bounds included exactly."""
    return f'and(gte(start_time, "{format_time(window.start)}"), lt(start_time, "{format_time(window.end)}"))'


def _all_fields() -> list[RunSelectField]:
    from langsmith.types.run_select_field import RunSelectField

    return [name for name in get_args(RunSelectField) if name not in _LEFT_OUT]


class V2:
    """Requests of the v2 api_version for one project."""

    name = "v2"
    max_page = MAX_PAGE

    def __init__(self, client: Langsmith, project_id: str) -> None:
        self._client = client
        self._project_id = project_id
        self._fields = _all_fields()

    def query(
        self, window: Window, *, cursor: str | None = None, size: int, ids: list[str] | None = None, ids_only: bool
    ) -> tuple[bytes, Mapping[str, str]]:
        """Asks for one page; returns body and headers."""
        from langsmith._types import omit

        answer = self._client.runs.with_raw_response.query_v2(
            project_ids=[self._project_id],
            # Without it only the last 24 hours are answered (types/run_query_v2_params.py).
            min_start_time=format_time(window.start),
            # Whether the bound is part of the window is not documented: the filter decides.
            max_start_time=format_time(window.end),
            filter=filter_of(window),
            ids=ids if ids is not None else omit,
            page_size=size,
            selects=["ID", "START_TIME"] if ids_only else self._fields,
            cursor=cursor if cursor is not None else omit,
        )
        return answer.read(), answer.headers

    def is_partial(self, run: bytes) -> bool:
        """v2 sends every run whole."""
        return False

    def complete(self, run: bytes) -> bytes:
        """Nothing is missing."""
        return run
