"""Fetches a day from LangSmith, checks that it is complete, and publishes its union with the published folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from lse_archive.errors import CorruptArchiveError
from lse_archive.fetch.attachments import AttachmentDownloads, AttachmentLimits
from lse_archive.fetch.completeness import CountCheck, check_completeness
from lse_archive.fetch.day_feedback import DayFeedback
from lse_archive.fetch.paginate import paginate
from lse_archive.fetch.source import ApiVersionChangedError, RunSource
from lse_archive.fetch.staging import Staging
from lse_archive.fetch.union import Union, unite
from lse_archive.files import disk_errors
from lse_archive.folder.attachments import shown_name
from lse_archive.folder.forgetting import forget_published
from lse_archive.folder.late_feedback import remove_late_feedback
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import (
    FeedbackSummary,
    MissingAttachment,
    Summary,
    Tally,
    content_hash,
    read_summary,
    write_manifest,
)
from lse_archive.folder.pruned import require_restored
from lse_archive.folder.state import now_text, publish_day, read_state, update_state
from lse_archive.folder.tombstones import FORGOTTEN, Tombstones, read_tombstones
from lse_archive.layout import DayPaths
from lse_archive.results import FetchResult
from lse_archive.runs.feedback import FEEDBACK_FILES


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How a day is fetched.

    Attributes:
        ask_count: Compare with LangSmith's own count.
        allow_shrink: Publish what LangSmith has now, without the runs that it no longer lists.
        retention_days: Days for which LangSmith keeps the project's runs; None if without limit.
        feedback: Collect the feedback of the runs. If not, that of earlier fetches stays.
        attachments: Which attachments are downloaded.
    """

    ask_count: bool = True
    allow_shrink: bool = False
    retention_days: int | None = 14
    feedback: bool = True
    attachments: AttachmentLimits = field(default_factory=AttachmentLimits)


def fetch_day(
    paths: DayPaths,
    source: RunSource,
    options: FetchOptions | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> FetchResult:
    """Publishes every run of the day in the day's folder, or changes nothing.

    If the folder exists, changed runs are replaced, and runs that LangSmith no longer serves are kept. If the fetch
    fails, its finished pages stay in staging, and the next fetch continues from there.

    A day of which LangSmith serves all but some runs is published as incomplete: its summary names them, and the
    attachments that could not be downloaded. A day past the retention of which nothing is served and nothing is here is
    not published (`not_served`).

    Args:
        progress: Called for each page with the number of runs that it added.
        on_wait: Called with the holder of the day's lock, if another process holds it.

    Raises:
        SourceError: LangSmith could not be read to the end.
        CorruptArchiveError: A published file is damaged or missing, and LangSmith no longer serves its run.
        ArchiveConflictError: A published file has no free name, or the folder holds another folder.
        PrunedDayError: The day's files were pruned, and must be restored first.
        DayLockedError: Another process writes the day.
        ArchiveError: The disk cannot be written.
    """
    options = options or FetchOptions()
    began = time.monotonic()
    failure = f"{paths.project} {paths.day} cannot be written under {paths.data_dir}"
    hint = "Free space or fix the permissions; no part of the day was published, and the next fetch continues from here"
    with disk_errors(failure, hint), day_lock(paths, on_wait=on_wait):
        require_restored(paths)
        tombstones = read_tombstones(paths)
        if tombstones:
            forget_published(paths, tombstones)
        with (
            contextlib.closing(Staging(paths, progress, tombstones)) as staging,
            contextlib.closing(AttachmentDownloads(paths, source, staging, options.attachments)) as downloads,
        ):
            try:
                _fetch_gaps(source, staging, downloads)
            except ApiVersionChangedError:
                _fetch_gaps(source, staging, downloads)
            check = check_completeness(
                source,
                staging,
                paths.day,
                ask_count=options.ask_count,
                retention_days=options.retention_days,
                tombstones=len(tombstones),
            )
            recorded = _recorded_summary(paths)
            feedback = DayFeedback(staging, paths, recorded) if options.feedback else None
            if feedback:
                is_whole = check.verdict != "fewer" and not staging.is_incomplete()
                # With tombstones, its sums may count feedback of runs that were erased.
                feedback.read(source, check.counted if is_whole and not tombstones else None)
            downloads.finish()
            forgotten = staging.forgotten_runs()
            result = _publish_union(paths, source, staging, check, recorded, feedback, options, tombstones)
    result.forgotten = forgotten
    result.requests = source.requests
    result.throttled = source.throttled
    result.duration_seconds = round(time.monotonic() - began, 3)
    return result


def _fetch_gaps(source: RunSource, staging: Staging, downloads: AttachmentDownloads) -> None:
    staging.resume(api_version=source.api_version, project_id=source.project_id)
    paginate(source, downloads, staging.gaps())


def _publish_union(
    paths: DayPaths,
    source: RunSource,
    staging: Staging,
    check: CountCheck,
    recorded: Summary | None,
    feedback: DayFeedback | None,
    options: FetchOptions,
    tombstones: Tombstones,
) -> FetchResult:
    existed = paths.folder.is_dir()
    union = Union()
    if existed:
        with staging.transaction():
            rewritten = {FORGOTTEN, *(FEEDBACK_FILES if feedback else ())}
            union = unite(paths, staging, allow_shrink=options.allow_shrink, rewritten=rewritten)
    found = feedback.write() if feedback else FeedbackSummary.of(recorded)
    staging.write_attachments()
    is_empty = next(staging.sums(), None) is None
    if tombstones and (existed or not is_empty):
        staging.write_file(FORGOTTEN, tombstones.lines())
    content = content_hash(staging.sums())
    tally = Tally(paths.day)
    for header, size in staging.headers():
        tally.add(header, size)

    incomplete = _incomplete(staging, check, recorded)
    attachments = _attachments(staging, recorded, skipped=options.attachments.skip)
    if incomplete or staging.is_incomplete():  # whatever the counts are
        check = replace(check, verdict="fewer")
    if check.verdict == "unproven" and not existed and is_empty:
        staging.discard()
        return FetchResult(
            project=paths.project,
            date=str(paths.day),
            outcome="not_served",
            runs=0,
            traces=0,
            bytes=0,
            pending=0,
            misfiled=sorted(staging.misplaced),
            langsmith_count=check.count,
            count_check="unproven",
            api=source.api_version,
        )
    is_unchanged = (
        union.as_recorded
        and recorded is not None
        and (recorded.content_sha256, recorded.incomplete) == (content, incomplete)
        and FeedbackSummary.of(recorded) == found
        and (recorded.attachments, recorded.attachments_missing) == (attachments.count, attachments.missing)
    )
    if not is_unchanged:
        summary = tally.summary(
            paths.project,
            content,
            staging.others(),
            langsmith_project_id=source.project_id,
            langsmith_count=check.count,
            api=source.api_version,
            changed_at=now_text(),
            incomplete=incomplete,
        )
        summary = msgspec.structs.replace(
            summary,
            attachments=attachments.count,
            attachment_bytes=attachments.bytes,
            attachments_missing=attachments.missing,
            **msgspec.structs.asdict(found),
        )
        write_manifest(staging.runs_folder, summary, staging.sums())
        publish_day(paths, staging.runs_folder)

    served, kept = staging.served_runs(), staging.kept_ids()
    staging.discard()
    proven_content = content if check.verdict == "equal" else read_state(paths).proven_content
    # Past the retention an earlier proof stays valid as long as the content is the same.
    verdict = "equal" if check.verdict == "unproven" and proven_content == content else check.verdict
    update_state(
        paths,
        last_fetched_at=now_text(),
        served_runs=served,
        langsmith_count=check.count,
        count_check=verdict,
        proven_content=proven_content,
        attachments_missing=len(attachments.missing),
        no_longer_served=kept,
        **({"feedback_read_at": feedback.read_at} if feedback and feedback.is_complete else {}),
        **({"feedback_sums": feedback.sums} if feedback and feedback.sums is not None else {}),
    )
    if feedback:
        remove_late_feedback(paths, feedback.late)
    return FetchResult(
        project=paths.project,
        date=str(paths.day),
        outcome="unchanged" if is_unchanged else "updated" if existed else "created",
        runs=tally.runs,
        traces=tally.traces,
        bytes=tally.bytes,
        pending=tally.pending,
        added=tally.runs - len(kept) - union.changed - union.unchanged,
        changed=union.changed,
        unchanged=union.unchanged,
        no_longer_served=len(kept),
        misfiled=sorted(staging.misplaced),
        langsmith_count=check.count,
        root_runs=tally.root_runs,
        langsmith_root_count=check.roots,
        count_check=verdict,
        incomplete=incomplete,
        feedback_sums=feedback.sums if feedback else None,
        attachments=attachments.count,
        attachment_bytes=attachments.bytes,
        attachments_missing=attachments.missing,
        api=source.api_version,
        **msgspec.structs.asdict(found),
    )


def _incomplete(staging: Staging, check: CountCheck, recorded: Summary | None) -> list[str]:
    """What the day lacks, see `Summary.incomplete`.

    What an earlier fetch missed stays named until the run is here, or LangSmith's count proves the day without it.
    """
    found = set(staging.incomplete())
    is_proven = check.verdict == "equal" and not staging.is_incomplete()
    if recorded and not is_proven:
        found.update(name for name in recorded.incomplete if not staging.has_run(name))
    return sorted(found)


@dataclass(frozen=True, slots=True)
class _Attachments:
    """The day's attachments, see `Summary`."""

    count: int | None
    bytes: int
    missing: list[MissingAttachment]


def _attachments(staging: Staging, recorded: Summary | None, *, skipped: bool) -> _Attachments:
    """What an earlier fetch missed stays named until it is here, or LangSmith serves the run without it.

    Args:
        skipped: This fetch downloaded none: the day counts as collected only if it was, and nothing has come since.
    """
    count, sizes, here = 0, {}, set()
    for one in staging.attachments():
        count += 1
        sizes[one.sha256] = one.size
        here.add((one.run_id, shown_name(one.name)))
    before = {(one.run_id, one.name): one for one in recorded.attachments_missing} if recorded else {}
    found = {}
    for run_id, name, why in staging.missing_attachments():
        key = (run_id, shown_name(name))
        found[key] = before.get(key) or MissingAttachment(*key, why)  # the first reason: "nothing new, nothing written"
    is_collected = not skipped
    if skipped:
        is_collected = recorded is not None and recorded.attachments is not None and found.keys() <= before.keys()
        found = {}
    for key, one in before.items():
        run = staging.find(key[0])
        if key not in here and (skipped or run is None or not run.served):
            found.setdefault(key, one)
    missing = [found[key] for key in sorted(found)]
    return _Attachments(count if is_collected else None, sum(sizes.values()), missing)


def _recorded_summary(paths: DayPaths) -> Summary | None:
    """The published summary; None if there is none, or it cannot be read."""
    try:
        return read_summary(paths.folder)
    except CorruptArchiveError:
        return None
