"""Hostile zips: they are refused with a reason, and nothing is written outside staging."""

from __future__ import annotations

import hashlib
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from day_fixtures import day_paths, fill, run

from lse_archive.errors import CorruptArchiveError, RefusedArchiveError
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.layout import DayPaths
from lse_archive.zips.day import zip_day
from lse_archive.zips.unzip import extract
from lse_operations.restore.unpack import unpack_day

GOOD = run(1)
Entry = tuple[str | zipfile.ZipInfo, bytes]


def build(path: Path, *entries: Entry) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def special(name: str, mode: int, content: bytes = b"/etc/passwd") -> Entry:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info, content


def tree(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


def assert_refused(tmp_path: Path, path: Path, match: str) -> None:
    """Asserts that the zip is refused with this reason and nothing is written outside staging."""
    staging = tmp_path / "staging"
    before = tree(tmp_path)
    with pytest.raises(CorruptArchiveError, match=match):
        extract(path, staging / "day")
    left = tree(tmp_path) - before
    assert all(entry == staging or staging in entry.parents for entry in left)
    assert not any(entry.is_symlink() for entry in left)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../evil.json", "leads out of its folder"),
        ("a/../../evil.json", "leads out of its folder"),
        ("..", "leads out of its folder"),
        ("a/.", "leads out of its folder"),
        ("..\\evil.json", "leads out of its folder"),
        ("/etc/evil.json", "absolute name"),
        ("\\\\host\\share\\evil.json", "absolute name"),
        ("C:\\evil.json", "absolute name"),
        ("c:evil.json", "absolute name"),
        ("NUL", "name of a device"),
        ("con.json", "name of a device"),
        ("Com1.txt", "name of a device"),
        ("a" * 300 + ".json", "too long"),
    ],
)
def test_names_outside_the_folder_are_refused(tmp_path: Path, name: str, match: str) -> None:
    assert_refused(tmp_path, build(tmp_path / "x.zip", ("good.json", GOOD), (name, GOOD)), match)


@pytest.mark.parametrize(
    ("mode", "match"),
    [
        (stat.S_IFLNK | 0o777, "link"),
        (stat.S_IFBLK | 0o600, "no file"),
        (stat.S_IFCHR | 0o600, "no file"),
        (stat.S_IFIFO | 0o600, "no file"),
        (stat.S_IFSOCK | 0o600, "no file"),
        (stat.S_IFDIR | 0o755, "no file"),
    ],
)
def test_an_entry_that_is_not_a_file_is_refused(tmp_path: Path, mode: int, match: str) -> None:
    assert_refused(tmp_path, build(tmp_path / "x.zip", ("good.json", GOOD), special("run.json", mode)), match)


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "x.zip", ("good.json#.txt", GOOD))
    path.write_bytes(path.read_bytes().replace(b"good.json#", b"good.json\0"))
    assert_refused(tmp_path, path, "a truncated name")


def test_a_duplicate_name_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "x.zip", ("one.json", GOOD), ("two.json", GOOD))
    path.write_bytes(path.read_bytes().replace(b"two.json", b"one.json"))
    assert_refused(tmp_path, path, r"'one\.json' twice")


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    assert_refused(tmp_path, build(tmp_path / "x.zip", ("a/one.json", GOOD), ("b/one.json", GOOD)), "several folders")


def test_an_encrypted_file(tmp_path: Path) -> None:
    path = build(tmp_path / "x.zip", ("one.json", GOOD))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert_refused(tmp_path, path, "encrypted")


def test_another_compression_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("one.json", GOOD)
    assert_refused(tmp_path, tmp_path / "x.zip", "compression")


def test_a_bomb_without_a_manifest(tmp_path: Path) -> None:
    path = build(tmp_path / "x.zip", ("one.json", bytes(100_000_000)))
    assert path.stat().st_size < 100_000
    assert_refused(tmp_path, path, "would extract to 100,000,000")


def test_a_bomb_with_a_manifest_of_smaller_sizes(tmp_path: Path) -> None:
    paths = archived(tmp_path)
    content = entries(paths)
    bomb = bytes(50_000_000)
    name = next(name for name in content if not name.startswith("_"))
    content[name] = bomb
    content[SUMS] = sums(content)
    assert_refused(tmp_path, build(tmp_path / "x.zip", *content.items()), "by its summary")


def test_a_bomb_of_entries_with_shared_bytes(tmp_path: Path) -> None:
    """One local entry, and a central directory that names it a hundred times."""
    data = zlib.compress(bytes(900_000), 9)[2:-4]
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, zlib.crc32(bytes(900_000)), len(data), 900_000, 6, 0)
    body = local + b"000.js" + data
    directory = b""
    for number in range(100):
        fields = (20, 20, 0, 8, 0, 33, zlib.crc32(bytes(900_000)), len(data), 900_000, 6, 0, 0, 0, 0, 0, 0)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + f"{number:03}.js".encode()
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 100, 100, len(directory), len(body), 0)
    (tmp_path / "x.zip").write_bytes(body + directory + end)
    assert_refused(tmp_path, tmp_path / "x.zip", "overlap")


@pytest.mark.parametrize("size", [1, len(GOOD) - 1, len(GOOD) + 1, len(GOOD) * 1000])
def test_a_central_directory_with_a_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    path = build(tmp_path / "x.zip", ("one.json", GOOD))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, size)
    path.write_bytes(content)
    assert_refused(tmp_path, path, "damaged")


def test_a_central_directory_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "x.zip", ("one.json", GOOD))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"one.json", b"../x.jsn", 1))  # the local header alone
    assert_refused(tmp_path, path, "differ")


def test_a_truncated_zip(tmp_path: Path) -> None:
    content = build(tmp_path / "x.zip", ("one.json", random.Random(1).randbytes(5000))).read_bytes()
    for length in (0, 1, 20, 100, 3000, len(content) - 30, len(content) - 1):
        (tmp_path / "cut.zip").write_bytes(content[:length])
        assert_refused(tmp_path, tmp_path / "cut.zip", "damaged")


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path) -> None:
    """With any flipped bit the zip is refused, or its content is unchanged."""
    paths = archived(tmp_path)
    whole, content = paths.zip.read_bytes(), entries(paths)
    broken = tmp_path / "broken.zip"
    refusals = 0
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        broken.write_bytes(damaged)
        try:
            laid = unpack_day(paths, broken)
        except CorruptArchiveError:
            refusals += 1
            continue
        assert {path.name: path.read_bytes() for path in laid.paths.folder.iterdir()} == content
    assert refusals > len(whole) // 7 // 2


def test_a_zip_of_another_day(tmp_path: Path) -> None:
    other = archived(tmp_path / "other", project="somebody else's")
    paths = day_paths(tmp_path)
    with pytest.raises(RefusedArchiveError, match="holds somebody else's 2026-01-02, not chat 2026-01-02"):
        unpack_day(paths, other.zip)


def changes() -> dict[str, Callable[[dict[str, bytes]], Any]]:
    run_name = next(iter(name for name in [f for f in _names() if not f.startswith("_")]))
    return {
        "a file changed": lambda files: files.update({run_name: files[run_name].replace(b"id", b"ID", 1)}),
        "a file gone": lambda files: files.pop(run_name),
        "a file more": lambda files: files.update({"more.json": GOOD}),
        "no summary": lambda files: files.pop(SUMMARY),
        "summary changed": lambda files: files.update(
            {SUMMARY: files[SUMMARY].replace(b'"errors": 0', b'"errors": 1')}
        ),
        "sums changed": lambda files: files.update({SUMS: files[SUMS].replace(b"  ", b" ", 1)}),
    }


def _names() -> list[str]:
    from lse_archive.folder.reader import run_file_name
    from lse_archive.runs.header import read_header

    return [run_file_name(read_header(run(number))) for number in range(1, 4)]


@pytest.mark.parametrize("change", changes())
def test_a_manifest_of_other_files_is_refused(tmp_path: Path, change: str) -> None:
    paths = archived(tmp_path)
    content = entries(paths)
    changes()[change](content)
    path = build(tmp_path / "x.zip", *content.items())
    with pytest.raises(CorruptArchiveError):
        unpack_day(paths, path)
    if change == "a file changed":  # with matching checksums, the content hash of the summary differs
        content[SUMS] = sums(content)
        with pytest.raises(CorruptArchiveError):
            unpack_day(paths, build(tmp_path / "x.zip", *content.items()))


def test_older_zips_are_extracted_flat_and_without_desktop_files(tmp_path: Path) -> None:
    path = build(
        tmp_path / "x.zip",
        ("chat_2026-01-02/", b""),
        ("chat_2026-01-02/one.json", GOOD),
        ("chat_2026-01-02/_summary.json", b'{"total": 1}'),
        ("chat_2026-01-02/.DS_Store", b"x"),
        ("__MACOSX/chat_2026-01-02/._one.json", b"x"),
    )
    contents = extract(path, tmp_path / "day")
    assert {entry.name for entry in (tmp_path / "day").iterdir()} == {"one.json", "_summary.original.json"}
    assert (contents.files, contents.sums, len(contents.hidden)) == (2, None, 2)


def test_unusual_names_are_kept_in_zip_and_extraction(tmp_path: Path) -> None:
    paths = day_paths(tmp_path)
    fill(paths.folder, run(1))
    for name in ("weird\\name.txt", "12:00:00.json", "new\nline.txt", "ünï 🦉.json", "a" * 250 + ".json"):
        (paths.folder / name).write_bytes(b"{}")
    zip_day(paths)
    laid = unpack_day(paths, paths.zip)
    assert {path.name for path in laid.paths.folder.iterdir()} == {path.name for path in paths.folder.iterdir()}


def archived(tmp_path: Path, project: str = "chat") -> DayPaths:
    paths = day_paths(tmp_path, project)
    fill(paths.folder, *(run(number) for number in range(1, 4)))
    zip_day(paths)
    return paths


def entries(paths: DayPaths) -> dict[str, bytes]:
    with zipfile.ZipFile(paths.zip) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sums(content: dict[str, bytes]) -> bytes:
    return b"".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode() for name, data in content.items() if name != SUMS
    )
