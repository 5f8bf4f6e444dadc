"""API version 2: `POST /api/v2/runs/query`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from lse_archive.days import Window, format_time
from lse_resources.langsmith.settings import LangSmithSettings

if TYPE_CHECKING:
    from langsmith.types.run_select_field import RunSelectField

MAX_PAGE = 1000
# Whoever has it can read the run without an account.
_LEFT_OUT = "SHARE_URL"


def filter_of(window: Window) -> str:
    """The window in LangSmith's filter language, for both API versions; the bounds are exact."""
    return f'and(gte(start_time, "{format_time(window.start)}"), lt(start_time, "{format_time(window.end)}"))'


def _all_fields() -> list[RunSelectField]:
    from langsmith.types.run_select_field import RunSelectField

    return [name for name in get_args(RunSelectField) if name != _LEFT_OUT]


class V2:
    """Queries of one project in API version 2."""

    name = "v2"
    max_page = MAX_PAGE
    link_member = "attachments"
    link_prefix = ""

    def __init__(self, settings: LangSmithSettings, project_id: str) -> None:
        self.url = settings.v2_url("/runs/query")
        self._project_id = project_id
        self._fields = _all_fields()

    def query(
        self, window: Window, *, cursor: str | None = None, size: int, ids: list[str] | None = None, ids_only: bool
    ) -> dict[str, Any]:
        """The body of the request for one page."""
        body: dict[str, Any] = {
            "project_ids": [self._project_id],
            # Without it the answer has only the last 24 hours (the SDK's types/run_query_v2_params.py).
            "min_start_time": format_time(window.start),
            # Whether the bound is part of the window is not documented: the filter decides.
            "max_start_time": format_time(window.end),
            "filter": filter_of(window),
            "page_size": size,
            "selects": ["ID", "START_TIME"] if ids_only else self._fields,
        }
        if cursor is not None:
            body["cursor"] = cursor
        if ids is not None:
            body["ids"] = ids
        return body

    def is_partial(self, run: bytes) -> bool:
        """Whether payloads are missing: never in v2."""
        return False

    def complete(self, run: bytes) -> bytes:
        """The run as it is."""
        return run
