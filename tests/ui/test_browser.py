"""User actions in the browser: materialize a day, backfill a range, verify again, get an alert."""

from __future__ import annotations

import re
from datetime import timedelta

from browser_fixtures import PROJECT, RUNS, Browser, Platform
from platform_fixtures import wait_until

from lse_archive.days import today

GROUP = "/locations/__repository__@lse/asset-groups/support_bot/lineage"
DAY = today() - timedelta(days=10)
RANGE = [today() - timedelta(days=back) for back in range(9, 4, -1)]
PASSED = re.compile(r"Evaluation result\s+Passed")


def check_page(check: str) -> str:
    return f"/assets/{PROJECT}/verification?view=checks&checkDetail={check}"


def test_the_first_page_has_the_runs_of_the_command_line_which_can_be_executed_again(browser: Browser) -> None:
    browser.wait_for("/", re.compile(r"archive_support_bot\s+\d+"))
    body = browser.wait_for("/runs", re.compile(f"project: {PROJECT}"))
    assert f"partition: {today() - timedelta(days=1)}" in body
    assert "lse/" not in body
    assert "__ephemeral_asset_job__" not in body
    browser.page.locator('a[href^="/runs/"]').first.click()
    browser.page.get_by_role("button", name="Re-execute all").wait_for()
    former = browser.page.url
    browser.page.get_by_role("button", name="Re-execute all").click()
    browser.page.wait_for_url(lambda url: "/runs/" in url and url != former)
    browser.page.get_by_text("Success", exact=True).first.wait_for(timeout=180_000)


def test_materialize_a_day(browser: Browser, platform: Platform) -> None:
    # The platform archives the day by itself, too: before, or while this test runs.
    wait_until(lambda: DAY in platform.proven_days(), 400, "the platform did not archive the day")
    platform.sql("DELETE FROM runs WHERE run_date = %s", DAY)
    assert platform.rows(DAY) == []
    browser.materialize(GROUP, "Materialize all", str(DAY), "Launch 1 run")
    browser.wait_for_day(DAY, "verification")
    assert len(platform.rows(DAY)) == RUNS
    body = browser.wait_for(check_page("runs_match_files"), PASSED)
    assert str(DAY) in body
    browser.open(GROUP)
    browser.page.get_by_text("run_files", exact=True).first.wait_for()
    browser.page.set_viewport_size({"width": 1900, "height": 620})
    browser.open(GROUP)
    browser.page.get_by_text("run_files", exact=True).first.wait_for()
    browser.screenshot("lineage")


def test_a_backfill_of_five_days(browser: Browser, platform: Platform) -> None:
    days = f"[{RANGE[0]}...{RANGE[-1]}]"
    browser.materialize(GROUP, "Materialize all", days, "Launch backfill")
    for day in RANGE:
        browser.wait_for_day(day, "verification", seconds=240)
        assert len(platform.rows(day)) == RUNS
    browser.screenshot("partitions")
    browser.open(f"/assets/{PROJECT}/run_files?view=overview")
    browser.page.get_by_text("Latest materialization").first.wait_for()
    browser.page.get_by_text("Plots", exact=True).first.click()
    browser.screenshot("plots")


def test_a_changed_row_fails_the_check_and_sends_one_alert(browser: Browser, platform: Platform) -> None:
    day = RANGE[2]
    run = platform.rows(day)[0]
    platform.sql('UPDATE runs SET data = data || \'{"name": "by hand"}\' WHERE run_id = %s', run)
    verification = f"/assets/{PROJECT}/verification?view=partitions&partition={day}"
    browser.materialize(verification, "Materialize", str(day), "Launch 1 run")
    body = browser.wait_for(check_page("runs_match_files"), re.compile(r"Evaluation result\s+Failed"))
    assert str(day) in body
    assert "lse archive verify --fix" in body
    browser.page.get_by_text(run).first.wait_for()
    browser.screenshot("red-check")
    browser.wait_for(verification, re.compile(r"Failed \(1\)"))
    counts = rf"{PROJECT} / verification\s(.*\n)+?\d+\n\d+\n1\n"  # materialized, missing, failed
    browser.wait_for("/assets", re.compile(counts))
    wait_until(lambda: len(platform.alerts(str(day))) == 1, 90, "the alert was not sent")
    [text] = [text for text in platform.hook.texts if str(day) in text.splitlines()[0]]
    assert text.startswith(f"{PROJECT} {day}: runs_match_files failed")
    assert f"lse sql \"SELECT data FROM runs WHERE run_id = '{run}'\"" in text
    assert f"{platform.url}/runs/" in text

    platform.sql("DELETE FROM runs WHERE run_id = %s", run)
    browser.materialize(GROUP, "Materialize all", str(day), "Launch 1 run")
    wait_until(lambda: len(platform.alerts(str(day))) == 2, 120, "the alert of the repair was not sent")
    assert platform.alerts(str(day))[1] == f"resolved: {PROJECT} {day}"
    browser.wait_for(verification, re.compile(r"Failed \(0\)"))
    browser.wait_for_day(day, "verification")
    wait_until(
        lambda: len([text for text in platform.mail.texts if str(day) in text.splitlines()[0]]) == 2,
        30,
        "the e-mails were not sent",
    )


def test_schedules_and_sensors_are_on(browser: Browser) -> None:
    body = browser.wait_for("/automation", re.compile("nightly_maintenance"))
    for name in (
        "due_days",
        "weekly_support_bot",
        "alerts",
        "dead_runs",
        "expiring_days",
        "new_projects",
        "announced_ends",
    ):
        assert name in body
    switches = browser.page.get_by_role("switch").or_(browser.page.locator("input[type=checkbox]"))
    assert switches.count() >= 9
    browser.screenshot("automation")
