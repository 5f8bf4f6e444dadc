"""A day goes into the lake with its other steps, is checked there, and comes back from there alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from archive_fixtures import snapshot
from home_fixtures import DAY, PROJECT, Installation
from pyarrow import parquet

from lse_archive.folder.manifest import read_summary
from lse_archive.folder.state import read_state
from lse_assets.assets import project_assets
from lse_operations.checks import day_checks
from lse_operations.steps import LAKE_STEP, SEARCH_STEP, day_steps
from lse_platform.asset_keys import asset_key
from lse_resources.lake.schema import manifest_key, table_key
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def lake(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the installation's lake."""
    monkeypatch.setenv("LSE_LAKE_URL", str(installation.directory / "lake"))
    installation.environment["LSE_LAKE_URL"] = str(installation.directory / "lake")
    return installation.directory / "lake"


def lake_check(installation: Installation, *options: str) -> dict[str, object]:
    verified = installation.archive("verify", *options, "--json")
    [check] = [one for one in verified.entry["checks"] if one["name"] == "lake_matches_files"]
    return check | {"code": verified.code}


def test_a_sweep_writes_the_lake_and_everything_reads_it(installation: Installation, lake: Path) -> None:
    installation.fill(40)
    swept = installation.archive("full-sweep", "--skip-db", "--json")
    assert swept.code == 0, swept.err
    result = swept.entry["lake_result"]
    assert (result["written"], result["source"], result["runs"]) == (True, "run files", 40)
    assert read_state(installation.paths()).verdict is None  # the rows were skipped

    asked = installation.lse("sql", "--lake", "--json", "SELECT project, runs FROM daily_facts")
    assert (asked.code, asked.json) == (0, [{"project": PROJECT, "runs": 40}]), asked.err
    refused = installation.lse("sql", "--lake", "COPY runs TO 'runs.csv'")
    assert refused.code == 2
    assert "not one SELECT" in refused.err
    with installation.instance() as instance:
        assert instance.get_latest_materialization_event(asset_key(PROJECT, "lake_files")) is not None

    before = snapshot(lake)
    again = installation.lse("lake", "build", "--project", PROJECT, "--date", str(DAY), "--json")
    assert (again.code, again.entry["written"]) == (0, False), again.err
    assert snapshot(lake) == before

    for detailed in ((), ("--detailed",)):
        check = lake_check(installation, *detailed)
        assert check["verdict"] == "agrees", check
    raw = lake / table_key("raw", PROJECT, DAY)
    content = bytearray(raw.read_bytes())
    content[len(content) // 2] ^= 1
    raw.write_bytes(content)
    assert lake_check(installation)["verdict"] == "agrees"  # its size is right
    check = lake_check(installation, "--detailed")
    assert (check["verdict"], check["code"]) == ("differs", 3)
    (lake / manifest_key(PROJECT, DAY)).unlink()
    assert lake_check(installation)["verdict"] == "unproven"


def test_a_day_is_built_from_its_zip_or_the_destination_and_comes_back_from_the_lake_alone(
    installation: Installation, lake: Path
) -> None:
    installation.fill(30)
    assert installation.archive("full-sweep", "--skip-db").code == 0
    paths, built = installation.paths(), snapshot(lake)
    data, zipped = snapshot(paths.folder), paths.zip.read_bytes()
    for source in ("zip", "destination"):
        shutil.rmtree(lake)
        shutil.rmtree(paths.folder, ignore_errors=True)
        if source == "destination":
            paths.zip.unlink()
        made = installation.lse("lake", "build", "--project", PROJECT, "--date", str(DAY), "--json")
        assert (made.code, made.entry["source"], made.entry["written"]) == (0, source, True), made.err
        assert snapshot(lake) == built
        assert not paths.folder.exists()

    uploaded = read_state(paths)
    back = installation.archive("restore", "--from", "lake", "--json")
    assert back.code == 0, back.err
    assert (back.entry["action"], back.entry["runs"]) == ("restored", 30)
    assert snapshot(paths.folder) == data
    assert paths.zip.read_bytes() == zipped
    assert read_state(paths).drive_file_id == uploaded.drive_file_id
    again = installation.archive("restore", "--from", "lake", "--json")
    assert again.entry["action"] == "unchanged"


def test_the_lake_never_loses_a_run_unless_it_may(installation: Installation, lake: Path) -> None:
    installation.fill(20)
    assert installation.archive("fetch").code == 0
    arguments = ("lake", "build", "--project", PROJECT, "--date", str(DAY))
    assert installation.lse(*arguments).code == 0
    folder = installation.paths().folder
    before = snapshot(lake)
    lost = min(folder.glob("0*.json"))
    lost.unlink()
    broken = installation.lse(*arguments)
    assert (broken.code, snapshot(lake)) == (0, before)  # by its checksums the day is the same
    (folder / "_sha256sums.txt").unlink()
    (folder / "_summary.json").unlink()
    refused = installation.lse(*arguments)
    assert refused.code == 1
    assert "holds 1 run" in refused.err
    assert snapshot(lake) == before
    forced = installation.lse(*arguments, "--allow-shrink")
    assert forced.code == 0, forced.err
    summary = read_summary(folder)
    assert summary is not None
    found = json.loads((lake / manifest_key(PROJECT, DAY)).read_bytes())
    assert (found["tables"]["runs"]["rows"], found["content_sha256"]) == (19, summary.content_sha256)
    assert lost.name not in parquet.read_table(lake / table_key("raw", PROJECT, DAY))["file"].to_pylist()


def test_without_a_lake_or_a_search_there_is_no_asset_of_it(installation: Installation) -> None:
    refused = installation.lse("lake", "build", "--project", PROJECT, "--date", str(DAY))
    assert (refused.code, "LSE_LAKE_URL is not set" in refused.err) == (1, True)
    for has_lake, search in ((False, "on"), (True, "off")):
        steps = day_steps(Settings(lse_lake_url="lake" if has_lake else None, lse_search=search))
        assert (LAKE_STEP in steps, SEARCH_STEP in steps) == (has_lake, search == "on")
        assets = project_assets(ProjectConfig(PROJECT, DAY), steps=steps)
        assert tuple(asset.key.path[-1] for asset in assets) == steps
        assert len(list(assets[-1].check_specs)) == len(day_checks(has_lake=has_lake)) == 7 + has_lake
