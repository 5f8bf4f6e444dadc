"""`lse up`, `lse down` and `lse demo`: the platform on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_cli.terminal.output import echo


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(up)
    app.command()(down)
    app.command()(demo)


def up(
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=1,
            max=65535,
            show_default=False,
            help="Port of the UI. Default: 3000.",
        ),
    ] = 3000,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            show_default=False,
            help="Address on which the UI listens. The UI has no login. Default: 127.0.0.1.",
        ),
    ] = "127.0.0.1",
) -> None:
    """Run the platform until Ctrl-C: database, UI and daemon. Days that are due start at once."""
    from datetime import UTC, datetime

    from lse_cli.terminal.texts import counted
    from lse_operations.overview import days_behind
    from lse_platform.platform import run_platform
    from lse_resources.projects import read_projects
    from lse_resources.settings import Settings

    settings = Settings.load()
    active = [project for project in read_projects(settings.projects_file) if project.schedule != "off"]
    if due := sum(map(len, days_behind(settings, active, datetime.now(UTC)))):
        echo(f"due: {counted(due, 'day')}; they start with the platform, the first to expire first")
    run_platform(settings, port=port, host=host, say=echo)


def down() -> None:
    """Stop the platform of LSE_HOME: the UI, the daemon and the embedded database."""
    from lse_platform.platform import stop_platform
    from lse_resources.settings import Settings

    stopped = stop_platform(Settings.load())
    echo(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def demo(
    up: Annotated[
        bool, typer.Option("--up", help="Run the platform on the data of an earlier demo. Default: off.")
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=1,
            max=65535,
            show_default=False,
            help="Port of the UI, with --up. Default: 3000.",
        ),
    ] = 3000,
    directory: Annotated[
        str,
        typer.Option(
            "--directory", metavar="DIR", show_default=False, help="Directory of the demo. Default: .lse-demo."
        ),
    ] = ".lse-demo",
) -> None:
    """Archive two sample projects from end to end on local servers. Needs no account and no network."""
    from pathlib import Path

    from lse_cli.work.demo import run_demo, run_demo_platform

    if up:
        run_demo_platform(Path(directory), port=port)
    else:
        run_demo(Path(directory))
