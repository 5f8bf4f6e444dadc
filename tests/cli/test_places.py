"""A home belongs to the places of its first start: elsewhere every command ends, and says how to go on."""

from __future__ import annotations

import shutil

import pytest
from home_fixtures import PROJECT, Installation

_PLACES = ("LSE_DATA_DIR", "LSE_ARCHIVE_DIR", "LSE_PROJECTS_FILE")
ADD = ("projects", "add", PROJECT, "--start", "2026-01-01")


@pytest.fixture
def started(bare_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation with the default places, whose first command ran in the directory `first`."""
    for name in _PLACES:
        monkeypatch.delenv(name)
    directory = bare_installation.directory / "first"
    directory.mkdir()
    monkeypatch.chdir(directory)
    assert bare_installation.lse("projects", "list").code == 0
    assert not (bare_installation.directory / "home").exists()  # what only reads records nothing
    assert bare_installation.lse(*ADD).code == 0
    (directory / "data").mkdir()
    (bare_installation.directory / "second").mkdir()
    return bare_installation


@pytest.mark.parametrize(
    "command",
    [
        ("archive", "full-sweep", "--project", PROJECT),
        ("archive", "fetch", "--project", PROJECT),
        ("archive", "restore", "--project", PROJECT),
        ("archive", "import", "old", "--project", PROJECT),
        ("projects", "add", "another", "--start", "2026-01-01"),
        ("projects", "list"),
        ("up",),
        ("status",),
        ("sql", "SELECT 1"),
        ("export", "--project", PROJECT, "--output", "runs.csv", "--format", "csv"),
        ("db", "url"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_a_command_in_another_directory_ends_and_names_both(
    started: Installation, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = started.directory / "second"
    monkeypatch.chdir(second)
    ended = started.lse(*command)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    for directory in ("first", "second"):
        for name in ("data", "archives", "projects.toml"):
            assert str(started.directory / directory / name) in ended.err
    assert f"{started.directory / 'first' / 'archives'} (which does not exist)" in ended.err
    assert "lse relocate" in ended.err
    assert list(second.iterdir()) == []
    monkeypatch.chdir(started.directory / "first")
    assert PROJECT in started.lse("projects", "list").out


def test_the_platform_can_be_stopped_from_any_directory(started: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(started.directory / "second")
    assert started.lse("down").out == "nothing was running\n"


def test_one_changed_place_is_named_alone(started: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSE_DATA_DIR", "elsewhere")
    ended = started.lse("projects", "list")
    assert ended.code == 2
    first = started.directory / "first"
    assert f"LSE_DATA_DIR was {first / 'data'}, and would be {first / 'elsewhere'}. " in ended.err
    assert "LSE_ARCHIVE_DIR" not in ended.err


def test_moved_files_are_recorded_by_a_command(started: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = started.directory / "first", started.directory / "second"
    monkeypatch.chdir(second)
    refused = started.lse("relocate")
    assert refused.code == 2
    assert f"{second / 'data'}: it does not exist, and {first / 'data'} does. Move it first" in refused.err
    second.rmdir()
    shutil.move(first, second)
    monkeypatch.chdir(second)
    moved = started.lse("relocate")
    assert moved.code == 0
    assert f"LSE_DATA_DIR: {first / 'data'} → {second / 'data'}\n" in moved.out
    assert PROJECT in started.lse("projects", "list").out
    assert started.lse("relocate").out == "nothing has changed\n"


def test_what_moves_together_with_its_home_stays(
    started: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("moved") / "all"
    monkeypatch.chdir("/")
    shutil.move(started.directory, target)
    monkeypatch.setenv("LSE_HOME", str(target / "home"))
    monkeypatch.chdir(target / "first")
    assert started.lse("projects", "list").code == 0
    target.rename(started.directory)


def test_a_link_to_the_place_is_the_place(started: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    link = started.directory / "link"
    link.symlink_to(started.directory / "first")
    for name, place in zip(_PLACES, ("data", "archives", "projects.toml"), strict=True):
        monkeypatch.setenv(name, str(link / place))
    assert started.lse("projects", "list").code == 0


def test_a_damaged_record_is_an_error_and_written_again(started: Installation) -> None:
    record = started.directory / "home" / "places.json"
    for content in (b"{", b"[]", b'{"LSE_HOME": 1}'):
        record.write_bytes(content)
        ended = started.lse("projects", "list")
        assert ended.code == 1
        assert f"{record} is damaged" in ended.err
    assert started.lse("relocate").code == 0
    assert started.lse("projects", "list").code == 0


def test_a_home_of_an_older_version_gets_its_record(installation: Installation) -> None:
    record = installation.directory / "home" / "places.json"
    installation.fill(runs=1)
    assert installation.archive("fetch").code == 0
    assert str(installation.directory / "data") in record.read_text()


def test_a_running_platform_keeps_its_places(started: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    from lse_platform.process_registry import Registry

    with Registry(started.directory / "home" / "run").locked():
        ended = started.lse("relocate")
    assert ended.code == 1
    assert "lse down" in ended.err
