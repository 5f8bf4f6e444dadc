"""Records of the command line in the Dagster instance: the days that it processed, and no secret."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import quote

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from home_fixtures import DAY, PROJECT, Installation
from psycopg import sql

from lse_archive.names import project_slug
from lse_cli.terminal.texts import STEP_NAMES
from lse_demo.faults import Fault, on
from lse_operations.checks import CHECKS
from lse_operations.steps import STEPS, day_steps
from lse_platform.asset_keys import asset_key, job_name
from lse_resources.postgres.database import Database
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

_KEY = "lsv2_pt_c0ffee0000000000000000000000secret"


def test_every_step_has_a_display_name_in_the_order_of_the_steps() -> None:
    assert tuple(STEP_NAMES) == day_steps(Settings(lse_lake_url="lake"))


def test_the_instance_has_the_materializations_and_checks_of_the_command_line(installation: Installation) -> None:
    installation.fill(4)
    assert installation.archive("full-sweep").code == 0
    [run_id] = installation.rows().keys() - list(installation.rows())[1:]
    installation.sql("DELETE FROM runs WHERE run_id = %s", run_id)
    assert installation.archive("verify").code == 3

    verification = asset_key(PROJECT, "verification")
    with installation.instance() as instance:
        for step in STEPS:
            assert instance.get_materialized_partitions(asset_key(PROJECT, step)) == {str(DAY)}
        keys = [dg.AssetCheckKey(verification, name) for name in CHECKS]
        infos = instance.event_log_storage.get_asset_check_partition_info(keys, partition_keys=[str(DAY)])
        statuses = {info.check_key.name: info.latest_execution_status for info in infos}
        failed = {"runs_match_files": AssetCheckExecutionRecordStatus.FAILED}
        assert statuses == dict.fromkeys(CHECKS, AssetCheckExecutionRecordStatus.SUCCEEDED) | failed
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        assert run_id in str(latest[dg.AssetCheckKey(verification, "runs_match_files")].event)
        verified, swept = instance.get_runs()
        assert (verified.status, swept.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)


def test_a_run_has_the_name_and_place_of_the_platforms_and_no_internal_tag_that_the_ui_shows(
    installation: Installation,
) -> None:
    installation.fill(4)
    assert installation.archive("full-sweep").code == 0
    with installation.instance() as instance:
        [run] = instance.get_runs()
    assert run.job_name == job_name(PROJECT)
    assert run.remote_job_origin is not None
    assert (run.remote_job_origin.location_name, run.remote_job_origin.job_name) == ("lse", run.job_name)
    shown = {name: value for name, value in run.tags.items() if not name.startswith((".dagster/", "dagster/"))}
    assert shown == {"project": PROJECT}
    assert run.tags["dagster/partition"] == str(DAY)


def test_a_hostile_project_name_is_harmless_in_the_tags(installation: Installation) -> None:
    name = "a\x1b[31m\u202eb\nc"
    installation.fill(1, project=name)
    assert installation.archive("fetch", project=name).code == 0
    with installation.instance() as instance:
        [run] = instance.get_runs()
    assert run.tags["project"] == "a\\x1b[31m\\u202eb\\nc"


def test_the_times_of_records_are_utc_whatever_the_servers_time_zone_is(installation: Installation) -> None:
    installation.fill(1)
    dagster = Database(installation.environment["LSE_DAGSTER_DATABASE_URL"])
    with dagster.connect() as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'America/New_York'").format(name))
    assert installation.archive("fetch").code == 0
    with dagster.connect() as connection:
        # The client writes start_time in seconds since the epoch, the server create_timestamp without a zone.
        times = "create_timestamp AT TIME ZONE 'UTC' - to_timestamp(start_time)"
        assert connection.execute(f"SELECT abs(extract(epoch FROM {times})) < 3600 FROM runs").fetchall() == [(True,)]


def test_a_project_that_does_not_exist_leaves_nothing_in_the_catalog(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.fill(2)
    assert installation.archive("fetch").code == 0
    days = "--start-date", str(DAY - timedelta(days=1)), "--end-date", str(DAY)
    for command in ("full-sweep", "fetch", "zip", "upload", "to-db", "verify"):
        ended = installation.lse("archive", command, "--project", "shop / EMAE", *days, "--json")
        assert ended.code == 1, command
        assert [entry["date"] for entry in ended.json] == [days[1], days[3]]
        assert all(entry["error"]["what"] for entry in ended.json)
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("LSE_LANGSMITH_PATIENCE", "0.1")
    assert installation.archive("full-sweep", project="new here").code == 1
    # What is archived here is known without LangSmith.
    assert installation.archive("full-sweep", "--skip-fetch").code == 0
    assert installation.archive("fetch", "--force").code == 1
    with installation.instance() as instance:
        assert {key.path[0] for key in instance.all_asset_keys()} == {project_slug(PROJECT)}


def test_a_failed_step_is_a_failed_run_with_its_cause(installation: Installation) -> None:
    installation.fill(1)
    assert installation.archive("fetch").code == 0
    installation.langsmith.behavior.api_keys = frozenset(("another",))
    assert installation.archive("fetch", "--force").code == 1
    with installation.instance() as instance:
        [run, _] = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE
        [failure] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        assert "Check LANGSMITH_API_KEY" in str(failure.dagster_event)


def test_no_secret_is_in_any_output_file_or_event(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.fill(4)
    password = "p%40ssw0rd-of-the-database"
    for name in ("LSE_DATABASE_URL", "LSE_DAGSTER_DATABASE_URL"):
        monkeypatch.setenv(name, f"{installation.environment[name]}&password={password}")
    monkeypatch.setenv("LANGSMITH_API_KEY", _KEY)
    installation.langsmith.behavior.api_keys = frozenset((_KEY,))
    outputs = [installation.archive("full-sweep", "--json")]
    assert outputs[0].code == 0, outputs[0].err
    # A gateway that returns the request header in its error.
    echo = json.dumps({"detail": f"bad header x-api-key: {_KEY}"}).encode()
    installation.langsmith.faults.add(Fault("status", on("POST", "/runs/query"), status=400, body=echo))
    installation.drive.faults.add(Fault("status", on("GET", "/drive/v3/files"), status=401, body=b"{}"))
    outputs += [
        installation.archive("fetch", "--force"),
        installation.archive("upload"),
        installation.lse("archive", "fetch"),
    ]
    assert [ended.code for ended in outputs] == [0, 1, 1, 2]

    credentials = json.loads((installation.directory / "drive.json").read_text())
    secrets = [_KEY, password, quote(password), "p@ssw0rd-of-the-database"]
    secrets += [credentials[name] for name in ("client_secret", "refresh_token")]
    text = "".join(ended.out + ended.err for ended in outputs)
    text += "".join(everything_in(Database(installation.environment["LSE_DAGSTER_DATABASE_URL"])))
    text += "".join(everything_in(installation.database))
    # The credentials of the user and the token are stored in these files on purpose.
    token = installation.directory / "home" / "drive-token.json"
    texts = {
        path: path.read_bytes().decode(errors="replace") for path in installation.directory.rglob("*") if path.is_file()
    }
    for path in [installation.directory / "drive.json", token, *(installation.directory / "drive").rglob("*")]:
        texts.pop(path, None)
    assert len(text) > 50_000
    for secret in secrets:
        assert secret not in text
        assert [path for path, content in texts.items() if secret in content] == []


def everything_in(database: Database) -> list[str]:
    """Every row of every table, as text."""
    with database.connect() as connection:
        tables = connection.execute(
            "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        rows: list[str] = []
        for (table,) in tables:
            query = sql.SQL("SELECT t::text FROM {} AS t").format(sql.SQL(table))
            rows += [row[0] for row in connection.execute(query)]
    return rows


def test_only_the_owner_can_read_the_home(installation: Installation) -> None:
    assert installation.lse("db", "url").out.strip() == installation.environment["LSE_DATABASE_URL"]
    installation.fill(1)
    assert installation.lse("archive", "--project", PROJECT, "--date", str(DAY)).code == 0
    home = installation.directory / "home"
    assert home.stat().st_mode & 0o077 == 0
    tokens = [path for path in home.rglob("*token*") if path.suffix != ".lock"]  # a lock is empty
    assert tokens
    assert [path for path in tokens if path.stat().st_mode & 0o077] == []
