"""One suite for every destination: Drive, an object store, and both with encryption."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
from archive_fixtures import PROJECT, Archive, leftovers, snapshot
from day_fixtures import DAY, mark_incomplete, run_id
from home_fixtures import DAY as HOME_DAY
from home_fixtures import PROJECT as HOME_PROJECT
from home_fixtures import Installation, midnight
from s3_fixtures import FaultProxy

from lse_archive.errors import (
    ArchiveConflictError,
    ArchiveError,
    CorruptArchiveError,
    DestinationError,
    NoKeyError,
    SettingsError,
    ShrinkError,
)
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, Faults, on
from lse_operations.prune import prune_copy, prune_day
from lse_operations.restore.copies import archived_projects, copies
from lse_operations.restore.restore import plan, restore_pruned
from lse_operations.upload import find_copies, find_copy_difference, upload_day
from lse_resources.destinations.encryption import EncryptedDestination, read_keys
from lse_resources.destinations.object_store import ObjectStore
from lse_resources.destinations.protocol import Destination
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.day import load_day

pytestmark = pytest.mark.slow

KINDS = ["drive", "lagging drive", "s3", "drive, encrypted", "lagging drive, encrypted", "s3, encrypted"]
age: Any = pyrage


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.txt"
    path.write_text(f"# a key\n{age.x25519.Identity.generate()}\n")
    return path


@pytest.fixture(params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path: Path, key_file: Path) -> Archive:
    kind, _, encrypted = request.param.partition(", ")
    if kind == "s3":
        archive = Archive(tmp_path, request.getfixturevalue("store"))
    else:
        archive = request.getfixturevalue("drive_archive" if kind == "drive" else "lagging_archive")
    keys = read_keys(None, key_file, None) if encrypted else None
    assert bool(keys) == bool(encrypted)
    (tmp_path / "archives").mkdir()
    archive.destination = EncryptedDestination(archive.destination, keys, tmp_path / "archives")
    return archive


@pytest.fixture
def faults(request: pytest.FixtureRequest, archive: Archive) -> Faults:
    kind = request.node.callspec.params["archive"]
    return request.getfixturevalue("s3_proxy" if kind.startswith("s3") else "drive_server").faults


def rezip(archive: Archive, runs: int) -> None:
    paths = archive.write(runs=runs)
    for name in (SUMMARY, SUMS):
        (paths.folder / name).unlink()
    zip_day(paths)


def test_a_restored_day_equals_the_uploaded_one(archive: Archive) -> None:
    for project in (PROJECT, "other 🦉"):
        for number in range(2):
            archive.add(DAY + timedelta(days=number), project)
    before = snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    for project in archived_projects(archive.destination, []):
        for copy in copies(archive.destination, project):
            assert copy.content is not None
            assert archive.restore(copy.day, project).action == "restored"
            assert archive.restore(copy.day, project).action == "unchanged"
            assert archive.restore(copy.day, project, verify_only=True).action == "proven"
    assert (snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)) == before
    assert leftovers(archive) == []


def test_several_days_at_once(archive: Archive) -> None:
    days = [DAY + timedelta(days=number) for number in range(9)]
    for day in days:
        zip_day(archive.write(day))
    before = snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)
    with ThreadPoolExecutor(3) as pool:
        uploaded = pool.map(lambda day: upload_day(archive.destination, archive.paths(day)).action, days)
        assert list(uploaded) == ["created"] * 9
        archive.delete_local()
        archive.layout.archive_dir.mkdir()
        assert list(pool.map(lambda day: archive.restore(day).action, days)) == ["restored"] * 9
    assert (snapshot(archive.layout.data_dir), snapshot(archive.layout.archive_dir)) == before


def test_the_same_content_is_not_sent_again(archive: Archive) -> None:
    paths = archive.add()
    [before] = find_copies(archive.destination, paths)
    assert upload_day(archive.destination, paths).action == "unchanged"
    [after] = find_copies(archive.destination, paths)
    assert before == after
    assert find_copy_difference(archive.destination, paths) is None
    paths.zip.unlink()
    assert find_copy_difference(archive.destination, paths) is None


def test_a_copy_names_the_missing_runs_of_its_day(archive: Archive) -> None:
    paths = archive.add()
    for lacking, action in (([run_id(9)], "replaced"), ([run_id(9)], "unchanged"), ([], "replaced"), ([], "unchanged")):
        mark_incomplete(paths.folder, *lacking)
        zip_day(paths)
        assert upload_day(archive.destination, paths, may_replace=lambda _: False).action == action
        before = snapshot(archive.layout.data_dir)
        archive.delete_local()
        archive.layout.archive_dir.mkdir()
        archive.restore()
        assert snapshot(archive.layout.data_dir) == before


def test_other_content_is_replaced_after_a_confirmation(archive: Archive) -> None:
    paths = archive.add(runs=3)
    rezip(archive, 5)
    assert find_copy_difference(archive.destination, paths) is not None
    with pytest.raises(ArchiveConflictError, match="--force"):
        upload_day(archive.destination, paths, may_replace=lambda _: False)
    assert upload_day(archive.destination, paths).action == "replaced"
    assert len(find_copies(archive.destination, paths)) == 1
    assert find_copy_difference(archive.destination, paths) is None


def test_fewer_runs_never_replace_more(archive: Archive) -> None:
    paths = archive.add(runs=5)
    archive.delete_local()
    archive.write(runs=3)
    zip_day(paths)
    with pytest.raises(ShrinkError, match="holds 2 runs"):
        upload_day(archive.destination, paths)
    assert upload_day(archive.destination, paths, allow_shrink=True).action == "replaced"


def test_a_pruned_day_is_restored(archive: Archive, database: Database) -> None:
    paths = archive.add()
    load_day(database, PROJECT, DAY, paths.folder)
    before = snapshot(archive.layout.data_dir)
    assert prune_day(archive.destination, database, paths, "files").action == "pruned"
    assert prune_day(archive.destination, database, paths, "zips").action == "pruned"
    assert find_copy_difference(archive.destination, paths) is None
    assert restore_pruned(archive.destination, paths) is not None
    assert snapshot(archive.layout.data_dir) == before


def test_a_large_day_is_uploaded_and_restored_despite_faults(archive: Archive, faults: Faults) -> None:
    paths = archive.write(runs=2, filler=random.Random(1).randbytes(9_000_000).hex())
    zip_day(paths)
    faults.add(Fault("status", rate=0.1, status=503))
    faults.add(Fault("cut_before", rate=0.05))
    faults.add(Fault("corrupt_stored", on("PUT"), times=1, after=1))
    upload_day(archive.destination, paths)
    before = snapshot(archive.layout.data_dir)
    faults.add(Fault("truncate", on("GET"), times=1, after=1))
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    faults.clear()
    faults.add(Fault("status", rate=0.1, status=503))
    assert archive.restore().action == "restored"
    assert snapshot(archive.layout.data_dir) == before
    assert faults.struck()


def test_an_upload_that_is_always_damaged_leaves_no_file(archive: Archive, faults: Faults) -> None:
    paths = archive.write()
    zip_day(paths)
    faults.add(Fault("corrupt_stored", on("PUT")))
    with pytest.raises(ArchiveError):
        upload_day(archive.destination, paths)
    faults.clear()
    assert find_copies(archive.destination, paths) == []
    assert upload_day(archive.destination, paths).action == "created"
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    assert archive.restore().action == "restored"


def test_the_error_for_a_refusing_destination_is_one_line(archive: Archive, faults: Faults) -> None:
    paths = archive.write()
    zip_day(paths)
    faults.add(Fault("status", status=403))
    with pytest.raises(DestinationError) as refusal:
        upload_day(archive.destination, paths)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_second_file_under_the_name_is_refused(archive: Archive) -> None:
    paths = archive.add()
    archive.settle()
    folder = archive.destination.ensure_project_folder(project_folder(PROJECT))
    with pytest.raises(ArchiveConflictError, match="already"):
        archive.destination.upload(paths.zip, paths.zip.name, folder, {})


# The object store alone


def test_a_damaged_copy_is_found_by_reading_it(store: ObjectStore, tmp_path: Path, database: Database) -> None:
    archive = Archive(tmp_path, store)
    paths = archive.add()
    load_day(database, PROJECT, DAY, paths.folder)
    [file] = find_copies(store, paths)
    attributes = {"bytes_sha256": file.sha256, "sha256": file.sha256, "content": file.app_properties["content"]}
    store._store.put(file.id, bytes(file.size), attributes=attributes)
    result = prune_day(store, database, paths, "files")
    assert result.action == "kept"
    assert "holds something else" in result.why
    archive.delete_local()
    with pytest.raises(CorruptArchiveError, match="do not match"):
        archive.restore()


def test_a_later_upload_removes_files_of_killed_uploads(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, store)
    paths = archive.write()
    zip_day(paths)
    folder = project_folder(PROJECT)
    left, others = f"{folder}/.{paths.zip.name}.0123456789ab", f"{folder}/.another.zip.0123456789ab"
    for name in (left, others):
        store._store.put(name, b"PK")

    def names() -> set[str]:
        return {meta["path"] for meta in store._store.list_with_delimiter(folder)["objects"]}

    upload_day(store, paths)
    assert left in names()  # it may belong to a running upload of another host
    rezip(archive, 7)
    monkeypatch.setattr("lse_resources.destinations.object_store._STALE", timedelta(seconds=-1))
    upload_day(store, paths)
    assert names() == {f"{folder}/{paths.zip.name}", others}


def test_an_object_of_another_tool_is_restored(store: ObjectStore, tmp_path: Path) -> None:
    archive = Archive(tmp_path, store)
    paths = archive.write()
    zip_day(paths)
    store._store.put(f"{project_folder(PROJECT)}/{paths.zip.name}", paths.zip.read_bytes())
    archive.delete_local()
    assert archive.restore().action == "restored"


@pytest.mark.parametrize(
    ("url", "config", "text"),
    [
        ("ftp://x/y", {}, "not an object store"),
        ("s3://", {}, "not an object store"),
        ("bucket", {}, "not an object store"),
        ("s3://bucket", {"endpoint": "http://example.com"}, "unencrypted"),
    ],
)
def test_a_wrong_setting_is_named(url: str, config: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        ObjectStore(url, config)


def test_a_missing_bucket_is_a_clear_error(s3_proxy: FaultProxy) -> None:
    config = {"endpoint": s3_proxy.url, "access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    with pytest.raises(DestinationError, match="no such bucket"):
        ObjectStore("s3://no-such-bucket-here", config).check_folder()


@pytest.fixture
def s3_installation(
    installation: Installation, s3_proxy: FaultProxy, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    monkeypatch.setenv("LSE_ARCHIVE_URL", f"{store.place}/the archive")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return installation


def test_the_command_line_uses_an_object_store(s3_installation: Installation) -> None:
    s3_installation.fill(6)
    swept = s3_installation.archive("full-sweep")
    assert swept.code == 0, swept.err
    before = snapshot(s3_installation.paths().folder)
    assert s3_installation.drive.requests == []
    Archive(s3_installation.directory, None).delete_local()  # ty: ignore[invalid-argument-type]
    restored = s3_installation.archive("restore", "--to-db", "--json")
    assert (restored.code, restored.entry["action"]) == (0, "restored")
    assert snapshot(s3_installation.paths().folder) == before
    verified = s3_installation.archive("verify")
    assert verified.code in (0, 3), verified.err


# Encryption


def test_everything_is_uploaded_encrypted_and_age_opens_it(
    store: ObjectStore, tmp_path: Path, key_file: Path, open_age: Callable[[bytes], bytes]
) -> None:
    keys = read_keys(None, key_file, None)
    assert keys is not None
    assert "AGE-SECRET" not in repr(keys)
    (tmp_path / "archives").mkdir()
    archive = Archive(tmp_path, EncryptedDestination(store, keys, tmp_path / "archives"))
    paths = archive.add()
    [inner] = store.list_files(project_folder(PROJECT))
    assert inner.name == f"{paths.zip.name}.age"
    stored = bytes(store._store.get(inner.id).bytes())
    assert stored.startswith(b"age-encryption.org/v1")
    assert open_age(stored) == paths.zip.read_bytes()


def test_a_damaged_encrypted_zip_is_reported_as_damaged(store: ObjectStore, tmp_path: Path, key_file: Path) -> None:
    keys = read_keys(None, key_file, None)
    assert keys is not None
    (tmp_path / "archives").mkdir()
    archive = Archive(tmp_path, EncryptedDestination(store, keys, tmp_path / "archives"))
    archive.add()
    [copy] = copies(archive.destination, PROJECT)

    def damaged(_file: object, target: Path, **_: object) -> None:
        content = bytearray(store._store.get(copy.file.encrypted_file.id).bytes())  # ty: ignore[missing-attribute]
        content[-5] ^= 1
        target.write_bytes(content)

    store.download = damaged  # ty: ignore[invalid-assignment] - bypasses the checksum
    with pytest.raises(CorruptArchiveError, match="is damaged"):
        archive.destination.download(copy.file, tmp_path / "back.zip")
    assert not (tmp_path / "back.zip").exists()


def test_a_day_that_cannot_be_decrypted_does_not_stop_other_days(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSE_AGE_RECIPIENT", str(age.x25519.Identity.generate().to_public()))
    first = HOME_DAY - timedelta(days=1)
    installation.fill(2, day=first)
    assert installation.archive("full-sweep", "--skip-db", day=first).code == 0
    installation.put(77, midnight(first) + 1)
    installation.fill(2)
    days = ["--project", HOME_PROJECT, "--start-date", str(first), "--end-date", str(HOME_DAY)]
    ended = installation.lse("archive", "full-sweep", "--skip-db", "--force", "--json", *days)
    assert ended.code == 1
    [changed, other] = ended.json
    assert "LSE_AGE_RECIPIENT alone cannot decrypt it. Run this where the key is" in changed["problems"][0]
    assert (other["problems"], other["upload_result"]["action"]) == ([], "created")


@pytest.fixture
def open_age(key_file: Path) -> Callable[[bytes], bytes]:
    identity = age.x25519.Identity.from_str(key_file.read_text().split("\n")[1])
    return lambda content: age.decrypt(content, [identity])


def test_a_restore_without_the_key_is_refused(store: ObjectStore, tmp_path: Path, key_file: Path) -> None:
    public = str(age.x25519.Identity.from_str(key_file.read_text().split("\n")[1]).to_public())
    (tmp_path / "archives").mkdir()
    writer = read_keys(public, None, None)
    assert writer is not None
    archive = Archive(tmp_path, EncryptedDestination(store, writer, tmp_path / "archives"))
    archive.add()
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    with pytest.raises(NoKeyError, match="RECIPIENT alone cannot decrypt it"):
        archive.restore()
    assert leftovers(archive) == []


@pytest.fixture
def keyless(archive: Archive) -> Archive:
    """The same archive on a host without a key."""
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    return Archive(archive.directory, EncryptedDestination(inner, None, archive.layout.archive_dir))


ENCRYPTED = pytest.mark.parametrize("archive", ["drive, encrypted", "s3, encrypted"], indirect=True)


@ENCRYPTED
def test_without_a_key_encrypted_days_are_listed_and_refused(archive: Archive, keyless: Archive) -> None:
    paths = archive.add(runs=3)
    assert find_copy_difference(keyless.destination, paths) is None
    assert upload_day(keyless.destination, paths).action == "unchanged"
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    [copy] = copies(keyless.destination, PROJECT)
    for attempt in (
        lambda: plan(keyless.destination, paths, copy),
        lambda: keyless.restore(),
        lambda: keyless.restore(verify_only=True),
    ):
        with pytest.raises(NoKeyError, match=r"age is encrypted: no key is set\. Set LSE_AGE_IDENTITY_FILE"):
            attempt()
    assert leftovers(archive) == []


@ENCRYPTED
def test_without_a_key_no_unencrypted_zip_is_uploaded(archive: Archive, keyless: Archive) -> None:
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    paths = archive.add(runs=3)
    [before] = find_copies(archive.destination, paths)
    rezip(archive, 5)
    for allow_shrink in (False, True):
        with pytest.raises(NoKeyError, match="no key is set"):
            upload_day(keyless.destination, paths, allow_shrink=allow_shrink)
    assert find_copies(inner, paths) == []
    assert find_copies(archive.destination, paths) == [before]
    assert upload_day(archive.destination, paths).action == "replaced"


@ENCRYPTED
def test_an_encrypted_and_another_unencrypted_zip_are_a_conflict(archive: Archive) -> None:
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    paths = archive.add(runs=3)
    rezip(archive, 5)
    upload_day(inner, paths)
    whole = paths.zip.read_bytes()
    for verify_only in (False, True):
        with pytest.raises(ArchiveConflictError, match=r"encrypted and an unencrypted.*archive upload"):
            archive.restore(verify_only=verify_only)
    assert upload_day(archive.destination, paths).action == "replaced"
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    assert archive.restore().runs == 5
    # With the same content it is a leftover, not a conflict.
    upload_day(inner, paths)
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    assert archive.restore().runs == 5
    assert paths.zip.read_bytes() == whole


@ENCRYPTED
@pytest.mark.parametrize("setting", ["another key", "a public key", "no key"])
def test_a_copy_that_cannot_be_decrypted_proves_nothing(
    archive: Archive, database: Database, tmp_path: Path, setting: str
) -> None:
    paths = archive.add()
    load_day(database, PROJECT, DAY, paths.folder)
    other = age.x25519.Identity.generate()
    (tmp_path / "other.txt").write_text(str(other))
    keys = {
        "another key": read_keys(None, tmp_path / "other.txt", None),
        "a public key": read_keys(str(other.to_public()), None, None),
        "no key": None,
    }
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    elsewhere = EncryptedDestination(inner, keys[setting], archive.layout.archive_dir)
    before = snapshot(tmp_path)
    with pytest.raises(NoKeyError, match="LSE_AGE"):
        prune_day(elsewhere, database, paths, "files")
    with pytest.raises(NoKeyError, match="LSE_AGE"):
        Archive(tmp_path, elsewhere).restore(verify_only=True)
    assert snapshot(tmp_path) == before
    assert leftovers(archive) == []
    assert prune_day(archive.destination, database, paths, "files").action == "pruned"


@ENCRYPTED
def test_the_error_without_a_private_key_names_where_to_upload_a_changed_day(archive: Archive, key_file: Path) -> None:
    paths = archive.add(runs=3)
    rezip(archive, 5)
    public = str(age.x25519.Identity.from_str(key_file.read_text().split("\n")[1]).to_public())
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    writer = EncryptedDestination(inner, read_keys(public, None, None), archive.layout.archive_dir)
    with pytest.raises(NoKeyError, match=r"where the key is .*--allow-shrink"):
        upload_day(writer, paths)
    assert upload_day(writer, paths, allow_shrink=True).action == "replaced"
    assert archive.restore(verify_only=True).runs == 5


def test_a_passphrase(store: ObjectStore, tmp_path: Path) -> None:
    keys = read_keys(None, None, "correct horse")
    assert keys is not None
    assert "horse" not in repr(keys)
    (tmp_path / "archives").mkdir()
    archive = Archive(tmp_path, EncryptedDestination(store, keys, tmp_path / "archives"))
    paths = archive.add()
    whole = paths.zip.read_bytes()
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    assert archive.restore().action == "restored"
    assert paths.zip.read_bytes() == whole


def test_older_unencrypted_zips_are_found_and_replaced_encrypted(
    store: ObjectStore, tmp_path: Path, key_file: Path
) -> None:
    plain = Archive(tmp_path, store)
    paths = plain.add(runs=3)
    keys = read_keys(None, key_file, None)
    assert keys is not None
    archive = Archive(tmp_path, EncryptedDestination(store, keys, tmp_path / "archives"))
    assert upload_day(archive.destination, paths).action == "unchanged"
    rezip(archive, 5)
    assert upload_day(archive.destination, paths).action == "replaced"
    assert [file.name for file in store.list_files(project_folder(PROJECT))] == [f"{paths.zip.name}.age"]


@pytest.mark.parametrize(
    ("recipient", "content", "passphrase"),
    [("age1x", None, None), (None, "not a key", None), (None, "# nothing", None), ("age1x", None, "x")],
)
def test_wrong_keys_are_named(
    tmp_path: Path, recipient: str | None, content: str | None, passphrase: str | None
) -> None:
    path = None
    if content is not None:
        path = tmp_path / "key"
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"age|AGE"):
        read_keys(recipient, path, passphrase)
    assert read_keys(None, None, None) is None


# Damaged and interrupted


def labels(request: Any) -> bool:
    """Returns whether a request labels an existing file on Drive."""
    return request.method == "PATCH" and request.path.startswith("/drive/") and b"appProperties" in request.body


def removals(request: Any) -> bool:
    """Returns whether a request removes an unencrypted zip."""
    return b'"trashed": true' in request.body or b".zip</Key>" in request.body


def damage(path: Path) -> None:
    """Flips a byte within a run of a zip."""
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename.encode()) + info.compress_size // 2] ^= 0xFF
    path.write_bytes(content)


def test_without_the_private_key_only_the_copy_of_a_local_day_is_pruned(
    store: ObjectStore, tmp_path: Path, database: Database
) -> None:
    (tmp_path / "archives").mkdir()
    keys = read_keys(str(age.x25519.Identity.generate().to_public()), None, None)
    archive = Archive(tmp_path, EncryptedDestination(store, keys, tmp_path / "archives"))
    paths = archive.add()
    load_day(database, PROJECT, DAY, paths.folder)
    with pytest.raises(NoKeyError, match="alone cannot decrypt it"):
        prune_day(archive.destination, database, paths, "files")
    assert prune_copy(archive.destination, paths).action == "pruned"
    assert find_copies(archive.destination, paths) == []


def test_a_damaged_zip_does_not_replace_a_copy(archive: Archive) -> None:
    paths = archive.add(runs=5)
    [before] = find_copies(archive.destination, paths)
    rezip(archive, 6)
    other = archive.write(DAY + timedelta(days=1))
    zip_day(other)
    for damaged in (paths, other):
        damage(damaged.zip)
        with pytest.raises(CorruptArchiveError, match=r"\.zip is damaged.*lse archive zip"):
            upload_day(archive.destination, damaged)
    assert find_copies(archive.destination, paths) == [before]
    assert find_copies(archive.destination, other) == []


def test_an_unreadable_copy_is_replaced(archive: Archive, tmp_path: Path) -> None:
    paths = archive.write()
    zip_day(paths)
    (tmp_path / "x").write_bytes(b"no zip")
    folder = archive.destination.ensure_project_folder(project_folder(PROJECT))
    archive.destination.upload(tmp_path / "x", paths.zip.name, folder, {})
    archive.settle()
    assert upload_day(archive.destination, paths).action == "replaced"
    assert find_copy_difference(archive.destination, paths) is None


@pytest.mark.parametrize("archive", ["drive, encrypted"], indirect=True)
def test_an_encrypted_zip_without_its_label_is_replaced_and_restored(archive: Archive, faults: Faults) -> None:
    paths = archive.add(runs=3)
    rezip(archive, 5)
    before = snapshot(archive.layout.data_dir)
    faults.add(Fault("status", labels, status=403))
    with pytest.raises(DestinationError):
        upload_day(archive.destination, paths)
    faults.clear()
    whole = paths.zip.read_bytes()
    archive.delete_local()
    archive.layout.archive_dir.mkdir()
    assert archive.restore().action == "restored"
    assert (snapshot(archive.layout.data_dir), paths.zip.read_bytes()) == (before, whole)
    assert find_copy_difference(archive.destination, paths) is not None
    assert upload_day(archive.destination, paths).action == "replaced"
    assert find_copy_difference(archive.destination, paths) is None


@pytest.mark.parametrize("archive", ["drive, encrypted", "s3, encrypted"], indirect=True)
def test_the_next_upload_removes_an_unencrypted_zip(archive: Archive, faults: Faults) -> None:
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    paths = archive.write(runs=3)
    zip_day(paths)
    upload_day(inner, paths)
    rezip(archive, 5)
    faults.add(Fault("status", removals, status=403))
    with pytest.raises(DestinationError):
        upload_day(archive.destination, paths)
    faults.clear()
    assert find_copies(inner, paths) != []
    assert find_copy_difference(archive.destination, paths) == ("one encrypted file", "1 unencrypted beside it")
    assert upload_day(archive.destination, paths).action == "unchanged"
    assert find_copies(inner, paths) == []
    assert find_copy_difference(archive.destination, paths) is None
    # A zip with more runs than the encrypted one is not a leftover.
    more = Archive(archive.directory / "more", inner)
    more.add(runs=6)
    with pytest.raises(ShrinkError, match="holds 1 run"):
        upload_day(archive.destination, paths)
    assert find_copies(inner, paths) != []


@pytest.mark.parametrize("archive", ["drive, encrypted", "s3, encrypted"], indirect=True)
def test_an_unencrypted_zip_of_the_same_bytes_is_kept(archive: Archive) -> None:
    inner: Destination = archive.destination._inner  # ty: ignore[missing-attribute]
    paths = archive.write()
    zip_day(paths)
    inner.upload(paths.zip, paths.zip.name, inner.ensure_project_folder(project_folder(PROJECT)), {})
    assert upload_day(archive.destination, paths).action == "unchanged"
    [file] = find_copies(inner, paths)
    assert file.app_properties["runs"] == "5"


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:hush@bucket/folder",
        "s3://KEY:hu/sh@bucket",
        "s3://KEY:hu[sh@bucket",
        "s3://hush@bucket",
        "s3:KEY:hush@bucket",
        "ftp://KEY:hush@bucket",
        "KEY:hush@bucket",
    ],
)
def test_an_address_with_credentials_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match=r"LSE_ARCHIVE_URL contains credentials.*AWS_SECRET_ACCESS_KEY") as refusal:
        ObjectStore(url)
    assert "hu" not in str(refusal.value)
    assert "KEY:" not in str(refusal.value)


def test_a_malformed_address_is_not_quoted() -> None:
    for url in ("s3://[hush", "hush", "https://hush/x"):
        with pytest.raises(SettingsError, match="not an object store") as refusal:
            ObjectStore(url)
        assert "hush" not in str(refusal.value)


def test_a_folder_may_contain_at_signs_and_colons() -> None:
    assert ObjectStore("s3://bucket/a@b/c:d", {"region": "us-east-1"}).place == "s3://bucket"
