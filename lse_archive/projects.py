"""`projects.toml`: the LangSmith projects that are archived, and from which day on."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import parse_day
from lse_archive.errors import SettingsError, UsageError
from lse_archive.publish import publish_file

DEFAULT_RETENTION_DAYS = 14
_HEADER = """\
# The LangSmith projects that LSE archives; `lse projects add NAME --start DAY` adds one.
# name: as LangSmith shows it. start: first day (UTC). retention_days: how long LangSmith keeps the project's runs.
"""


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """One archived project.

    Attributes:
        name: The LangSmith name.
        start: First UTC day of the archive.
        retention_days: How long LangSmith keeps its runs; past that a day cannot be proven any more.
    """

    name: str
    start: date
    retention_days: int = DEFAULT_RETENTION_DAYS


def read_projects(path: Path) -> list[ProjectConfig]:
    """The projects of the file; none if there is no file.

    Raises:
        SettingsError: The file is malformed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _malformed(path, str(error)) from error
    projects = [_read(path, entry) for entry in document.get("project", [])]
    names = [project.name for project in projects]
    if twice := {name for name in names if names.count(name) > 1}:
        raise _malformed(path, f"'{min(twice)}' is listed twice")
    return projects


def _read(path: Path, entry: object) -> ProjectConfig:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise _malformed(path, "a project has no name")
    name, start = entry["name"], entry.get("start")
    try:
        day = start if type(start) is date else parse_day(str(start))
    except UsageError:
        raise _malformed(path, f"the start of '{name}' is not a day (YYYY-MM-DD)") from None
    retention = entry.get("retention_days", DEFAULT_RETENTION_DAYS)
    if type(retention) is not int or retention < 1:
        raise _malformed(path, f"retention_days of '{name}' is not a number of days")
    return ProjectConfig(name, day, retention)


def add_project(path: Path, project: ProjectConfig) -> None:
    """Adds a project at the end of the file; what stands there stays as it is.

    Raises:
        UsageError: It is listed already, or has no name.
        SettingsError: The file is malformed.
    """
    if not project.name.strip():
        raise UsageError("a project needs a name")
    if any(known.name == project.name for known in read_projects(path)):
        raise UsageError(f"'{project.name}' is in {path} already", todo="Change it there")
    text = path.read_text(encoding="utf-8") if path.exists() else _HEADER
    # A JSON string is a TOML basic string, once DEL is escaped (TOML 1.0, Strings).
    name = json.dumps(project.name, ensure_ascii=False).replace("\x7f", "\\u007f")
    text += f"\n[[project]]\nname = {name}\nstart = {project.start}\n"
    if project.retention_days != DEFAULT_RETENTION_DAYS:
        text += f"retention_days = {project.retention_days}\n"
    with publish_file(path) as file:
        file.write(text.encode())


def _malformed(path: Path, why: str) -> SettingsError:
    return SettingsError(f"{path} cannot be read", why=why, todo="Mend it, or add projects with: lse projects add")
