"""Reads a trace, from the database or from files of days, and prints its tree or its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from uuid import UUID

from rich.text import Text

from lse_archive.days import day_of
from lse_archive.errors import ArchiveError, UsageError
from lse_archive.printable import printable
from lse_archive.runs.header import RunHeader
from lse_archive.runs.scanner import one_line
from lse_archive.texts import cost, counted, moment, number, seconds
from lse_cli.terminal.console import LineConsole
from lse_cli.terminal.output import write_json
from lse_platform.home import open_home
from lse_resources.postgres.analysis.columns import RunColumns, run_columns
from lse_resources.postgres.analysis.frames import documents_from_files
from lse_resources.postgres.pages.runs import DOWNLOAD_SECONDS
from lse_resources.postgres.pages.session import reading
from lse_resources.postgres.pages.traces import (
    MAX_RUNS,
    Trace,
    TraceRun,
    TreeRow,
    find_trace,
    read_documents,
    read_trace,
    tree_order,
)
from lse_resources.settings import Settings

_LEVELS = 20
"""Deeper runs have the indentation of this level."""
_LAST = datetime.max.replace(tzinfo=UTC)
_COLUMNS = attrgetter(*(field.name for field in fields(TraceRun)))
# Some programs send them unescaped in texts; a terminal would execute them.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def show_trace(key: str, sources: Sequence[Path], *, json: bool) -> None:
    """Prints the trace that has this id, or has a run of this id: its tree, or with `json` its runs, one a line.

    Args:
        sources: Folders and zips of days, in which the project is not known. Empty: the database is read.

    Raises:
        UsageError: The id is no UUID, or a source does not exist.
        CorruptArchiveError: A zip cannot be read.
        DatabaseError: Postgres cannot be reached.
        ArchiveError: There is no such trace or run.
    """
    try:
        wanted = UUID(key)
    except ValueError:
        raise UsageError(f"'{key}' is not an id", why="ids of runs and traces are UUIDs") from None
    if sources:
        documents = _documents_of_trace(wanted, sources)
        if json:
            _write(_as_line(document) for _, document in documents)
            return
        columns = (run_columns("", day_of(header.start), header, document) for header, document in documents)
        runs = sorted(map(_trace_run, columns), key=lambda run: (run.start_time or _LAST, run.run_id))
        _print(Trace(wanted, tree_order(runs), is_cut=False), wanted)
        return
    with reading(open_home(Settings.load()).database, seconds=DOWNLOAD_SECONDS) as connection:
        if (trace_id := find_trace(connection, wanted)) is None:
            hint = "Load its day: lse archive to-db; lse status shows which days are. Or read its files: --from PATH"
            raise ArchiveError(f"no trace or run {wanted} is in the database", hint=hint)
        if json:
            _write(read_documents(connection, trace_id))
            return
        trace = read_trace(connection, trace_id)
    assert trace is not None  # one snapshot
    _print(trace, wanted)


def _documents_of_trace(key: UUID, sources: Sequence[Path]) -> Iterator[tuple[RunHeader, bytes]]:
    """The runs of the trace, each once, in the order of the files, of which only one is in memory."""
    traces = (
        header.trace_id for header, _ in documents_from_files(sources) if str(key) in (header.trace_id, header.run_id)
    )
    if (trace_id := next(traces, None)) is None:
        names = ", ".join(map(str, sources))
        raise ArchiveError(
            f"no trace or run {key} is in {names}", hint="A trace may be on several days: --from can be repeated"
        )
    seen = set[str]()
    for header, document in documents_from_files(sources):
        if header.trace_id == trace_id and header.run_id not in seen:
            seen.add(header.run_id)
            yield header, document


def _trace_run(columns: RunColumns) -> TraceRun:
    return TraceRun(*_COLUMNS(columns))


def _as_line(document: bytes) -> str:
    text = one_line(document).decode("utf-8", "replace")
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _write(documents: Iterable[str]) -> None:
    for document in documents:
        write_json(f"{document}\n")


def _print(trace: Trace, wanted: UUID) -> None:
    console, root = LineConsole(), trace.root
    facts = [root.project, f"{moment(trace.start)} UTC" if trace.start else ""]
    if trace.start and trace.end:
        facts.append(seconds((trace.end - trace.start).total_seconds()))
    facts.append(counted(len(trace.rows), "run"))
    if trace.errors:
        facts.append(counted(trace.errors, "error"))
    if trace.tokens is not None:
        facts.append(counted(trace.tokens, "token"))
    if trace.cost is not None:
        facts.append(cost(trace.cost))
    console.put(" · ".join(filter(None, facts)))
    if trace.is_cut:
        console.put(f"The trace has more runs: the first {MAX_RUNS:,} are here")
    for row, indent in zip(trace.rows, _indents(trace.rows), strict=True):
        console.put(_line(row, indent, is_wanted=row.run.run_id == wanted))


def _line(row: TreeRow, indent: str, *, is_wanted: bool) -> Text:
    run = row.run
    taken = seconds((run.end_time - run.start_time).total_seconds()) if run.start_time and run.end_time else ""
    failed = run.status == "error"
    line = Text(
        f"{taken:>13} {number(run.total_tokens):>9} {cost(run.total_cost):>10}  {indent}", "bold" if is_wanted else ""
    )
    line.append(printable(run.run_type or "run"), "red" if failed else "cyan")
    line.append(f" {printable(run.name or '(no name)')}", "red" if failed else "")
    notes = [
        *([run.status] if run.status in ("error", "pending") else []),
        *(["its parent is not archived"] if row.is_orphan else []),
        *(["this run"] if is_wanted and row.level else []),
    ]
    return line.append(f"  ({', '.join(notes)})" if notes else "", "red" if failed else "dim")


def _indents(rows: Sequence[TreeRow]) -> list[str]:
    """The lines that lead from each run to its parent."""
    found, open_levels = list[str](), set[int]()
    for row in reversed(rows):
        level = min(row.level, _LEVELS)
        above = "".join("│  " if one in open_levels else "   " for one in range(1, level))
        found.append(above + ("" if not level else "├─ " if level in open_levels else "└─ "))
        open_levels = {one for one in open_levels if one < level} | {level}
    return found[::-1]
