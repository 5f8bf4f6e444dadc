"""A started platform archives at once what is due: days that were never fetched, and days that lack a place."""

from __future__ import annotations

from datetime import timedelta

import pytest
from home_fixtures import PROJECT, Installation
from platform_fixtures import Up, free_port, wait_until

from lse_archive.days import today
from lse_archive.folder.state import read_state
from lse_demo.faults import Fault, on

pytestmark = pytest.mark.slow


def test_days_start_with_the_platform_and_settled_ones_are_only_uploaded(installation: Installation) -> None:
    settled = [today() - timedelta(days=back) for back in (21, 20)]
    missed = today() - timedelta(days=2)
    for day in [*settled, missed]:
        installation.fill(2, day=day)
    installation.drive.faults.add(Fault("status", on(path="/drive/v3/files"), status=401))
    for day in settled:
        assert installation.archive("full-sweep", day=day).code == 1
    installation.drive.faults.clear()
    fetched = {day: read_state(installation.paths(day=day)).last_fetched_at for day in settled}
    added = installation.lse("projects", "add", PROJECT, "--start", str(settled[0]), "--retention-days", "3")
    assert "LangSmith still has 2 days of it" in added.out

    platform = Up(installation, "--port", free_port())
    try:
        platform.wait()
        days = [*settled, missed]
        wait_until(
            lambda: all(read_state(installation.paths(day=day)).verdict for day in days), 300, "a day was not archived"
        )
    finally:
        platform.stop()
        installation.lse("down")

    assert "they start with the platform, the first to expire first" in platform.text
    for day in settled:
        state = read_state(installation.paths(day=day))
        assert (state.verdict, state.last_fetched_at) == ("not_provable", fetched[day])
        assert state.drive_sha256
    assert read_state(installation.paths(day=missed)).verdict == "proven"
