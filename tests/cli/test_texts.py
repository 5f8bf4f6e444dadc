"""What commands, checks and alerts say reads well for one and for many."""

from __future__ import annotations

import re
from pathlib import Path

from home_fixtures import Installation

from lse_archive.texts import counted

# A number and a plural noun in one text, where the number may be one. What cannot be one stands in `counted`, or here.
_PLURAL = re.compile(
    r"\{[^{}]+\} (?!for |in )(?:\w+ )?"
    r"(?:day|run|file|project|row|alert|place|trace|zip|copie|folder|step|line|link|page|check"
    r"|failure|object|load|entrie|message|request|group|schedule|sensor|role|table|part|second|minute)s\b|\{len\([^}]*\{"
)
_NEVER_ONE = (
    "KEEP_REPLACED_DAYS", "EVENT_DAYS", "len(found)} days)", "{len(found)} files named", '"one file"', "announced}",
    "len(self.files)", "len(projects)} projects", "len(places)} days", "of {summary.runs}", "{url}",
    "{MINUTES}", "accepts files",
)  # fmt: skip


def test_no_text_says_one_days() -> None:
    root = Path(__file__).parents[2]
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(root.glob("lse_[!d]*/**/*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _PLURAL.search(line) and not any(known in line for known in _NEVER_ONE)
    ]
    assert found == []


def test_a_number_takes_its_noun_or_its_clause() -> None:
    assert [counted(count, "day") for count in (0, 1, 2, 1000)] == ["0 days", "1 day", "2 days", "1,000 days"]
    assert [counted(count, "day is", "days are") for count in (1, 2)] == ["1 day is", "2 days are"]


def test_a_backfill_of_a_project_that_is_not_listed_says_so(bare_installation: Installation) -> None:
    ended = bare_installation.lse("backfill", "--project", "unlisted", "--date", "2026-01-01")
    assert ended.code == 2
    assert f"it is not in {bare_installation.directory / 'projects.toml'}. Add it: lse projects add" in ended.err
    assert "first day" not in ended.err
