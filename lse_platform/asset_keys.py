"""The keys of a project's assets and the name of its job, as assets, schedules and sensors use them."""

import dagster as dg

from lse_archive.names import project_slug


def asset_key(project: str, step: str) -> dg.AssetKey:
    """The key of a project's step."""
    return dg.AssetKey([project_slug(project), step])


def langsmith_key(project: str) -> dg.AssetKey:
    """The key of the external asset that represents the project in LangSmith."""
    return dg.AssetKey([project_slug(project), "langsmith"])


def job_name(project: str) -> str:
    """The job that archives a day of the project; with its step `verification` alone, it verifies the day again."""
    return f"archive_{project_slug(project).replace('-', '_')}"
