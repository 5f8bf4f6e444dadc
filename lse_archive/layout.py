"""The paths of a project's day on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lse_archive.days import parse_day
from lse_archive.errors import UsageError
from lse_archive.names import project_folder, project_name, zip_name

# Not a possible project folder or day: a leading dot is always encoded.
WORK_DIR = ".lse"


@dataclass(frozen=True, slots=True)
class DayPaths:
    """The paths of one project's UTC day."""

    project: str
    day: date
    data_dir: Path
    archive_dir: Path

    @property
    def folder(self) -> Path:
        """The published run files."""
        return self.data_dir / project_folder(self.project) / str(self.day)

    @property
    def zip(self) -> Path:
        """The day archive."""
        return self.archive_dir / zip_name(self.project, self.day)

    @property
    def _work(self) -> Path:
        return self.data_dir / project_folder(self.project) / WORK_DIR

    @property
    def staging(self) -> Path:
        """The files of an unfinished fetch; never read as an archive."""
        return self._work / f"{self.day}.staging"

    @property
    def retired(self) -> Path:
        """The former folder, while a new one is renamed to its path."""
        return retired_folder(self.folder)

    @property
    def lock(self) -> Path:
        """The lock of the one process that may write this day."""
        return self._work / f"{self.day}.lock"

    @property
    def state(self) -> Path:
        """The day's state beside its content, see `lse_archive.folder.state`."""
        return self._work / f"{self.day}.state.json"

    @property
    def late_feedback(self) -> Path:
        """Feedback that was found after the day's last fetch, see `lse_archive.folder.late_feedback`."""
        return self._work / f"{self.day}.feedback.jsonl"

    @property
    def tombstones(self) -> Path:
        """The runs of the day that were erased on purpose, see `lse_archive.folder.tombstones`."""
        return self._work / f"{self.day}.forgotten.txt"

    @property
    def restoring(self) -> Path:
        """The folder in which a restore or an import prepares a day before its publication."""
        return self._work / f"{self.day}.restore"

    @property
    def pruned(self) -> Path:
        """The record of a day whose run files were pruned, see `lse_archive.folder.pruned`."""
        return self._work / f"{self.day}.pruned"

    @property
    def incoming(self) -> Path:
        """A zip that was downloaded from the destination, before it replaces the local zip."""
        return self.archive_dir / f".{self.zip.name}.restore"

    @property
    def upload_session(self) -> Path:
        """The session of an unfinished upload of the zip."""
        return self.archive_dir / f".{self.zip.name}.upload"


@dataclass(frozen=True, slots=True)
class Layout:
    """The two directories of the archive."""

    data_dir: Path
    archive_dir: Path

    def day(self, project: str, day: date) -> DayPaths:
        return DayPaths(project, day, self.data_dir, self.archive_dir)

    def project_state(self, project: str) -> Path:
        """The state of a project beside its days, see `lse_operations.project_state`."""
        return self.data_dir / project_folder(project) / WORK_DIR / "project.state.json"

    @property
    def erasures(self) -> Path:
        """The journals and certificates of erasures, see `lse_operations.forget`."""
        return self.data_dir / WORK_DIR / "erasures"

    def projects(self) -> Iterator[str]:
        """The projects that have a folder, by name; without those whose name was too long for a folder name."""
        if self.data_dir.is_dir():
            for folder in sorted(self.data_dir.iterdir()):
                if folder.is_dir() and not folder.name.startswith(".") and (name := project_name(folder.name)):
                    yield name

    def days(self, project: str) -> Iterator[date]:
        """The days of a project whose run files are published, oldest first."""
        yield from _days_in(self.data_dir / project_folder(project))

    def pruned_days(self, project: str) -> Iterator[date]:
        """The pruned days of a project, oldest first."""
        yield from _days_in(self.data_dir / project_folder(project) / WORK_DIR, ".pruned")

    def recorded_days(self, project: str) -> Iterator[date]:
        """The days of a project that have a state, oldest first."""
        yield from _days_in(self.data_dir / project_folder(project) / WORK_DIR, ".state.json")

    def forgotten_days(self, project: str) -> Iterator[date]:
        """The days of a project of which runs were erased on purpose, oldest first."""
        yield from _days_in(self.data_dir / project_folder(project) / WORK_DIR, ".forgotten.txt")

    def zipped_days(self, project: str) -> Iterator[date]:
        """The days of a project that have a local zip, oldest first."""
        head = f"{project_folder(project)}_"
        if self.archive_dir.is_dir():
            for entry in sorted(self.archive_dir.iterdir()):
                day = entry.name.removeprefix(head).removesuffix(".zip")
                if entry.name == f"{head}{day}.zip" and (found := _day(day)):
                    yield found


def retired_folder(folder: Path) -> Path:
    """See `DayPaths.retired`."""
    return folder.parent / WORK_DIR / f"{folder.name}.old"


def _days_in(folder: Path, suffix: str = "") -> Iterator[date]:
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            name = entry.name.removesuffix(suffix)
            if entry.name == name + suffix and (suffix or entry.is_dir()) and (day := _day(name)):
                yield day


def _day(text: str) -> date | None:
    try:
        return parse_day(text)
    except UsageError:
        return None
