"""`lse db`: the database URL, migrations and grants."""

from __future__ import annotations

from typing import Annotated

import typer

from lse_cli.commands.group import Group
from lse_cli.commands.options import require_text
from lse_cli.terminal.output import echo

app = typer.Typer(
    cls=Group,
    help="The database: its URL, its schema, and the rights of roles.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def url() -> None:
    """Print the libpq URL of the application's database. Starts the embedded server if needed."""
    from lse_resources.postgres.urls import application_url
    from lse_resources.settings import Settings

    echo(application_url(Settings.load()))


@app.command()
def migrate() -> None:
    """Migrate the schema to this version; `lse up` and `lse archive` do it automatically."""
    from lse_resources.postgres.database import Database
    from lse_resources.postgres.schema import migrate as migrate_schema
    from lse_resources.postgres.urls import application_url
    from lse_resources.settings import Settings

    migrate_schema(Database(application_url(Settings.load())))
    echo("the schema is up to date")


@app.command()
def grant(
    role: Annotated[
        str, typer.Argument(callback=require_text, help="Name of the role; it is created if it does not exist.")
    ],
    read_only: Annotated[bool, typer.Option("--read-only", help="For analysts: only SELECT. Default: off.")] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a new password of the role. Default: keep the password.")
    ] = False,
) -> None:
    """Grant a role only the rights that the application needs. Run it as the owner of the tables."""
    from lse_resources.postgres.database import Database
    from lse_resources.postgres.grants import grant as grant_rights
    from lse_resources.postgres.urls import application_url
    from lse_resources.settings import Settings

    secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True) if password else None
    database = Database(application_url(Settings.load()))
    created = grant_rights(database, role, "reader" if read_only else "application", password=secret)
    echo(f"{'created' if created else 'found'} {role}: it may {'read' if read_only else 'load, verify and read'}")
