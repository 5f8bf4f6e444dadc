"""Writes docs/cli.md, the help of every command: `python tools/cli_docs.py`. A test holds the two together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from lse_cli.main import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
_HEAD = """\
# The command line

`lse COMMAND --help` says the same. Days are UTC, written `YYYY-MM-DD`, and over: today is refused.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 differences (`verify` found some, or a fetched day holds fewer runs than
LangSmith counts); 130 interrupted by Ctrl-C. Of several days the worst counts, and a failure is worse than a
difference.

`--json` prints one object on standard output, with one entry per project and day; all else goes to standard error.
A question is asked on a terminal only. Elsewhere the answer is no, unless `--force` says yes: what would be overwritten
is refused instead.
"""


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that call it, groups before their members."""

    def walk(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
        yield words, command
        for name, member in getattr(command, "commands", {}).items():
            yield from walk([*words, name], member)

    yield from walk(["lse"], typer.main.get_command(app))


def text() -> str:
    """The whole document."""
    parts = [_HEAD]
    for words, command in commands():
        name = " ".join(words)
        context = command.make_context(name, [], resilient_parsing=True, terminal_width=100, max_content_width=100)
        parts.append(f"## {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
