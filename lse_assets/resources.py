"""The outside systems as Dagster resources. Each reads the settings when used, so that run records have no secret."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import dagster as dg

from lse_archive.fetch.attachments import AttachmentLimits
from lse_archive.layout import Layout
from lse_resources.destinations.protocol import Destination
from lse_resources.lake.open_lake import open_lake_place
from lse_resources.lake.place import LakePlace
from lse_resources.langsmith.client import LangSmith
from lse_resources.open_destination import open_destination
from lse_resources.postgres.database import Database
from lse_resources.postgres.schema import check_schema
from lse_resources.postgres.urls import application_url
from lse_resources.settings import Settings


class ArchiveResource(dg.ConfigurableResource):
    """The data and archive directories, the limits of what is stored in them, and the lake."""

    def layout(self) -> Layout:
        """Returns the paths of all days."""
        return Settings.load().layout

    def lake(self) -> LakePlace:
        """Opens the lake. Raises SettingsError if there is none, or its URL is malformed."""
        return open_lake_place(Settings.load())

    def workspace(self) -> str | None:
        """Returns the id of the LangSmith workspace, if it is set."""
        return Settings.load().langsmith_workspace_id

    def attachment_limits(self) -> AttachmentLimits:
        """Returns the largest attachment and the largest day of the settings."""
        return Settings.load().attachment_limits


class LangSmithResource(dg.ConfigurableResource):
    """LangSmith, configured by `LANGSMITH_API_KEY`, `LANGSMITH_ENDPOINT` and `LANGSMITH_WORKSPACE_ID`."""

    @contextlib.contextmanager
    def client(self) -> Generator[LangSmith]:
        """A client, closed at the end."""
        with contextlib.closing(LangSmith(Settings.load().langsmith)) as client:
            yield client


class DestinationResource(dg.ConfigurableResource):
    """The archive's destination: the Drive folder of `GOOGLE_DRIVE_FOLDER_URL`, or `LSE_ARCHIVE_URL` instead."""

    @contextlib.contextmanager
    def client(self) -> Generator[Destination]:
        """A client, closed at the end. Raises SettingsError if none is configured."""
        with open_destination(Settings.load()) as client:
            yield client


class PostgresResource(dg.ConfigurableResource):
    """The database of `LSE_DATABASE_URL`, or the embedded server's."""

    def database(self) -> Database:
        """Returns the database after a check of its schema.

        Raises:
            DatabaseError: It cannot be reached, or its schema is of another version.
        """
        database = Database(application_url(Settings.load()))
        check_schema(database)
        return database
