"""The platform completes an erasure that was interrupted."""

from __future__ import annotations

import json

import dagster as dg
import pytest
from home_fixtures import PROJECT, Installation, midnight

from lse_archive.folder.tombstones import read_tombstones
from lse_operations.forget.engine import begin, plan
from lse_operations.forget.journal import Journal
from lse_operations.forget.selection import Selectors
from lse_platform.forget_places import open_places
from lse_resources.settings import Settings
from lse_sensors.erasures import erasures, open_erasures_sensor

pytestmark = pytest.mark.slow


def tick() -> dg.RunRequest | dg.SkipReason:
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance) as context:
        found = open_erasures_sensor(context)
        assert isinstance(found, dg.RunRequest | dg.SkipReason)
        return found


def shown(installation: Installation) -> tuple[tuple[str, str], list[str], str]:
    """Verdict and hint of `lse doctor`, and the ids and the last line of `lse status`."""
    entries = installation.lse("doctor", "--json").json
    [finding] = [(entry["verdict"], entry["todo"]) for entry in entries if entry["name"] == "erasures"]
    status = json.loads(installation.lse("status", "--json").out)
    return finding, [one["id"] for one in status["open_erasures"]], installation.lse("status").out.splitlines()[-1]


def test_an_interrupted_erasure_is_shown_and_completed_by_the_platform(installation: Installation) -> None:
    ids = [installation.put(number, midnight() + number) for number in range(3)]
    assert installation.archive("full-sweep").code == 0
    assert isinstance(tick(), dg.SkipReason)
    settings = Settings.load()
    places, journal = open_places(settings), Journal(settings.layout)
    planned = plan(places, PROJECT, Selectors(runs=frozenset(ids[:1])), progress=lambda *_: None)
    identity = begin(places, planned, "").id
    paths = installation.paths()
    assert len(read_tombstones(paths)) == 1
    assert isinstance(tick(), dg.RunRequest)
    (verdict, todo), open_ids, line = shown(installation)
    assert (verdict, open_ids) == ("wrong", [identity])
    assert "lse forget --resume" in todo
    assert line.startswith(f"erasure not complete: {PROJECT}: {identity}, begun ")
    with journal.lock():  # a process works on it
        assert shown(installation)[0] == ("note", "")
        assert isinstance(tick(), dg.SkipReason)
        assert erasures.execute_in_process(instance=dg.DagsterInstance.ephemeral()).success
        assert journal.certificates() == []
    assert erasures.execute_in_process(instance=dg.DagsterInstance.ephemeral()).success
    assert [one.id for one in journal.certificates()] == [identity]
    assert list(paths.folder.glob(f"{ids[0]}*")) == []
    assert set(installation.rows()) == set(ids[1:])
    assert shown(installation)[:2] == (("ok", ""), [])
    assert isinstance(tick(), dg.SkipReason)


def test_what_selects_nothing_is_refused_in_one_line(installation: Installation) -> None:
    """Usage errors end with 2 and say what is missing; nothing is opened for them."""
    for options, message in (
        ((), "no run is selected"),
        (("--run", "x", "--project", PROJECT), "'x' is no id"),
        (("--metadata", "user_id", "--project", PROJECT), "'user_id' is no metadata"),
        (("--run", "x"), "no project is selected"),
        (("--resume", "--replay"), "--resume cannot be combined with --replay"),
        (("--resume", "--run", "x"), "--resume selects nothing"),
        (("--certificate", "x"), "there is no certificate x"),
        (("--ids-from", "/nonexistent", "--project", PROJECT), "cannot read /nonexistent"),
    ):
        result = installation.lse("forget", *options)
        assert result.code in (1, 2), options
        assert message in result.err
        assert len(result.err.splitlines()) == 1
    missing = installation.lse("forget", "--project", PROJECT, "--thread", "4711", "--force")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert f"no run of '{PROJECT}' is selected" in missing.err
