"""Progress bars of days on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from lse_cli.terminal.bars import DayBars


def test_a_project_name_is_not_read_as_markup() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with DayBars(console) as bars, bars.day("a [bold]b[/x] 2026-01-02") as bar:
        bar("download", "bytes")(1, 2)
        bars.live.refresh()
    assert "a [bold]b[/x] 2026-01-02 download" in written.getvalue()
