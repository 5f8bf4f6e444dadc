"""Zip, upload, restore, import and prune carry the feedback of a day, and refuse to lose a record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import msgspec
import pytest
from archive_fixtures import Archive, snapshot
from day_fixtures import run
from langsmith_fixtures import DAY, PROJECT, START, Cloud, local_cloud

from lse_archive.days import format_time
from lse_archive.errors import ShrinkError
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.late_feedback import add_late_feedback
from lse_archive.folder.manifest import FeedbackSummary, content_sums, read_summary, read_sums, write_manifest
from lse_archive.folder.pruned import PrunedDay, write_pruned
from lse_archive.folder.reader import RunFile, read_folder
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_APART, FEEDBACK_FILES
from lse_archive.zips.day import zip_day
from lse_archive.zips.inventory import zip_inventory
from lse_operations.checks import check_feedback
from lse_operations.importing import import_day, survey
from lse_operations.late_feedback import find_late_feedback
from lse_operations.upload import upload_day
from lse_resources.projects import ProjectConfig


@pytest.fixture
def cloud(drive_archive: Archive) -> Iterator[Cloud]:
    """A day with feedback of each kind: edited, deleted, apart."""
    with local_cloud() as cloud:
        cloud.paths = drive_archive.layout.day(PROJECT, DAY)
        runs = [cloud.put(START + number) for number in range(3)]
        project = cloud.store.project(PROJECT).id
        ids = [give(cloud, run_id) for run_id in runs]
        cloud.store.feedback.create({"session_id": project, "key": "project", "start_time": format_time(START)})
        with cloud.source() as source:
            config = ProjectConfig(PROJECT, DAY)
            find_late_feedback(drive_archive.layout, config, source, in_days(3))
        cloud.fetch()
        cloud.store.feedback.delete(ids[0])
        cloud.store.feedback.change(ids[1], score=2)
        cloud.fetch()
        assert FeedbackSummary.of(cloud.summary()) == FeedbackSummary(feedback=3, feedback_deleted=1, feedback_apart=1)
        yield cloud


def in_days(days: int) -> datetime:
    return datetime.combine(DAY + timedelta(days=days), time(), UTC)


def give(cloud: Cloud, run_id: str) -> str:
    sent = {"run_id": run_id, "key": "q", "score": 1, "created_at": format_time(START), "comment": "ü \ud83d"}
    return cloud.store.feedback.create(sent)["id"]


def test_a_restored_day_has_its_feedback_to_the_byte(cloud, drive_archive):
    zip_day(cloud.paths)
    upload_day(drive_archive.destination, cloud.paths)
    before = snapshot(drive_archive.directory / "data")
    assert {FEEDBACK, FEEDBACK_APART} <= {path.name for path in cloud.paths.folder.iterdir()}
    drive_archive.delete_local()
    result = drive_archive.restore(DAY, PROJECT)
    assert (result.action, result.runs, result.unfit_files) == ("restored", 3, [])
    assert snapshot(drive_archive.directory / "data") == before
    assert cloud.fetch().outcome == "unchanged"


def test_a_copy_with_fewer_records_is_not_restored_over_the_day(cloud, drive_archive):
    zip_day(cloud.paths)
    upload_day(drive_archive.destination, cloud.paths)
    give(cloud, next(iter(cloud.served())))
    cloud.fetch()
    before = snapshot(drive_archive.directory / "data")
    with pytest.raises(ShrinkError, match="feedback"):
        drive_archive.restore(DAY, PROJECT)
    assert snapshot(drive_archive.directory / "data") == before
    assert len(zip_inventory(cloud.paths.zip).feedback) == 4
    assert drive_archive.restore(DAY, PROJECT, allow_shrink=True).action == "replaced"


def test_a_copy_without_an_attachment_of_the_day_is_not_restored_over_it(cloud, drive_archive):
    zip_day(cloud.paths)
    upload_day(drive_archive.destination, cloud.paths)
    cloud.attach(next(iter(cloud.served())), "note", b"x")
    assert cloud.fetch().attachments == 1
    before = snapshot(drive_archive.directory / "data")
    with pytest.raises(ShrinkError, match="_attachment"):
        drive_archive.restore(DAY, PROJECT)
    assert snapshot(drive_archive.directory / "data") == before


def test_a_copy_with_an_earlier_state_of_a_record_is_not_restored_over_the_day(cloud, drive_archive):
    zip_day(cloud.paths)
    upload_day(drive_archive.destination, cloud.paths)
    record = json.loads((cloud.paths.folder / FEEDBACK).read_bytes().splitlines()[0])
    cloud.store.feedback.change(give(cloud, next(iter(cloud.served()))), score=3)
    cloud.fetch()
    zip_day(cloud.paths)
    upload_day(drive_archive.destination, cloud.paths)
    cloud.store.feedback.create({**record, "modified_at": "2100-01-01T00:00:00Z", "comment": "later"})
    cloud.fetch()
    before = snapshot(drive_archive.directory / "data")
    with pytest.raises(ShrinkError, match=f"feedback {record['id']}, which was edited later"):
        drive_archive.restore(DAY, PROJECT)
    assert snapshot(drive_archive.directory / "data") == before


def test_a_copy_with_fewer_records_is_not_restored_for_a_pruned_day(cloud, drive_archive):
    zip_day(cloud.paths)
    older = cloud.paths.zip.read_bytes()
    give(cloud, next(iter(cloud.served())))
    cloud.fetch()
    record = PrunedDay(
        pruned_at="2026-01-09T00:00:00Z", content_sha256="", place="Drive", remote_sha256="", remote_bytes=0
    )
    files = [file for file in read_folder(cloud.paths.folder, DAY) if isinstance(file, RunFile)]
    write_pruned(cloud.paths, record, [(one.header.run_id, one.header.trace_id, one.sha256) for one in files])
    shutil.rmtree(cloud.paths.folder)
    cloud.paths.zip.write_bytes(older)
    upload_day(drive_archive.destination, cloud.paths)
    cloud.paths.zip.unlink()
    with pytest.raises(ShrinkError, match="5 records were pruned, and the copy has 4"):
        drive_archive.restore(DAY, PROJECT)
    assert cloud.paths.pruned.is_dir()
    assert not cloud.paths.folder.exists()
    assert drive_archive.restore(DAY, PROJECT, allow_shrink=True).action == "restored"


def test_a_record_moves_to_the_runs_file_in_every_copy(cloud, drive_archive):
    """The only record apart: the file is not there any more."""
    run_id = "0196aaaa-0000-7000-8000-000000000001"
    record = {"id": run_id, "run_id": run_id, "key": "q", "created_at": format_time(START)}
    shutil.rmtree(cloud.paths.folder)
    cloud.store.feedback._db.execute("DELETE FROM feedback")
    add_late_feedback(cloud.paths, [json.dumps(record).encode()])
    cloud.fetch()
    assert FeedbackSummary.of(cloud.summary()) == FeedbackSummary(feedback=0, feedback_apart=1)
    zip_day(cloud.paths)
    upload_day(drive_archive.destination, cloud.paths)
    cloud.put(START, run_id=run_id)
    cloud.store.feedback.create(record)
    cloud.fetch()
    assert FeedbackSummary.of(cloud.summary()) == FeedbackSummary(feedback=1)
    zip_day(cloud.paths)
    assert upload_day(drive_archive.destination, cloud.paths).action == "replaced"
    drive_archive.delete_local()
    assert drive_archive.restore(DAY, PROJECT).action == "restored"


def test_an_import_keeps_the_feedback_of_the_day(cloud, drive_archive, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "more.json").write_bytes(run(99, START + 50))
    before = {name: (cloud.paths.folder / name).read_bytes() for name in FEEDBACK_FILES}
    fields = FeedbackSummary.of(cloud.summary())
    found = survey(old).days[DAY]
    assert import_day(drive_archive.layout, PROJECT, DAY, found).action == "updated"
    assert {name: (cloud.paths.folder / name).read_bytes() for name in FEEDBACK_FILES} == before
    assert FeedbackSummary.of(cloud.summary()) == fields
    assert cloud.summary().unfit_files == []
    assert is_as_recorded(cloud.paths.folder)
    assert cloud.fetch().feedback == 3


def test_the_check_names_what_differs(cloud):
    assert check_feedback(cloud.paths).verdict == "agrees"
    assert "3 records" in check_feedback(cloud.paths).says
    run_id = next(iter(cloud.served()))
    for change, verdict in (
        ({"feedback_differs": [run_id]}, "differs"),
        ({"feedback_unproven": [run_id]}, "unproven"),
        ({"feedback": None}, "agrees"),
    ):
        summary = msgspec.structs.replace(cloud.summary(), **change)
        sums = read_sums(cloud.paths.folder)
        assert sums is not None
        former = cloud.summary()
        write_manifest(cloud.paths.folder, summary, content_sums(sums))
        check = check_feedback(cloud.paths)
        assert check.verdict == verdict
        assert [row.item for row in check.differences] == ([run_id] if verdict == "differs" else [])
        if verdict == "agrees":
            assert check.says == "feedback was not collected"
        write_manifest(cloud.paths.folder, former, content_sums(sums))


def test_the_check_of_a_pruned_day_reads_its_record(cloud):
    content = cloud.summary().content_sha256
    record = PrunedDay(
        pruned_at="2026-02-01T00:00:00Z", content_sha256=content, place="x", remote_sha256="", remote_bytes=1
    )
    write_pruned(cloud.paths, record, [])
    shutil.rmtree(cloud.paths.folder)
    assert "3 records" in check_feedback(cloud.paths).says


def test_a_summary_of_an_older_version_says_that_feedback_was_not_collected(cloud):
    path = cloud.paths.folder / "_summary.json"
    old = {key: value for key, value in json.loads(path.read_bytes()).items() if not key.startswith("feedback")}
    path.write_bytes(json.dumps(old).encode())
    summary = read_summary(cloud.paths.folder)
    assert FeedbackSummary.of(summary) == FeedbackSummary()
    assert check_feedback(cloud.paths).says == "feedback was not collected"
