"""`lse up` and `lse down`: the platform on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


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
            help="Address that the UI binds; it has no login. Default: 127.0.0.1.",
        ),
    ] = "127.0.0.1",
) -> None:
    """Run the platform: database, UI and daemon, until Ctrl-C."""
    from lse_platform.platform import run_platform
    from lse_resources.settings import Settings

    run_platform(Settings.load(), port=port, host=host, say=typer.echo)


def down() -> None:
    """Stop what runs under LSE_HOME: the UI, the daemon and the embedded database."""
    from lse_platform.platform import stop_platform
    from lse_resources.settings import Settings

    stopped = stop_platform(Settings.load())
    typer.echo(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def demo(
    up: Annotated[
        bool, typer.Option("--up", help="Run the platform over the demo's data instead. Default: off.")
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
        typer.Option("--directory", metavar="DIR", show_default=False, help="Where the demo lies. Default: .lse-demo"),
    ] = ".lse-demo",
) -> None:
    """Archive two made-up projects end to end, on local servers: needs no account and no network."""
    from pathlib import Path

    from lse_cli.work.demo import run_demo, run_demo_platform

    if up:
        run_demo_platform(Path(directory), port=port)
    else:
        run_demo(Path(directory))
