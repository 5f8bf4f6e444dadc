"""`lse`: help and usage errors are quick, and the help names the default of every option."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from home_fixtures import Installation
from typer.core import TyperCommand

from lse_cli.main import app
from tools.cli_docs import commands as all_commands

_HEAVY = {"dagster", "langsmith", "googleapiclient", "psycopg", "alembic", "sqlalchemy", "rich"}
_PROBE = """
import json, sys
sys.argv = ["lse", *json.loads(sys.argv[1])]
code = 0
try:
    from lse_cli.main import main
    main()
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def commands() -> Iterator[tuple[str, TyperCommand]]:
    """Returns every command, except pure groups, by its words."""

    def descend(words: list[str], command: Any) -> Iterator[tuple[str, TyperCommand]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from descend([*words, name], child)
        if not getattr(command, "commands", {}) or words == ["archive"]:
            yield " ".join(words), command

    yield from descend([], typer.main.get_command(app))


def lse(*words: str) -> tuple[int, set[str], str]:
    """Runs `lse` in a new interpreter: exit code, imported modules, output."""
    command = [sys.executable, "-c", _PROBE, json.dumps(words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    *printed, last = ended.stdout.splitlines()
    code, modules = json.loads(last)
    return code, set(modules), "\n".join(printed) + ended.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        ([], 2),
        (["archive", "full-sweep", "--help"], 0),
        (["archive", "fetch", "--nonsense"], 2),
        (["archive", "zap"], 2),
        (["up", "--port", "no"], 2),
    ],
)
def test_help_and_wrong_usage_import_nothing_heavy(words: list[str], code: int) -> None:
    code_found, modules, output = lse(*words)
    assert code_found == code
    assert "Usage: lse" in output
    assert modules.isdisjoint(_HEAVY), sorted(modules & _HEAVY)


def test_a_malformed_day_is_refused_before_dagster_is_imported(bare_installation: Installation) -> None:
    code_found, modules, output = lse("archive", "fetch", "--project", "p", "--date", "yesterday")
    assert (code_found, "'yesterday' is not a day" in output) == (2, True)
    assert modules.isdisjoint(_HEAVY), sorted(modules & _HEAVY)


@pytest.mark.parametrize(("words", "command"), [pytest.param(*found, id=found[0]) for found in commands()])
def test_every_command_has_a_help_text_and_every_option_names_its_default(words: str, command: TyperCommand) -> None:
    assert command.help
    for parameter in command.params:
        described = getattr(parameter, "help", None) or ""
        if parameter.name != "help":
            assert described, f"lse {words}: {parameter.name}"
            if not parameter.required:
                assert re.search(r"Default: \S", described), f"lse {words}: {parameter.name}"


def test_all_archive_commands_take_the_same_selection() -> None:
    for words, command in commands():
        # A load is named by its ID, and belongs to one day of one project.
        if words.startswith("archive") and words != "archive rollback":
            options = {option for parameter in command.params for option in parameter.opts}
            assert {"--project", "--json"} <= options, words
            if words not in ("archive import", "archive prune"):
                assert {"--start-date", "--end-date"} <= options, words


@pytest.mark.parametrize("width", [100, 80, 50])
def test_no_help_is_cut(width: int) -> None:
    for words, command in all_commands():
        size = {"terminal_width": width, "max_content_width": width}
        context = command.make_context(" ".join(words), [], resilient_parsing=True, **size)
        printed = command.get_help(context)
        assert max(map(len, printed.splitlines())) <= width, words
        members = getattr(command, "commands", {}).values()
        said = [member.help.split("\n\n")[0].partition(". ")[0].removesuffix(".") for member in members]
        said += [getattr(parameter, "help", None) or "" for parameter in command.params]
        said.append(command.help or "")
        unbroken = " ".join(printed.split()).replace("- ", "-")  # a line may end after a hyphen
        for text in said:
            assert " ".join(text.split()).replace("- ", "-") in unbroken, words
