"""The feedback of a day: complete although pages have no order, and united with what is archived."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from langsmith_fixtures import DAY, PROJECT, START, Cloud, file_states, local_cloud

from lse_archive.days import format_time
from lse_archive.errors import AccessError, SourceError
from lse_archive.fetch.feedback import FeedbackQuery, pack
from lse_archive.fetch.staging import Staging
from lse_archive.folder.contents import is_as_recorded
from lse_archive.folder.late_feedback import add_late_feedback, read_late_feedback
from lse_archive.folder.state import read_state
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_APART, marked_deleted, read_record, split_mark
from lse_demo.faults import Fault, on
from lse_demo.langsmith.gate import RateLimit
from lse_operations.checks import check_feedback

GIVEN = START + 5 * 86_400_000_000
READ = on("GET", "/feedback")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


def give(cloud: Cloud, run_id: str | None, key: str = "quality", *, at: int = GIVEN, **fields: Any) -> str:
    """Gives feedback at a time in microseconds; returns its id."""
    session = cloud.store.project(PROJECT).id
    sent = {"run_id": run_id, "key": key, "session_id": session, "created_at": format_time(at), **fields}
    return cloud.store.feedback.create(sent)["id"]


def lines(cloud: Cloud, name: str = FEEDBACK) -> list[bytes]:
    path = cloud.paths.folder / name
    return path.read_bytes().splitlines() if path.exists() else []


def records(cloud: Cloud, name: str = FEEDBACK) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in lines(cloud, name)]
    assert [one["id"] for one in found] == sorted(one["id"] for one in found)
    return {one["id"]: one for one in found}


def stored(cloud: Cloud) -> dict[str, dict[str, Any]]:
    """What LangSmith has."""
    rows = cloud.store._db.execute("SELECT body FROM feedback").fetchall()
    return {one["id"]: one for one in (json.loads(body) for (body,) in rows)}


def asked(cloud: Cloud) -> list[Any]:
    return [entry for entry in cloud.server.requests if entry.details.get("api") == "feedback"]


def fill(cloud: Cloud, runs: int = 6, each: int = 30) -> list[str]:
    """Adds runs with feedback, more than one answer holds."""
    ids = [cloud.put(START + number) for number in range(runs)]
    for number in range(runs * each):
        give(cloud, ids[number % runs], f"key {number % 3}", at=GIVEN + number, score=number / 100)
    return ids


@pytest.mark.parametrize("api", ["v2", "v1"])
def test_the_feedback_of_the_runs_is_filed_with_their_day(cloud, api):
    cloud.use_api(api)
    ids = fill(cloud)
    cloud.put(START + 99)  # without feedback
    give(cloud, cloud.put(START + 86_400_000_000))  # of the next day
    result = cloud.fetch()
    assert records(cloud) == {key: one for key, one in stored(cloud).items() if one["run_id"] in ids}
    assert (result.feedback, result.feedback_deleted, result.feedback_apart) == (180, 0, 0)
    assert (result.feedback_differs, result.feedback_unproven, result.count_check) == ([], [], "equal")
    summary = cloud.summary()
    assert (summary.feedback, summary.unfit_files) == (180, [])
    assert FEEDBACK in {path.name for path in cloud.paths.folder.iterdir()}
    assert is_as_recorded(cloud.paths.folder)
    assert all(entry.details["offset"] == 0 for entry in asked(cloud))
    assert read_state(cloud.paths).feedback_read_at is not None


def test_nothing_new_nothing_written(cloud):
    fill(cloud)
    cloud.fetch()
    before = file_states(cloud.paths.folder)
    cloud.server.faults.add(Fault("shuffle", READ))
    assert cloud.fetch(page_size=7).outcome == "unchanged"
    assert file_states(cloud.paths.folder) == before


def test_a_day_without_feedback_costs_no_request_and_has_no_file(cloud):
    cloud.generate(20)
    assert cloud.fetch().feedback == 0
    assert asked(cloud) == []
    assert not (cloud.paths.folder / FEEDBACK).exists()


def test_feedback_that_is_given_later_changes_the_day(cloud):
    run, other = cloud.put(START), cloud.put(START + 1)
    first = give(cloud, run)
    cloud.fetch()
    second = give(cloud, other, at=GIVEN + 1)
    result = cloud.fetch()
    assert (result.outcome, result.changed) == ("updated", 1)  # the run's own statistics have changed too
    assert set(records(cloud)) == {first, second}


def test_an_edited_record_is_replaced_and_the_newest_state_wins(cloud):
    run = cloud.put(START)
    edited = give(cloud, run, score=0.1)
    cloud.fetch()
    cloud.store.feedback.change(edited, score=0.9)
    assert cloud.fetch().feedback == 1
    assert records(cloud)[edited]["score"] == 0.9
    before = file_states(cloud.paths.folder)
    cloud.store.feedback.change(edited, score=0.5, modified_at=format_time(GIVEN))  # an older state, of a replica
    cloud.fetch()
    assert records(cloud)[edited]["score"] == 0.9
    assert file_states(cloud.paths.folder)[FEEDBACK] != before  # the run has other statistics: published again


def test_a_deleted_record_stays_and_is_marked_once(cloud):
    run = cloud.put(START)
    gone, left = give(cloud, run, "a"), give(cloud, run, "b")
    cloud.fetch()
    sent = {read_record(line).identity: line for line in lines(cloud)}[gone.encode()]
    cloud.store.feedback.delete(gone)
    result = cloud.fetch()
    assert (result.feedback, result.feedback_deleted, result.feedback_differs) == (2, 1, [])
    found = {read_record(line).identity: line for line in lines(cloud)}
    marked, at = split_mark(found[gone.encode()])
    assert marked == sent
    assert at is not None
    assert split_mark(found[left.encode()])[1] is None
    before = file_states(cloud.paths.folder)
    assert cloud.fetch().outcome == "unchanged"
    assert file_states(cloud.paths.folder) == before


def test_feedback_of_runs_that_are_no_longer_served_stays_as_it_is(cloud):
    expired, served = cloud.put(START), cloud.put(START + 1)
    kept = give(cloud, expired)
    give(cloud, served)
    cloud.fetch()
    before = records(cloud)[kept]
    cloud.store.delete([expired])
    cloud.store.feedback.delete(kept)  # LangSmith deletes it with its trace
    result = cloud.fetch()
    assert (result.feedback, result.feedback_deleted, result.no_longer_served) == (2, 0, 1)
    assert records(cloud)[kept] == before


def test_a_record_that_comes_back_is_not_deleted(cloud):
    run = cloud.put(START)
    gone = give(cloud, run, "a")
    give(cloud, run, "b")
    cloud.fetch()
    record = stored(cloud)[gone]
    cloud.store.feedback.delete(gone)
    assert cloud.fetch().feedback_deleted == 1
    cloud.store.feedback.create(record)
    assert cloud.fetch().feedback_deleted == 0
    assert "lse_deleted_at" not in records(cloud)[gone]


def limited(cloud: Cloud) -> None:
    cloud.server.behavior.feedback_limit = RateLimit(2, 0.05)
    cloud.server.behavior.retry_after = None


def edited(cloud: Cloud) -> None:
    """A record is edited between two answers."""
    one = give(cloud, next(iter(cloud.served())), "late", score=0.1)
    fault = Fault("call", READ, times=1, after=1, action=lambda: cloud.store.feedback.change(one, score=0.2))
    cloud.server.faults.add(fault)


def added(cloud: Cloud) -> None:
    """Feedback is given between the reading of the run and that of its feedback."""
    run = next(iter(cloud.served()))
    cloud.server.faults.add(Fault("call", READ, times=1, action=lambda: give(cloud, run, "late")))


def removed(cloud: Cloud) -> None:
    """A record is deleted between the reading of the run and that of its feedback."""
    victim = next(iter(stored(cloud)))
    cloud.server.faults.add(Fault("call", READ, times=1, action=lambda: cloud.store.feedback.delete(victim)))


def removed_later(cloud: Cloud) -> None:
    """A record is deleted after it was read."""
    victim = next(iter(stored(cloud)))
    cloud.server.faults.add(Fault("call", READ, after=3, times=1, action=lambda: cloud.store.feedback.delete(victim)))


def status(code: int) -> Fault:
    return Fault("status", READ, times=3, after=1, status=code)


FAULTS = {
    "order": lambda cloud: cloud.server.faults.add(Fault("shuffle", READ)),
    "429": limited,
    "500": lambda cloud: cloud.server.faults.add(status(500)),
    "503": lambda cloud: cloud.server.faults.add(status(503)),
    "413": lambda cloud: cloud.server.faults.add(status(413)),
    "cut": lambda cloud: cloud.server.faults.add(Fault("cut_body", READ, times=2)),
    "truncated": lambda cloud: cloud.server.faults.add(Fault("truncate", READ, times=2)),
    "no json": lambda cloud: cloud.server.faults.add(Fault("invalid_json", READ, times=2)),
    "edited": edited,
    "added": added,
    "removed": removed,
    "removed later": removed_later,
}


@pytest.mark.parametrize("names", [*((name,) for name in FAULTS), tuple(FAULTS)], ids=lambda names: "+".join(names))
def test_faults_end_in_a_complete_day(cloud, names):
    fill(cloud)
    for name in names:
        FAULTS[name](cloud)
    result = cloud.fetch()
    if not {"edited", "removed later"} & set(names):  # these happen to records that were read before
        assert {key: one for key, one in records(cloud).items() if "lse_deleted_at" not in one} == stored(cloud)
        assert result.feedback_differs == []
    cloud.server.faults.clear()
    cloud.server.behavior.feedback_limit = None
    again = cloud.fetch()
    assert {key: one for key, one in records(cloud).items() if "lse_deleted_at" not in one} == stored(cloud)
    assert again.feedback_differs == []
    assert set(cloud.published()) == set(cloud.served())
    assert cloud.fetch().outcome == "unchanged"


@pytest.mark.parametrize("code", [401, 404, 500])
def test_feedback_that_cannot_be_read_fails_the_fetch(cloud, code):
    fill(cloud, 2, 2)
    cloud.settings = type(cloud.settings)(**{**vars(cloud.settings), "patience": 0.05})
    cloud.server.faults.add(Fault("status", READ, status=code))
    with pytest.raises(AccessError if code == 401 else SourceError, match="feedback") as failed:
        cloud.fetch()
    assert code != 404 or "--skip-feedback" in failed.value.hint
    assert not cloud.paths.folder.exists()
    cloud.server.faults.clear()
    assert cloud.fetch().feedback == 4


def test_one_run_with_many_records_is_split_by_time(cloud):
    run = cloud.put(START)
    for number in range(350):
        give(cloud, run, at=GIVEN + random.Random(number).randrange(10**9))
    cloud.server.faults.add(Fault("shuffle", READ))
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs) == (350, [])
    assert len(asked(cloud)) <= 20


def test_a_microsecond_with_many_records_is_split_by_key(cloud):
    run = cloud.put(START)
    for number in range(240):
        give(cloud, run, f"key {number % 3}", at=GIVEN)
    give(cloud, run, at=GIVEN - 1)
    give(cloud, run, at=GIVEN + 1)
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs) == (242, [])


def test_records_that_cannot_be_told_apart_are_named_and_none_counts_as_deleted(cloud):
    run, other = cloud.put(START), cloud.put(START + 1)
    early = [give(cloud, run, at=GIVEN) for _ in range(90)]
    give(cloud, other)
    cloud.fetch()
    for _ in range(60):
        give(cloud, run, at=GIVEN)
    result = cloud.fetch()
    assert result.feedback_differs == [run]
    assert result.feedback_deleted == 0
    assert set(records(cloud)) >= set(early)
    assert cloud.summary().feedback_differs == [run]


def test_statistics_without_records_are_a_difference_until_they_agree(cloud):
    run = cloud.put(START, feedback_stats={"quality": {"n": 2, "errors": 0}})
    cloud.put(START + 1)
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs, result.count_check) == (0, [run], "equal")
    assert cloud.fetch().outcome == "unchanged"
    cloud.store.delete([run])
    assert cloud.fetch().feedback_differs == [run]  # it stays named: nothing shows that it is complete now
    cloud.put(START, run_id=run)
    assert cloud.fetch().feedback_differs == []


@pytest.mark.parametrize("threads", [False, True])
def test_an_answer_without_records_that_the_run_has_marks_none_as_deleted(cloud, threads):
    ids = fill(cloud, 2, 3)
    cloud.fetch()
    before, stats = records(cloud), cloud.store.feedback.of_runs(ids)
    for run_id, sent in stats.items():
        of_keys = {key: {**one, "contains_thread_feedback": threads} for key, one in json.loads(sent).items()}
        stats[run_id] = json.dumps(of_keys).encode()
    cloud.store.feedback.of_runs = lambda wanted: {run_id: stats[run_id] for run_id in wanted}
    for record_id in before:
        cloud.store.feedback.delete(record_id)
    result = cloud.fetch()
    assert (result.feedback_deleted, len(result.feedback_differs), len(result.feedback_unproven)) == (
        (0, 0, 2) if threads else (0, 2, 0)
    )
    assert records(cloud) == before


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("kind", ["errors", "threads"])
def test_records_that_the_statistics_may_not_count_are_unproven_at_most(cloud, kind, counted):
    run = cloud.put(START)
    setattr(cloud.store.feedback, f"count_{kind}", counted)
    give(cloud, run, score=1)
    fields: dict[str, Any] = {"error": True} if kind == "errors" else {"feedback_thread_id": "t"}
    give(cloud, run, **fields)
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs) == (2, [])
    assert result.feedback_unproven == ([] if counted else [run])


@pytest.mark.parametrize(
    ("stats", "verdict"),
    [
        ({"q": {"n": 1, "errors": 1}}, "unproven"),
        ({"q": {"n": 2, "errors": 1}}, "differs"),
        ({"q": {"n": 2, "contains_thread_feedback": True}}, "unproven"),
        ({"q": {"n": "many"}}, "unproven"),
        ({"q": 5}, "unproven"),
        ("text", "equal"),
        ([1], "equal"),
        ({"q": {"n": 0}}, "equal"),
    ],
)
def test_statistics_of_every_shape(cloud, stats, verdict):
    run = cloud.put(START, feedback_stats=stats)
    result = cloud.fetch()
    assert (result.feedback_differs, result.feedback_unproven) == (
        [run] if verdict == "differs" else [],
        [run] if verdict == "unproven" else [],
    )


HOSTILE = [
    b"5",
    b"null",
    b'"text"',
    b"[]",
    b"{}",
    b'{"id":5,"run_id":RUN}',
    b'{"id":null,"run_id":RUN,"key":[1]}',
    b'{"id":"00000000-0000-4000-8000-000000000001","run_id":RUN,"comment":"\\ud83d \\u0000"}',
    b'{"id":"\\ud83d","run_id":RUN,"key":"\\ud83d"}',
    b'{"id":"nan","run_id":RUN,"score":NaN,"value":1e999}',
    b'{\n  "id": "lines",\r\n  "run_id": RUN,\n  "comment": "a \\n b"\n}',
    b'{"id":"raw","run_id":RUN,"comment":"a\nb"}',
    b'{"id":"bytes","run_id":RUN,"comment":"\xff\xfe"}',
    b'{"id":"late","run_id":RUN,"created_at":"Invalid date","modified_at":5,"extra":[]}',
    b'{"id":"../../etc","run_id":"../..","key":"x"}',
    b'{"id":"deep","run_id":RUN,"value":' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"id":"huge","run_id":RUN,"comment":"' + b"x" * 3_000_000 + b'"}',
    b'{"id":"marked","run_id":RUN,"lse_deleted_at":"2020-01-01T00:00:00Z"}',
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_one_bad_record_never_costs_its_neighbors(cloud, number):
    run, other = cloud.put(START), cloud.put(START + 1)
    good = [give(cloud, run), give(cloud, other)]
    body = HOSTILE[number].replace(b"RUN", b'"%s"' % run.encode())
    cloud.store.feedback.put_raw(body, run_id=run, session_id=cloud.store.project(PROJECT).id)
    result = cloud.fetch()
    assert result.feedback is not None
    assert result.feedback + result.feedback_apart == 3
    found = [read_record(line).identity for line in lines(cloud)]
    assert {one.encode() for one in good} <= set(found)
    assert found == sorted(found)
    hostile = [
        line for line in lines(cloud) + lines(cloud, FEEDBACK_APART) if not any(g.encode() in line for g in good)
    ]
    assert len(hostile) == 1
    if not body.startswith(b"{"):
        assert json.loads(hostile[0]) == {"lse_unreadable": body.decode()}
    elif b"\n" not in body:
        assert hostile == [body]
    before = file_states(cloud.paths.folder)
    assert cloud.fetch().outcome == "unchanged"
    assert file_states(cloud.paths.folder) == before


def test_a_record_that_is_not_json_is_kept_as_text(cloud):
    run = cloud.put(START)
    good = give(cloud, run)
    cloud.store.feedback.put_raw(b'{"id":"x","score":tru}', run_id=run, session_id=cloud.store.project(PROJECT).id)
    result = cloud.fetch()
    assert (result.feedback, result.feedback_apart, result.feedback_differs) == (1, 1, [run])
    assert list(records(cloud)) == [good]
    assert json.loads(lines(cloud, FEEDBACK_APART)[0]) == {"lse_unreadable": '{"id":"x","score":tru}'}


def test_without_feedback_the_day_says_that_it_was_not_collected(cloud):
    run = cloud.put(START)
    give(cloud, run)
    assert cloud.fetch(feedback=False).feedback is None
    assert not (cloud.paths.folder / FEEDBACK).exists()
    assert (asked(cloud), read_state(cloud.paths).feedback_read_at) == ([], None)
    assert cloud.fetch().outcome == "updated"
    give(cloud, run, at=GIVEN + 1)
    kept = cloud.fetch(feedback=False)
    assert (kept.feedback, len(lines(cloud))) == (1, 1)
    assert cloud.summary().feedback == 1


def test_a_day_that_was_not_collected_is_collected_once(cloud):
    cloud.put(START)
    cloud.fetch(feedback=False)
    assert cloud.fetch().outcome == "updated"
    assert cloud.summary().feedback == 0
    assert cloud.fetch().outcome == "unchanged"


def test_late_feedback_is_filed_where_its_run_is_archived_or_apart(cloud):
    expired, served, unknown = cloud.put(START), cloud.put(START + 1), str(UUID(int=7))
    cloud.fetch()
    cloud.store.delete([expired])
    late = {run: marked(run) for run in (expired, unknown, None)}
    gone = marked(served)  # it was deleted in LangSmith since
    new = give(cloud, served)
    add_late_feedback(cloud.paths, [*late.values(), gone])
    result = cloud.fetch()
    assert (result.feedback, result.feedback_deleted, result.feedback_apart) == (3, 1, 2)
    assert set(records(cloud)) == {new, f"of {expired}", f"of {served}"}
    assert "lse_deleted_at" in records(cloud)[f"of {served}"]
    assert set(records(cloud, FEEDBACK_APART)) == {"of None", f"of {unknown}"}
    assert read_late_feedback(cloud.paths) == []
    assert not cloud.paths.late_feedback.exists()
    assert cloud.fetch().outcome == "unchanged"
    cloud.put(START + 2, run_id=unknown)  # archived now
    assert (cloud.fetch().feedback, cloud.summary().feedback_apart) == (4, 1)


def marked(run: str | None) -> bytes:
    return json.dumps({"id": f"of {run}", "run_id": run, "key": "k", "modified_at": format_time(GIVEN)}).encode()


def test_late_feedback_that_arrives_during_a_fetch_waits_for_the_next(cloud):
    run = cloud.put(START)
    give(cloud, run)
    add_late_feedback(cloud.paths, [b'{"id":"early"}'])
    cloud.server.faults.add(
        Fault("call", READ, times=1, action=lambda: add_late_feedback(cloud.paths, [b'{"id":"later"}']))
    )
    cloud.fetch()
    assert read_late_feedback(cloud.paths) == [b'{"id":"later"}']


def test_a_journal_of_an_older_version_is_not_continued(cloud):
    """Its runs were staged without the statistics of their feedback."""
    run = cloud.put(START)
    give(cloud, run)
    with cloud.source() as source:
        staging = Staging(cloud.paths)
        staging.resume(api_version="v2", project_id=source.project_id)
        staging.add(source.page(cloud_window(), None))
        staging.mark_complete(cloud_window())
        with staging.transaction() as db:
            db.execute("DELETE FROM stats")
            db.execute("DELETE FROM mark WHERE key = 'format'")
        staging.close()
    assert cloud.fetch().feedback == 1


def cloud_window() -> Any:
    from lse_archive.days import day_window

    return day_window(DAY)


def test_the_cost_in_requests_is_bounded():
    queries = list(pack({str(UUID(int=number)): 2 for number in range(15_000)}))
    assert len(queries) <= 350
    assert sum(len(query.runs) for query in queries) == 15_000
    assert max(len("".join(f"&run={run}" for run in query.runs)) for query in queries) < 2048
    assert list(pack({"a": 500, "b": 1})) == [FeedbackQuery(("a",)), FeedbackQuery(("b",))]


@pytest.mark.parametrize("line", [b"{}", b'{"id":"x"}', b'{ "a": [1] }'])
def test_the_mark_of_a_deleted_record_can_be_removed_again(line):
    marked = marked_deleted(line, "2026-01-02T03:04:05Z")
    assert json.loads(marked) == json.loads(line) | {"lse_deleted_at": "2026-01-02T03:04:05Z"}
    assert split_mark(marked)[1] == "2026-01-02T03:04:05Z"
    assert json.loads(split_mark(marked)[0]) == json.loads(line)


@pytest.mark.parametrize("limit", ["of this client", "of the server"])
def test_an_answer_that_is_too_large_is_split(cloud, monkeypatch, limit):
    runs = [cloud.put(START + number) for number in range(8)]
    for run in runs:
        give(cloud, run, comment="x" * 100_000)
    if limit == "of this client":
        monkeypatch.setattr("lse_resources.langsmith.source._PAGE_BYTES", 250_000)
    else:
        cloud.server.faults.add(Fault("status", _asks_for_many, status=413))
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs) == (8, [])
    assert min(entry.details["runs"] for entry in asked(cloud)) <= 2


def _asks_for_many(request: Any) -> bool:
    return READ(request) and len(request.query_list) > 3


def counts(cloud: Cloud) -> int:
    return sum(entry.path.endswith("/runs/stats") for entry in cloud.server.requests)


def lag(cloud: Cloud, answers: int) -> None:
    """Makes this many answers serve runs without their `feedback_stats`; those of the day have them."""
    served, left = cloud.store.feedback.of_runs, [None] * answers
    cloud.store.feedback.of_runs = lambda run_ids: {} if left and left.pop() is None else served(run_ids)


@pytest.mark.parametrize("answers", [1, 9])
def test_feedback_that_only_the_count_of_the_day_knows_is_found(cloud, answers):
    run, other = cloud.put(START), cloud.put(START + 1)
    expected = {give(cloud, run, at=GIVEN - number) for number in range(120)} | {give(cloud, run, "thumbs")}
    give(cloud, cloud.put(START + 86_400_000_000))  # of the next day
    lag(cloud, answers)
    result = cloud.fetch()
    assert set(records(cloud)) == expected
    assert (result.feedback_differs, result.feedback_sums) == ([] if answers == 1 else [run], [])
    assert other not in result.feedback_differs
    assert counts(cloud) == 1  # together with the number of runs


def test_feedback_that_is_counted_and_not_served_is_missing_until_it_is(cloud):
    run = cloud.put(START)
    give(cloud, run, "q")
    give(cloud, run, "other")
    whole = cloud.store.feedback_stats
    cloud.store.feedback_stats = lambda *window: {**whole(*window), "q": {"n": 3}, "\ud83d": {"n": 1}}
    result = cloud.fetch()
    sums = result.feedback_sums or []
    assert [(one.key, one.counted, one.here, one.verdict) for one in sums] == [
        ("q", 3, 1, "differs"),
        ("\ufffd\ufffd\ufffd", 1, 0, "differs"),
    ]
    assert (result.lacks_feedback, result.feedback_differs) == (True, [])
    state = read_state(cloud.paths)
    assert (state.feedback_sums, state.feedback_read_at) == (sums, None)
    check = check_feedback(cloud.paths)
    assert (check.verdict, [(row.expected, row.found) for row in check.differences]) == (
        "differs",
        [("3", "1"), ("1", "0")],
    )
    assert cloud.fetch(ask_count=False).feedback_sums is None
    assert check_feedback(cloud.paths).verdict == "differs"  # nothing has shown that it is here
    cloud.store.feedback_stats = whole
    before = file_states(cloud.paths.folder)
    assert cloud.fetch().feedback_sums == []
    assert check_feedback(cloud.paths).says == "2 records, as many as the statistics of the runs, and of the day, say"
    assert (file_states(cloud.paths.folder), bool(read_state(cloud.paths).feedback_read_at)) == (before, True)


def test_feedback_that_is_given_after_the_count_is_no_difference(cloud):
    run = cloud.put(START)
    give(cloud, run)
    whole = cloud.store.feedback_stats

    def count(*window: Any) -> Any:
        answer = whole(*window)
        cloud.store.feedback.create({"run_id": run, "key": "quality"})
        return answer

    cloud.store.feedback_stats = count
    result = cloud.fetch()
    assert (result.feedback, result.feedback_differs, result.feedback_sums) == (2, [], [])


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"n": 1}, "unproven"),  # it lags
        ({"n": "many"}, "unproven"),
        ({"n": 4, "errors": 2}, "unproven"),  # whether it counts the failed ones is not documented
        ({"n": 5, "errors": 2}, "differs"),
        ({"n": 9, "contains_thread_feedback": True}, "unproven"),
        (None, "unproven"),
    ],
)
def test_a_count_that_may_mean_something_else_is_a_warning(cloud, change, verdict):
    run = cloud.put(START)
    give(cloud, run)
    give(cloud, run)
    whole = cloud.store.feedback_stats
    cloud.store.feedback_stats = lambda *window: {
        key: {**one, **change} for key, one in whole(*window).items() if change
    }
    result = cloud.fetch()
    assert [one.verdict for one in result.feedback_sums or []] == [verdict]
    assert check_feedback(cloud.paths).verdict == verdict
    assert result.lacks_feedback is (verdict == "differs")


def test_a_deployment_without_a_count_of_feedback_is_no_difference(cloud):
    give(cloud, cloud.put(START))
    cloud.store.feedback_stats = lambda *window: None
    assert cloud.fetch().feedback_sums is None
    assert check_feedback(cloud.paths).says == "1 record, as many as the statistics of the runs say"


def test_feedback_is_not_compared_with_the_count_of_a_day_that_lacks_runs(cloud):
    give(cloud, cloud.put(START))
    cloud.server.behavior.stats_offset = 1
    result = cloud.fetch()
    assert (result.count_check, result.feedback_sums) == ("fewer", None)
