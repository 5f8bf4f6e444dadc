"""The documentation is up to date: it has every command's help, and every command in it exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.cli_docs import TARGET, commands, text

_ROOT = Path(__file__).parents[2]
_DOCUMENTS = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").glob("*.md")])


def options_by_command() -> dict[str, set[str]]:
    """Returns the options of each command, by its words."""
    return {
        " ".join(words): {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for words, command in commands()
    }


def code_of(path: Path) -> list[str]:
    """Returns the code lines and code spans of a document."""
    document = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", rest)


def test_the_command_reference_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == text(), "generate it again: .venv/bin/python tools/cli_docs.py"


@pytest.mark.parametrize("path", [path for path in _DOCUMENTS if path != TARGET], ids=lambda path: path.name)
def test_commands_in_the_documentation_exist(path: Path) -> None:
    makefile, options = (_ROOT / "Makefile").read_text(), options_by_command()
    for line in code_of(path):
        for target in re.findall(r"(?:^|[ $(])make ([a-z][a-z-]*)", line):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"
        found = re.search(r"(?:^|[$(] ?|\.venv/bin/)(lse(?: .*)?)$", line.partition(" #")[0].strip())
        if not found:
            continue
        words, command = shlex.split(re.sub(r"[)|>\[\]…].*$", "", found[1])), "lse"
        for word in words[1:]:
            if f"{command} {word}" in options:
                command = f"{command} {word}"
            elif word.startswith("--"):
                assert word.partition("=")[0] in options[command], f"{path.name}: {line}"
        assert command != "lse" or words[1:2] in ([], ["--help"], ["--version"], ["COMMAND"]), f"{path.name}: {line}"


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda path: path.name)
def test_targets_of_links_exist(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_settings_are_in_the_example() -> None:
    from lse_resources.settings import Settings

    example = re.findall(r"^#? ?([A-Z][A-Z_]+)=", (_ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(map(str.upper, Settings.model_fields)) - set(example) == {"GOOGLE_DRIVE_API_ROOT"}


def test_the_workflows_run_targets_of_the_makefile_on_the_interpreters_of_the_classifiers() -> None:
    workflows = [yaml.safe_load(path.read_text()) for path in (_ROOT / ".github" / "workflows").glob("*.yml")]
    jobs = {name: job for workflow in workflows for name, job in workflow["jobs"].items()}
    matrix = jobs["check"]["strategy"]["matrix"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "if" not in step and "run" in step]
    makefile = (_ROOT / "Makefile").read_text()
    for command in commands:
        for target in matrix["target"] if "${{" in command else [command.removeprefix("make ")]:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), command
    classifiers = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    prefix = "Programming Language :: Python :: 3."
    assert matrix["python"] == [name.rpartition(" ")[2] for name in classifiers if name.startswith(prefix)]
