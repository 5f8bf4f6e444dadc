"""`lse db`: the database."""

from __future__ import annotations

import typer

app = typer.Typer(help="The database: its URL and its schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def url() -> None:
    """Print the libpq URL of the application's database and nothing else; starts the embedded server if needed."""
    from lse_resources.databases import application_url
    from lse_resources.settings import Settings

    typer.echo(application_url(Settings.load()))


@app.command()
def migrate() -> None:
    """Bring the schema up to date; `lse up` and `lse archive` do it by themselves."""
    from lse_resources.databases import application_url
    from lse_resources.postgres import Database
    from lse_resources.schema import migrate as migrate_schema
    from lse_resources.settings import Settings

    migrate_schema(Database(application_url(Settings.load())))
    typer.echo("the schema is up to date")
