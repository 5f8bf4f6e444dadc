"""The state of a project beside its days: what LangSmith says of its traces and API, and the passes over its feedback.

It is stored beside the data, so that `lse status` and the sensors need no network.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from lse_archive.errors import UNDECODABLE
from lse_archive.files import disk_errors, file_lock, publish_file
from lse_archive.folder.state import now_text
from lse_archive.layout import Layout
from lse_archive.texts import counted
from lse_resources.projects import MAX_RETENTION_DAYS, ProjectConfig

_log = logging.getLogger(__name__)


class ProjectState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a project. All times are ISO 8601 UTC.

    Attributes:
        feedback_read_until: Feedback that was created before has been found, see `find_late_feedback`.
        retention_days: Days for which LangSmith keeps the project's traces, as its API last answered.
        retention_read_at: When it answered so.
        announced_ends: Routes of its API whose end was announced at the last fetch, each with what was said.
    """

    feedback_read_until: str | None = None
    retention_days: int | None = None
    retention_read_at: str | None = None
    announced_ends: list[str] = []

    def __post_init__(self) -> None:
        for time in filter(None, (self.feedback_read_until, self.retention_read_at)):
            datetime.fromisoformat(time)
        if self.retention_days is not None and not 1 <= self.retention_days <= MAX_RETENTION_DAYS:
            raise ValueError(f"retention_days {self.retention_days}")


def read_project_state(layout: Layout, project: str) -> ProjectState:
    """The state of a project; an empty one if there is none, or if it is damaged."""
    path = layout.project_state(project)
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProjectState)
    except FileNotFoundError:
        return ProjectState()
    except UNDECODABLE as error:
        _log.warning("%s is damaged (%s): what it says is read from LangSmith again", path, error)
        return ProjectState()


def update_project_state(layout: Layout, project: str, **changes: Any) -> None:
    """Replaces fields of a project's state. Safe from several processes at once.

    Raises:
        ArchiveError: It cannot be written.
    """
    path = layout.project_state(project)
    with disk_errors(f"the state of {project} cannot be written under {layout.data_dir}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path):
            state = msgspec.structs.replace(read_project_state(layout, project), **changes)
            with publish_file(path) as file:
                file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days LangSmith keeps the traces of a project.

    Attributes:
        read_at: When LangSmith's API answered so, ISO 8601 UTC; None: it is `retention_days` of `projects.toml`.
    """

    days: int
    read_at: str | None

    def says(self) -> str:
        """The number and where it comes from, for the user."""
        source = (
            "by retention_days in projects.toml"
            if self.read_at is None
            else f"as its API answered on {self.read_at[:10]}"
        )
        return f"LangSmith keeps its traces for {counted(self.days, 'day')}, {source}"


def retention(layout: Layout, project: ProjectConfig) -> Retention:
    """The retention of a project: as LangSmith's API last answered; `retention_days` if it never did."""
    state = read_project_state(layout, project.name)
    if state.retention_days is None:
        return Retention(project.retention_days, None)
    return Retention(state.retention_days, state.retention_read_at)


def note_retention(layout: Layout, project: str, days: int | None) -> None:
    """Records the retention that LangSmith's API answered; None, without an answer, changes nothing.

    Raises:
        ArchiveError: It cannot be written.
    """
    if days is not None:
        update_project_state(layout, project, retention_days=days, retention_read_at=now_text())


def note_ends(layout: Layout, project: str, announced: list[str]) -> None:
    """Records which ends of routes LangSmith has announced to a fetch.

    Raises:
        ArchiveError: It cannot be written.
    """
    if announced != read_project_state(layout, project).announced_ends:
        update_project_state(layout, project, announced_ends=announced)
