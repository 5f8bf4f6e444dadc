"""Law 1: no replacement has fewer runs, older states of runs, or fewer other files."""

from __future__ import annotations

import hashlib
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from archive_fixtures import PROJECT, Archive
from day_fixtures import DAY, day_paths, fill, run, run_id

from lse_archive.errors import RefusedArchiveError, ShrinkError
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.layout import DayPaths
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_archive.zips.inventory import Inventory, folder_inventory, zip_inventory
from lse_operations.upload import find_copies, upload_day
from lse_resources.destinations.object_store import ObjectStore

ENDED = "2026-01-02T00:00:05Z"


@pytest.fixture(params=["drive_archive", "lagging_archive", "store"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    found: Archive | ObjectStore = request.getfixturevalue(request.param)
    return found if isinstance(found, Archive) else Archive(tmp_path, found)


def refill(paths: DayPaths, *runs: bytes) -> None:
    """Replaces the day's run files by these."""
    if paths.folder.exists():
        for path in paths.folder.iterdir():
            path.unlink()
    paths.zip.unlink(missing_ok=True)
    fill(paths.folder, *runs)


def put(archive: Archive, content: bytes) -> None:
    """Uploads a file under the name of the day's zip, as another tool would."""
    other = archive.directory / "other"
    other.write_bytes(content)
    folder = archive.destination.ensure_project_folder(project_folder(PROJECT))
    archive.destination.upload(other, archive.paths().zip.name, folder, {})
    archive.settle()


def zipped(directory: Path, files: dict[str, bytes]) -> bytearray:
    """Returns an uncompressed zip, so that file contents can be found in it."""
    path = directory / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return bytearray(path.read_bytes())


def flip(content: bytearray, sought: bytes) -> bytes:
    content[content.index(sought)] ^= 1
    return bytes(content)


# ---- damaged copies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a file", "its method", "its end"])
def test_a_damaged_copy_is_not_replaced_by_fewer_runs(archive: Archive, tmp_path: Path, damage: str) -> None:
    content = zipped(tmp_path, {f"{run_id(number)}.json": run(number) for number in range(1, 9)})
    if damage == "a file":
        spoiled = flip(content, b"start_time")
    elif damage == "its method":
        content[content.rindex(b"PK\x01\x02") + 10] = 9
        spoiled = bytes(content)
    else:
        spoiled = bytes(content[:-30])
    put(archive, spoiled)
    paths = archive.write(runs=7)
    zip_day(paths)
    [before] = find_copies(archive.destination, paths)
    with pytest.raises(ShrinkError, match=run_id(8)):
        upload_day(archive.destination, paths)
    assert find_copies(archive.destination, paths) == [before]
    assert upload_day(archive.destination, paths, allow_shrink=True).action == "replaced"


def test_a_damaged_copy_is_replaced_if_all_its_runs_are_local(archive: Archive, tmp_path: Path) -> None:
    put(archive, flip(zipped(tmp_path, {f"{run_id(n)}_20260102T0.json": run(n) for n in (1, 2)}), b"start_time"))
    paths = archive.write(runs=2)
    zip_day(paths)
    assert upload_day(archive.destination, paths).action == "replaced"


def test_an_unreadable_file_without_a_run_id_in_its_name_is_not_replaced(archive: Archive, tmp_path: Path) -> None:
    content = zipped(tmp_path, {f"trace-{n}.json": run(n) for n in (1, 2)})
    put(archive, flip(content.copy(), b"start_time"))
    paths = archive.write(runs=2)
    zip_day(paths)
    with pytest.raises(ShrinkError, match=r"holds 1 file .*trace-1\.json, which cannot be read"):
        upload_day(archive.destination, paths)
    archive.destination.trash(find_copies(archive.destination, paths)[0])
    put(archive, bytes(content[:-30]))
    with pytest.raises(ShrinkError, match="the list of its files, which cannot be read"):
        upload_day(archive.destination, paths)


def test_a_copy_is_not_replaced_without_its_other_files(archive: Archive) -> None:
    paths = archive.write(runs=2)
    (paths.folder / "notes.txt").write_text("mine")
    zip_day(paths)
    upload_day(archive.destination, paths)
    refill(paths, run(1), run(2), run(3))
    zip_day(paths)
    with pytest.raises(ShrinkError, match=r"notes\.txt, which is no run"):
        upload_day(archive.destination, paths)
    (paths.folder / "notes.txt").write_text("mine, and more")
    for name in (SUMMARY, SUMS):
        (paths.folder / name).unlink()
    zip_day(paths)
    assert upload_day(archive.destination, paths).action == "replaced"


def test_a_zip_of_another_day_or_project_is_not_uploaded(drive_archive: Archive) -> None:
    paths = drive_archive.add()
    for other in (drive_archive.paths(DAY + timedelta(days=1)), drive_archive.paths(project="other")):
        other.zip.write_bytes(paths.zip.read_bytes())
        with pytest.raises(RefusedArchiveError, match=f"it holds {PROJECT} {DAY}, not {other.project} {other.day}"):
            upload_day(drive_archive.destination, other)
        assert find_copies(drive_archive.destination, other) == []


# ---- older states ---------------------------------------------------------------------------------------------------


def test_a_run_that_has_ended_is_not_replaced_by_its_pending_state(archive: Archive) -> None:
    paths = archive.paths()
    refill(paths, run(1, end_time=ENDED), run(2))
    zip_day(paths)
    upload_day(archive.destination, paths)
    refill(paths, run(1), run(2), run(3))
    zip_day(paths)
    with pytest.raises(ShrinkError, match=f"holds 1 run .*{run_id(1)}, which has not ended there"):
        upload_day(archive.destination, paths)


@pytest.mark.parametrize("kept", ["folder", "zip"])
def test_a_restore_does_not_replace_an_ended_run_by_its_pending_state(drive_archive: Archive, kept: str) -> None:
    archive, paths = drive_archive, drive_archive.paths()
    refill(paths, run(1))
    zip_day(paths)
    upload_day(archive.destination, paths)
    refill(paths, run(1, end_time=ENDED))
    if kept == "zip":
        zip_day(paths)
        for path in paths.folder.iterdir():
            path.unlink()
        paths.folder.rmdir()
    with pytest.raises(ShrinkError, match="which has not ended there"):
        archive.restore()
    assert archive.restore(allow_shrink=True).action in ("replaced", "restored")


def test_a_zip_does_not_replace_an_ended_run_by_its_pending_state(tmp_path: Path) -> None:
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1, end_time=ENDED))
    zip_day(paths)
    before = paths.zip.read_bytes()
    fill(paths.folder, run(1))
    for name in (SUMMARY, SUMS):
        (paths.folder / name).unlink()
    with pytest.raises(ShrinkError, match="which has not ended there"):
        zip_day(paths)
    assert paths.zip.read_bytes() == before
    assert zip_day(paths, allow_shrink=True).written


# ---- local files only ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"), [(f"{run_id(6)}_20260102T0.json", run_id(6)), ("notes.txt", "notes.txt, which is no run")]
)
def test_a_restore_keeps_files_that_are_only_in_the_folder(drive_archive: Archive, name: str, says: str) -> None:
    paths = drive_archive.add(runs=5)
    (paths.folder / name).write_bytes(run(6)[:-1])
    with pytest.raises(ShrinkError, match=says):
        drive_archive.restore()
    assert (paths.folder / name).exists()
    assert drive_archive.restore(allow_shrink=True).action == "replaced"


def test_a_second_damaged_zip_does_not_replace_the_first(drive_archive: Archive) -> None:
    paths = drive_archive.add()
    for content in (b"one", b"two", b"three"):
        drive_archive.delete_local() if content == b"one" else None
        for path in list(paths.folder.iterdir()) if paths.folder.exists() else ():
            path.unlink()
        paths.zip.parent.mkdir(exist_ok=True)
        paths.zip.write_bytes(content)
        assert drive_archive.restore().action in ("restored", "replaced")
    kept = sorted(paths.zip.parent.glob("*.damaged*"))
    assert [path.read_bytes() for path in kept] == [b"one", b"two", b"three"]


# ---- inventories -----------------------------------------------------------------------------------------------------


def test_another_version_of_a_file_without_a_run_is_no_loss_but_its_absence_is(tmp_path: Path) -> None:
    path = tmp_path / "trace.log"
    path.write_bytes(b"one")
    held = folder_inventory([path])
    path.write_bytes(b"two")
    new = folder_inventory([path])
    assert held.others != new.others
    assert held.missing_from(new) == {}
    assert held.missing_from(Inventory()) == {"trace.log": "is no run, and is not there"}


def test_an_ended_document_of_a_run_counts_before_a_pending_one(tmp_path: Path) -> None:
    zipped(tmp_path, {"a.json": run(1, end_time=ENDED), "b.json": run(1), "c/d.json": run(2), ".DS_Store": b"x"})
    held = zip_inventory(tmp_path / "made.zip")
    assert (held.runs, held.others, held.damaged) == ({run_id(1): True, run_id(2): False}, {}, False)
    assert held.missing_from(held) == {}
    assert held.missing_from(Inventory()).keys() == {run_id(1), run_id(2)}


def test_a_file_that_is_not_a_zip_has_no_runs(tmp_path: Path) -> None:
    for content in (b"", b"no zip", b"PK"):
        (tmp_path / "x").write_bytes(content)
        held = zip_inventory(tmp_path / "x")
        assert held.damaged
        assert held.missing_from(Inventory()) == {}


# ---- hostile copies --------------------------------------------------------------------------------------------------


def test_a_copy_whose_files_overlap_is_not_read_and_counts_as_lost(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(f"{run_id(1)}.json", run(1, blob="x" * 100_000))
        made.writestr("notes.txt", b"y" * 100_000)
        made.filelist[1].header_offset = made.filelist[0].header_offset
    found = zip_inventory(tmp_path / "one.zip")
    assert (found.damaged, found.runs, found.others) == (True, {}, {})
    assert (found.named, found.unread) == ({run_id(1)}, {"notes.txt"})


def test_only_the_digest_is_kept_of_a_file_that_is_too_large_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lse_archive.zips.inventory.IN_MEMORY_BYTES", 1000)
    large = run(1, blob="x" * 2000)
    (tmp_path / "one.zip").write_bytes(zipped(tmp_path, {f"{run_id(1)}.json": large, f"{run_id(2)}.json": run(2)}))
    found = zip_inventory(tmp_path / "one.zip")
    assert (found.damaged, found.runs) == (False, {run_id(2): False})
    assert found.others == {f"{run_id(1)}.json": hashlib.sha256(large).digest()}
    assert found.named == {run_id(1)}
