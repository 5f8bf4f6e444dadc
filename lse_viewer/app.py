"""The application of the pages, which Dagster's webserver has under `/archive`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lse_archive.errors import ArchiveError, DatabaseError, DestinationError, UsageError
from lse_resources.settings import Settings
from lse_viewer.archive import Archive, NotFoundError
from lse_viewer.days import days_page, projects_page
from lse_viewer.rendering import STATIC, page
from lse_viewer.runs import runs_download, runs_page
from lse_viewer.safety import Safety
from lse_viewer.search import search_page
from lse_viewer.traces import (
    attachment,
    run_file,
    run_page,
    run_panel,
    run_tree,
    run_value,
    thread_page,
    trace_page,
    trace_rows,
)
from lse_viewer.trends import trends_page

_STATUS: dict[type[ArchiveError], int] = {
    UsageError: 400,
    NotFoundError: 404,
    DatabaseError: 503,
    DestinationError: 503,
}


def create_app(settings: Settings) -> Starlette:
    """The pages over the archive and the database of these settings."""
    app = Starlette(
        routes=[
            Route("/", projects_page),
            Route("/days", days_page),
            Route("/runs", runs_page),
            Route("/runs.{format:str}", runs_download),
            Route("/search", search_page),
            Route("/trends", trends_page),
            Route("/trace/{trace_id}", trace_page),
            Route("/trace/{trace_id}/rows", trace_rows),
            Route("/thread", thread_page),
            Route("/run/{run_id}", run_page),
            Route("/run/{run_id}/panel", run_panel),
            Route("/run/{run_id}/tree", run_tree),
            Route("/run/{run_id}/value", run_value),
            Route("/run/{run_id}/file", run_file),
            Route("/run/{run_id}/attachment/{attachment_id}", attachment),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Safety, settings.lse_ui_url)],
        exception_handlers={ArchiveError: _show_error, HTTPException: _show_http_error},
    )
    app.state.archive = Archive(settings)
    return app


def _show_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ArchiveError)
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return page("error.html", status, what=error.what, why=error.why, hint=error.hint)


def _show_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return page("error.html", error.status_code, what=error.detail, why="", hint="")
