"""Attachments go with their day: zip, Drive, restore, prune, import and verification."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from archive_fixtures import snapshot
from home_fixtures import DAY, PROJECT, Installation, midnight, run_uuid

from lse_archive.errors import CorruptArchiveError
from lse_archive.folder.attachments import ATTACHMENTS, read_attachments
from lse_archive.folder.manifest import Summary, read_summary
from lse_archive.folder.state import read_state
from lse_demo.faults import Fault, on
from lse_operations.day_selection import is_fetch_due
from lse_operations.importing import import_day, survey
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

HOSTILE = "../../\x1b[31m\u202e" + "x" * 400


def put_runs(installation: Installation) -> None:
    """Adds four runs with an image, a text, two attachments of one content, and a hostile name."""
    for number in range(4):
        installation.put(number, midnight() + number)
    files = (
        (0, "picture", b"\x89PNG\x00", "image/png"),
        (1, "a", b"the same", "text/plain"),
        (2, "a", b"the same", "text/plain"),
        (3, HOSTILE, bytes(9 << 20), "application/octet-stream"),
    )
    for number, name, content, media_type in files:
        installation.store.attach(run_uuid(number), name, content, media_type)


def summary(installation: Installation) -> Summary:
    found = read_summary(installation.paths().folder)
    assert found is not None
    return found


def verdict(installation: Installation) -> tuple[str, str]:
    checks = installation.archive("verify", "--json").entry["checks"]
    return next((check["verdict"], check["says"]) for check in checks if check["name"] == "attachments_complete")


def test_every_copy_of_the_day_has_the_attachments(installation: Installation) -> None:
    put_runs(installation)
    swept = installation.archive("full-sweep", "--json")
    assert swept.code == 0, swept.err
    assert (swept.entry["fetch_result"]["attachments"], len(read_attachments(installation.paths().folder))) == (4, 4)
    before = snapshot(installation.directory / "data")
    assert len([name for name in before if "_attachment_" in name]) == 3
    uploads = installation.uploads()
    assert installation.archive("full-sweep", "--force").code == 0  # nothing new, nothing written
    assert snapshot(installation.paths().folder).items() <= before_folder(installation, before).items()
    assert installation.uploads() == uploads

    shutil.rmtree(installation.directory / "data")
    shutil.rmtree(installation.directory / "archives")
    assert installation.archive("restore").code == 0
    after = snapshot(installation.paths().folder)
    assert after == before_folder(installation, before)
    assert verdict(installation) == ("agrees", "4 attachments are here")

    prune = "archive", "prune", "--older-than", "1d", "--project", PROJECT, "--force", "--json"
    assert [entry["action"] for entry in installation.lse(*prune).json] == ["pruned"]
    assert verdict(installation) == ("agrees", "4 attachments are here")
    # A fetch restores the day first; its attachments are not downloaded again.
    downloads = sum(entry.path.startswith("/storage/") for entry in installation.langsmith.requests)
    assert installation.archive("fetch", "--force").code == 0
    assert snapshot(installation.paths().folder) == after
    assert sum(entry.path.startswith("/storage/") for entry in installation.langsmith.requests) == downloads


def before_folder(installation: Installation, before: dict[str, bytes]) -> dict[str, bytes]:
    prefix = f"{installation.paths().folder.relative_to(installation.directory / 'data')}/"
    return {name.removeprefix(prefix): content for name, content in before.items() if name.startswith(prefix)}


def test_a_missing_attachment_is_named_everywhere_until_it_is_here(installation: Installation) -> None:
    put_runs(installation)
    installation.langsmith.faults.add(Fault("status", on("GET", f"/storage/{run_uuid(3)}"), status=404))
    swept = installation.archive("full-sweep", "--json")
    assert (swept.code, swept.entry["problems"]) == (3, [])
    [missing] = swept.entry["fetch_result"]["attachments_missing"]
    assert (missing["run_id"], missing["why"], len(missing["name"])) == (run_uuid(3), "HTTP 404", 200)
    assert "\x1b" not in missing["name"]
    assert verdict(installation) == ("differs", "1 attachment could not be downloaded")
    fetched = installation.archive("fetch", "--refresh")
    assert (fetched.code, "1 attachment could not be downloaded" in fetched.out) == (3, True)
    assert f"incomplete: {PROJECT}: {DAY}" in installation.lse("status", "--project", PROJECT).out
    now = datetime.now(UTC)
    assert is_fetch_due(ProjectConfig(PROJECT, DAY), DAY, read_state(installation.paths()), now)
    prune = "archive", "prune", "--older-than", "1d", "--project", PROJECT, "--force", "--json"
    assert "could not be downloaded" in installation.lse(*prune).entry["why"]

    installation.langsmith.faults.clear()
    assert installation.archive("full-sweep", "--force").code == 0
    assert verdict(installation)[0] == "agrees"
    assert not is_fetch_due(ProjectConfig(PROJECT, DAY), DAY, read_state(installation.paths()), now)


def test_a_day_that_was_not_collected_is_not_red(installation: Installation) -> None:
    put_runs(installation)
    for command in (("fetch", "--force"), ("full-sweep", "--force")):
        assert installation.archive(*command, "--skip-attachments").code == 0
        assert summary(installation).attachments is None
    assert (
        installation.lse("archive", "--project", PROJECT, "--date", str(DAY), "--skip-attachments", "--force").code == 0
    )
    assert verdict(installation) == ("agrees", "attachments were not collected")
    assert installation.archive("full-sweep", "--force").code == 0
    assert verdict(installation) == ("agrees", "4 attachments are here")


@pytest.mark.parametrize("damage", ["content", "list"])
def test_the_check_finds_what_is_missing(installation: Installation, damage: str) -> None:
    put_runs(installation)
    assert installation.archive("full-sweep").code == 0
    folder = installation.paths().folder
    if damage == "content":
        sums = folder / "_sha256sums.txt"
        lines = sums.read_text().splitlines(keepends=True)
        sums.write_text("".join(line for line in lines if "_attachment_" not in line))
    else:
        (folder / ATTACHMENTS).write_bytes(b"[]")
    assert verdict(installation)[0] == "differs"


def test_settings_limit_the_attachments(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    put_runs(installation)
    monkeypatch.setenv("LSE_ATTACHMENT_MAX_MB", "5")
    fetched = installation.archive("fetch", "--json")
    assert (fetched.code, fetched.entry["attachments"], len(fetched.entry["attachments_missing"])) == (3, 3, 1)
    monkeypatch.setenv("LSE_ATTACHMENT_MAX_MB", "5 GB")
    assert "LSE_ATTACHMENT_MAX_MB is invalid" in installation.archive("fetch").err


def test_an_import_keeps_the_attachments(installation: Installation, tmp_path: Path) -> None:
    put_runs(installation)
    assert installation.archive("fetch").code == 0
    before = snapshot(installation.paths().folder)
    (tmp_path / "old").mkdir()
    name = next(installation.paths().folder.glob(f"{run_uuid(0)}*"))
    other = name.read_bytes().replace(run_uuid(0).encode(), run_uuid(99).encode())
    (tmp_path / "old" / "x.json").write_bytes(other)
    layout = Settings.load().layout
    assert import_day(layout, PROJECT, DAY, survey(tmp_path / "old").days[DAY]).added == 1
    after = snapshot(installation.paths().folder)
    kept = [name for name in before if "attachment" in name]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (summary(installation).attachments, summary(installation).unfit_files) == (4, [])
    assert verdict(installation)[0] == "agrees"


def test_an_import_takes_the_attachments_of_an_archived_folder(installation: Installation, tmp_path: Path) -> None:
    put_runs(installation)
    assert installation.archive("fetch").code == 0
    before = snapshot(installation.paths().folder)
    shutil.copytree(installation.paths().folder, tmp_path / "old")
    shutil.rmtree(installation.directory / "data")

    imported = installation.lse("archive", "import", str(tmp_path / "old"), "--project", PROJECT, "--force", "--json")

    assert (imported.code, imported.entry["added"], imported.entry["attachments"]) == (0, 4, 4)
    after = snapshot(installation.paths().folder)
    manifest = ("_summary.json", "_sha256sums.txt")
    assert {name: after[name] for name in after if name not in manifest} == {
        name: before[name] for name in before if name not in manifest
    }
    assert verdict(installation)[0] == "agrees"
    again = installation.lse("archive", "import", str(tmp_path / "old"), "--project", PROJECT, "--force", "--json")
    assert (again.entry["action"], again.entry["attachments"]) == ("unchanged", 0)


def test_an_import_adds_attachments_to_runs_that_are_here(installation: Installation, tmp_path: Path) -> None:
    put_runs(installation)
    assert installation.archive("fetch").code == 0
    before = snapshot(installation.paths().folder)
    shutil.copytree(installation.paths().folder, tmp_path / "old")
    shutil.rmtree(installation.directory / "data")
    installation.langsmith.faults.add(Fault("status", on("GET", "/storage/"), status=404))
    assert installation.archive("fetch").code == 3
    layout, found = Settings.load().layout, survey(tmp_path / "old")

    result = import_day(layout, PROJECT, DAY, found.days[DAY], found.attachments)

    assert (result.action, result.added, result.attachments) == ("updated", 0, 4)
    assert (summary(installation).attachments, summary(installation).attachments_missing) == (4, [])
    assert snapshot(installation.paths().folder)[ATTACHMENTS] == before[ATTACHMENTS]
    damaged = next((tmp_path / "old").glob("_attachment_*"))
    damaged.write_bytes(b"damaged")
    shutil.rmtree(installation.directory / "data")
    with pytest.raises(CorruptArchiveError, match="is damaged"):
        import_day(layout, PROJECT, DAY, found.days[DAY], found.attachments)
    assert not installation.paths().folder.exists()
