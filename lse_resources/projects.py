"""`projects.toml`: the archived LangSmith projects, and their first days."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from lse_archive.days import parse_day
from lse_archive.errors import SettingsError, UsageError
from lse_archive.files import file_lock, publish_file
from lse_archive.names import project_slug, require_name

DEFAULT_RETENTION_DAYS = 14
MAX_RETENTION_DAYS = 1_000_000
"""Days that can be added to every day that can be archived."""
DEFAULT_SCHEDULE = "02:00"
KEY_HINT = "Rename one of them in LangSmith, or archive it by another installation (LSE_HOME, LSE_PROJECTS_FILE)"
_SHARED = ("retention_days", "schedule", "owner")
_AT_THE_TOP = (*_SHARED, "add_new_projects", "project")
_OF_A_PROJECT = ("name", "start", *_SHARED)
# Owners that Dagster accepts.
_OWNER = re.compile(r"[^@\s:]+@[^@\s]+\.[^@\s]+|team:[A-Za-z0-9_.-]+")
_SCHEDULE = re.compile(r"([01]\d|2[0-3]):[0-5]\d|off")
_HEADER = """\
# The LangSmith projects that LSE archives; `lse projects add NAME --start DAY` adds one.
# name: as LangSmith shows it. start: first day (UTC). retention_days: how long LangSmith keeps the project's runs.
# Also, for a project or before the first one for all: schedule = "02:00" (UTC, or "off"), owner = "team@example.com".
# And before the first one: add_new_projects = true, so that new LangSmith projects are added automatically.
"""


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """One archived project.

    Attributes:
        name: The LangSmith name.
        start: First UTC day of the archive.
        retention_days: Days for which LangSmith keeps its runs; an older day cannot be proven.
        schedule: When yesterday is archived, HH:MM in UTC; `off`: no schedule.
        owner: An e-mail address or `team:name`, shown in the UI.
    """

    name: str
    start: date
    retention_days: int = DEFAULT_RETENTION_DAYS
    schedule: str = DEFAULT_SCHEDULE
    owner: str | None = None


def read_projects(path: Path) -> list[ProjectConfig]:
    """Reads the projects of the file; an empty list if there is no file.

    Raises:
        SettingsError: The file is malformed.
    """
    document = _document(path)
    _reject_unknown(path, document, _AT_THE_TOP, "before the first [[project]]")
    defaults = {key: value for key in _SHARED if (value := document.get(key)) is not None}
    entries = document.get("project", [])
    if not isinstance(entries, list):
        raise _malformed(path, "projects are written as [[project]]")
    projects = [_read(path, defaults | entry if isinstance(entry, dict) else entry) for entry in entries]
    names = [project.name for project in projects]
    if twice := {name for name in names if names.count(name) > 1}:
        raise _malformed(path, f"'{min(twice)}' is listed twice")
    return projects


def key_owners(projects: Iterable[ProjectConfig]) -> dict[str, str]:
    """The name of the project that has each key, see `project_slug`: of several, the one that is listed first.

    The key is a part of the names of a project's assets in Dagster, which must be unique. So the platform archives only
    the owner of a key, and `add_project` refuses a second one.
    """
    owners: dict[str, str] = {}
    for project in projects:
        owners.setdefault(project_slug(project.name), project.name)
    return owners


def lists_none(path: Path) -> str:
    """Returns why `read_projects` found none, for an error."""
    return f"{path} lists none" if path.exists() else f"there is no file {path}"


def adds_new_projects(path: Path) -> bool:
    """Whether projects that are new in LangSmith are added automatically (`add_new_projects`).

    Raises:
        SettingsError: The file is malformed.
    """
    value = _document(path).get("add_new_projects", False)
    if not isinstance(value, bool):
        raise _malformed(path, "add_new_projects is neither true nor false")
    return value


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _malformed(path, str(error)) from error
    except OSError as error:
        raise _malformed(path, error.strerror or str(error)) from error


def _read(path: Path, entry: object) -> ProjectConfig:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise _malformed(path, "a project has no name")
    name, start = entry["name"], entry.get("start")
    _reject_unknown(path, entry, _OF_A_PROJECT, f"of '{name}'")
    try:
        day = start if type(start) is date else parse_day(str(start))
    except UsageError:
        raise _malformed(path, f"the start of '{name}' is not a day (YYYY-MM-DD)") from None
    retention = entry.get("retention_days", DEFAULT_RETENTION_DAYS)
    if type(retention) is not int or not 1 <= retention <= MAX_RETENTION_DAYS:
        raise _malformed(path, f"retention_days of '{name}' is not a number of days")
    schedule, owner = entry.get("schedule", DEFAULT_SCHEDULE), entry.get("owner")
    if not isinstance(schedule, str) or not _SCHEDULE.fullmatch(schedule):
        raise _malformed(path, f'schedule of \'{name}\' is neither a time ("02:00") nor "off"')
    if owner is not None and (not isinstance(owner, str) or not _OWNER.fullmatch(owner)):
        raise _malformed(path, f"owner of '{name}' is neither an e-mail address nor team:name")
    return ProjectConfig(name, day, retention, schedule, owner)


def add_project(path: Path, project: ProjectConfig) -> None:
    """Appends a project to the file; the rest of the file is not changed. Safe from several processes at once.

    Raises:
        UsageError: It is listed already, has no name or too long a one, or its key is that of another project.
        SettingsError: The file is malformed, or cannot be written.
    """
    require_name(project.name)
    # A JSON string is a TOML basic string, once DEL is escaped (TOML 1.0, Strings).
    name = json.dumps(project.name, ensure_ascii=False).replace("\x7f", "\\u007f")
    entry = f"\n[[project]]\nname = {name}\nstart = {project.start}\n"
    if project.retention_days != DEFAULT_RETENTION_DAYS:
        entry += f"retention_days = {project.retention_days}\n"
    if project.schedule != DEFAULT_SCHEDULE:
        entry += f'schedule = "{project.schedule}"\n'
    try:
        with file_lock(path):
            listed = read_projects(path)
            if any(known.name == project.name for known in listed):
                raise UsageError(f"'{project.name}' is already in {path}", hint="Change it there")
            if other := key_owners(listed).get(key := project_slug(project.name)):
                raise UsageError(
                    f"'{project.name}' cannot be added",
                    why=f"its key on the platform, {key}, is that of '{other}'",
                    hint=KEY_HINT,
                )
            text = path.read_text(encoding="utf-8") if path.exists() else _HEADER
            with publish_file(path) as file:
                file.write((text + entry).encode())
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written",
            why=error.strerror or str(error),
            hint="Change its permissions, or edit it",
        ) from error


def _reject_unknown(path: Path, table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """Rejects unknown keys: a typo would otherwise be ignored."""
    if unknown := [key for key in table if key not in known]:
        raise _malformed(path, f"'{unknown[0]}' {where} is not a setting; the settings are {', '.join(known)}")


def _malformed(path: Path, why: str) -> SettingsError:
    return SettingsError(f"{path} cannot be read", why=why, hint="Correct it, or add projects with: lse projects add")
