"""Reading a day's folder, also of an older tool: which files count as runs of the day."""

from pathlib import Path

from day_fixtures import DAY, END, START, day_paths, fill, run, run_id

from lse_archive.folder.reader import InvalidFile, RunFile, read_folder, run_file_name
from lse_archive.layout import Layout
from lse_archive.runs.header import read_header


def test_a_run_file_is_named_after_id_and_start():
    assert run_file_name(read_header(run(5))) == f"{run_id(5)}_20260102T000000000005Z.json"


def test_the_day_has_its_first_and_last_microsecond_and_no_run_outside(tmp_path):
    fill(tmp_path, run(1, START), run(2, END - 1), run(3, START - 1), run(4, END))
    files = list(read_folder(tmp_path, DAY))
    assert [file.header.run_id for file in files if isinstance(file, RunFile)] == [run_id(1), run_id(2)]
    assert [file.reason for file in files if isinstance(file, InvalidFile)] == [
        f"run {run_id(3)} started on 2026-01-01",
        f"run {run_id(4)} started on 2026-01-03",
    ]


def test_files_of_older_tools_are_read(tmp_path):
    (tmp_path / "trace-a.json").write_bytes(b'{"trace": ' + run(1) + b', "exported_at": "x"}')
    (tmp_path / "anything.json").write_bytes(run(2))
    (tmp_path / "broken.json").write_bytes(run(3)[:-5])
    (tmp_path / "other.json").write_bytes(b'{"feedback": []}')
    (tmp_path / "_summary.json").write_bytes(b"{}")
    (tmp_path / ".hidden.json").write_bytes(b"{}")
    (tmp_path / "notes.txt").write_bytes(b"")
    files = list(read_folder(tmp_path, DAY))
    assert [(file.name, isinstance(file, RunFile)) for file in files] == [
        ("anything.json", True),
        ("broken.json", False),
        ("other.json", False),
        ("trace-a.json", True),
    ]
    wrapped = files[-1]
    assert isinstance(wrapped, RunFile)
    assert wrapped.document == run(1)
    assert wrapped.size == len((tmp_path / "trace-a.json").read_bytes())


def test_a_run_counts_once(tmp_path):
    (tmp_path / "a.json").write_bytes(run(1))
    (tmp_path / "b.json").write_bytes(run(1))
    first, second = read_folder(tmp_path, DAY)
    assert isinstance(first, RunFile)
    assert isinstance(second, InvalidFile)
    assert second.reason == f"run {run_id(1)} is already in a.json"


def test_the_layout_finds_projects_and_days(tmp_path: Path):
    for project in ("a/b", "..", "chat", "été"):
        day_paths(tmp_path, project).folder.mkdir(parents=True)
    layout = Layout(tmp_path / "data", tmp_path / "archives")
    (layout.data_dir / "chat" / ".lse").mkdir()
    (layout.data_dir / "chat" / "2026-13-01").mkdir()
    (layout.data_dir / "chat" / "2026-01-01").mkdir()
    (layout.data_dir / ".cache").mkdir()
    assert sorted(layout.projects()) == ["..", "a/b", "chat", "été"]
    assert [str(day) for day in layout.days("chat")] == ["2026-01-01", "2026-01-02"]
    assert list(layout.days("nothing")) == []
    assert list(Layout(tmp_path / "none", tmp_path).projects()) == []
    assert all(tmp_path in path.parents for path in (layout.day("..", DAY).folder, layout.day("../x", DAY).zip))
