"""A trace with its tree of runs, the panel of a run with all its parts, and a thread."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from lse_archive.days import compact_time, parse_day, to_micros
from lse_archive.errors import UsageError
from lse_archive.folder.attachments import attachment_file
from lse_archive.names import project_slug
from lse_archive.texts import counted
from lse_platform.addresses import ROOT
from lse_resources.postgres.pages.traces import (
    MAX_RUNS,
    MAX_TURNS,
    THREAD_DAYS,
    Trace,
    TreeRow,
    read_attachments_of,
    read_feedback,
    read_run,
    read_turns,
    read_verdict,
)
from lse_viewer.archive import Archive, NotFoundError, archive_of, project_of, text_of
from lse_viewer.files import open_file
from lse_viewer.json_tree import follow, parse_path, tree, value_text
from lse_viewer.messages import Message, conversation
from lse_viewer.rendering import page
from lse_viewer.safety import CONTENT_POLICY

ROWS = 400
"""Runs of a tree that are sent at once."""

_WIDTH = 1000
# Types that a browser shows without running anything. SVG and HTML are not among them.
_INLINE = {
    *(f"image/{kind}" for kind in ("png", "jpeg", "gif", "webp", "avif", "bmp")),
    *(f"audio/{kind}" for kind in ("mpeg", "mp4", "ogg", "wav", "x-wav", "webm", "flac", "aac")),
}
_CONTENT = {"Content-Security-Policy": CONTENT_POLICY}


@dataclass(frozen=True, slots=True)
class Bar:
    """The time of a run in the waterfall, in thousandths of the trace."""

    x: float
    width: float


def trace_page(request: Request) -> Response:
    """A trace; `run` names the run that is chosen, by default the root."""
    archive, trace_id, begin = archive_of(request), _uuid(request.path_params["trace_id"]), _position(request)
    with archive.reading() as connection:
        trace = _found(archive.traces.read_again(connection, trace_id))
        chosen = _uuid(text_of(request, "run") or str(trace.root.run_id))
        panel = _panel(archive, connection, chosen)
    places = {row.run.run_id: place for place, row in enumerate(trace.rows)}
    # The chosen run must be among the rows that are sent.
    end = max(begin + ROWS, min(places.get(chosen, 0) + 20, begin + 10 * ROWS))
    return page(
        "trace.html",
        project=trace.root.project,
        trace=trace,
        max_runs=MAX_RUNS,
        chosen=chosen,
        **_rows(trace, begin, end),
        **panel,
    )


def trace_rows(request: Request) -> Response:
    """Further rows of a trace's tree, as a part of its page."""
    archive, trace_id, begin = archive_of(request), _uuid(request.path_params["trace_id"]), _position(request)
    with archive.reading() as connection:
        trace = _found(archive.traces.read(connection, trace_id))
    return page("rows.html", trace=trace, chosen=None, **_rows(trace, begin, begin + ROWS))


def run_page(request: Request) -> Response:
    """Leads to the trace of a run."""
    run = _run(request)
    return RedirectResponse(f"{ROOT}/trace/{run['trace_id']}?run={run['run_id']}")


def run_panel(request: Request) -> Response:
    """The panel of a run, as a part of the page of its trace."""
    archive = archive_of(request)
    with archive.reading() as connection:
        panel = _panel(archive, connection, _uuid(request.path_params["run_id"]))
    return page("panel.html", **panel)


def run_tree(request: Request) -> Response:
    """A node of a run's content, as a part of its page."""
    run = _run(request)
    value, path, label = _value(request, run)
    begin = _position(request)
    return page("node.html", run_id=run["run_id"], node=tree(value, path, label, begin), begin=begin)


def run_value(request: Request) -> Response:
    """A value of a run's content as text: a text itself, everything else as JSON."""
    run = _run(request)
    value, _, _ = _value(request, run)
    return Response(
        value_text(value).encode("utf-8", "replace"), media_type="text/plain; charset=utf-8", headers=_CONTENT
    )


def run_file(request: Request) -> Response:
    """The run file, byte for byte as LangSmith sent it, to be saved."""
    archive = archive_of(request)
    run = _run(request)
    if run["start_time"] is None:
        raise NotFoundError("the name of the run's file is not known", why="the database holds no content of it")
    name = f"{run['run_id']}_{compact_time(to_micros(run['start_time']))}.json"
    parts = open_file(archive.settings.layout.day(run["project"], run["run_date"]), name, archive.copy)
    headers = {**_CONTENT, "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(parts, media_type="application/json", headers=headers)


def attachment(request: Request) -> Response:
    """The content of an attachment: images and sounds to be shown, everything else to be saved."""
    archive = archive_of(request)
    run_id, wanted = (_uuid(request.path_params[name]) for name in ("run_id", "attachment_id"))
    with archive.reading() as connection:
        found = read_attachments_of(connection, run_id, wanted)
    entry = next(iter(found), None)
    if entry is None or (digest := _digest(entry["sha256"])) is None:
        raise NotFoundError("there is no such attachment")
    parts = open_file(
        archive.settings.layout.day(entry["project"], entry["run_date"]), attachment_file(digest), archive.copy
    )
    headers = dict(_CONTENT)
    media_type = entry["media_type"]
    if not _kind(media_type):
        media_type = "application/octet-stream"
        name = quote((entry["name"] or "attachment")[:200], safe="", errors="replace")
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    return StreamingResponse(parts, media_type=media_type, headers=headers)


def thread_page(request: Request) -> Response:
    """The turns of a thread around a day, as one conversation."""
    project, thread, day = project_of(request), text_of(request, "id"), parse_day(text_of(request, "day"))
    with archive_of(request).reading() as connection:
        found = read_turns(connection, project, thread, day)
    if not found:
        raise NotFoundError(f"the thread has no turn within {counted(THREAD_DAYS, 'day')} of {day}")
    turns, shown = [], list[Message]()
    for turn in found[:MAX_TURNS]:
        said = conversation(turn["inputs"])
        fresh = _unseen(said, shown)
        answer = _unseen(conversation(turn["outputs"]), [*shown, *said])
        shown += [*fresh, *answer]
        turns.append(turn | {"messages": [*fresh, *answer], "repeated": len(said) - len(fresh)})
    return page(
        "thread.html",
        project=project,
        thread=thread,
        turns=turns,
        is_cut=len(found) > MAX_TURNS,
        days=THREAD_DAYS,
        day=day,
    )


def _kind(media_type: str | None) -> str:
    """How a browser shows an attachment in the page, `image` or `audio`; empty: not at all."""
    return media_type.partition("/")[0] if media_type in _INLINE else ""


def _unseen(messages: list[Message], shown: list[Message]) -> list[Message]:
    """The messages after those that are shown already: programs send the whole conversation with each turn."""
    last = max((place for place, message in enumerate(messages) if message in shown), default=-1)
    return messages[last + 1 :]


def _found(trace: Trace | None) -> Trace:
    if trace is None:
        raise NotFoundError(
            "the trace is not in the database", hint="Load its day: lse archive to-db; lse status shows which days are"
        )
    return trace


def _rows(trace: Trace, begin: int, end: int) -> dict[str, Any]:
    start, last = trace.start, trace.end
    rows = [(row, _bar(row, start, last)) for row in trace.rows[begin:end]]
    return {"rows": rows, "following": end if end < len(trace.rows) else None}


def _bar(row: TreeRow, start: datetime | None, end: datetime | None) -> Bar | None:
    began = row.run.start_time
    if began is None or start is None or end is None:
        return None
    whole = max((end - start).total_seconds(), 1e-6)
    x = (began - start).total_seconds() / whole * _WIDTH
    length = ((row.run.end_time or began) - began).total_seconds() / whole * _WIDTH
    return Bar(round(min(x, _WIDTH - 2), 2), round(max(length, 2), 2))


def _run(request: Request) -> dict[str, Any]:
    with archive_of(request).reading() as connection:
        return _found_run(connection, _uuid(request.path_params["run_id"]))


def _found_run(connection: psycopg.Connection, run_id: UUID) -> dict[str, Any]:
    run = read_run(connection, run_id)
    if run is None:
        raise NotFoundError(
            f"the run {run_id} is not in the database",
            hint="Load its day: lse archive to-db; lse status shows which days are",
        )
    return run


def _panel(archive: Archive, connection: psycopg.Connection, run_id: UUID) -> dict[str, Any]:
    """The values of `panel.html`."""
    run = _found_run(connection, run_id)
    verdict, verified_at = read_verdict(connection, run["project"], run["run_date"])
    feedback = read_feedback(connection, run_id, run["project"])
    attachments = read_attachments_of(connection, run_id)
    data = run["data"] if isinstance(run["data"], dict) else {}
    parts = {}
    for name in ("inputs", "outputs", "metadata", "extra", "events"):
        if data.get(name) not in (None, {}, [], ""):
            position = list(data).index(name)
            parts[name] = (tree(data[name], (position,)), conversation(data[name]))
    return {
        "run": run,
        "parts": parts,
        "whole": tree(run["data"]) if run["data"] is not None else None,
        "verdict": verdict,
        "verified_at": verified_at,
        "feedback": [
            one | {"value": _short(one["value"]), "correction": _short(one["correction"])} for one in feedback
        ],
        "attachments": [(one, _kind(one["media_type"])) for one in attachments],
        "folder": archive.settings.layout.day(run["project"], run["run_date"]).folder,
        "partition": f"/assets/{project_slug(run['project'])}/verification?view=partitions&partition={run['run_date']}",
    }


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = value_text(value)
    return text if len(text) <= 2000 else f"{text[:2000]}…"


def _value(request: Request, run: dict[str, Any]) -> tuple[Any, tuple[int, ...], str | None]:
    try:
        path = parse_path(text_of(request, "path"))
    except ValueError:
        raise UsageError("the address names no value of the run") from None
    if (found := follow(run["data"], path)) is None:
        raise NotFoundError("the run has no such value")
    return found[0], path, found[1]


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"'{text[:80]}' is not an id", why="ids of runs and traces are UUIDs") from None


def _digest(text: str | None) -> bytes | None:
    try:
        digest = bytes.fromhex(text or "")
    except ValueError:
        return None
    return digest if len(digest) == 32 else None


def _position(request: Request) -> int:
    text = text_of(request, "begin") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"'{text[:80]}' is not a position")
    return int(text)
