"""Import: older run files are added to the UTC days of their runs; originals and archived runs are kept."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from archive_fixtures import snapshot
from day_fixtures import DAY, END, START, mark_incomplete, run, run_id
from home_fixtures import Installation

from lse_archive.days import today
from lse_archive.errors import ArchiveConflictError, ArchiveError, CorruptArchiveError, PrunedDayError, UsageError
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.manifest import content_sums, read_summary, read_sums, write_manifest
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.layout import Layout
from lse_archive.zips.day import zip_day
from lse_operations.importing import import_day, survey

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data", tmp_path / "archives")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Files of two fetch days, with runs of two UTC days."""
    directory = tmp_path / "old"
    files = {
        "2026-01-03/a.json": run(1, START),
        "2026-01-03/b.json": b'{"trace": %s, "fetched": 1}' % run(2, END - 1),
        "2026-01-03/c.json": run(3, END),
        "2026-01-03/broken.json": b"{",
        "2026-01-03/_summary.json": b"{}",
        "2026-01-04/deeper/c.json": run(3, END, end_time="2026-01-04T00:00:00Z"),
        "2026-01-04/d.json": run(4, END + 5),
        "2026-01-04/notes.txt": b"hello",
        ".hidden/x.json": run(9, END),
    }
    for number, (name, content) in enumerate(files.items()):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_000_000 - number, 1_000_000 - number))
    return directory


def ids(layout: Layout, day: date) -> dict[str, bytes]:
    folder = layout.day("chat", day).folder
    return {f.header.run_id: f.document for f in read_folder(folder, day) if isinstance(f, RunFile)}


def test_runs_are_imported_into_the_day_of_their_start(layout: Layout, old: Path) -> None:
    before = snapshot(old)
    found = survey(old)
    assert (found.files, found.repeated, len(found.invalid)) == (6, 1, 1)
    assert "broken.json" in found.invalid[0]
    for day, runs in found.days.items():
        planned = import_day(layout, "chat", day, runs, dry_run=True)
        assert planned.action == "would create"
        assert not layout.data_dir.exists() or not layout.day("chat", day).folder.exists()
        assert import_day(layout, "chat", day, runs).action == "created"
        assert is_as_recorded(layout.day("chat", day).folder)
    assert set(ids(layout, DAY)) == {run_id(1), run_id(2)}
    assert set(ids(layout, NEXT)) == {run_id(3), run_id(4)}
    assert b"end_time" in ids(layout, NEXT)[run_id(3)]  # the ended state, although its file is older
    assert snapshot(old) == before
    assert zip_day(layout.day("chat", DAY)).written


def test_upper_case_names_are_read_and_what_is_left_out_is_named(old: Path) -> None:
    (old / "2026-01-03" / "B.JSON").write_bytes(run(5, START + 5))
    (old / "2026-01-03" / "_x.json").write_bytes(run(6, START + 6))
    (old / "2026-01-04" / ".y.json").write_bytes(run(7, START + 7))
    (old / "linked day").symlink_to(old / "2026-01-03", target_is_directory=True)
    (old / "link.json").symlink_to(old / "2026-01-03" / "a.json")
    (old / "dangling.json").symlink_to("nowhere")
    os.mkfifo(old / "pipe.json")  # reading it would wait forever
    found = survey(old)
    assert run_id(5) in found.days[DAY]
    assert [line.partition(": ")[0] for line in found.unread] == [
        "dangling.json",
        "link.json",
        "linked day",
        "pipe.json",
    ]
    assert sorted(found.others) == [
        ".hidden: it is hidden",
        "2026-01-03/_x.json: its name starts with _",
        "2026-01-04/.y.json: it is hidden",
        "2026-01-04/notes.txt: its name does not end in .json",
    ]


def test_a_run_with_differing_files_has_one_day(layout: Layout, old: Path) -> None:
    (old / "2026-01-03" / "e.json").write_bytes(run(1, END + 9))
    os.utime(old / "2026-01-03" / "e.json", (2_000_000, 2_000_000))
    found = survey(old)
    assert found.repeated == 2
    assert run_id(1) not in found.days[DAY]
    assert found.days[NEXT][run_id(1)].path.name == "e.json"


def test_an_unreadable_folder_is_an_error(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("deeper"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)  # root can read everything
    with pytest.raises(ArchiveError, match="deeper: Permission denied"):
        survey(old)


def test_progress_is_reported(layout: Layout, old: Path) -> None:
    read: list[int] = []
    copied: list[tuple[int, int]] = []
    found = survey(old, progress=read.append)
    assert read == [1, 2, 3, 4, 5, 6]
    for _ in range(2):  # the second time there is nothing to copy
        import_day(layout, "chat", DAY, found.days[DAY], progress=lambda *counts: copied.append(counts))
        assert copied == [(1, 2), (2, 2)]


def test_a_second_import_writes_nothing(layout: Layout, old: Path) -> None:
    found = survey(old)
    import_day(layout, "chat", DAY, found.days[DAY])
    inode = layout.day("chat", DAY).folder.stat().st_ino
    result = import_day(layout, "chat", DAY, found.days[DAY])
    assert (result.action, result.added, result.present) == ("unchanged", 0, 2)
    assert layout.day("chat", DAY).folder.stat().st_ino == inode


def test_an_import_keeps_archived_runs(layout: Layout, old: Path, write_day: Callable[..., None]) -> None:
    write_day(run(1, START, name="newer"), run(7, START + 7))
    before = snapshot(layout.day("chat", DAY).folder)
    found = survey(old)
    result = import_day(layout, "chat", DAY, found.days[DAY])
    assert (result.action, result.added, result.present, result.runs) == ("updated", 1, 1, 3)
    assert result.differing == [run_id(1)]
    after = snapshot(layout.day("chat", DAY).folder)
    assert {name: after[name] for name in before if not name.startswith("_")} == {
        name: content for name, content in before.items() if not name.startswith("_")
    }
    summary = read_summary(layout.day("chat", DAY).folder)
    assert summary is not None
    assert summary.runs == 3


def test_an_import_keeps_the_count_of_langsmith(layout: Layout, old: Path, write_day: Callable[..., None]) -> None:
    write_day(run(1, START))
    folder = layout.day("chat", DAY).folder
    summary = read_summary(folder)
    assert summary is not None
    counted = msgspec.structs.replace(summary, langsmith_count=3)
    write_manifest(folder, counted, content_sums(read_sums(folder) or {}))
    assert import_day(layout, "chat", DAY, survey(old).days[DAY]).added == 1
    after = read_summary(folder)
    assert after is not None
    assert after.langsmith_count == 3


def test_an_import_keeps_hidden_files_and_names_a_folder_in_its_way(
    layout: Layout, old: Path, write_day: Callable[..., None]
) -> None:
    write_day(run(1, START))
    folder = layout.day("chat", DAY).folder
    (folder / ".annotations.json").write_text("[1]")
    (folder / ".notes").mkdir()
    with pytest.raises(ArchiveConflictError, match=r"it holds '\.notes'"):
        import_day(layout, "chat", DAY, survey(old).days[DAY])
    (folder / ".notes").rmdir()
    assert import_day(layout, "chat", DAY, survey(old).days[DAY]).added == 1
    assert (folder / ".annotations.json").read_text() == "[1]"


def test_an_import_keeps_the_names_of_runs_that_are_still_missing(
    layout: Layout, old: Path, write_day: Callable[..., None]
) -> None:
    write_day(run(1, START))
    folder = layout.day("chat", DAY).folder
    mark_incomplete(folder, run_id(2), run_id(8))
    assert import_day(layout, "chat", DAY, survey(old).days[DAY]).added == 1
    summary = read_summary(folder)
    assert summary is not None
    assert summary.incomplete == [run_id(8)]


def test_a_damaged_or_pruned_day_is_not_touched(layout: Layout, old: Path, write_day: Callable[..., None]) -> None:
    write_day(run(7, START + 7))
    paths = layout.day("chat", DAY)
    next(paths.folder.glob("0*.json")).write_bytes(b"{}")
    runs = survey(old).days[DAY]
    with pytest.raises(CorruptArchiveError, match="Restore the day"):
        import_day(layout, "chat", DAY, runs)
    shutil.rmtree(paths.folder)
    paths.pruned.mkdir()
    assert import_day(layout, "chat", DAY, runs, dry_run=True).why == "the day was pruned: restore it first"
    with pytest.raises(PrunedDayError):
        import_day(layout, "chat", DAY, runs)


def test_today_and_a_missing_directory_are_refused(layout: Layout, tmp_path: Path) -> None:
    result = import_day(layout, "chat", today(), {})
    assert (result.action, result.why) == ("refused", "the day is not over, in UTC")
    with pytest.raises(UsageError, match="no directory"):
        survey(tmp_path / "nowhere")


def test_what_a_later_command_could_not_name_is_not_imported(bare_installation: Installation, old: Path) -> None:
    (old / "2026-01-03" / "broken.json").write_bytes(run(8, START).replace(b"2026-01-02T", b"0003-12-31T"))
    command = ("archive", "import", str(old), "--force")
    ended = bare_installation.lse(*command, "--project", "chat", "--json")
    assert ended.code == 3
    assert [(entry["date"], entry["action"], entry["why"]) for entry in ended.json] == [
        ("0003-12-31", "refused", "the first day of an archive is 1000-01-01"),
        (str(DAY), "created", ""),
        (str(NEXT), "created", ""),
    ]
    assert not bare_installation.paths("chat", date(3, 12, 31)).folder.exists()
    for name in ("long " * 700, "東" * 1_000):
        ended = bare_installation.lse(*command, "--project", name)
        assert (ended.code, "bytes, and Postgres can index 2,600" in ended.err) == (2, True)
    for day in ("0003-12-31", "0999-12-31"):
        ended = bare_installation.lse("archive", "zip", "--project", "chat", "--date", day)
        assert (ended.code, "the first day of an archive is 1000-01-01" in ended.err) == (2, True)
    assert bare_installation.lse("archive", "zip", "--project", "x" * 3_500).code == 2


@pytest.fixture
def write_day(layout: Layout) -> Callable[..., None]:
    from day_fixtures import fill

    def write(*documents: bytes) -> None:
        paths = layout.day("chat", DAY)
        fill(paths.folder, *documents)
        zip_day(paths)

    return write


def test_lse_archive_import(bare_installation: Installation, old: Path) -> None:
    def lse(*options: str) -> tuple[int, str, str]:
        ended = bare_installation.lse("archive", "import", str(old), *options)
        return ended.code, ended.out, ended.err

    code, out, _ = lse("--project", "chat", "--dry-run")
    assert (code, "would create: 2 runs added" in out, "✓" in out) == (3, True, False)
    code, _, err = lse("--project", "chat")
    assert (code, "--force" in err) == (1, True)
    ended = bare_installation.lse("archive", "import", str(old), "--project", "chat", "--force", "--json")
    assert [(entry["date"], entry["action"], entry["added"]) for entry in ended.json] == [
        (str(DAY), "created", 2),
        (str(NEXT), "created", 2),
    ]
    (old / "2026-01-03" / "broken.json").unlink()
    code, out, _ = lse("--project", "chat")
    assert (code, out.count("unchanged: 0 runs added, 2 already in the archive")) == (0, 2)
    (old / "linked day").symlink_to(old / "2026-01-03", target_is_directory=True)
    code, _, err = lse("--project", "chat")
    assert (code, "left out, files and folders: 3\n    linked day: a link" in err) == (3, True)
    assert lse("--project", " ")[0] == 2
    assert lse()[0] == 2
    assert bare_installation.lse("archive", "import", str(old / "none"), "--project", "chat").code == 2


def test_bars_are_shown_only_on_a_terminal(
    bare_installation: Installation, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old / "2026-01-03" / "broken.json").unlink()
    (old / "2026-01-04" / "notes.txt").unlink()
    shutil.rmtree(old / ".hidden")
    command = ("archive", "import", str(old), "--project", "chat", "--force", "--dry-run")
    assert bare_installation.lse(*command).err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich treats any stream as a terminal
    monkeypatch.setenv("TERM", "xterm")
    on_terminal = bare_installation.lse(*command)
    for title in ("older files", str(DAY), str(NEXT)):
        assert title in on_terminal.err
