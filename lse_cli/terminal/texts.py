"""One line of plain words for each result."""

from __future__ import annotations

import msgspec

from lse_archive.results import (
    FetchResult,
    ImportResult,
    LoadResult,
    PruneResult,
    RestoreResult,
    UploadResult,
    VerificationResult,
    ZipResult,
)

STEP_NAMES = {
    "run_files": "fetch",
    "day_zip": "zip",
    "drive_file": "upload",
    "runs_table": "load",
    "verification": "verify",
}


def counted(count: int, noun: str) -> str:
    """1 run, 2 runs, 1,000 runs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: int) -> str:
    """Bytes for people: 4.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def describe(result: msgspec.Struct) -> str:
    """What a step did."""
    if isinstance(result, FetchResult):
        return _fetch(result)
    if isinstance(result, ZipResult):
        what = "written" if result.written else "unchanged"
        return f"{what}: {counted(result.files, 'file')}, {size(result.bytes_in)} in {size(result.bytes)}"
    if isinstance(result, UploadResult):
        sent = "same content is on Drive already" if result.action == "unchanged" else result.action
        return f"{sent}: {result.name}, {size(result.bytes)}"
    if isinstance(result, LoadResult):
        return _load(result)
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
    there = f"{result.present:,} {'is' if result.present == 1 else 'are'} there already"
    text = f"{result.action}: {counted(result.added, 'run')} added, {there}"
    if result.differing:
        text += f" ({len(result.differing):,} of them with other content, which stays)"
    return text


def _restore(result: RestoreResult) -> str:
    if result.action == "unchanged":
        return "unchanged: it is here and equal"
    text = f"{result.action}: {counted(result.files or 0, 'file')}, {size(result.bytes)} from {result.source}"
    if result.unfit_files:
        text += f"; {len(result.unfit_files):,} of them hold no run of the day"
    if result.older:
        text += "; the zip is of an older tool: summary and checksums were made anew"
    return text


def _fetch(result: FetchResult) -> str:
    text = f"{result.outcome}: {counted(result.runs, 'run')} in {counted(result.traces, 'trace')}, {size(result.bytes)}"
    if result.outcome != "created":
        counts = (
            ("added", result.added),
            ("changed", result.changed),
            ("no longer served, kept", result.no_longer_served),
        )
        text += "".join(f", {count:,} {what}" for what, count in counts if count)
    if result.pending:
        text += f", {result.pending:,} pending"
    proof = {
        "equal": f"proven (LangSmith counts {result.langsmith_count:,})" if result.langsmith_count is not None else "",
        "fewer": f"NOT COMPLETE: LangSmith counts {result.langsmith_count}",
        "more": f"LangSmith counts {result.langsmith_count}: it is deleting some",
        "unproven": "cannot be proven: past LangSmith's retention",
        "not_asked": "LangSmith's count was not asked",
    }[result.count_check]
    return f"{text}; {proof}" if proof else text


def _load(result: LoadResult) -> str:
    counts = (
        ("inserted", result.successful_inserts),
        ("replaced", result.replaced),
        ("unchanged", result.left - result.changed_not_replaced),
        ("changed but left (--overwrite replaces them)", result.changed_not_replaced),
        ("marked: JSONB cannot hold them as they are", result.marked),
        ("put aside", result.failed_inserts),
    )
    text = ", ".join(f"{count:,} {what}" for what, count in counts if count) or "no runs"
    return f"dry run: {text}" if result.dry_run else text


def _verification(result: VerificationResult) -> str:
    if result.is_consistent:
        runs, traces = counted(result.total_runs_in_files, "run"), counted(result.total_traces_in_files, "trace")
        text = f"{runs} in {traces}: files and rows agree"
        if result.broken_files:
            holding = "file holds" if len(result.broken_files) == 1 else "files hold"
            text += f"; {len(result.broken_files):,} {holding} no run of the day"
        return text
    counts = (
        ("missing in the database", len(result.missing_runs_in_db)),
        ("missing in the files", len(result.missing_runs_in_files)),
        ("differ", len(result.inconsistent_runs)),
        ("files hold no run of the day", len(result.broken_files)),
    )
    return "files and rows differ: " + ", ".join(f"{count:,} {what}" for what, count in counts if count)
