"""Attachments and run files of days of which only the copy at the destination is left."""

from __future__ import annotations

import re
import shutil
import threading

import pytest
from home_fixtures import Installation, midnight, run_uuid
from s3_fixtures import bucket_of, use_bucket
from viewer_fixtures import text_of, viewer_client

from lse_operations.forget.local import temporary_files
from lse_operations.restore import kept_copy
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

_BIG = bytes(9 << 20)


@pytest.mark.parametrize("where", ["drive", "bucket"])
def test_files_come_from_the_destination(
    where: str, installation: Installation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if where == "bucket":
        use_bucket(monkeypatch, request.getfixturevalue("moto_url"), bucket_of(request.getfixturevalue("versioned")))
    run, day = f"/archive/run/{run_uuid(0)}", installation.paths()
    installation.put(0, midnight())
    installation.store.attach(run_uuid(0), "cat", b"\x89PNG", "image/png")
    installation.store.attach(run_uuid(0), "big", _BIG, "application/octet-stream")
    swept = installation.archive("full-sweep")
    assert swept.code == 0, swept.err
    [run_file] = day.folder.glob(f"{run_uuid(0)}*")
    expected = [run_file.read_bytes(), _BIG, b"\x89PNG"]
    shutil.rmtree(day.folder)
    day.zip.unlink()

    with viewer_client(Settings.load()) as client:
        found = re.findall(r'<li><a href="(/archive[^"]*)">(?:big|cat)</a>', client.get(f"{run}/panel").text)
        addresses = [f"{run}/file", *found]
        assert [client.get(address).content for address in addresses] == expected
        # One download for all, where an erasure finds it.
        [kept] = day.archive_dir.rglob("*.zip")
        assert kept in temporary_files(day)
        kept.unlink()
        monkeypatch.setattr(kept_copy, "KEPT_SECONDS", 0)
        assert client.get(addresses[2]).content == expected[2]
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer) and timer.interval == 0:
                timer.join()
        assert list(day.archive_dir.iterdir()) == []
        monkeypatch.setattr(kept_copy, "MAX_BYTES", 10)
        refused = client.get(addresses[2])
        assert (refused.status_code, "too large" in refused.text) == (500, True)
    for name in ("GOOGLE_DRIVE_API_ROOT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    with viewer_client(Settings.load()) as client:
        refused = client.get(addresses[2])
        assert refused.status_code == 503, text_of(refused.text)
    assert list(day.archive_dir.iterdir()) == []
