"""Dagster's storage and the platform's logs, after runs that they name were erased."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from home_fixtures import PROJECT, Installation

from lse_platform import erase_events as module
from lse_platform.erase_events import ERASED, EventsNaming, erase_events, events_database, find_events
from lse_platform.home import Home, open_home
from lse_resources.postgres.erase import _on, pending_rewrite, rewrite
from lse_resources.postgres.erasures_table import Erasure, write_erasure
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

ERASURE = str(uuid.UUID(int=16))
READ_FILES = """
SELECT file, pg_read_binary_file(directory || '/' || file, 0, 1 << 29, true)
FROM (SELECT 'base/' || oid AS directory FROM pg_database WHERE datname = current_database()) AS here,
     pg_ls_dir(directory) AS file
"""


@dg.job
def _job() -> None:
    """Runs nothing."""


def everything(home: Home) -> dict[tuple[str, int], Any]:
    """Every row of Dagster's tables, as text, by table and id."""
    found = {}
    with events_database(home).connect() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for number, row in enumerate(connection.execute(_on("SELECT row::text FROM {} AS row ORDER BY 1", table))):
                found[table, number] = row[0]
    return found


def files_with(home: Home, text: str) -> list[str]:
    with events_database(home).connect() as connection:
        connection.execute("CHECKPOINT")
        rows = connection.cursor(binary=True).execute(READ_FILES)
        return [file for file, content in rows if content and text.encode() in content]


def differing(installation: Installation) -> list[str]:
    """The runs that the newest verification names."""
    with installation.instance() as instance:
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
        records = instance.get_event_records(dg.EventRecordsFilter(kind), ascending=True)
    events: list[Any] = [record.event_log_entry.dagster_event for record in records]
    tables = [event.asset_check_evaluation_data.metadata.get("differing") for event in events]
    return sorted({record.data["item"] for table in tables if table for record in table.value.records})


def test_nothing_in_dagsters_storage_and_in_the_logs_names_an_erased_run(installation: Installation) -> None:
    installation.fill(6)
    assert installation.archive("full-sweep", "--force").code == 0
    home = open_home(Settings.load())
    with installation.database.connect() as connection:
        ids = [str(row[0]) for row in connection.execute("SELECT run_id FROM runs ORDER BY 1 LIMIT 3")]
        connection.execute("UPDATE runs SET data = '{\"a\": 1}' WHERE run_id = ANY(%s::uuid[])", (ids,))
    assert installation.archive("verify").code == 3
    forgotten, kept = ids[:2], ids[2]
    with installation.instance() as instance:
        context: Any = instance
        run = context.create_run_for_job(_job)
        context.report_engine_event(f"one line\nrun {forgotten[0]} was not loaded\nrun {kept} was not, either", run)
    logs = home.dagster_home.parent / "logs"
    logs.mkdir(exist_ok=True)
    lines = [f"a {forgotten[0]} b\r\n", f"{kept}\n", "\n", f"\udcff {forgotten[1].upper()}"]
    (logs / "daemon.log").write_bytes("".join(lines).encode(errors="surrogateescape"))
    before, named = everything(home), find_events(home, forgotten)
    assert named.rows.keys() >= {"event_logs", "asset_check_executions"}
    assert named.lines == {str(logs / "daemon.log"): 2}
    assert differing(installation) == ids
    certificate = Erasure(
        erasure_id=ERASURE,
        project=PROJECT,
        requested_by="dpo",
        reason="",
        selection_sha256="",
        started_at=datetime.now(UTC),
    )
    write_erasure(home.database, certificate)

    assert erase_events(home, ERASURE, forgotten) == named

    assert find_events(home, forgotten) == erase_events(home, ERASURE, forgotten) == EventsNaming()
    after = everything(home)
    changed = [key for key, row in before.items() if row not in after.values()]
    assert len(changed) == sum(named.rows.values())
    assert all(any(run_id in before[key] for run_id in forgotten) for key in changed)
    assert differing(installation) == [kept]
    with installation.instance() as instance:
        [message] = [entry.message for entry in instance.all_logs(run.run_id) if "one line" in entry.message]
    assert message == f"one line\n{ERASED}\nrun {kept} was not, either"
    content = (logs / "daemon.log").read_bytes()
    erased = [ERASED.encode().ljust(len(f"a {kept} b")), ERASED.encode().ljust(len(kept) + 2)]
    assert content == erased[0] + b"\r\n" + kept.encode() + b"\n\n" + erased[1]

    events = events_database(home)
    pending = pending_rewrite(home.database, ERASURE, events=events)
    assert pending.tables.keys() == {*named.rows, "pg_statistic"}
    assert rewrite(home.database, ERASURE, events=events) == []
    assert pending_rewrite(home.database, ERASURE, events=events).tables == {}
    assert files_with(home, forgotten[0]) == []
    assert files_with(home, kept) != []
    assert installation.archive("verify").code == 3  # Dagster goes on


def test_a_row_that_changes_meanwhile_is_read_again(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run_id = open_home(Settings.load()), str(uuid.uuid4())
    with installation.instance():
        pass
    write_erasure(
        home.database,
        Erasure(
            erasure_id=ERASURE,
            project=PROJECT,
            requested_by="",
            reason="",
            selection_sha256="",
            started_at=datetime.now(UTC),
        ),
    )
    update, value = module._update, f'{{"cursor": "{{\\"run\\": \\"{run_id}\\"}}", "n": 1}}'
    with events_database(home).connect() as connection:
        connection.execute("INSERT INTO kvs (key, value) VALUES ('x', %s)", (value,))

        def late(*arguments: Any) -> int:
            monkeypatch.setattr(module, "_update", update)
            connection.execute("UPDATE kvs SET value = replace(value, ': 1}', ': 2}')")
            return update(*arguments)

        monkeypatch.setattr(module, "_update", late)
        assert erase_events(home, ERASURE, [run_id]).rows == {"kvs": 1}
        rows = connection.execute("SELECT value FROM kvs WHERE key = 'x'").fetchall()
    assert rows == [(f'{{"cursor": "{{\\"run\\": \\"{ERASED}\\"}}", "n": 2}}',)]
