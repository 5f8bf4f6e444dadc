"""Attachments of runs: downloaded with the day, listed, never lost, and their links stored nowhere."""

from __future__ import annotations

import json
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace

import pytest
from langsmith_fixtures import DAY, PROJECT, START, Cloud, file_states, local_cloud

from lse_archive.days import day_window
from lse_archive.errors import CorruptArchiveError, SourceError
from lse_archive.fetch.attachments import AttachmentDownloads, AttachmentLimits
from lse_archive.fetch.staging import Staging
from lse_archive.folder.attachments import ATTACHMENTS
from lse_demo.faults import Fault, Faults, Matchable, on
from lse_demo.langsmith.encoding import split

_STORAGE = on("GET", "/storage/")
_QUERY = on("POST", "/runs/query")
SKIP = AttachmentLimits(skip=True)
NAMES = ("../../x", "nul\0", "a" * 10_000, "", "\u202etxt.exe", "a/b\\c", 'quo"te\n', "ключ 📎", "attachment.x", "CON")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


def put_runs(cloud: Cloud, count: int = 3) -> list[str]:
    """Stores runs with two attachments each: one that all have, one of their own."""
    runs = [cloud.put(START + 1000 * number, inputs={"n": number}) for number in range(count)]
    for number, run_id in enumerate(runs):
        cloud.attach(run_id, "logo", b"\x89PNG the same", "image/png")
        cloud.attach(run_id, "note", b"note %d" % number)
    return runs


def sent(cloud: Cloud) -> dict[tuple[str, str], bytes]:
    """Returns what the server has, by run id and name."""
    with cloud.store._lock:
        rows = cloud.store._db.execute("SELECT run, name, body FROM files").fetchall()
    return {(run, name): body for run, name, body in rows}


def all_bytes(cloud: Cloud) -> bytes:
    return b"".join(path.read_bytes() for path in cloud.directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("api_version", ["v1", "v2"])
@pytest.mark.parametrize("relative", [False, True])
def test_attachments_are_published_with_the_day(cloud, api_version, relative):
    cloud.use_api(api_version)
    runs = put_runs(cloud)
    cloud.server.behavior.relative_links = relative
    result = cloud.fetch()
    assert cloud.attachments() == sent(cloud)
    assert (result.attachments, result.attachments_missing, result.api) == (6, [], api_version)
    assert result.attachment_bytes == len(b"\x89PNG the same") + 3 * len(b"note 0")
    summary = cloud.summary()
    assert (summary.attachments, summary.unfit_files, summary.runs) == (6, [], 3)
    assert len(list(cloud.paths.folder.glob("_attachment_*"))) == 4
    listed = json.loads((cloud.paths.folder / ATTACHMENTS).read_bytes())
    assert [(entry["run_id"], entry["name"], entry["media_type"]) for entry in listed] == [
        (run, name, media_type)
        for run in sorted(runs)
        for name, media_type in (("logo", "image/png"), ("note", "text/plain"))
    ]
    assert list(listed[0]) == ["run_id", "name", "media_type", "bytes", "sha256", "file"]
    if api_version == "v2":
        assert cloud.published() == cloud.served()
    assert b"signature" not in all_bytes(cloud)


@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_a_second_fetch_downloads_and_writes_nothing(cloud, api_version):
    cloud.use_api(api_version)
    put_runs(cloud)
    cloud.fetch()
    before, downloads = file_states(cloud.paths.folder), len(cloud.downloads())
    assert cloud.fetch().outcome == "unchanged"
    assert file_states(cloud.paths.folder) == before
    assert len(cloud.downloads()) == downloads == 6


def test_the_links_alone_are_cut_from_a_run(cloud):
    run_id = cloud.put()
    link = cloud.server._links().make(run_id, "attachment.a")
    cloud.attach(run_id, "a", b"1")
    head, odd = (
        b'{ "id":"%s",\n "start_time" : "2026-01-02T00:00:00Z"',
        b'"x":{"attachments":null , "n":1.50e3},"y":"\\u0061',
    )
    cloud.rewrite(run_id, head % run_id.encode() + b' , "attachments" : {"a":"%s"} ,' % link.encode() + odd + b'" }')
    cloud.fetch()
    assert cloud.published()[run_id] == head % run_id.encode() + b"  ," + odd + b'" }'
    assert cloud.attachments() == {(run_id, "a"): b"1"}


def test_the_links_are_cut_from_runs_that_strict_parsers_reject(cloud):
    run_id = cloud.put(tail=b',"s":"\\ud83d","f":NaN')
    cloud.attach(run_id, "a", b"1")
    cloud.fetch()
    assert cloud.published() == cloud.served()
    assert cloud.attachments() == {(run_id, "a"): b"1"}


def test_days_of_earlier_versions_are_not_red_and_are_completed_by_a_fetch(cloud):
    put_runs(cloud)
    result = cloud.fetch(attachments=SKIP)
    assert (result.attachments, cloud.summary().attachments, cloud.downloads()) == (None, None, [])
    assert cloud.fetch(attachments=SKIP).outcome == "unchanged"
    result = cloud.fetch()
    assert (result.outcome, result.changed, result.attachments) == ("updated", 0, 6)
    assert cloud.attachments() == sent(cloud)


def test_a_day_without_attachments_says_that_it_has_none(cloud):
    cloud.put()
    cloud.fetch(attachments=SKIP)
    assert cloud.fetch().outcome == "updated"
    assert (cloud.summary().attachments, cloud.attachments()) == (0, {})
    assert not (cloud.paths.folder / ATTACHMENTS).exists()
    assert cloud.fetch().outcome == "unchanged"


def test_a_skipping_fetch_keeps_what_is_there_and_says_when_it_is_partial(cloud):
    put_runs(cloud)
    cloud.fetch()
    assert cloud.fetch(attachments=SKIP).outcome == "unchanged"
    cloud.attach(cloud.put(START + 77), "new", b"new")
    result = cloud.fetch(attachments=SKIP)
    assert (result.outcome, result.attachments, len(cloud.attachments())) == ("updated", None, 6)
    assert cloud.fetch().attachments == 7
    assert cloud.attachments() == sent(cloud)


@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_names_from_outside_never_become_paths(cloud, api_version):
    cloud.use_api(api_version)
    run_id = cloud.put()
    for number, name in enumerate(NAMES):
        cloud.attach(run_id, name, b"%d" % (number % 4))
    cloud.attach(run_id, "empty", b"")
    cloud.fetch()
    assert cloud.attachments() == sent(cloud)
    names = {path.name for path in cloud.paths.folder.glob("_attachment*")}
    assert len(names) == 1 + 5
    assert cloud.fetch().outcome == "unchanged"


def test_a_name_may_be_a_lone_surrogate(cloud):
    run_id, other = cloud.put(), cloud.put(START - 1)
    cloud.attach(other, "a", b"1")
    link = cloud.server._links().make(other, "attachment.a").encode()
    gone = cloud.server._links().make(other, "attachment.gone").encode()
    raw = cloud.served()[run_id][:-1] + b',"attachments":{"\\ud83d":"%s","\\udc00":"%s"}}' % (link, gone)
    cloud.rewrite(run_id, raw)
    result = cloud.fetch()
    assert cloud.attachments() == {(run_id, "\ud83d"): b"1"}
    assert [(one.name, one.why) for one in result.attachments_missing] == [("\\udc00", "HTTP 404")]


def test_pages_with_many_attachments_on_both_sides_of_page_borders(cloud):
    put_runs(cloud, 60)
    cloud.server.faults.add(Fault("overlap", _QUERY, at=3)).add(Fault("repeat_page", _QUERY, rate=0.3))
    assert cloud.fetch(page_size=7).attachments == 120
    assert cloud.attachments() == sent(cloud)


def test_the_runs_of_a_page_that_must_be_requested_by_id_have_their_attachments(cloud):
    put_runs(cloud, 10)
    broken = cloud.put(START + 5000)
    cloud.attach(broken, "lost", b"lost")
    cloud.server.behavior.broken_runs = {broken: 500}
    cloud.settings = replace(cloud.settings, patience=0.05)
    result = cloud.fetch()
    assert (result.incomplete, result.attachments, result.attachments_missing) == ([broken], 20, [])
    cloud.server.behavior.broken_runs = {}
    assert cloud.fetch().attachments == 21
    assert cloud.attachments() == sent(cloud)


def test_runs_that_the_count_shows_to_be_missing_have_their_attachments(cloud):
    put_runs(cloud, 3)

    def arrive() -> None:
        cloud.attach(cloud.put(START + 9_000_000), "late", b"late")

    cloud.server.faults.add(Fault("call", on("POST", "/runs/stats"), times=1, action=arrive))
    result = cloud.fetch()
    assert (result.runs, result.attachments) == (4, 7)
    assert cloud.attachments() == sent(cloud)


# ---- faults ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, list[Fault]] = {
    "expired": [Fault("status", _STORAGE, status=403, times=40)],
    "bad request": [Fault("status", _STORAGE, status=400, times=40)],
    "not there yet": [Fault("status", _STORAGE, status=404, times=9)],
    "500": [Fault("status", _STORAGE, status=500, rate=0.3)],
    "503 with seconds": [Fault("status", _STORAGE, status=503, headers={"Retry-After": "0"}, rate=0.3)],
    "429": [Fault("status", _STORAGE, status=429, headers={"Retry-After": "0"}, rate=0.3)],
    "cut before": [Fault("cut_before", _STORAGE, rate=0.3)],
    "cut in the middle": [Fault("cut_body", _STORAGE, rate=0.3)],
    "fewer bytes than announced": [Fault("cut_body", _STORAGE, rate=0.3, reset=False)],
    "answer lost": [Fault("lose_answer", _STORAGE, rate=0.3)],
    "queries fail": [Fault("status", _QUERY, status=500, rate=0.3)],
}
TOGETHER = [replace(fault, rate=0.02, times=None) for faults in FAULTS.values() for fault in faults]


@pytest.mark.parametrize("name", [*FAULTS, "all together"])
@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_after_faults_every_attachment_is_here(cloud, api_version, name):
    cloud.use_api(api_version)
    put_runs(cloud, 30)
    cloud.server.behavior.redirected_links = True
    cloud.server.faults = Faults(*(FAULTS.get(name) or TOGETHER), seed=5)
    result = cloud.fetch(page_size=10)
    assert (result.attachments, result.attachments_missing) == (60, [])
    assert cloud.attachments() == sent(cloud)
    assert cloud.server.faults.struck() > 0
    assert b"signature" not in all_bytes(cloud)


def test_expired_links_are_renewed_for_many_runs_at_once(cloud):
    put_runs(cloud, 30)
    cloud.server.behavior.link_seconds = -10

    def renew() -> None:
        cloud.server.behavior.link_seconds = 300

    cloud.server.faults.add(Fault("call", _STORAGE, after=20, times=1, action=renew))
    assert cloud.fetch().attachments == 60
    assert len(cloud.queries()) == 2
    assert cloud.attachments() == sent(cloud)


def test_what_is_never_served_is_named_and_stays_named_until_it_is_here(cloud):
    runs = put_runs(cloud)
    cloud.server.faults.add(Fault("status", _dead(runs[1]), status=404))
    result = cloud.fetch()
    [missing] = result.attachments_missing
    assert (missing.run_id, missing.name, missing.why) == (runs[1], "note", "HTTP 404")
    assert (result.attachments, cloud.summary().attachments_missing) == (5, [missing])
    before = file_states(cloud.paths.folder)
    assert cloud.fetch().outcome == "unchanged"
    cloud.server.faults = Faults(Fault("status", _dead(runs[1]), status=403))  # the reason alone writes nothing
    assert cloud.fetch().attachments_missing == [missing]
    assert file_states(cloud.paths.folder) == before
    cloud.server.faults.clear()
    result = cloud.fetch()
    assert (result.outcome, result.attachments, result.attachments_missing) == ("updated", 6, [])
    assert cloud.attachments() == sent(cloud)


def _dead(run_id: str):
    def match(request: Matchable) -> bool:
        return request.path.startswith(f"/storage/{run_id}") and request.path.endswith("note")

    return match


def test_an_attachment_of_a_run_that_is_no_longer_served_stays_named(cloud):
    runs = put_runs(cloud)
    cloud.server.faults.add(Fault("status", _dead(runs[1]), status=404))
    cloud.fetch()
    cloud.store.delete([runs[1]])
    assert [one.run_id for one in cloud.fetch().attachments_missing] == [runs[1]]
    assert cloud.fetch().outcome == "unchanged"


def test_an_attachment_that_a_served_run_no_longer_lists_is_no_longer_named(cloud):
    runs = put_runs(cloud)
    cloud.server.faults.add(Fault("status", _dead(runs[1]), status=404))
    cloud.fetch()
    with cloud.store._lock, cloud.store._db:
        cloud.store._db.execute("DELETE FROM files WHERE run = ? AND name = 'note'", (runs[1],))
    assert cloud.fetch().attachments_missing == []


def test_a_storage_that_is_down_does_not_stop_the_runs(cloud):
    put_runs(cloud, 40)
    cloud.settings = replace(cloud.settings, patience=0.05)
    cloud.server.faults.add(Fault("status", _STORAGE, status=503))
    result = cloud.fetch()
    assert (result.runs, result.attachments, len(result.attachments_missing)) == (40, 0, 80)
    assert {one.why for one in result.attachments_missing} == {"HTTP 503"}
    cloud.server.faults.clear()
    assert cloud.fetch().attachments == 80


def test_an_attachment_without_a_link_is_named(cloud):
    run_id = cloud.put(attachments={"a": None, "b": "ftp://x/y", "c": "http://", "d": {"no": 1}})
    result = cloud.fetch()
    assert [one.name for one in result.attachments_missing] == ["a", "b", "c", "d"]
    assert b"ftp" not in all_bytes(cloud)
    assert split(cloud.published()[run_id]).keys() == split(cloud.served()[run_id]).keys() - {"attachments"}


def test_links_go_through_the_proxy_of_the_environment(cloud, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", cloud.server.url.replace("http://", "user:p%40ss@"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cloud.store.attach("elsewhere", "f", b"content")
    link = cloud.server._links().make("elsewhere", "attachment.f").replace("127.0.0.1", "storage.invalid")
    run_id = cloud.put(attachments={"f": link})

    def authorized(request: Matchable) -> bool:
        return request.headers["Proxy-Authorization"] == "Basic " + b64encode(b"user:p@ss").decode()

    cloud.server.faults.add(Fault("status", lambda request: _STORAGE(request) and not authorized(request), status=407))
    assert cloud.fetch().attachments_missing == []
    assert cloud.attachments() == {(run_id, "f"): b"content"}


def test_links_are_in_no_log_and_no_error(cloud, caplog):
    runs = put_runs(cloud)
    caplog.set_level(logging.DEBUG)
    cloud.settings = replace(cloud.settings, patience=0.05)
    cloud.server.behavior.redirected_links = True
    cloud.server.faults.add(Fault("cut_body", _STORAGE))
    cloud.fetch()
    cloud.server.faults.clear()
    cloud.fetch()
    assert runs[0] in cloud.published()
    assert len(cloud.downloads()) > 12
    assert "signature" not in caplog.text


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_attachments_over_a_limit_are_named(cloud):
    runs = [cloud.put(START + number) for number in range(3)]
    for run_id, size in zip(runs, (10, 1000, 100_000), strict=True):
        cloud.attach(run_id, "f", bytes(size))
    result = cloud.fetch(attachments=AttachmentLimits(file_bytes=1000))
    [missing] = result.attachments_missing
    assert (missing.run_id, "LSE_ATTACHMENT_MAX_MB" in missing.why, result.attachments) == (runs[2], True, 2)
    assert len(cloud.queries()) == 1  # it is not requested again
    assert cloud.fetch(attachments=AttachmentLimits(file_bytes=1000)).outcome == "unchanged"
    assert cloud.fetch().attachments_missing == []


def test_a_day_takes_no_more_than_its_limit(cloud):
    for number in range(20):
        run_id = cloud.put(START + number)
        cloud.attach(run_id, "own", bytes([number]) * 100)
        cloud.attach(run_id, "same", bytes(100))
    limits = AttachmentLimits(day_bytes=550)
    result = cloud.fetch(attachments=limits)
    assert 0 < result.attachment_bytes <= 550
    assert {"LSE_ATTACHMENTS_DAY_MB" in one.why for one in result.attachments_missing} == {True}
    assert (result.attachments or 0) + len(result.attachments_missing) == 40
    for _ in range(4):  # what fits is downloaded; then nothing changes any more
        last = cloud.fetch(attachments=limits)
    assert (last.outcome, last.attachment_bytes <= 550) == ("unchanged", True)
    assert cloud.fetch().attachments == 40


# ---- what is published stays -----------------------------------------------------------------------------------------


def test_attachments_of_runs_that_langsmith_deleted_stay(cloud):
    runs = put_runs(cloud)
    cloud.fetch()
    before = cloud.attachments()
    cloud.store.delete(runs[:2])
    assert cloud.fetch().outcome == "unchanged"
    cloud.attach(cloud.put(START + 5), "new", b"new")
    cloud.fetch()
    assert cloud.attachments().items() > before.items()
    assert cloud.summary().attachments == 7


def test_allow_shrink_drops_the_attachments_of_dropped_runs(cloud):
    runs = put_runs(cloud)
    cloud.fetch()
    cloud.store.delete(runs[:2])
    cloud.fetch(allow_shrink=True)
    assert cloud.attachments().keys() == {(runs[2], "logo"), (runs[2], "note")}
    assert len(list(cloud.paths.folder.glob("_attachment_*"))) == 2


def test_a_changed_run_downloads_again_and_the_former_content_stays_as_a_file(cloud):
    [run_id] = put_runs(cloud, 1)
    cloud.fetch()
    cloud.store.change(run_id, total_tokens=7)
    cloud.attach(run_id, "note", b"another note")
    cloud.fetch()
    assert cloud.attachments()[run_id, "note"] == b"another note"
    assert len(list(cloud.paths.folder.glob("_attachment_*"))) == 3
    assert cloud.fetch().outcome == "unchanged"


def test_a_published_attachment_stays_if_its_changed_run_is_served_without_it(cloud):
    [run_id] = put_runs(cloud, 1)
    cloud.fetch()
    cloud.store.change(run_id, total_tokens=7)
    cloud.server.faults.add(Fault("status", _STORAGE, status=404))
    result = cloud.fetch()
    assert (result.attachments, result.attachments_missing) == (2, [])


def test_a_damaged_attachment_is_downloaded_again(cloud):
    put_runs(cloud)
    cloud.fetch()
    files = sorted(cloud.paths.folder.glob("_attachment_*"))
    files[0].write_bytes(b"damaged")
    files[1].unlink()
    cloud.fetch()
    assert cloud.attachments() == sent(cloud)


@pytest.mark.parametrize("damage", ["a content", "a content is missing", "the list", "the list is missing"])
def test_a_damaged_attachment_that_is_served_no_longer_is_an_error(cloud, damage):
    runs = put_runs(cloud)
    cloud.fetch()
    cloud.store.delete(runs[:1])
    name = next(one for one in cloud.paths.folder.glob("_attachment_*") if one.read_bytes() == b"note 0").name
    path = cloud.paths.folder / (ATTACHMENTS if "list" in damage else name)
    if "missing" in damage:
        path.unlink()
    else:
        path.write_bytes(b"[]")
    with pytest.raises(CorruptArchiveError, match="damaged or missing"):
        cloud.fetch()


@pytest.mark.parametrize("content", [None, b"[]", b"{", b'[{"file":"../../x"}]'])
def test_a_damaged_list_is_written_again_if_all_attachments_are_served(cloud, content):
    put_runs(cloud)
    cloud.fetch()
    before = (cloud.paths.folder / ATTACHMENTS).read_bytes()
    (cloud.paths.folder / ATTACHMENTS).unlink()
    if content is not None:
        (cloud.paths.folder / ATTACHMENTS).write_bytes(content)
    cloud.fetch()
    assert (cloud.paths.folder / ATTACHMENTS).read_bytes() == before
    assert cloud.attachments() == sent(cloud)


# ---- interrupted fetches ---------------------------------------------------------------------------------------------


def test_an_interrupted_fetch_keeps_its_downloads(cloud):
    put_runs(cloud, 30)
    cloud.settings = replace(cloud.settings, patience=0.05)
    stats = on("POST", "/runs/stats")
    cloud.server.faults.add(Fault("status", _STORAGE, status=403, after=25)).add(Fault("status", stats, status=500))
    with pytest.raises(SourceError):
        cloud.fetch()
    cloud.server.faults.clear()
    done = len(cloud.downloads())
    assert cloud.fetch().attachments == 60
    assert len(cloud.downloads()) - done == 35
    assert cloud.attachments() == sent(cloud)


def test_staged_attachments_that_differ_from_the_journal_are_downloaded_again(cloud):
    put_runs(cloud, 5)
    cloud.settings = replace(cloud.settings, patience=0.05)
    cloud.server.faults.add(Fault("status", on("POST", "/runs/stats"), status=500))
    with pytest.raises(SourceError):
        cloud.fetch()
    staged = cloud.paths.staging / "runs"
    first, second, *_ = sorted(staged.glob("_attachment_*"))
    first.write_bytes(b"half")
    second.unlink()
    (staged / f"_attachment_{'0' * 64}").write_bytes(b"of a killed process")
    (cloud.paths.staging / "downloads" / "part").write_bytes(b"of a killed process")
    cloud.server.faults.clear()
    cloud.fetch()
    assert cloud.attachments() == sent(cloud)


def test_a_stop_ends_the_downloads_of_a_page(cloud):
    put_runs(cloud, 30)
    stop = threading.Event()
    cloud.server.faults.add(Fault("call", _STORAGE, after=10, times=1, action=stop.set))
    with cloud.source() as source:
        page = source.runs_by_id(dict.fromkeys(cloud.served(), START), day_window(DAY))
        cloud.paths.staging.mkdir(parents=True)
        staging = Staging(cloud.paths)
        staging.resume(api_version="v2", project_id=source.project_id)
        downloads = AttachmentDownloads(cloud.paths, source, staging, AttachmentLimits())
        downloads.add(page)
        with pytest.raises(SourceError, match="stopped"):
            downloads.download(page.attachments, stop)
        downloads.close()
        staging.close()
    assert len(cloud.downloads()) < 60


@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_a_run_that_is_read_again_for_its_feedback_brings_its_attachments(cloud, api_version):
    """Feedback is given, and files are attached, between the reading of a run and that of its feedback."""
    cloud.use_api(api_version)
    run_id = put_runs(cloud, 1)[0]
    give = {"run_id": run_id, "key": "late", "session_id": cloud.store.project(PROJECT).id}
    cloud.store.feedback.create(give)

    def change() -> None:
        cloud.store.feedback.create(give)
        cloud.attach(run_id, "late", b"a late file")
        cloud.attach(run_id, "note", b"another note")

    cloud.server.faults.add(Fault("call", on("GET", "/feedback"), times=1, action=change))
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs, result.attachments_missing) == (2, [], [])
    assert cloud.attachments() == sent(cloud)
    assert sent(cloud)[run_id, "late"] == b"a late file"
    assert b"signature" not in all_bytes(cloud)
    downloads = len(cloud.downloads())
    assert cloud.fetch().outcome == "unchanged"
    assert len(cloud.downloads()) == downloads
