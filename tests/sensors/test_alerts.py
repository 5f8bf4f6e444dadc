"""Alerts: sent once, retried after failures, grouped and resolved; their texts and targets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import msgspec
import psycopg
import pytest
from alert_targets import MailServer, Webhook, mail_server, webhook
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.test_utils import create_run_for_test
from home_fixtures import DAY, PROJECT, Installation

from lse_archive.days import day_ranges
from lse_archive.errors import ArchiveError, SettingsError
from lse_resources.alerts import Alert, check_targets, mail, post, targets
from lse_resources.projects import ProjectConfig, add_project
from lse_resources.settings import Settings
from lse_sensors.events import _project, read_events
from lse_sensors.outbox import Outbox
from lse_sensors.problems import RUN, AlertState, Event, add_events, problem_alert, take_alerts
from lse_sensors.sensors import alerts_sensor

pytestmark = pytest.mark.slow

UI = "http://127.0.0.1:3000"


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


@pytest.fixture
def post_office() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


class Watch:
    """Evaluates the alerts sensor as the daemon does: a new context each time, with the saved cursor."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.cursor: str | None = None
        self.tick()

    def tick(self) -> str:
        with self._installation.instance() as instance, dg.build_sensor_context(instance, self.cursor) as context:
            skipped = alerts_sensor(context)
            self.cursor = context.cursor
        assert isinstance(skipped, dg.SkipReason)
        return skipped.skip_message or ""


@pytest.fixture
def watch(installation: Installation, hook: Webhook, post_office: MailServer, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """An installation with an archived day and both alert targets."""
    monkeypatch.setenv("LSE_ALERT_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("LSE_ALERT_SMTP_URL", post_office.url)
    monkeypatch.setenv("LSE_ALERT_EMAIL", "oncall@example.com, lead@example.com")
    installation.fill()
    add_project(installation.directory / "projects.toml", ProjectConfig(PROJECT, DAY - timedelta(days=5)))
    assert installation.archive("full-sweep").code == 0
    return Watch(installation)


def damage(installation: Installation) -> str:
    """Changes a row with SQL; returns its run id."""
    run = min(installation.rows())
    installation.sql('UPDATE runs SET data = data || \'{"name": "by hand"}\' WHERE run_id = %s', run)
    return run


# ---- end to end ---------------------------------------------------------------------------------------------------


def test_events_before_the_first_start_send_no_alert(watch: Watch, hook: Webhook) -> None:
    watch.tick()
    assert hook.texts == []


def test_a_changed_row_sends_one_alert_and_one_resolution(
    watch: Watch, installation: Installation, hook: Webhook, post_office: MailServer
) -> None:
    run = damage(installation)
    assert installation.archive("verify").code == 3
    watch.tick()
    watch.tick()
    [text] = hook.texts
    assert text.startswith(f"{PROJECT} {DAY}: runs_match_files failed\n")
    assert run in text
    assert f"lse sql \"SELECT data FROM runs WHERE run_id = '{run}'\"" in text
    assert "What to do: " in text
    assert f"{UI}/runs/" in text
    assert post_office.texts == [text]
    assert post_office.recipients == ["oncall@example.com", "lead@example.com"]
    assert post_office.messages[0]["Subject"] == f"[LSE] {PROJECT} {DAY}: runs_match_files failed"
    assert installation.archive("verify", "--fix").code == 0
    watch.tick()
    watch.tick()
    assert [text.splitlines()[0] for text in hook.texts[1:]] == [f"resolved: {PROJECT} {DAY}"]
    assert len(post_office.texts) == 2


def test_a_failed_delivery_is_retried_only_at_its_target(
    watch: Watch, installation: Installation, hook: Webhook, post_office: MailServer
) -> None:
    damage(installation)
    hook.status = 503
    assert installation.archive("verify").code == 3
    assert "HTTP 503" in watch.tick()
    watch.tick()
    assert (len(hook.texts), len(post_office.texts)) == (0, 1)
    hook.status, post_office.refuses = 200, True
    watch.tick()
    watch.tick()
    assert (len(hook.texts), len(post_office.texts)) == (1, 1)


def test_a_failed_run_sends_an_alert_that_a_later_sweep_resolves(
    watch: Watch, installation: Installation, hook: Webhook
) -> None:
    keys, installation.langsmith.behavior.api_keys = installation.langsmith.behavior.api_keys, frozenset()
    assert installation.archive("fetch", "--force").code == 1
    watch.tick()
    [text] = hook.texts
    assert text.startswith(f"{PROJECT} {DAY}: the run failed\n")
    assert "LANGSMITH_API_KEY" in text
    assert "lsv2" not in text
    installation.langsmith.behavior.api_keys = keys
    assert installation.archive("full-sweep", "--force").code == 0
    watch.tick()
    assert hook.texts[1].startswith("resolved:")
    assert len(hook.texts) == 2


def test_an_unproven_check_sends_no_alert(
    watch: Watch, installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_DRIVE_FOLDER_URL")
    installation.archive("verify")
    watch.tick()
    assert hook.texts == []


# ---- events that are committed late -------------------------------------------------------------------------------


@contextlib.contextmanager
def held_event(installation: Installation, kind: str, content: str) -> Generator[None]:
    """The last event of a kind is in a transaction that is committed at the end: it has its id, and nobody sees it."""
    url = installation.environment["LSE_DAGSTER_DATABASE_URL"]
    columns = "run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition"
    with psycopg.connect(url) as connection:
        newest = "SELECT max(id) FROM event_logs WHERE dagster_event_type = %s AND event LIKE %s"
        [row] = connection.execute(
            f"DELETE FROM event_logs WHERE id = ({newest}) RETURNING {columns}".encode(),
            (kind, f"%{content}%"),
        ).fetchall()
        connection.commit()
        connection.execute(f"INSERT INTO event_logs ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(), row)
        yield


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [("ASSET_CHECK_EVALUATION", "runs_match_files", "runs_match_files"), ("PIPELINE_FAILURE", "", "the run")],
)
def test_an_event_that_is_committed_after_later_ones_is_reported_once(
    watch: Watch, installation: Installation, hook: Webhook, kind: str, content: str, what: str
) -> None:
    def fail(day: date) -> None:
        if kind == "PIPELINE_FAILURE":
            keys, installation.langsmith.behavior.api_keys = installation.langsmith.behavior.api_keys, frozenset()
            assert installation.archive("fetch", "--force", day=day).code == 1
            installation.langsmith.behavior.api_keys = keys
        else:
            installation.sql("DELETE FROM runs WHERE run_date = %s", day)
            assert installation.archive("verify", day=day).code == 3

    other = DAY - timedelta(days=1)
    installation.fill(3, day=other)
    assert installation.archive("full-sweep", day=other).code == 0
    watch.tick()
    fail(DAY)
    with held_event(installation, kind, content):
        fail(other)
        watch.tick()
        assert [text.splitlines()[0] for text in hook.texts] == [f"{PROJECT} {other}: {what} failed"]
    for _ in range(3):
        watch.tick()
    assert [text.splitlines()[0] for text in hook.texts[1:]] == [f"{PROJECT} {DAY}: {what} failed"]


def test_a_late_failure_whose_repair_is_known_is_reported_and_resolved(
    watch: Watch, installation: Installation, hook: Webhook
) -> None:
    damage(installation)
    assert installation.archive("verify").code == 3
    with held_event(installation, "ASSET_CHECK_EVALUATION", "runs_match_files"):
        assert installation.archive("verify", "--fix").code == 0
        watch.tick()
        assert hook.texts == []
    for _ in range(2):
        watch.tick()
    titles = [text.splitlines()[0] for text in hook.texts]
    assert titles == [f"{PROJECT} {DAY}: runs_match_files failed", f"resolved: {PROJECT} {DAY}"]


def test_a_late_pass_does_not_resolve_a_later_failure(watch: Watch, installation: Installation, hook: Webhook) -> None:
    damage(installation)
    assert installation.archive("verify", "--fix").code == 0
    with held_event(installation, "ASSET_CHECK_EVALUATION", "runs_match_files"):
        damage(installation)
        assert installation.archive("verify").code == 3
        watch.tick()
    for _ in range(2):
        watch.tick()
    assert [text.splitlines()[0] for text in hook.texts] == [f"{PROJECT} {DAY}: runs_match_files failed"]


def test_what_is_remembered_is_bounded(
    watch: Watch, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert installation.archive("verify").code == 0
    with installation.instance() as instance:
        state = AlertState(0, 0)
        read_events(instance, state, [], time.time())
        newest = state.newest
        assert state.read_checks[-1] == newest
        assert len(state.read_checks) > 3
        monkeypatch.setattr("lse_sensors.events._MAX_KNOWN", 3)
        read_events(instance, state, [], time.time())
        assert (len(state.read_checks), state.newest) == (3, newest)
        read_events(instance, state, [], time.time() + 3600)
        assert (state.checks, state.read_checks) == (newest, [])


def test_an_alert_that_waits_is_not_replaced_by_one_of_a_batch_that_ends(
    watch: Watch, installation: Installation, hook: Webhook
) -> None:
    hook.status = 503
    with installation.instance() as instance:
        tags = {"dagster/backfill": "abc", "dagster/max_retries": "0"}
        started = dg.DagsterRunStatus.STARTED
        first, second = (instance.create_run_for_job(_empty_job, tags=tags, status=started) for _ in range(2))
        alone = instance.create_run_for_job(_empty_job, tags={"dagster/max_retries": "0"}, status=started)
        instance.report_run_failed(first, "gone")
        instance.report_run_failed(alone, "gone")
        watch.tick()
        instance.report_run_canceled(second)
    watch.tick()
    hook.status = 200
    watch.tick()
    assert len(hook.texts) == 2


# ---- grouping, in plain events -------------------------------------------------------------------------------------


def bad(day: int, batch: str = "", name: str = "run_files_intact", project: str = "shop") -> Event:
    date = f"2026-01-{day:02}"
    return Event(project, date, name, False, "2 files changed", ["a: changed"], "Restore it", f"r{day}", batch)


def good(day: int, batch: str = "", name: str = "run_files_intact") -> Event:
    return Event("shop", f"2026-01-{day:02}", name, True, run_id=f"g{day}", batch=batch)


def running(_: str) -> bool:
    return True


def ended(_: str) -> bool:
    return False


def test_a_backfill_with_many_failed_days_sends_one_message_at_its_end() -> None:
    state = AlertState(0, 0)
    for day in range(1, 29):
        add_events(state, [bad(day, "backfill=x")], now=day)
        assert take_alerts(state, running, day, UI) == []
    [alert] = take_alerts(state, ended, 30, UI)
    assert alert.title == "28 days of 'shop' need attention"
    assert "2026-01-01 to 2026-01-28 (28 days)" in alert.text()
    assert "runs/r28" in alert.text()
    assert take_alerts(state, ended, 31, UI) == []


def test_a_failure_outside_the_backfill_is_sent_at_once() -> None:
    state = AlertState(0, 0)
    add_events(state, [bad(1, "backfill=x"), bad(2)], now=0)
    [alert] = take_alerts(state, running, 0, UI)
    assert alert.title == "shop 2026-01-02: run_files_intact failed"


def test_a_day_that_fails_again_and_again_is_reported_once_until_it_is_resolved() -> None:
    state = AlertState(0, 0)
    sent = []
    for now, events in enumerate([[bad(1)], [bad(1)], [bad(1), bad(1, name=RUN)], [bad(1)], [good(1)], [bad(1)]]):
        add_events(state, events, now=now)
        sent.append([alert.title for alert in take_alerts(state, ended, now, UI)])
    check, run = "shop 2026-01-01: run_files_intact failed", "shop 2026-01-01: the run failed"
    assert sent == [[check], [], [run], [], ["resolved: shop 2026-01-01"], [check]]


def test_a_verification_that_is_red_elsewhere_does_not_resolve_a_failed_run() -> None:
    state = AlertState(0, 0)
    for now in range(2):  # the upload fails, and the weekly verification says so
        add_events(state, [bad(1, name=RUN)], now=now)
        assert len(take_alerts(state, ended, now, UI)) == (now == 0)
        add_events(state, [good(1), msgspec.structs.replace(bad(1, name="drive_matches_zip"), run_id="g1")], now=now)
        assert len(take_alerts(state, ended, now, UI)) == (now == 0)
    add_events(state, [good(1), good(1, name="drive_matches_zip")], now=2)
    assert [alert.title for alert in take_alerts(state, ended, 2, UI)] == ["resolved: shop 2026-01-01"]


def test_the_wait_for_a_backfill_is_bounded() -> None:
    state = AlertState(0, 0)
    add_events(state, [bad(1, "backfill=x")], now=0)
    assert take_alerts(state, running, 3600, UI) == []
    assert len(take_alerts(state, running, 7 * 3600, UI)) == 1


def test_a_day_is_resolved_when_all_its_failed_checks_pass() -> None:
    state = AlertState(0, 0)
    add_events(state, [bad(1), bad(1, name="zip_matches_files"), bad(1, name=RUN)], now=0)
    assert len(take_alerts(state, ended, 0, UI)) == 1
    add_events(state, [good(1)], now=1)
    assert take_alerts(state, ended, 1, UI) == []
    add_events(state, [good(1, name="zip_matches_files")], now=2)
    [alert] = take_alerts(state, ended, 2, UI)
    assert alert.title == "resolved: shop 2026-01-01"
    assert state.open == {}


def test_a_day_repaired_during_its_backfill_sends_an_alert_and_a_resolution() -> None:
    state = AlertState(0, 0)
    add_events(state, [bad(1, "backfill=x"), bad(2, "backfill=x")], now=0)
    add_events(state, [good(1)], now=1)
    problems, resolved = take_alerts(state, ended, 2, UI)
    assert problems.title.startswith("2 days")
    assert resolved.title == "resolved: shop 2026-01-01"
    assert list(state.open) == ["shop 2026-01-02"]


def test_passed_checks_of_days_that_never_failed_send_nothing() -> None:
    state = AlertState(0, 0)
    add_events(state, [good(day) for day in range(1, 20)], now=0)
    assert take_alerts(state, ended, 0, UI) == []
    assert state.held == {}


def test_failures_of_many_projects_are_one_message() -> None:
    alert = problem_alert([bad(day, project=f"p{day % 3}") for day in range(1, 10)], UI)
    assert alert.title == "9 days in 3 projects need attention"
    assert len(alert.text().splitlines()) < 30


def test_days_are_listed_as_ranges() -> None:
    days = ["2026-01-03", "2026-01-01", "2026-01-02", "2026-01-07", ""]
    assert day_ranges(days[:4]) == "2026-01-01 to 2026-01-03, 2026-01-07 (4 days)"
    assert day_ranges(["2026-01-01"]) == "2026-01-01"


def test_a_message_is_bounded() -> None:
    text = Alert("much", ["x" * 10_000] * 1000).text()
    assert len(text) < 20_000
    assert text.endswith("and 960 more lines")


# ---- targets -------------------------------------------------------------------------------------------------------


def test_errors_of_targets_contain_no_secret(hook: Webhook) -> None:
    hook.status = 404
    with pytest.raises(ArchiveError, match="HTTP 404") as refused:
        post(hook.url, Alert("x"))
    assert "secret-part" not in str(refused.value)
    with pytest.raises(ArchiveError) as down:
        mail("smtp://user:hush@127.0.0.1:1", ["a@example.com"], Alert("x"))
    assert "hush" not in str(down.value)


@pytest.mark.parametrize(
    "server",
    [
        "smtp://me:hush/2@127.0.0.1:1",
        "smtp://me:hush?2@127.0.0.1:1",
        "smtp://me:2/hush@127.0.0.1:1",
        "smtp://me:2#hush@127.0.0.1:1",
        "smtp://me:hush@127.0.0.1:hush",
        "smtp://me:hush@[127.0.0.1",
        "smtp://me:hush@127.0.0.1:70000",
    ],
)
def test_the_error_for_a_malformed_mail_server_does_not_quote_it(server: str) -> None:
    with pytest.raises(SettingsError, match=r"LSE_ALERT_SMTP_URL is not .* %XX") as refused:
        mail(server, ["a@example.com"], Alert("x"))
    assert "hush" not in str(refused.value)
    assert refused.value.__context__ is None


def test_an_invalid_host_name_is_a_delivery_error() -> None:
    with pytest.raises(ArchiveError, match="was not delivered"):
        mail("smtp://a..b:25", ["a@example.com"], Alert("x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LSE_ALERT_SMTP_URL", "smtp://mail"),
        ("LSE_ALERT_EMAIL", "a@b.example"),
        ("LSE_ALERT_WEBHOOK_URL", "slack"),
        ("LSE_ALERT_WEBHOOK_URL", "https://[slack"),
    ],
)
def test_an_incomplete_target_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("LSE_ENV_FILE", "/dev/null")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="LSE_ALERT"):
        check_targets(Settings.load())


def test_a_malformed_address_stops_no_alert_to_the_webhook_and_its_own_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[Alert] = []
    monkeypatch.setattr("lse_resources.alerts.post", lambda _url, alert: posted.append(alert))
    monkeypatch.setenv("LSE_ENV_FILE", "/dev/null")
    monkeypatch.setenv("LSE_ALERT_WEBHOOK_URL", "https://example.com/hook")
    monkeypatch.setenv("LSE_ALERT_SMTP_URL", "smtp://mail")
    monkeypatch.setenv("LSE_ALERT_EMAIL", " , ")
    outbox, where = Outbox(tmp_path / "alerts"), targets(Settings.load())
    outbox.put("1", Alert("one"), where)
    [failure] = outbox.deliver(where)
    assert "LSE_ALERT_EMAIL is not a list of addresses" in failure
    assert posted == [Alert("one")]
    assert [message.target for _, message in outbox.waiting()] == ["e-mail"]


def test_an_alert_for_a_removed_target_is_dropped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "alerts")
    delivered: list[Alert] = []
    outbox.put("1", Alert("one"), {"webhook": delivered.append, "gone": delivered.append})
    assert outbox.deliver({"webhook": delivered.append}) == []
    assert delivered == [Alert("one")]
    assert list(outbox.waiting()) == []


def test_alerts_are_sent_in_order_up_to_the_first_refusal(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "alerts")
    tried: list[str] = []

    def refuse(alert: Alert) -> None:
        tried.append(alert.title)
        raise ArchiveError("down")

    for number in range(3):
        outbox.put(f"{number}", Alert(str(number)), {"webhook": refuse})
    assert outbox.deliver({"webhook": refuse}) == ["down"]
    assert tried == ["0"]
    delivered: list[Alert] = []
    outbox.deliver({"webhook": delivered.append})
    assert [alert.title for alert in delivered] == ["0", "1", "2"]


def test_an_alert_that_is_replaced_while_it_is_sent_is_sent_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "alerts")
    delivered: list[Alert] = []

    def send(alert: Alert) -> None:
        delivered.append(alert)
        if len(delivered) == 1:
            outbox.put("1", Alert("newer"), {"webhook": send})

    outbox.put("1", Alert("older"), {"webhook": send})
    for _ in range(3):
        outbox.deliver({"webhook": send})
    assert [alert.title for alert in delivered] == ["older", "newer"]


@pytest.mark.parametrize("content", [b"{", b'{"target": "\xff"}'])
def test_a_damaged_alert_is_named_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    outbox = Outbox(tmp_path / "alerts")
    outbox.put("1", Alert("one"), {"webhook": lambda _: None})
    path = outbox.directory / "1.webhook.json"
    path.write_bytes(content)
    assert outbox.deliver({"webhook": lambda _: None}) == []
    assert "an alert is lost" in caplog.text
    assert (outbox.directory / "1.webhook.json.damaged").read_bytes() == content


# ---- the command ---------------------------------------------------------------------------------------------------


def test_alerts_test_sends_a_sample_to_each_target(
    installation: Installation, hook: Webhook, post_office: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert installation.lse("alerts", "test").code == 1  # no target is configured
    monkeypatch.setenv("LSE_ALERT_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("LSE_ALERT_SMTP_URL", post_office.url)
    monkeypatch.setenv("LSE_ALERT_EMAIL", "oncall@example.com")
    ended = installation.lse("alerts", "test")
    assert (ended.code, len(hook.texts), len(post_office.texts)) == (0, 1, 1)
    assert "webhook: sent" in ended.out
    hook.status = 500
    ended = installation.lse("alerts", "test")
    assert (ended.code, len(post_office.texts)) == (1, 2)
    assert "HTTP 500" in ended.err
    assert "sent again" not in ended.err
    assert "secret-part" not in ended.err


# ---- what Dagster records ------------------------------------------------------------------------------------------


@dg.job
def _empty_job() -> None:
    """A job without steps."""


def test_a_run_that_dagster_retries_sends_no_alert(watch: Watch, installation: Installation, hook: Webhook) -> None:
    with installation.instance() as instance:
        for retries in ("2", "0"):
            tags = {"dagster/max_retries": retries, "dagster/partition": f"2026-01-0{retries}"}
            run = instance.create_run_for_job(_empty_job, tags=tags, status=dg.DagsterRunStatus.STARTED)
            instance.report_run_failed(run, "its process has exited")
    watch.tick()
    assert [text.splitlines()[0] for text in hook.texts] == ["_empty_job 2026-01-00: the run failed"]


def test_a_killed_command_sends_an_alert_and_an_interrupted_one_does_not(
    watch: Watch, installation: Installation, hook: Webhook
) -> None:
    tags = {"dagster/max_retries": "0"}
    with installation.instance() as instance:
        for reason in (RunFailureReason.UNEXPECTED_TERMINATION, RunFailureReason.RUN_EXCEPTION):
            tags["dagster/partition"] = reason.value
            run = instance.create_run_for_job(_empty_job, tags=tags, status=dg.DagsterRunStatus.STARTED)
            instance.report_run_failed(run, "it ended", JobFailureData(error=None, failure_reason=reason))
    watch.tick()
    assert [text.splitlines()[0] for text in hook.texts] == ["_empty_job RUN_EXCEPTION: the run failed"]


def test_a_failed_run_of_a_backfill_waits_for_the_others(
    watch: Watch, installation: Installation, hook: Webhook
) -> None:
    with installation.instance() as instance:
        tags = {"dagster/backfill": "abc", "dagster/max_retries": "0"}
        started = dg.DagsterRunStatus.STARTED
        first, second = (instance.create_run_for_job(_empty_job, tags=tags, status=started) for _ in range(2))
        instance.report_run_failed(first, "gone")
        watch.tick()
        assert hook.texts == []
        instance.report_run_failed(second, "gone")
    watch.tick()
    watch.tick()
    assert len(hook.texts) == 1


def test_a_failed_job_of_no_project_is_not_attributed_to_a_project_of_a_similar_name() -> None:
    names = {"feedback": "Feedback"}
    with dg.DagsterInstance.ephemeral() as instance:
        for job, owner in (("late_feedback", "late_feedback"), ("archive_feedback", "Feedback")):
            assert _project(create_run_for_test(instance, job_name=job), "", names) == owner
