"""Writes docs/cli.md, the help of every command: `python tools/cli_docs.py`. A test compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from lse_cli.main import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
_HEAD = """\
# The command line

`lse COMMAND --help` prints the same text. Days are UTC days, written `YYYY-MM-DD`. Only a day that is over can be
archived: today is refused.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 differences (`verify` found some, a zip lacks files of its folder, or a
fetched day is incomplete: it holds fewer runs than LangSmith counts, or LangSmith did not serve one); 130 interrupted
by Ctrl-C. For several days it is the worst code; a failure is worse than a difference.

`--json` prints one object on standard output, with one entry per project and day; everything else goes to standard
error. Questions are asked only on a terminal. Otherwise the answer is no, unless `--force` is set: a command that would
overwrite something fails instead.
"""


def commands() -> Iterator[tuple[list[str], Any]]:
    """Yields every command with its words, groups before their members."""

    def descend(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
        yield words, command
        for name, member in getattr(command, "commands", {}).items():
            yield from descend([*words, name], member)

    yield from descend(["lse"], typer.main.get_command(app))


def text() -> str:
    """Returns the whole document."""
    parts = [_HEAD]
    for words, command in commands():
        name = " ".join(words)
        context = command.make_context(name, [], resilient_parsing=True, terminal_width=100, max_content_width=100)
        parts.append(f"## {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
