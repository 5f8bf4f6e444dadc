"""Object stores: concurrent hosts, large objects, and objects of other tools."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from archive_fixtures import PROJECT, Archive
from day_fixtures import DAY
from s3_fixtures import FaultProxy

from lse_archive.boot import pid_space
from lse_archive.errors import ArchiveConflictError, CorruptArchiveError, DestinationError, SettingsError
from lse_archive.folder.manifest import SUMMARY, SUMS
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_demo.faults import Fault, on
from lse_operations.restore.copies import copies
from lse_operations.upload import find_copies, find_copy_difference, upload_day
from lse_resources.destinations import object_store
from lse_resources.destinations.object_store import ObjectStore


@pytest.fixture
def archive(store: ObjectStore, tmp_path: Path) -> Archive:
    return Archive(tmp_path, store)


def refill(archive: Archive, runs: int, **fields: Any) -> None:
    paths = archive.write(runs=runs, **fields)
    for name in (SUMMARY, SUMS):
        (paths.folder / name).unlink(missing_ok=True)
    zip_day(paths)


@pytest.fixture(params=[0, 2])
def other(request: pytest.FixtureRequest, archive: Archive, store: ObjectStore, tmp_path: Path) -> Archive:
    """The archive of another host with another zip of the day; the param is how many runs the store's has before."""
    if request.param:
        archive.add(runs=request.param)
    refill(archive, 3)
    other = Archive(tmp_path / "other", store)
    other.write(runs=5)
    zip_day(other.paths())
    return other


def meanwhile(monkeypatch: pytest.MonkeyPatch, store: ObjectStore, act: Callable[[], object]) -> None:
    """Runs an action of another host once during an upload."""
    put, acted = store._put, []

    def hook(*arguments: Any) -> None:
        put(*arguments)
        if not acted:
            acted.append(True)
            act()

    monkeypatch.setattr(store, "_put", hook)


def test_the_slower_of_two_hosts_replaces_nothing(
    archive: Archive, store: ObjectStore, other: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, store, lambda: upload_day(store, other.paths()))
    with pytest.raises(ArchiveConflictError, match=r"Run the command again|already"):
        upload_day(store, archive.paths())
    assert find_copy_difference(store, other.paths()) is None
    folder = project_folder(PROJECT)
    assert len(store._store.list_with_delimiter(folder)["objects"]) == 1  # no hidden object remains


def between_look_and_copy(monkeypatch: pytest.MonkeyPatch, store: ObjectStore, act: Callable[[], object]) -> None:
    """Runs an action of another host once, after an upload has compared and before it copies."""
    check, looks = store._check_unchanged, []

    def hook(*arguments: Any) -> None:
        check(*arguments)
        looks.append(True)
        if len(looks) == 2:
            with monkeypatch.context() as patch:
                patch.setattr("lse_resources.destinations.object_store.pid_space", lambda: "another")
                act()

    monkeypatch.setattr(store, "_check_unchanged", hook)


def test_no_host_replaces_an_object_between_the_look_and_the_copy_of_another(
    archive: Archive, store: ObjectStore, other: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def upload_too() -> None:
        with pytest.raises(ArchiveConflictError, match=r"is being replaced on .* by another process") as error:
            upload_day(store, other.paths())
        refused.append(error)

    between_look_and_copy(monkeypatch, store, upload_too)
    upload_day(store, archive.paths())
    assert len(refused) == 1
    assert find_copy_difference(store, archive.paths()) is None
    assert len(store._store.list_with_delimiter(project_folder(PROJECT))["objects"]) == 1


def put_lock(archive: Archive, store: ObjectStore, **fields: Any) -> None:
    """Leaves the lock object of another process."""
    holder = {"host": pid_space(), "pid": os.getppid(), "token": "1"} | fields
    store._store.put(f"{project_folder(PROJECT)}/.{archive.paths().zip.name}.lock", json.dumps(holder).encode())


def test_the_lock_of_a_running_process_or_of_another_host_is_respected_until_it_expires(
    archive: Archive, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refill(archive, 3)
    with subprocess.Popen(["true"]) as exited:
        pass
    # Hosts, and containers of one host, may have one name: what has exited here may run there.
    boot = pid_space().partition(" ")[0]
    older = {"host": f"{socket.gethostname()} {boot}", "pid": exited.pid}
    container = {"host": f"{boot} pid:[1]", "pid": exited.pid}
    for fields in ({}, {"host": "another"}, {"pid": "?"}, older, container, container | {"host": ""}):
        put_lock(archive, store, **fields)
        with pytest.raises(ArchiveConflictError, match="is being replaced"):
            upload_day(store, archive.paths())
    monkeypatch.setattr("lse_resources.destinations.object_store._LOCK_EXPIRES", timedelta(seconds=-1))
    assert upload_day(store, archive.paths()).action == "created"


def test_the_lock_of_a_process_that_has_exited_is_taken_over(
    archive: Archive, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refill(archive, 3)
    with subprocess.Popen(["true"]) as exited:
        pass
    put_lock(archive, store, pid=exited.pid)
    monkeypatch.setattr(socket, "gethostname", lambda: "after")  # a host may get another name
    assert upload_day(store, archive.paths()).action == "created"
    assert len(store._store.list_with_delimiter(project_folder(PROJECT))["objects"]) == 1


def test_a_store_without_conditional_writes_is_used_without_a_lock(
    archive: Archive, store: ObjectStore, s3_proxy: FaultProxy
) -> None:
    refill(archive, 3)
    body = b"<Error><Code>NotImplemented</Code><Message>If-None-Match</Message></Error>"
    s3_proxy.faults.add(
        Fault("status", lambda request: request.path.endswith(".lock"), status=501, body=body, times=100)
    )
    assert upload_day(store, archive.paths()).action == "created"


def test_a_large_zip_counts_only_when_it_has_been_read_back(
    archive: Archive, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_COPY_BYTES", 10)
    monkeypatch.setattr(object_store, "_PIECE", 1 << 18)  # in parts, like a large object
    blob = os.urandom(100_000).hex()
    paths = archive.write(blob=blob)
    zip_day(paths)
    read = store._read_hash

    def killed(key: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_read_hash", killed)
    with pytest.raises(KeyboardInterrupt):
        upload_day(store, paths)
    assert find_copy_difference(store, paths) is not None
    monkeypatch.setattr(store, "_read_hash", read)
    assert upload_day(store, paths).action == "replaced"
    assert find_copy_difference(store, paths) is None
    assert upload_day(store, paths).action == "unchanged"
    refill(archive, 7, blob=blob)
    monkeypatch.setattr(store, "_record_verified", killed)
    with pytest.raises(KeyboardInterrupt):
        upload_day(store, paths)
    assert find_copy_difference(store, paths) is not None  # the label belongs to the previous object
    archive.delete_local()
    assert archive.restore().action == "restored"


def test_an_object_of_another_tool_in_parts_is_restored_and_replaced(archive: Archive, store: ObjectStore) -> None:
    paths = archive.write(runs=40, blob=os.urandom(200_000).hex())
    zip_day(paths)
    key = f"{project_folder(PROJECT)}/{paths.zip.name}"
    with paths.zip.open("rb") as file:
        obstore.put(store._store, key, file, chunk_size=5 << 20, use_multipart=True)
    [there] = find_copies(store, paths)
    assert (there.sha256, there.md5) == (None, None)
    assert upload_day(store, paths).action == "replaced"
    store._store.delete(key)
    with paths.zip.open("rb") as file:
        obstore.put(store._store, key, file, chunk_size=5 << 20, use_multipart=True)
    archive.delete_local()
    assert archive.restore().action == "restored"
    damaged = bytearray(bytes(obstore.get(store._store, key).bytes()))
    damaged[1000] ^= 1
    obstore.put(store._store, key, iter([bytes(damaged)]), chunk_size=5 << 20, use_multipart=True)
    archive.delete_local()
    with pytest.raises(CorruptArchiveError):
        archive.restore()


def test_an_object_deleted_during_a_call_is_skipped_or_a_conflict(
    archive: Archive, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        archive.add(DAY + timedelta(days=number))
    head = store._head

    def delete_first(key: str) -> Any:
        if str(DAY) in key:
            store._store.delete(key)
        return head(key)

    monkeypatch.setattr(store, "_head", delete_first)
    assert [copy.day for copy in copies(store, PROJECT)] == [DAY + timedelta(days=1), DAY + timedelta(days=2)]
    monkeypatch.undo()
    [file] = find_copies(store, archive.paths(DAY + timedelta(days=1)))
    store.trash(file)
    with pytest.raises(ArchiveConflictError, match="it is no longer on"):
        store.prove(file)


@pytest.mark.parametrize("end", ["?region=x", "#part", "/a?secret_access_key=XYZ"])
def test_an_address_with_a_query_or_fragment_is_refused(end: str) -> None:
    with pytest.raises(SettingsError, match=r"has a \? or #") as error:
        ObjectStore(f"s3://bucket{end}")
    assert "XYZ" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "renew"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (403, "InvalidObjectState", "cold storage"),
        (403, "QuotaExceeded", "quota"),
        (403, "AccessDenied", "Check the credentials, and the clock"),
    ],
)
def test_the_error_for_a_refusal_says_what_to_do(
    store: ObjectStore, s3_proxy: FaultProxy, status: int, code: str, hint: str
) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>refused</Message></Error>"
    s3_proxy.faults.add(Fault("status", on("GET"), status=status, body=body.encode()))
    with pytest.raises(DestinationError, match=f"{code}(?s:.*){hint}"):
        store.check_folder()


def test_a_refusal_without_a_reason_names_credentials_and_clock(store: ObjectStore, s3_proxy: FaultProxy) -> None:
    s3_proxy.faults.add(Fault("status", on("HEAD"), status=403, body=b""))  # S3 sends no reason with HEAD
    with pytest.raises(DestinationError, match="Check the credentials, and the clock"):
        store.find_file("folder", "name")
