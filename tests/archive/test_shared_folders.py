"""Two projects whose names lead to one folder, as on file systems that ignore case or Unicode's normalization.

A symlink from the one name to the other resolves as such a file system does.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_fixtures import snapshot
from day_fixtures import DAY, START, fill, run
from home_fixtures import DAY as HOME_DAY
from home_fixtures import Installation

from lse_archive.errors import ArchiveConflictError
from lse_archive.fetch.source import Page
from lse_archive.fetch.staging import Staging
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import read_summary
from lse_archive.layout import DayPaths, Layout
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_operations.importing import import_day, survey

NFC = unicodedata.normalize("NFC", "café")
NFD = unicodedata.normalize("NFD", "café")


@pytest.fixture(params=[("Chat", "chat"), (NFC, NFD)], ids=["case", "normalization"])
def days(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DayPaths, DayPaths]:
    """The same day of two projects that share a folder and a zip; it is archived by the first."""
    first, second = request.param
    layout = Layout(tmp_path / "data", tmp_path / "archives")
    one, two = layout.day(first, DAY), layout.day(second, DAY)
    fill(one.folder, run(1), run(2))
    zip_day(one)
    (tmp_path / "data" / project_folder(second)).symlink_to(project_folder(first), target_is_directory=True)
    two.zip.symlink_to(one.zip.name)
    assert two.folder.samefile(one.folder)
    return one, two


def import_another(paths: DayPaths, *, dry_run: bool) -> None:
    old = paths.data_dir.parent / "old"
    old.mkdir()
    (old / "a.json").write_bytes(run(9, START + 9))
    layout = Layout(paths.data_dir, paths.archive_dir)
    import_day(layout, paths.project, DAY, survey(old).days[DAY], dry_run=dry_run)


@pytest.mark.parametrize(
    "write",
    [
        zip_day,
        lambda paths: import_another(paths, dry_run=True),
        lambda paths: import_another(paths, dry_run=False),
        lambda paths: contextlib.ExitStack().enter_context(day_lock(paths)),
    ],
    ids=["zip", "planned import", "import", "any writer"],
)
def test_a_folder_belongs_to_the_project_that_its_summary_names(
    days: tuple[DayPaths, DayPaths], write: Callable[[DayPaths], object]
) -> None:
    one, two = days
    before = snapshot(one.data_dir), snapshot(one.archive_dir)
    with pytest.raises(ArchiveConflictError, match=f"belongs to the project '{one.project}', not to '{two.project}'"):
        write(two)
    assert (snapshot(one.data_dir), snapshot(one.archive_dir)) == before
    assert not zip_day(one).written  # its owner goes on


def test_the_record_of_a_pruned_day_belongs_to_its_project(days: tuple[DayPaths, DayPaths]) -> None:
    one, two = days
    one.folder.rename(one.pruned)
    with pytest.raises(ArchiveConflictError, match="belongs to"), day_lock(two):
        pass


def test_a_zip_is_not_replaced_by_that_of_another_project(days: tuple[DayPaths, DayPaths]) -> None:
    one, two = days
    (one.data_dir / project_folder(two.project)).unlink()  # only the archive directory ignores the difference
    fill(two.folder, run(7))
    before = one.zip.read_bytes()
    with pytest.raises(ArchiveConflictError, match="belongs to"):
        zip_day(two, allow_shrink=True)
    assert one.zip.read_bytes() == before


def test_an_unfinished_fetch_is_not_continued_by_another_project(days: tuple[DayPaths, DayPaths]) -> None:
    one, two = days
    with contextlib.closing(Staging(one)) as staging:
        staging.resume(api_version="v2", project_id="1")
        staging.add(Page([run(3)]))
    with (
        contextlib.closing(Staging(two)) as staging,
        pytest.raises(ArchiveConflictError, match="is an unfinished fetch of the project"),
    ):
        staging.resume(api_version="v2", project_id="2")
    with contextlib.closing(Staging(one)) as staging:
        staging.resume(api_version="v2", project_id="1")
        assert staging.served_runs() == 1


def test_a_summary_of_another_day_is_not_zipped(days: tuple[DayPaths, DayPaths]) -> None:
    moved = Layout(days[0].data_dir, days[0].archive_dir).day(days[0].project, DAY.replace(day=3))
    days[0].folder.rename(moved.folder)
    with pytest.raises(ArchiveConflictError, match="its summary is that of 2026-01-02"):
        zip_day(moved)


@pytest.mark.slow
def test_no_command_mixes_two_projects(installation: Installation) -> None:
    installation.fill(3, project="Chat")
    installation.fill(4, project="chat")
    assert installation.archive("full-sweep", project="Chat").code == 0
    (installation.directory / "data" / "chat").symlink_to("Chat", target_is_directory=True)
    before = snapshot(installation.directory / "data")
    for command in (("full-sweep", "--force"), ("fetch", "--force"), ("zip",), ("to-db",), ("verify", "--fix")):
        ended = installation.archive(*command, project="chat")
        assert (ended.code, "belongs to the project 'Chat', not to 'chat'" in ended.out + ended.err) == (1, True)
    assert snapshot(installation.directory / "data") == before
    assert installation.rows("chat") == {}
    assert len(installation.rows("Chat")) == 3
    assert installation.archive("verify", project="Chat").code == 0
    summary = read_summary(installation.paths("Chat", HOME_DAY).folder)
    assert (summary is not None and summary.project) == "Chat"
