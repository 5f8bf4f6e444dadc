"""The names in a zip: however a tool spells them, every check reads the same manifest and the same files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from day_fixtures import day_paths, fill, run, run_id

from lse_archive.errors import CorruptArchiveError, RefusedArchiveError
from lse_archive.folder.contents import content_files
from lse_archive.folder.manifest import SUMMARY, SUMS, read_summary, read_sums
from lse_archive.layout import DayPaths
from lse_archive.zips.day import check_zip, zip_day, zip_summary, zip_sums
from lse_archive.zips.inventory import folder_inventory, zip_inventory
from lse_operations.restore.unpack import unpack_day

Spell = Callable[[str], str]

SPELLINGS: dict[str, Spell] = {
    "as it is": str,
    "in a folder": lambda name: f"chat_2026-01-02/{name}",
    "by a Windows tool": lambda name: f"chat_2026-01-02\\{name}",
    "by a Windows tool, from here": lambda name: f".\\{name}",
    "with a drive": lambda name: f"C:\\backup\\{name}",
    "from here": lambda name: f"./{name}",
    "from here, in a folder": lambda name: f"./chat/./{name}",
    "with two slashes": lambda name: f"chat//{name}" if name.startswith("_") else f"chat/{name}",
}


@pytest.fixture
def paths(tmp_path: Path) -> DayPaths:
    paths = day_paths(tmp_path)
    fill(paths.folder, *(run(number, text="good") for number in range(1, 4)))
    (paths.folder / "notes.txt").write_bytes(b"hello")
    zip_day(paths)
    return paths


def respelled(paths: DayPaths, spell: Spell, *, changed: bool = False, without: str = "") -> Path:
    """Writes the day's zip again with other names; `changed`: one run has other content of the same length."""
    target = paths.zip.with_name("respelled.zip")
    with zipfile.ZipFile(paths.zip) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for name in source.namelist():
            content = source.read(name)
            if changed and name.startswith(run_id(2)):
                content = content.replace(b"good", b"evil")
            if name != without:
                made.writestr(spell(name), content)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_changes_no_verdict(paths: DayPaths, spelling: str) -> None:
    sums = read_sums(paths.folder) or {}
    path = respelled(paths, SPELLINGS[spelling])
    check_zip(path, path, sums)
    assert (zip_sums(path), zip_summary(path)) == (sums, read_summary(paths.folder))
    held, here = zip_inventory(path), folder_inventory(content_files(paths.folder))
    assert (held.runs, held.others, held.names, held.damaged) == (here.runs, here.others, here.names, False)
    unpacked = unpack_day(paths, path)
    assert not unpacked.older
    assert contents(unpacked.paths.folder) == contents(paths.folder)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_changed_file_is_found_in_every_spelling(paths: DayPaths, spelling: str) -> None:
    path = respelled(paths, SPELLINGS[spelling], changed=True)
    with pytest.raises(CorruptArchiveError):
        unpack_day(paths, path)
    with pytest.raises(CorruptArchiveError, match="differs from its checksum"):
        check_zip(path, path, read_sums(paths.folder) or {})


@pytest.mark.parametrize(
    "spell",
    [
        str.upper,
        lambda name: name.upper() if name == SUMS else name,
        lambda name: name.upper() if name == SUMMARY else name,
        lambda name: f"{name}." if name == SUMS else name,
        lambda name: f"chat\\{name} " if name == SUMS else f"chat\\{name}",
    ],
)
def test_a_manifest_under_another_spelling_of_its_name_is_not_skipped(paths: DayPaths, spell: Spell) -> None:
    path = respelled(paths, spell, changed=True)
    with pytest.raises(RefusedArchiveError, match="is not named _s"):
        unpack_day(paths, path)


def test_without_checksums_the_summary_still_identifies_the_content(paths: DayPaths) -> None:
    with pytest.raises(CorruptArchiveError, match="differ"):
        unpack_day(paths, respelled(paths, str, changed=True, without=SUMS))
    unpacked = unpack_day(paths, respelled(paths, str, without=SUMS))
    assert unpacked.older
    assert contents(unpacked.paths.folder) == contents(paths.folder)
    other = day_paths(paths.data_dir.parent, "another")
    with pytest.raises(RefusedArchiveError, match="it holds chat 2026-01-02, not another"):
        unpack_day(other, respelled(paths, str, without=SUMS))


@pytest.mark.parametrize("spelling", ["a\\one.json", "./a/one.json", "a//one.json"])
def test_two_spellings_of_one_name_are_refused(tmp_path: Path, spelling: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        for name in ("a/one.json", spelling):
            made.writestr(name, run(1))
    with pytest.raises(RefusedArchiveError, match="twice"):
        unpack_day(day_paths(tmp_path), tmp_path / "x.zip")
