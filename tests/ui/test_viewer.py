"""The pages of the archive in the browser: from a red check to a run, filters, a trace, keyboard, and accessibility."""

from __future__ import annotations

import base64
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from browser_fixtures import PROJECT as DEMO_PROJECT
from browser_fixtures import Browser, Platform, open_page
from database_fixtures import DAY, PROJECT, attachment, feedback, run_id
from platform_fixtures import free_port, wait_until
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount
from viewer_fixtures import Viewer

from lse_archive.days import today
from lse_platform.addresses import ROOT
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.search.index import index_day
from lse_viewer.app import create_app

_CHILDREN = 500
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def site(viewer: Viewer) -> Iterator[str]:
    """The address of pages with a trace of many runs, served as in Dagster's webserver."""
    folder = viewer.folder()
    folder.write(
        0,
        name="support agent",
        run_type="CHAIN",
        inputs={"messages": [{"role": "user", "content": "Where is my order?"}]},
        outputs={"messages": [{"role": "assistant", "content": "On its way."}]},
        metadata={"thread_id": "thread-1"},
    )
    for number in range(1, _CHILDREN):
        folder.write(number, name=f"step {number}", trace_id=run_id(0), parent_run_ids=[run_id(0)], status="SUCCESS")
    hostile = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\u202e"
    folder.write(1000, name=hostile, inputs={"x": "y" * 1_000_000}, error=hostile, status="ERROR")
    image = attachment(1, "photo.png")
    (folder.path / str(image["file"])).write_bytes(_PIXEL)
    folder.write_attachments(image)
    folder.write_feedback(feedback(1, run=1, score=1))
    viewer.load(folder)
    update_day(viewer.database, PROJECT, DAY, {"rows": _CHILDREN + 1})
    index_day(viewer.database, PROJECT, DAY)
    with _served(viewer) as url:
        yield url


@contextmanager
def _served(viewer: Viewer) -> Generator[str]:
    port = int(free_port())
    app = Starlette(routes=[Mount(ROOT, create_app(viewer.settings))])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, 30, "the server did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(chromium: str, site: str) -> Iterator[Page]:
    """A browser page, which must log no error."""
    with open_page(chromium, site) as browser:
        errors: list[str] = []
        browser.page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        browser.page.on("pageerror", lambda error: errors.append(str(error)))
        yield browser.page
        assert errors == []


def _address(site: str, path: str, **values: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in values.items())
    return f"{site}/archive/{path}?{query}"


def test_a_filter_has_an_address_that_shows_the_same_in_a_new_page(page: Page, site: str) -> None:
    page.goto(_address(site, "runs", project=PROJECT))
    page.get_by_label("Name contains").fill("step 12")
    page.get_by_label("Sort by").select_option("latency")
    page.get_by_role("button", name="Filter").click()
    names = page.locator("table.runs th.name a")
    expect(names).to_have_count(11)  # 12, and 120 to 129
    shown = names.all_inner_texts()
    other = page.context.new_page()
    other.goto(page.url)
    assert other.locator("table.runs th.name a").all_inner_texts() == shown
    other.get_by_text("step 125").click()
    expect(other.locator("#panel h2")).to_have_text("step 125")
    expect(other.get_by_role("treeitem", selected=True)).to_contain_text("step 125")


def test_a_trace_is_walked_by_mouse_and_keyboard(page: Page, site: str) -> None:
    page.goto(f"{site}/archive/trace/{run_id(0)}")
    panel, tree = page.locator("#panel"), page.get_by_role("tree")
    expect(panel).to_contain_text("Where is my order?")
    page.get_by_role("treeitem").nth(1).click()
    expect(panel.locator("h2")).to_have_text("step 1")
    image = panel.get_by_role("img", name="photo.png")
    wait_until(lambda: image.evaluate("image => image.naturalWidth") == 1, 30, "the image did not load")
    page.keyboard.press("ArrowDown")
    expect(panel.locator("h2")).to_have_text("step 2")
    assert page.url.endswith(f"run={run_id(2)}")
    page.keyboard.press("ArrowLeft")
    expect(panel.locator("h2")).to_have_text("support agent")
    page.keyboard.press("ArrowRight")
    expect(panel.locator("h2")).to_have_text("step 1")
    page.go_back()
    expect(panel.locator("h2")).to_have_text("support agent")
    expect(page.get_by_role("treeitem", selected=True)).to_contain_text("support agent")
    # The rest of the tree comes as one scrolls.
    assert tree.get_by_role("treeitem").count() < _CHILDREN
    for _ in range(10):
        page.keyboard.press("End")
        page.mouse.wheel(0, 100_000)
        if tree.get_by_role("treeitem").count() == _CHILDREN:
            break
        page.wait_for_timeout(300)
    expect(tree.get_by_role("treeitem")).to_have_count(_CHILDREN)
    expect(page.get_by_text("Further runs")).to_have_count(0)
    # A JSON value is loaded when it is opened.
    panel.get_by_text("Everything").click()
    expect(panel.locator("details[open]").last).to_contain_text("trace_id")


def test_the_search_is_a_key_away_and_leads_to_the_run(page: Page, site: str) -> None:
    page.goto(f"{site}/archive/trace/{run_id(0)}")
    page.keyboard.press("/")
    field = page.get_by_role("search").get_by_role("searchbox")
    expect(field).to_be_focused()
    page.keyboard.type('"my order"')
    page.keyboard.press("Enter")
    expect(page.locator(".hits mark")).to_have_text("my order")
    page.get_by_role("link", name="support agent").click()
    expect(page.locator("#panel h2")).to_have_text("support agent")


def test_hostile_contents_run_nothing(page: Page, site: str) -> None:
    for address in (_address(site, "runs", project=PROJECT, status="error"), f"{site}/archive/run/{run_id(1000)}"):
        page.goto(address)
        expect(page.get_by_text("<script>").first).to_be_visible()
        assert "taken" not in page.title().replace("'taken'", "")
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_every_page_is_accessible_and_fits(page: Page, site: str, scheme: Literal["light", "dark"], width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    for address in (
        f"{site}/archive/",
        _address(site, "days", project=PROJECT),
        _address(site, "runs", project=PROJECT),
        _address(site, "trends", project=PROJECT, to=str(DAY)),
        _address(site, "search", q="order"),
        f"{site}/archive/run/{run_id(1)}",
        _address(site, "thread", project=PROJECT, id="thread-1", day=str(DAY)),
    ):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        assert _serious(Axe().run(page).response["violations"]) == [], address


def _serious(violations: list[dict[str, Any]]) -> list[str]:
    return [
        f"{found['id']}: {found['nodes'][0]['html'][:200]}"
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]


def test_from_a_red_check_to_the_run_that_differs(browser: Browser, platform: Platform) -> None:
    day = today() - timedelta(days=2)
    # The check's page shows its last evaluation: the platform must have verified the days that it archives by itself.
    days = {today() - timedelta(days=back) for back in range(1, 11)}
    wait_until(lambda: platform.proven_days() == days, 400, "the platform did not archive all days")
    run = platform.rows(day)[0]
    platform.sql('UPDATE runs SET data = data || \'{"name": "changed by hand"}\' WHERE run_id = %s', run)
    verification = f"/assets/{DEMO_PROJECT}/verification?view=partitions&partition={day}"
    browser.materialize(verification, "Materialize", str(day), "Launch 1 run")
    failed = f"{DEMO_PROJECT} {day}: runs_match_files failed"
    wait_until(lambda: any(map(failed.__eq__, platform.alerts(str(day)))), 240, "the check did not fail")
    browser.open(f"/assets/{DEMO_PROJECT}/verification?view=checks&checkDetail=runs_match_files")
    link = browser.page.locator('a[href^="/archive/runs"]').first
    with browser.page.context.expect_page() as opened:
        link.click()
    page = opened.value
    page.get_by_role("link", name="changed by hand").click()
    expect(page.locator("#panel h2")).to_have_text("changed by hand")
    expect(page.locator("#panel")).to_contain_text("a difference was found")
    expect(page.locator("#panel")).to_contain_text(run)

    for name, address in (
        ("archive-days", f"days?project={DEMO_PROJECT}"),
        ("archive-runs", f"runs?project={DEMO_PROJECT}"),
        ("archive-trends", f"trends?project={DEMO_PROJECT}"),
        ("archive-trace", f"runs?project={DEMO_PROJECT}&root=1&name=support+agent"),
    ):
        browser.open(f"/archive/{address}")
        if name == "archive-trace":
            browser.page.locator("table.runs th.name a").first.click()
            browser.page.get_by_role("treeitem").nth(3).click()
            expect(browser.page.locator("#panel")).not_to_have_attribute("aria-busy", "true")
        browser.screenshot(name)
