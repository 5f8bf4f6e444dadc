"""The lake as the source of a restore: a day's zip is made again from the table `raw`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from lse_archive.days import parse_day
from lse_archive.errors import ArchiveConflictError, CorruptArchiveError, RefusedArchiveError
from lse_archive.files import disk_errors, publish_file
from lse_archive.folder.manifest import sort_key
from lse_archive.folder.publish import SCRATCH
from lse_archive.zips.writer import write_zip
from lse_resources.destinations.files import StoredFile
from lse_resources.lake.manifest import LakeManifest, parse_manifest
from lse_resources.lake.place import LakePlace
from lse_resources.lake.raw import read_raw
from lse_resources.lake.schema import MANIFEST

_PROJECT, _DAY = "project=", "run_date="


class LakeSource:
    """The days of a lake as zips: see `ArchiveSource`. A day without a manifest was not written to its end."""

    def __init__(self, place: LakePlace) -> None:
        self._place = place
        self.place = f"the lake {place.url}"

    def find_project_folders(self, name: str) -> list[str]:
        """The folder's name, in a list; an empty list if the lake does not have the project."""
        return [name] if name in self.project_folders() else []

    def project_folders(self) -> list[str]:
        """The names of all projects' folders, sorted."""
        folders = self._place.folders("runs")
        return [name.removeprefix(_PROJECT) for name in folders if name.startswith(_PROJECT)]

    def list_files(self, folder_id: str) -> list[StoredFile]:
        """The days of a project, each as its zip."""
        folder = f"runs/{_PROJECT}{folder_id}"
        days = [name for name in self._place.folders(folder) if name.startswith(_DAY)]
        return [file for day in days if (file := self.read(f"{folder}/{day}/{MANIFEST}"))]

    def read(self, file_id: str) -> StoredFile | None:
        """The day of a manifest's key; None if the lake does not have it."""
        there = self._place.stat(file_id) if file_id.endswith(f"/{MANIFEST}") else None
        content = self._place.read(file_id) if there else None
        if there is None or content is None:
            return None
        manifest = parse_manifest(content, f"{file_id} in the lake")
        raw, folder = manifest.tables["raw"], file_id.split("/")[1].removeprefix(_PROJECT)
        return StoredFile(
            id=file_id,
            name=f"{folder}_{manifest.run_date}.zip",
            folder=folder,
            size=raw.bytes,
            sha256=raw.sha256,
            md5=None,
            app_properties={
                "sha256": raw.sha256,
                "content": manifest.content_sha256,
                "runs": str(manifest.tables["runs"].rows),
            },
            created=there.modified,
            modified=there.modified,
            web_view_link="",
            revision=raw.sha256,
        )

    def download(self, file: StoredFile, target: Path, *, progress: Callable[[int], None] = lambda _: None) -> None:
        """Makes the day's zip from its raw files; the restore compares each with its checksum.

        Raises:
            ArchiveConflictError: The lake no longer has the day.
            RefusedArchiveError: A file has a name that leads out of its folder.
            CorruptArchiveError: The table cannot be read.
            DestinationError: The lake refuses or cannot be reached.
            ArchiveError: The target cannot be written.
        """
        content = self._place.read(file.id)
        if content is None:
            raise ArchiveConflictError(f"{file.name} is no longer in {self.place}", hint="Run the command again")
        manifest = parse_manifest(content, f"{file.id} in the lake")
        with (
            disk_errors(f"cannot write {target}"),
            tempfile.TemporaryDirectory(prefix=SCRATCH, dir=target.parent) as scratch,
        ):
            names = self._write_files(manifest, Path(scratch), file.name)
            with publish_file(target) as archive:
                for _ in write_zip(archive, Path(scratch), sorted(names, key=sort_key)):
                    pass
        progress(file.size)

    def _write_files(self, manifest: LakeManifest, folder: Path, archive: str) -> list[str]:
        """Writes the day's files into a folder; returns their names."""
        names = []
        for name, pieces in read_raw(self._place, manifest.project, parse_day(manifest.run_date)):
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise RefusedArchiveError(
                    f"{archive} is refused", why=f"it holds a name that leads out of its folder: {name[:80]!r}"
                )
            if (folder / name).exists():
                raise CorruptArchiveError(f"{archive} is damaged", why=f"it holds {name[:80]!r} twice")
            with (folder / name).open("xb") as file:
                file.writelines(pieces)
            names.append(name)
        return names
