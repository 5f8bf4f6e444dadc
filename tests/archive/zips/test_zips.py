"""Day archives: same bytes for same files, read back after writing, never fewer runs than before."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import zipfile
import zlib
from pathlib import Path

import msgspec
import pytest
from day_fixtures import day_paths, fill, run, run_id

from lse_archive.errors import ArchiveError, CorruptArchiveError, ShrinkError
from lse_archive.files import file_sha256
from lse_archive.folder.contents import ensure_manifest
from lse_archive.folder.manifest import SUMS, content_hash, content_sums, read_sums, write_manifest
from lse_archive.layout import DayPaths
from lse_archive.zips.day import check_zip, zip_day, zip_summary, zip_sums
from lse_archive.zips.reader import sha256
from lse_operations.restore.unpack import unpack_day


@pytest.fixture
def paths(tmp_path: Path) -> DayPaths:
    paths = day_paths(tmp_path)
    fill(paths.folder, *(run(number, name="x" * number) for number in range(1, 40)))
    return paths


def rewrite(folder: Path) -> None:
    """Writes the folder's files again with other times, modes and directory order."""
    for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        path.chmod(0o600)
        os.utime(path, (number, number))


def test_the_same_files_give_the_same_bytes(paths, tmp_path):
    first = zip_day(paths)
    rewrite(paths.folder)
    second = zip_day(paths, target=tmp_path / "elsewhere" / "other.zip")
    assert Path(first.path).read_bytes() == Path(second.path).read_bytes()
    assert first.sha256 == second.sha256 == file_sha256(paths.zip)[1]
    assert first.files == 41
    assert first.content_sha256 == content_hash(content_sums(read_sums(paths.folder) or {}))


def test_an_archive_of_the_same_content_is_not_rewritten(paths):
    assert zip_day(paths).written
    before = paths.zip.stat()
    result = zip_day(paths)
    assert not result.written
    assert (paths.zip.stat().st_mtime_ns, paths.zip.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.usefixtures("sha256sum")
def test_unpacked_files_match_the_checksums(paths, tmp_path):
    zip_day(paths)
    with zipfile.ZipFile(paths.zip) as archive:
        archive.extractall(tmp_path / "out")
    subprocess.run(["sha256sum", "--strict", "--status", "-c", SUMS], cwd=tmp_path / "out", check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in paths.folder.iterdir()
    }
    assert zip_summary(paths.zip).runs == 39


def test_a_changed_file_is_not_archived(paths):
    zip_day(paths)
    before = paths.zip.read_bytes()
    victim = sorted(paths.folder.glob(f"{run_id(7)}*"))[0]
    good = victim.read_bytes()
    victim.write_bytes(good.replace(b"x", b"y"))
    with pytest.raises(CorruptArchiveError, match=run_id(7)):
        zip_day(paths, target=paths.zip.with_name("new.zip"))
    victim.unlink()
    with pytest.raises(CorruptArchiveError, match=run_id(7)):
        zip_day(paths, target=paths.zip.with_name("new.zip"))
    assert [path.name for path in paths.zip.parent.iterdir()] == [paths.zip.name]
    assert paths.zip.read_bytes() == before


def smaller(paths: DayPaths) -> None:
    for path in paths.folder.iterdir():
        if path.name.startswith(("_", run_id(7))):
            path.unlink()


def test_an_archive_shrinks_only_with_allow_shrink(paths):
    zip_day(paths)
    before = paths.zip.read_bytes()
    smaller(paths)
    with pytest.raises(ShrinkError, match="holds 1 run"):
        zip_day(paths)
    assert paths.zip.read_bytes() == before
    assert zip_day(paths, allow_shrink=True).written
    assert zip_summary(paths.zip).runs == 38


def test_a_damaged_archive_is_set_aside(paths):
    zip_day(paths)
    content = paths.zip.read_bytes()
    paths.zip.write_bytes(content[:-200])
    assert zip_day(paths).written
    assert paths.zip.read_bytes() == content
    assert paths.zip.with_name(f"{paths.zip.name}.damaged").read_bytes() == content[:-200]
    paths.zip.write_bytes(b"worse")
    assert zip_day(paths).written
    assert paths.zip.with_name(f"{paths.zip.name}.damaged").read_bytes() == content[:-200]
    assert paths.zip.with_name(f"{paths.zip.name}.damaged.2").read_bytes() == b"worse"


@pytest.mark.parametrize("damage", ["flip", "cut", "extra", "twice", "empty"])
def test_damage_to_an_archive_is_found(paths, damage):
    zip_day(paths)
    sums = zip_sums(paths.zip)
    check_zip(paths.zip, paths.zip, sums)
    content = paths.zip.read_bytes()
    if damage == "flip":
        paths.zip.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "cut":
        paths.zip.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        paths.zip.write_bytes(b"")
    else:
        warned = pytest.warns(UserWarning, match="Duplicate name") if damage == "twice" else contextlib.nullcontext()
        with zipfile.ZipFile(paths.zip, "a") as archive, warned:
            archive.writestr("extra.json" if damage == "extra" else archive.namelist()[0], b"{}")
    with pytest.raises(CorruptArchiveError):
        check_zip(paths.zip, paths.zip, sums)


def read_by_zipfile(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return [(info.filename, hashlib.sha256(archive.read(info)).digest()) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return None


def read_by_us(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return [(info.filename, sha256(archive, info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return None


def test_the_quick_reader_finds_what_zipfile_finds(paths, tmp_path):
    zip_day(paths)
    content, spoiled = paths.zip.read_bytes(), tmp_path / "spoiled.zip"
    assert read_by_us(paths.zip) == read_by_zipfile(paths.zip) is not None
    chance, damaged = random.Random(5), 0
    for _ in range(600):
        position = chance.randrange(len(content))
        spoiled.write_bytes(content[:position] + bytes([chance.randrange(256)]) + content[position + 1 :])
        expected, found = read_by_zipfile(spoiled), read_by_us(spoiled)
        assert found is None or found == expected
        damaged += found is None
    assert damaged > 300


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_the_quick_reader_reads_every_zip(tmp_path, method, monkeypatch):
    monkeypatch.setattr("lse_archive.zips.reader._LONG_BYTES", 100_000)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        for number in range(200):
            file.writestr(f"ö {number}.json" if number % 2 else f"{number}.json", b"x" * number * 2000)
        with file.open("streamed.json", "w", force_zip64=True) as entry:
            entry.write(b"y" * 1000)
    assert read_by_us(archive) == read_by_zipfile(archive) is not None


def test_a_missing_folder_a_wrong_zip_and_a_wrong_target_are_errors(paths, tmp_path):
    with pytest.raises(ArchiveError, match="has no run files"):
        zip_day(day_paths(tmp_path, "nothing"))
    with pytest.raises(CorruptArchiveError):
        zip_sums(paths.folder / f"{min(path.name for path in paths.folder.iterdir())}")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="cannot write"):
        zip_day(paths, target=tmp_path / "file" / "x.zip")


def test_progress_counts_the_files(paths):
    reports: list[tuple[int, int]] = []
    zip_day(paths, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(done, 41) for done in range(1, 42)]


def test_a_zip_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "day.zip"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    read: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(name) or real(file, name))
    assert file_sha256(path) == file_sha256(path) == (3, hashlib.sha256(b"one").hexdigest())
    assert len(read) == 1
    path.write_bytes(b"two")  # same size and recently modified: hashed at each call
    assert file_sha256(path) == file_sha256(path) == (3, hashlib.sha256(b"two").hexdigest())
    assert len(read) == 3
    os.utime(path, (1, 1))  # the modification time of the first content
    assert file_sha256(path)[1] == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        b"aux.json",
        b"prn.txt",
        b"a\\..\\b.json",
        b"\\\\host\\share.json",
        b"c:evil.json",
        b"12:00.json",
        b"nul",
        b"_notes.json",
        "ünï 🦉.JSON".encode(),
        b"a" * 250 + b".json",
    ],
)
def test_what_is_zipped_can_be_restored(paths: DayPaths, name: bytes) -> None:
    (paths.folder / os.fsdecode(name)).write_bytes(b"{}")
    zip_day(paths)
    restored = unpack_day(paths, paths.zip).paths.folder
    assert {path.name: path.read_bytes() for path in restored.iterdir()} == {
        path.name: path.read_bytes() for path in paths.folder.iterdir()
    }


def test_a_run_file_whose_name_is_not_utf8_is_zipped_and_restored(paths: DayPaths) -> None:
    name = os.fsdecode(b"run \xff\xfe.json")
    (paths.folder / name).write_bytes(run(99))
    assert zip_day(paths).written
    assert not zip_day(paths).written
    restored = unpack_day(paths, paths.zip).paths.folder
    assert (restored / name).read_bytes() == run(99)
    assert {path.name for path in restored.iterdir()} == {path.name for path in paths.folder.iterdir()}
    with zipfile.ZipFile(paths.zip) as archive:  # other programs see the same bytes
        assert "run \xff\xfe.json".encode("latin1") in [name.orig_filename.encode("cp437") for name in archive.filelist]


def test_a_file_that_compresses_like_a_bomb_is_zipped_and_restored(paths: DayPaths) -> None:
    with (paths.folder / "trace.log").open("wb") as file:
        for _ in range(75):
            file.write(bytes(1_000_000))
    zip_day(paths)
    assert paths.zip.stat().st_size < 75_000_000 // 300
    assert (unpack_day(paths, paths.zip).paths.folder / "trace.log").stat().st_size == 75_000_000


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bytes": 7}, "by its summary 7"),
        ({"content_sha256": "0" * 64}, "the content hash of its _summary.json is not that"),
    ],
)
def test_a_zip_that_restore_refuses_is_not_written(paths: DayPaths, change: dict[str, object], why: str) -> None:
    summary = msgspec.structs.replace(ensure_manifest(paths), **change)
    write_manifest(paths.folder, summary, content_sums(read_sums(paths.folder) or {}))
    with pytest.raises(CorruptArchiveError, match=why):
        zip_day(paths)
    assert list(paths.archive_dir.iterdir()) == []


def test_files_that_are_not_in_the_checksums_are_named(paths: DayPaths) -> None:
    assert zip_day(paths).left_out == []
    (paths.folder / "late.json").write_bytes(run(77))
    (paths.folder / "notes.txt").write_bytes(b"x")
    (paths.folder / "folder").mkdir()
    (paths.folder / ".hidden").touch()
    assert zip_day(paths).left_out == ["folder", "late.json", "notes.txt"]
