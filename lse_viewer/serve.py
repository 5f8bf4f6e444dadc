"""`dagster-webserver` with the pages of the archive, in the same process and on the same port.

Dagster has no setting for further routes. Its own last route answers every path, so that the pages come before it.
"""

from __future__ import annotations

from dagster_webserver import cli
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from lse_platform.addresses import ROOT
from lse_resources.settings import Settings
from lse_viewer.app import create_app


def create_app_with_pages(*arguments: object, **options: object) -> Starlette:
    """Dagster's application with the pages; the arguments are Dagster's."""
    app = create_app_from_workspace_process_context(*arguments, **options)  # ty: ignore[invalid-argument-type]
    app.router.routes[:0] = [
        Route(ROOT, lambda _: RedirectResponse(f"{ROOT}/")),
        Mount(ROOT, create_app(Settings.load())),
    ]
    return app


if __name__ == "__main__":
    vars(cli)["create_app_from_workspace_process_context"] = create_app_with_pages
    cli.main()
