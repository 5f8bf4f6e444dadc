"""Names and answers from outside reach terminals, mails, webhooks and pages without control characters."""

from __future__ import annotations

import io
import logging
from typing import Any

import msgspec
import pytest
from alert_targets import mail_server, webhook
from home_fixtures import DAY, Installation
from rich.console import Console

from lse_archive.errors import ArchiveError
from lse_archive.printable import markdown, printable
from lse_assets.assets import project_definitions
from lse_cli.terminal.bars import DayBars
from lse_cli.terminal.console import Terminal
from lse_resources.alerts import Alert, mail, post
from lse_resources.projects import ProjectConfig
from lse_sensors.schedules import weekly_schedule

HOSTILE = "\x1b]0;title\x07\x1b[31mred\u202egnp.exe\x9b2J\n ✓ fake :smile: [bold]"
SHOWN = "\\x1b]0;title\\x07\\x1b[31mred\\u202egnp.exe\\x9b2J\\n ✓ fake :smile: [bold]"


def test_control_and_bidirectional_characters_become_escapes() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("\udcff\ud800\u2066\u200f\x7f\t") == "\\xff\\ud800\\u2066\\u200f\\x7f\\t"
    for text in ("日本語", "e\u0301", "شاپ\u200cها", "👩\u200d💻", "a\\b", ""):
        assert printable(text) == text


def test_markdown_of_a_name_has_no_link_image_or_tag() -> None:
    assert markdown("![x](http://e) [a][b] <img src=x> <http://e>") == (
        "![x] (http://e) [a] [b] < img src=x> < http://e>"
    )
    assert markdown("a < b, [x] y") == "a < b, [x] y"


def test_the_terminal_prints_lines_questions_and_errors_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(json=False, force=False)
    monkeypatch.setattr(terminal, "_asks", True)
    asked: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda question, **_: asked.append(question))
    terminal.begin_day(HOSTILE)
    terminal.failed("run_files", ArchiveError("it failed", why=HOSTILE))
    terminal.waiting(HOSTILE)
    terminal.confirm(HOSTILE)
    shown = capsys.readouterr()
    assert shown.out == f"{SHOWN}\n"
    assert shown.err == f"  ✗ fetch   it failed: {SHOWN}\n  waiting: {SHOWN} writes this day\n"
    assert asked == [f"  {SHOWN}?"]


def test_progress_bars_show_names_harmless() -> None:
    with DayBars(Console(file=io.StringIO(), force_terminal=True)) as bars, bars.day(HOSTILE) as bar:
        bar("upload", "bytes")(1, 2)
        assert [task.description for task in bars.live.tasks] == [f"{SHOWN} upload"]


def test_commands_print_project_names_harmless(bare_installation: Installation) -> None:
    (bare_installation.directory / "projects.toml").write_text(
        f'[[project]]\nname = "a\\u001b[2J\\u202eb\\n"\nstart = {DAY}\n'
    )
    bare_installation.paths("a\x1b[2J\u202eb\n").folder.mkdir(parents=True)
    for command in (["status"], ["projects", "list"], ["archive", "zip", "--date", str(DAY)], ["doctor"]):
        ended = bare_installation.lse(*command)
        assert not {"\x1b", "\u202e"} & set(ended.out + ended.err), command
    assert "a\\x1b[2J\\u202eb\\n" in bare_installation.lse("status").out
    listed = bare_installation.lse("projects", "list").out
    assert listed == f"a\\x1b[2J\\u202eb\\n\tfrom {DAY}\tkept by LangSmith for 14 days\n"
    document = bare_installation.lse("projects", "list", "--json").out
    assert not {"\x1b", "\u202e"} & set(document)
    assert msgspec.json.decode(document)["projects"][0]["name"] == "a\x1b[2J\u202eb\n"


def test_a_wrong_argument_is_quoted_harmless(bare_installation: Installation) -> None:
    ended = bare_installation.lse("archive", "fetch", f"--{HOSTILE}")
    assert ended.code == 2
    assert "No such option" in ended.err
    assert not {"\x1b", "\u202e", "\x9b"} & set(ended.err)


def test_a_warning_of_a_package_is_printed_harmless(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_installation.lse("--version")
    assert logging.lastResort
    record = logging.LogRecord("x", logging.WARNING, "", 0, "waiting: %s", (HOSTILE,), None)
    assert logging.lastResort.format(record) == f"waiting: {SHOWN}"


def test_an_alert_with_a_hostile_name_is_delivered_harmless() -> None:
    alert = Alert(f"{HOSTILE} failed", [f"{HOSTILE} <!channel> <https://evil|run>"])
    with webhook() as hook, mail_server() as post_office:
        post(hook.url, alert)
        mail(post_office.url, ["team@example.com"], alert)
        assert not {"\x1b", "\u202e", "<"} & set(hook.texts[-1])
        assert "&lt;!channel&gt;" in hook.texts[-1]
        assert str(post_office.messages[-1]["Subject"]) == f"[LSE] {SHOWN} failed"


def test_dagster_describes_a_project_harmless() -> None:
    project = ProjectConfig("\x1b[2J[x](http://evil)<img src=x>", DAY)
    definitions: Any = project_definitions(project)
    described = [definitions.assets[0].description, definitions.jobs[0].description]
    described.append(str(weekly_schedule(project).description))
    for text in described:
        assert "'\\x1b[2J[x] (http://evil)< img src=x>'" in text
