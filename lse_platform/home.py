"""The platform's home under LSE_HOME: the database with its schema, and Dagster's home."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from lse_archive.errors import DatabaseError, SettingsError
from lse_archive.files import publish_file
from lse_resources.embedded_postgres.place import find_location
from lse_resources.postgres.database import Database
from lse_resources.postgres.schema import check_schema, migrate
from lse_resources.postgres.urls import application_url, dagster_url, libpq_url
from lse_resources.projects import ProjectConfig, read_projects
from lse_resources.settings import Settings

DAGSTER_URL_VARIABLE = "LSE_DAGSTER_POSTGRES_URL"
WORKSPACE = Path(__file__).with_name("workspace.yaml")
"""Dagster's code locations."""
DAGSTER_YAML = Path(__file__).with_name("dagster.yaml")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Home:
    """A home that is ready to be used.

    Attributes:
        database: The application's database, its schema up to date.
        dagster_home: Directory with `dagster.yaml`.
        dagster_url: SQLAlchemy URL of Dagster's database.
    """

    database: Database
    dagster_home: Path
    dagster_url: str

    def check_dagster(self) -> None:
        """Connects to Dagster's database. Dagster itself would retry for long, and log tracebacks.

        Raises:
            DatabaseError: It cannot be reached, or refuses the login.
        """
        try:
            Database(libpq_url(self.dagster_url)).connect().close()
        except DatabaseError as error:
            raise DatabaseError(
                "cannot connect to Dagster's database", why=error.why, hint="Check LSE_DAGSTER_DATABASE_URL"
            ) from None

    def environment(self) -> dict[str, str]:
        """Environment variables of Dagster's processes, in addition to the settings.

        PGTZ is the time zone of libpq's sessions: Dagster reads times that its database writes as UTC.
        """
        return {"DAGSTER_HOME": str(self.dagster_home), DAGSTER_URL_VARIABLE: self.dagster_url, "PGTZ": "UTC"}


def open_home(settings: Settings) -> Home:
    """Starts the embedded server if no database is configured, migrates the schema, and writes Dagster's home.

    Raises:
        DatabaseError: Postgres cannot be reached, or its schema is newer than this version.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(application_url(settings))
    try:
        check_schema(database)
    except DatabaseError:
        migrate(database)
    home = settings.home / "dagster"
    wanted = DAGSTER_YAML.read_bytes()
    if not (home / "dagster.yaml").exists() or (home / "dagster.yaml").read_bytes() != wanted:
        with publish_file(home / "dagster.yaml") as file:
            file.write(wanted)
    return Home(database, home, dagster_url(settings))


def find_home(settings: Settings) -> Home | None:
    """Opens the home, see `open_home`; None if the installation has never had a database: none is made."""
    has_database = settings.lse_database_url or find_location(settings.home / "postgres").data.exists()
    return open_home(settings) if has_database else None


def find_database(settings: Settings) -> Database | None:
    """The application's database; None if there has never been one. Raises DatabaseError, see `open_home`."""
    home = find_home(settings)
    return home.database if home else None


def keep_projects(settings: Settings) -> None:
    """Saves a copy of `projects.toml` under the home, used while the file is malformed.

    Raises:
        SettingsError: The file is malformed; the copy is not changed.
    """
    path = settings.projects_file
    content = path.read_bytes() if path.is_file() else b""
    read_projects(path)
    with publish_file(_kept_projects(settings)) as file:
        file.write(content)


def known_projects(settings: Settings) -> list[ProjectConfig]:
    """Reads the projects of `projects.toml`, or of its saved copy while the file is malformed.

    Raises:
        SettingsError: The file is malformed, and there is no copy.
    """
    try:
        return read_projects(settings.projects_file)
    except SettingsError as error:
        kept = _kept_projects(settings)
        if not kept.exists():
            raise
        _log.warning("%s. Until then the previous projects are used", error)
        return read_projects(kept)


def _kept_projects(settings: Settings) -> Path:
    return settings.home / "run" / "projects.toml"
