"""`lse doctor`: checks everything that the archive needs, and prints how to fix what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from lse_cli.terminal.output import echo

if TYPE_CHECKING:
    from lse_cli.work.doctor import Finding


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object. Default: off.")] = False,
) -> None:
    """Check settings, LangSmith, destination, Postgres, disk, clock and versions. Exits with 1 if one fails."""
    from lse_cli.terminal.output import end_command
    from lse_cli.work.doctor import examine
    from lse_resources.settings import Settings

    findings = []
    for finding in examine(Settings.load()):
        findings.append(finding)
        if not json:  # each line at once: the next check may take seconds
            _show(finding)
    code = 1 if any(finding.verdict == "wrong" for finding in findings) else 0
    end_command([msgspec.to_builtins(finding) for finding in findings], code, json=json)


def _show(finding: Finding) -> None:
    sign = {"ok": "✓", "note": "!", "wrong": "✗"}[finding.verdict]
    echo(f"{sign} {finding.name:11} {finding.says}")
    if finding.hint:
        echo(f"  {'':11} → {finding.hint}")
