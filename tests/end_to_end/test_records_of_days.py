"""A day of the demo's agent, with feedback and attachments, through every place and back."""

from __future__ import annotations

import json
from typing import Any

from archive_fixtures import snapshot
from home_fixtures import DAY, PROJECT, Installation
from langsmith import Client

from lse_archive.folder.attachments import ATTACHMENTS, attachment_file, read_attachments
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.state import read_state
from lse_archive.runs.feedback import FEEDBACK
from lse_demo.agent import fill
from lse_demo.langsmith.server import DEMO_KEY
from lse_operations.checks import CHECKS


def test_feedback_and_attachments_go_through_every_place_and_back(installation: Installation) -> None:
    client = Client(installation.langsmith.url, api_key=DEMO_KEY)
    fill(client, PROJECT, DAY, 12, 7)
    client.close()
    paths = installation.paths()
    assert installation.archive("full-sweep").code == 0
    edited, deleted = [json.loads(line)["id"] for line in (paths.folder / FEEDBACK).read_bytes().splitlines()[:2]]
    installation.store.feedback.change(edited, comment="after all: no")
    installation.store.feedback.delete(deleted)
    [run_id, *_] = {one.run_id for one in read_attachments(paths.folder)}
    installation.store.attach(run_id, "../../étude\x1b[31m", b"late", "audio/x")
    swept = installation.archive("full-sweep", "--force", "--json")
    assert swept.code == 0, swept.err

    summary, listed = read_summary(paths.folder), read_attachments(paths.folder)
    assert summary is not None
    assert (summary.attachments, summary.feedback_deleted, summary.unfit_files) == (4, 1, [])
    assert len({one.sha256 for one in listed}) == 3
    loaded, fetched = swept.entry["db_result"], swept.entry["fetch_result"]
    assert (loaded["feedback"], loaded["attachments"]) == (fetched["feedback"], fetched["attachments"])
    assert (loaded["feedback"], loaded["attachments"], loaded["attachments_written"]) == (summary.feedback, 4, 1)
    assert_proven(installation)
    before = snapshot(paths.folder)
    assert {ATTACHMENTS, FEEDBACK, *(attachment_file(one.sha256) for one in listed)} <= before.keys()

    prune = "archive", "prune", "--older-than", "1d", "--project", PROJECT, "--force", "--json"
    assert [entry["action"] for entry in installation.lse(*prune).json] == ["pruned"]
    assert not paths.folder.exists()
    assert installation.archive("verify").code == 0
    added = damage_rows(installation, edited, deleted)
    assert verified_records(installation) == {
        f"feedback {edited}": "missing in the database",
        f"feedback {deleted}": "content",
        f"feedback {added}": "missing in the files",
        **{f"attachments {row['id']}": "file" for row in sql(installation, "SELECT id::text AS id FROM attachments")},
    }
    installation.sql("DELETE FROM feedback WHERE id = %s", added)
    paths.zip.unlink()
    assert installation.archive("restore").code == 0
    assert snapshot(paths.folder) == before
    assert installation.archive("verify", "--fix").code == 0
    assert_proven(installation)
    assert installation.archive("to-db", "--force").code == 0
    assert installation.archive("fetch", "--force", "--json").entry["outcome"] == "unchanged"
    assert snapshot(paths.folder) == before

    rows = sql(installation, "SELECT run_id::text AS run_id, name, media_type, bytes, sha256, file FROM attachments")
    assert sorted(rows, key=lambda row: (row["run_id"], row["name"])) == json.loads(before[ATTACHMENTS])
    found = sql(installation, "SELECT id::text AS id, comment, deleted, run_id IS NOT NULL AS has_run FROM feedback")
    records = {one["id"]: one for one in map(json.loads, before[FEEDBACK].splitlines())}
    assert {row["id"]: (row["comment"], row["deleted"]) for row in found} == {
        one: (record.get("comment"), one == deleted) for one, record in records.items()
    }
    assert (records[edited]["comment"], all(row["has_run"] for row in found)) == ("after all: no", True)
    joined = sql(installation, "SELECT count(*) AS n FROM attachments JOIN runs USING (run_id, run_date)")
    assert joined == [{"n": 4}]


def damage_rows(installation: Installation, lost: str, changed: str) -> str:
    """Damages rows of records; returns the id of a feedback row that is in no file."""
    added = "0196aaaa-0000-7000-8000-000000000001"
    installation.sql("DELETE FROM feedback WHERE id = %s", lost)
    installation.sql("UPDATE feedback SET data = data || '{\"score\": 7}' WHERE id = %s", changed)
    installation.sql("UPDATE attachments SET line_sha256 = 'x'")
    columns = "project, run_date, data, line_sha256, row_sha256, load_id"
    copied = f"INSERT INTO feedback (id, {columns}) SELECT %s, {columns} FROM feedback WHERE id <> %s LIMIT 1"
    installation.sql(copied, added, changed)
    return added


def verified_records(installation: Installation) -> dict[str, str]:
    """What a verification finds in the rows of feedback and attachments."""
    verified = installation.archive("verify", "--json")
    assert verified.code == 3, verified.err
    [check] = [check for check in verified.entry["checks"] if check["name"] == "runs_match_files"]
    return {one["item"]: one["what"] for one in check["differences"]}


def assert_proven(installation: Installation) -> None:
    verified = installation.archive("verify", "--detailed", "--json")
    assert verified.code == 0, verified.err
    assert {check["name"]: check["verdict"] for check in verified.entry["checks"]} == dict.fromkeys(CHECKS, "agrees")
    assert read_state(installation.paths()).verdict == "proven"


def sql(installation: Installation, query: str) -> list[dict[str, Any]]:
    """What `lse sql --json` prints for a query."""
    ended = installation.lse("sql", query, "--json")
    assert ended.code == 0, ended.err
    return ended.json
