"""The names in Dagster that assets, schedules, sensors and the command line share: keys, jobs, metadata."""

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.workspace.load_target import WorkspaceFileTarget

from lse_archive.names import project_slug
from lse_platform.home import WORKSPACE

FAILED_CHECKS = "failed checks"
"""Metadata of the failure of a step whose checks failed: they raise the alert."""


def asset_key(project: str, step: str) -> dg.AssetKey:
    """The key of a project's step."""
    return dg.AssetKey([project_slug(project), step])


def langsmith_key(project: str) -> dg.AssetKey:
    """The key of the external asset that represents the project in LangSmith."""
    return dg.AssetKey([project_slug(project), "langsmith"])


def job_name(project: str) -> str:
    """The job that archives a day of the project; with its step `verification` alone, it verifies the day again."""
    return f"archive_{project_slug(project).replace('-', '_')}"


def job_origin(project: str) -> RemoteJobOrigin:
    """Where the platform finds the project's job: a run with this origin is on its pages, and can be executed again."""
    [location] = WorkspaceFileTarget([str(WORKSPACE)]).create_origins()
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job_name(project))
