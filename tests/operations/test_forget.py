"""`lse forget`: a person is erased everywhere, and never comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date

import pytest
from forget_fixtures import MARKER, NEXT, SELECTION, World, build, others, search
from home_fixtures import DAY, PROJECT, Installation
from s3_fixtures import bucket_of, use_bucket

from lse_archive.folder.manifest import content_hash, content_sums
from lse_archive.folder.pruned import is_pruned
from lse_archive.folder.state import read_state
from lse_archive.zips.day import zip_sums
from lse_operations.upload import find_copies
from lse_resources.destinations.files import LocalFile
from lse_resources.open_destination import open_destination
from lse_resources.postgres.load.day import load_day
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(params=["drive", "bucket"])
def world(request: pytest.FixtureRequest, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> World:
    """On Drive, or in a bucket with versions."""
    if request.param == "drive":
        monkeypatch.setenv("LSE_LAKE_URL", str(installation.directory / "lake"))
        return build(installation)
    client, versioned = request.getfixturevalue("client"), request.getfixturevalue("versioned")
    bucket = bucket_of(versioned)
    use_bucket(monkeypatch, client.meta.endpoint_url, bucket)
    monkeypatch.setenv("LSE_LAKE_URL", f"s3://{bucket}/lake")

    def versions() -> Iterator[tuple[str, bytes]]:
        for one in client.list_object_versions(Bucket=bucket).get("Versions", []):
            found = client.get_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])
            yield f"{one['Key']} {one['VersionId']}", found["Body"].read()

    world = build(installation)
    world.versions = versions
    return world


def test_a_person_is_erased_everywhere_and_never_comes_back(world: World) -> None:
    installation = world.installation
    assert search(world)  # the search finds what is there
    dry = installation.lse("forget", *SELECTION, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert dry.entry["selected"] == {"runs": 5, "traces": 3, "feedback": 2, "attachments": 2}
    assert [day["date"] for day in dry.entry["days"]] == [str(DAY), str(NEXT)]
    assert [day["places"][0] for day in dry.entry["days"]] == ["pruned files", "run files"]
    assert all(len(day["places"]) == 5 for day in dry.entry["days"])  # and the zip, the lake, the copy, the rows

    forgotten = world.forget("--reason", "request 12", "--json")
    assert forgotten.code == 0, forgotten.err
    certificate = forgotten.entry
    assert certificate["selected"] == dry.entry["selected"]
    assert (certificate["left"], set(certificate["checked"].values())) == ([], {0})
    assert MARKER not in json.dumps(certificate)
    assert "\n".join(search(world)) == ""

    for day in (DAY, NEXT):
        paths = installation.paths(day=day)
        assert others(paths.zip.read_bytes()) == world.others[str(day)]
        verified = installation.archive("verify", "--json", day=day)
        assert verified.code == 0, verified.err
        assert read_state(paths).verdict == "proven"
        assert {check["verdict"] for check in verified.entry["checks"]} == {"agrees"}
    assert is_pruned(installation.paths())  # as before
    printed = installation.lse("forget", "--certificate", certificate["id"], "--json")
    assert printed.entry == certificate
    assert installation.lse("forget", "--check", *SELECTION).code == 0

    # LangSmith still serves them; older copies are brought back by every way that there is.
    for day in (DAY, NEXT):
        fetched = installation.archive("fetch", "--force", "--json", day=day)
        assert fetched.code == 0, fetched.err
        assert (fetched.entry["forgotten"], fetched.entry["proof"]) == ({DAY: 3, NEXT: 2}[day], "equal")
        assert "erased on purpose" in installation.archive("fetch", "--force", day=day).out
        imported = installation.lse("archive", "import", str(world.old / str(day)), "--project", PROJECT, "--force")
        assert "left out: erased on purpose" in imported.out, imported.err
    bring_back_copy(world, NEXT)
    found = installation.lse("forget", "--check", "--project", PROJECT, "--json")
    assert found.code == 3
    assert {place.partition(": ")[0] for place in found.entry["found"]} == {str(NEXT)}
    assert found.entry["langsmith"] == {str(DAY): 3, str(NEXT): 2}
    restored = installation.archive("restore", "--force", day=NEXT)
    assert restored.code == 0, restored.err
    assert "2 runs left out: erased on purpose" in restored.out
    loaded = load_day(installation.database, PROJECT, NEXT, world.old / str(NEXT))
    assert (loaded.forgotten, loaded.forgotten_records) == (2, 2)
    at_the_destination = ("drive/", "archive/")
    assert [place for place in search(world) if not place.startswith(at_the_destination)] == []
    replayed = installation.lse("forget", "--replay", "--project", PROJECT)
    assert replayed.code == 0, replayed.err
    assert "\n".join(search(world)) == ""
    assert others(installation.paths(day=NEXT).zip.read_bytes()) == world.others[str(NEXT)]


def bring_back_copy(world: World, day: date) -> None:
    """Replaces the copy by the zip from before, as another host may do."""
    paths = world.installation.paths(day=day)
    with open_destination(Settings.load()) as destination:
        [existing] = find_copies(destination, paths)
        old = world.old / paths.zip.name
        sums = content_sums(zip_sums(old))
        properties = {"content": content_hash(sums), "sha256": LocalFile.read(old).sha256, "runs": "14"}
        destination.upload(old, old.name, existing.folder, properties, existing=existing)
