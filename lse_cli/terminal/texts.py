"""Describes results in one line of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from lse_archive.results import (
    FetchResult,
    ImportResult,
    IndexResult,
    LakeResult,
    LoadResult,
    PruneResult,
    RestoreResult,
    UploadResult,
    VerificationResult,
    ZipResult,
)
from lse_archive.texts import counted

if TYPE_CHECKING:
    from lse_operations.overview import DayView

# Names of the steps as users see them, in the order in which a day is processed.
STEP_NAMES = {
    "run_files": "fetch",
    "day_zip": "zip",
    "drive_file": "upload",
    "runs_table": "load",
    "search_index": "index",
    "lake_files": "lake",
    "verification": "verify",
}


_STEP_OF = {"files": "fetch", "zip": "zip", "drive": "upload", "postgres": "load", "verified": "verify"}


def missing_steps(day: DayView) -> str:
    """The steps of which a day is behind: `upload, verify`."""
    return ", ".join(_STEP_OF[place] for place in day.behind)


def alike_behind(days: Iterable[DayView]) -> list[list[DayView]]:
    """The days that have a copy and are behind, those that lack the same places together."""
    alike: dict[tuple[str, ...], list[DayView]] = {}
    for day in days:
        if day.behind and not day.is_gap:
            alike.setdefault(day.behind, []).append(day)
    return list(alike.values())


def size(count: int) -> str:
    """The number of bytes in a readable unit: 4.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def describe(result: msgspec.Struct) -> str:
    """Describes the result of a step or a command."""
    if isinstance(result, FetchResult):
        return _fetch(result)
    if isinstance(result, ZipResult):
        what = "written" if result.written else "unchanged"
        text = f"{what}: {counted(result.files, 'file')}, {size(result.bytes_in)} in {size(result.bytes)}"
        hint = "not in the day's checksums: lse archive fetch --force adds them"
        return f"{text}; {_left_out(result.left_out)} ({hint})" if result.left_out else text
    if isinstance(result, UploadResult):
        action = "unchanged (the destination has this content)" if result.action == "unchanged" else result.action
        return f"{action}: {result.name}, {size(result.bytes)}"
    if isinstance(result, LoadResult):
        return _load(result)
    if isinstance(result, IndexResult):
        text = f"{counted(result.runs, 'run')} in the search index ({result.indexed:,} added)"
        too_long = counted(result.cut, "run is", "runs are")
        return f"{text}; {too_long} too long: only the first part is searched" if result.cut else text
    if isinstance(result, LakeResult):
        return _lake(result)
    if isinstance(result, VerificationResult):
        return _verification(result)
    if isinstance(result, RestoreResult):
        return _restore(result)
    if isinstance(result, PruneResult):
        return f"kept: {result.why}" if result.action == "kept" else f"{result.action}: {size(result.freed)}"
    if isinstance(result, ImportResult):
        return _import(result)
    return ""


def _import(result: ImportResult) -> str:
    if result.action == "refused":
        return f"refused: {result.why}"
    text = f"{result.action}: {counted(result.added, 'run')} added, {result.present:,} already in the archive"
    if result.attachments:
        text += f", {counted(result.attachments, 'attachment')} added"
    if result.differing:
        text += f" ({len(result.differing):,} of them with different content, which is kept)"
    if result.forgotten:
        text += f"; {_forgotten(result.forgotten)}"
    return text


def _restore(result: RestoreResult) -> str:
    if result.action == "unchanged":
        if result.forgotten:
            return f"unchanged: {_forgotten(result.forgotten)}; upload the day to replace the copy"
        return "unchanged: the local day has the same content"
    text = f"{result.action}: {counted(result.files or 0, 'file')}, {size(result.bytes)} from {result.source}"
    if result.unfit_files:
        text += f"; without a run of the day: {len(result.unfit_files):,}"
    if result.left_out:
        text += f"; {_left_out(result.left_out)} (files of desktops)"
    if result.forgotten:
        text += f"; {_forgotten(result.forgotten)}; upload the day to replace the copy"
    if result.older:
        text += "; the zip is of an older tool: summary and checksums were created"
    return text


def _forgotten(count: int) -> str:
    return f"{counted(count, 'run')} left out: erased on purpose before (lse forget)"


def _left_out(names: list[str]) -> str:
    return f"{len(names):,} left out: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _fetch(result: FetchResult) -> str:
    if result.outcome == "not_served":
        return "not archived: LangSmith serves no run of the day, which is past its retention; it cannot be proven"
    text = f"{result.outcome}: {counted(result.runs, 'run')} in {counted(result.traces, 'trace')}, {size(result.bytes)}"
    if result.outcome != "created":
        counts = (
            ("added", result.added),
            ("changed", result.changed),
            ("no longer in LangSmith, kept", result.no_longer_served),
        )
        text += "".join(f", {count:,} {what}" for what, count in counts if count)
    if result.feedback or result.feedback_apart:
        text += f", {counted((result.feedback or 0) + result.feedback_apart, 'feedback record')}"
    if result.pending:
        text += f", {result.pending:,} pending"
    if result.attachments:
        text += f", {counted(result.attachments, 'attachment')} of {size(result.attachment_bytes)}"
    counted_there = f"LangSmith counts {result.langsmith_count or 0:,}"
    count_check = {
        "equal": f"proven ({counted_there})" if result.langsmith_count is not None else "",
        "fewer": f"NOT COMPLETE: {_lacking(result) or counted_there}",
        "more": f"{counted_there}: it is deleting runs",
        "unproven": "cannot be proven: the day is past LangSmith's retention, or it may count erased runs",
        "not_asked": "not compared with LangSmith's count",
    }[result.count_check]
    text = f"{text}; {count_check}" if count_check else text
    if result.forgotten:
        text += f"; {_forgotten(result.forgotten)}"
    if result.feedback_differs:
        text += f"; FEEDBACK DIFFERS from the statistics of {counted(len(result.feedback_differs), 'run')}"
    if sums := [one for one in result.feedback_sums or () if one.verdict == "differs"]:
        text += f"; FEEDBACK IS MISSING: LangSmith counts more of {counted(len(sums), 'key')}"
    if missing := result.attachments_missing:
        first = f"'{missing[0].name}' of run {missing[0].run_id} ({missing[0].why})"
        text += f"; NOT COMPLETE: {counted(len(missing), 'attachment')} could not be downloaded, for example {first}"
    return text


def _lacking(result: FetchResult) -> str:
    """What LangSmith did not serve, empty if only the counts differ."""
    if not result.incomplete:
        return "" if result.langsmith_count is not None else "LangSmith did not serve every run again"
    names = ", ".join(result.incomplete[:3]) + (", …" if len(result.incomplete) > 3 else "")
    return f"LangSmith did not serve {counted(len(result.incomplete), 'run')}, or not as runs: {names}"


def _load(result: LoadResult) -> str:
    counts = (
        ("inserted", result.successful_inserts),
        ("replaced", result.replaced),
        ("unchanged", result.left - result.changed_not_replaced),
        ("changed, not replaced (--overwrite replaces them)", result.changed_not_replaced),
        ("stored as a rendering: JSONB cannot hold them exactly", result.marked),
        ("not loaded: erased on request", result.forgotten),
        ("rejected", result.failed_inserts),
    )
    text = ", ".join(f"{count:,} {what}" for what, count in counts if count) or "no runs"
    if result.feedback:
        text += f"; {counted(result.feedback, 'feedback record')} ({result.feedback_written:,} written)"
    if result.attachments:
        text += f"; {counted(result.attachments, 'attachment')} ({result.attachments_written:,} written)"
    if result.forgotten:
        text += f"; {_forgotten(result.forgotten)}"
    return f"dry run: {text}" if result.dry_run else text


def _lake(result: LakeResult) -> str:
    counts = ((result.runs, "run"), (result.feedback, "feedback record"), (result.attachments, "attachment"))
    rows = ", ".join(counted(count, noun) for count, noun in counts if count or noun == "run")
    if not result.written:
        return f"unchanged: {rows}"
    return f"written: {rows} from the {result.source}, {size(result.bytes)}, and {size(result.raw_bytes)} of raw files"


def _verification(result: VerificationResult) -> str:
    if result.is_consistent:
        runs, traces = counted(result.total_runs_in_files, "run"), counted(result.total_traces_in_files, "trace")
        if result.feedback_in_files:
            traces += f", {counted(result.feedback_in_files, 'feedback record')}"
        if result.attachments_in_files:
            traces += f", {counted(result.attachments_in_files, 'attachment')}"
        text = f"{runs} in {traces}: files and rows agree"
        if result.broken_files:
            text += f"; {counted(len(result.broken_files), 'file')} without a run of the day"
        return text
    counts = (
        (len(result.missing_runs_in_db), "run", "missing in the database"),
        (len(result.missing_runs_in_files), "run", "missing in the files"),
        (len(result.inconsistent_runs), "run", "different"),
        (len(result.inconsistent_records), "record", "of feedback or attachments missing or different"),
        (len(result.broken_files), "file", "without a run of the day"),
    )
    found = ", ".join(f"{counted(count, noun)} {what}" for count, noun, what in counts if count)
    return f"files and rows differ: {found}"
