"""The Dagster assets: definitions, and the metadata and checks of a day's run."""

from __future__ import annotations

import shlex
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from home_fixtures import DAY, PROJECT, Installation
from viewer_fixtures import viewer_client

from lse_assets.assets import project_assets, project_definitions
from lse_location.definitions import definitions, resources
from lse_operations.checks import CHECKS
from lse_operations.reporter import LogReporter
from lse_operations.steps import STEPS
from lse_platform.asset_keys import asset_key, langsmith_key
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

# Dagster's resources use pydantic features that are deprecated.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")]

_CONFIG = ProjectConfig(PROJECT, DAY - timedelta(days=5))


def materialize(*steps: str, **config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """Runs steps of the day on a separate instance, like the platform but without retries."""
    assets = project_assets(_CONFIG)
    by_name = {asset.key.path[-1]: asset for asset in assets}
    ops = {by_name[step].op.name: {"config": values} for step, values in config.items()}
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            assets,
            selection=[by_name[step] for step in steps or STEPS],
            partition_key=str(DAY),
            resources=resources(LogReporter()),
            instance=instance,
            run_config={"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_the_code_location_loads_with_all_projects(bare_installation: Installation) -> None:
    names = [PROJECT, "shop-emea", "Shop EMEA", "東京"]
    for name in names:
        assert bare_installation.lse("projects", "add", name, "--start", str(DAY)).code == 0
    defined = definitions()
    dg.Definitions.validate_loadable(defined)
    keys = set(defined.resolve_asset_graph().get_all_asset_keys())
    assert keys >= {asset_key(name, step) for name in names for step in STEPS}
    assert len({key.path[0] for key in keys}) == len(names)


def test_the_code_location_loads_without_projects(bare_installation: Installation) -> None:
    dg.Definitions.validate_loadable(definitions())


def test_lineage_partitions_and_checks() -> None:
    shared = dg.Definitions(resources=resources(LogReporter()))
    graph = dg.Definitions.merge(shared, project_definitions(_CONFIG)).resolve_asset_graph()
    parents = {step: {key.path[-1] for key in graph.get(asset_key(PROJECT, step)).parent_keys} for step in STEPS}
    assert parents == {
        "run_files": {"langsmith"},
        "day_zip": {"run_files"},
        "drive_file": {"day_zip"},
        "runs_table": {"run_files"},
        "verification": {"run_files", "day_zip", "drive_file", "runs_table"},
    }
    assert not graph.get(langsmith_key(PROJECT)).is_materializable
    for step in STEPS:
        node = graph.get(asset_key(PROJECT, step))
        assert node.description
        assert isinstance(node.partitions_def, dg.DailyPartitionsDefinition)
        assert node.partitions_def.get_first_partition_key() == str(_CONFIG.start)
    assert {key.name for key in graph.asset_check_keys} == set(CHECKS)
    assert {key.asset_key for key in graph.asset_check_keys} == {asset_key(PROJECT, "verification")}


def test_a_day_has_numbers_and_passed_checks(installation: Installation) -> None:
    installation.fill(7)

    result = materialize()

    assert result.success
    metadata = {event.asset_key.path[-1]: event.metadata for event in materializations(result)}
    assert set(metadata) == set(STEPS)
    assert metadata["run_files"]["runs"].value == 7
    assert metadata["run_files"]["langsmith_count"].value == 7
    assert metadata["day_zip"]["bytes"].value == installation.paths().zip.stat().st_size
    assert str(metadata["drive_file"]["url"].value).startswith("http")
    assert metadata["runs_table"]["dagster/partition_row_count"].value == 7
    with viewer_client(Settings.load()) as client:
        for step in ("run_files", "runs_table"):
            assert client.get(str(metadata[step]["look at"].value)).text.count('class="name"') == 7
    assert {name: check.passed for name, check in checks(result).items()} == dict.fromkeys(CHECKS, True)


def materializations(result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    return [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION
    ]


def test_failed_checks_name_differences_and_the_fix(installation: Installation) -> None:
    installation.fill(7)
    assert materialize().success
    changed, deleted, *_ = sorted(installation.rows())
    installation.sql("""UPDATE runs SET data = data || '{"name": "by hand"}' WHERE run_id = %s""", changed)
    installation.sql("DELETE FROM runs WHERE run_id = %s", deleted)
    runs = installation.paths().folder.glob("[0-9a-f]*.json")
    damaged = next(path for path in runs if not path.name.startswith((str(changed), str(deleted))))
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b'"run_type"', b'"run_typ3"'))
    installation.paths().zip.unlink()
    [on_drive] = installation.drive.store.named(installation.paths().zip.name)
    installation.drive.store.content(on_drive).write_bytes(b"rotten")

    result = materialize("verification")

    assert not result.success
    found = checks(result)
    assert {name for name, check in found.items() if check.passed} >= {"langsmith_count"}
    for name in ("run_files_intact", "zip_matches_files", "runs_match_files"):
        assert (found[name].passed, found[name].severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert found[name].metadata["what to do"].value
    rows = differing(found["runs_match_files"])
    assert {changed, deleted} <= {row["item"] for row in rows}
    [row] = differing(found["run_files_intact"])
    assert (row["item"], row["what"], row["see"]) == (damaged.name, "changed", str(damaged))

    damaged.write_bytes(content)
    assert materialize("day_zip", "verification", verification={"fix": True}).success
    assert {name for name, check in checks(materialize("verification")).items() if not check.passed} <= {
        "drive_matches_zip"
    }


def test_the_runs_of_red_checks_have_a_way_to_them(installation: Installation) -> None:
    installation.fill(7)
    assert installation.archive("full-sweep").code == 0
    changed, deleted, extra, *_ = sorted(installation.rows())
    files = {path.name[:36]: path for path in installation.paths().folder.glob("[0-9a-f]*.json")}
    installation.sql("""UPDATE runs SET data = data || '{"name": "by hand"}' WHERE run_id = %s""", changed)
    installation.sql("DELETE FROM runs WHERE run_id = %s", deleted)
    files[extra].unlink()

    found = checks(materialize("verification"))

    see = {row["item"]: row["see"] for row in differing(found["runs_match_files"])}
    assert see[deleted] == str(files[deleted])
    path, _, command = see[changed].partition("; ")
    assert path == str(files[changed])
    for run, line in {changed: command, extra: see[extra]}.items():
        printed = installation.lse(*shlex.split(line)[1:], "--json")
        assert (printed.code, run in printed.out) == (0, True)
    [row] = differing(found["run_files_intact"])
    assert (row["what"], row["see"]) == ("missing", "")
    with viewer_client(Settings.load()) as client:
        page = client.get(str(found["runs_match_files"].metadata["look at"].value)).text
        assert "by hand" in page
        assert f"<li><code>{deleted}</code></li>" in page
        assert client.get(str(found["run_files_intact"].metadata["look at"].value)).text.count('class="name"') == 1


def test_a_day_with_a_red_check_is_failed_until_it_is_verified_again(installation: Installation) -> None:
    installation.fill(7)
    other = DAY - timedelta(days=1)
    assert installation.archive("full-sweep").code == 0
    assert installation.archive("full-sweep", day=other).code == 0
    run = min(installation.rows())
    installation.sql("DELETE FROM runs WHERE run_id = %s", run)
    [verification] = [one for one in project_assets(_CONFIG) if one.key == asset_key(PROJECT, "verification")]
    days = verification.partitions_def
    assert days is not None

    with installation.instance() as instance:

        def statuses() -> dict[date, AssetPartitionStatus | None]:
            found = instance.get_status_by_partition(verification.key, [str(DAY), str(other)], days)
            assert found is not None
            return {day: found[str(day)] for day in (DAY, other)}

        assert set(statuses().values()) == {AssetPartitionStatus.MATERIALIZED}
        assert installation.archive("verify").code == 3
        assert statuses() == {DAY: AssetPartitionStatus.FAILED, other: AssetPartitionStatus.MATERIALIZED}
        [record] = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert record.dagster_run.tags["dagster/will_retry"] == "false"
        evaluated = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(verification.key, "runs_match_files"), limit=1
        )
        assert [check.status for check in evaluated] == [AssetCheckExecutionRecordStatus.FAILED]
        assert installation.archive("verify", "--fix").code == 0
        assert set(statuses().values()) == {AssetPartitionStatus.MATERIALIZED}


def differing(check: dg.AssetCheckEvaluation) -> list[Any]:
    """Returns the rows of a check's table."""
    table = check.metadata["differing"]
    assert isinstance(table, dg.TableMetadataValue)
    return [record.data for record in table.records]


def test_an_unproven_check_is_a_warning(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(2)
    monkeypatch.setenv("GOOGLE_DRIVE_FOLDER_URL", "")
    result = materialize("run_files", "day_zip", "runs_table", "verification", run_files={"ask_count": False})
    found = checks(result)
    for name in ("langsmith_count", "drive_matches_zip"):
        assert (found[name].passed, found[name].severity) == (False, dg.AssetCheckSeverity.WARN)


def test_a_day_that_nobody_can_prove_is_not_materialized(installation: Installation) -> None:
    """Neither an empty zip nor a green day says that LangSmith was asked in time."""
    installation.store.project(PROJECT)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            project_assets(ProjectConfig(PROJECT, DAY, retention_days=2)),
            partition_key=str(DAY),
            resources=resources(LogReporter()),
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        assert result.success
        assert materializations(result) == []
        [observed] = result.get_asset_observation_events()
        assert observed.asset_observation_data.asset_observation.partition == str(DAY)
        assert "past its retention" in str(observed.asset_observation_data.asset_observation.description)
        for step in STEPS:
            assert instance.get_materialized_partitions(asset_key(PROJECT, step)) == set()
    assert not installation.paths().zip.exists()
    assert installation.uploads() == 0


def test_a_failed_step_fails_the_run_with_its_message(installation: Installation) -> None:
    installation.store.project(PROJECT)
    installation.langsmith.behavior.api_keys = frozenset(("another",))
    result = materialize("run_files")
    assert not result.success
    [failure] = result.filter_events(lambda event: event.is_step_failure)
    failure_data = failure.step_failure_data.user_failure_data
    assert failure_data is not None
    assert "Check LANGSMITH_API_KEY" in (failure_data.description or "")


def test_yesterday_is_the_last_partition() -> None:
    [partitions] = {asset.partitions_def for asset in project_assets(_CONFIG)}
    assert isinstance(partitions, dg.DailyPartitionsDefinition)
    last = partitions.get_last_partition_key()
    assert last is not None
    assert date.fromisoformat(last) < DAY + timedelta(days=4)
