"""The list of a project's runs, and its downloads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import get_args

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lse_archive.errors import UsageError
from lse_platform.addresses import ROOT
from lse_resources.postgres.pages.projects import last_day_of
from lse_resources.postgres.pages.runs import Download, RunFilter, as_sql, download, read_page
from lse_viewer.archive import NotFoundError, archive_of
from lse_viewer.filters import address, cursor_text, filter_values, read_cursor, read_filter
from lse_viewer.rendering import page
from lse_viewer.safety import CONTENT_POLICY

_DAYS = 7
_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


def runs_page(request: Request) -> Response:
    """A page of the runs that a filter selects; without days and ids, of the last seven days that are archived."""
    archive, wanted = archive_of(request), read_filter(request)
    after = read_cursor(request, wanted.sort)
    with archive.reading() as connection:
        if not (wanted.first or wanted.last or wanted.run_ids) and (last := last_day_of(connection, wanted.project)):
            wanted = replace(wanted, first=last - timedelta(days=_DAYS - 1), last=last)
        rows, following = read_page(connection, wanted, after)
    values = filter_values(wanted)
    here = f"{ROOT}/runs"
    return page(
        "runs.html",
        project=wanted.project,
        wanted=wanted,
        values=dict(values),
        rows=rows,
        is_first=after is None,
        start=address(here, values),
        following=address(here, values, after=cursor_text(following)) if following else None,
        downloads={format: address(f"{ROOT}/runs.{format}", values) for format in _TYPES},
        sql=as_sql(wanted),
        absent=_absent(wanted, [str(row.run_id) for row in rows]) if not (after or following) else [],
    )


def runs_download(request: Request) -> Response:
    """All runs that a filter selects, as a file.

    Raises:
        UsageError: The filter names neither days nor runs.
    """
    archive, wanted, format = archive_of(request), read_filter(request), request.path_params["format"]
    if format not in get_args(Download):
        raise NotFoundError(f"there is no download as {format}")
    if not ((wanted.first and wanted.last) or wanted.run_ids):
        raise UsageError("a download needs a range of days", hint="Add from=DAY and to=DAY to the address")
    headers = {
        "Content-Disposition": f'attachment; filename="runs.{format}"',
        "Content-Security-Policy": CONTENT_POLICY,
    }
    parts = archive.limited(download(archive.database, wanted, format))
    return StreamingResponse(parts, media_type=_TYPES[format], headers=headers)


def _absent(wanted: RunFilter, found: list[str]) -> list[str]:
    """The runs that the filter names and the database does not have."""
    return [str(run_id) for run_id in wanted.run_ids if str(run_id) not in found]
