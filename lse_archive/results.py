"""What each step reports: the models that `--json` prints and that the assets turn into metadata."""

from __future__ import annotations

from typing import Literal

import msgspec

from lse_archive.folder.manifest import MissingAttachment
from lse_archive.folder.state import FeedbackSum


class FetchResult(msgspec.Struct, kw_only=True):
    """What a fetch found and what it did to the day's folder.

    Attributes:
        outcome: `created`, `updated` (the union differed), `unchanged` (nothing was written), `kept` (the day
            existed and was not fetched again), or `not_served` (the day is past the retention, LangSmith serves no run
            of it and none is here: nothing was written, because an empty archive would claim that it had no runs).
        added, changed, unchanged, no_longer_served: Runs, compared with the former folder. Runs that LangSmith no
            longer serves are kept.
        forgotten: Runs that LangSmith lists and that were left out: they were erased on purpose (`lse forget`).
        langsmith_count: Runs of the day by LangSmith's own count; None if it was not requested.
        root_runs, langsmith_root_count: Root runs here and by LangSmith's count, which is requested only if the counts
            of all runs differ: they show whether roots or their children are missing.
        incomplete: What the day lacks, see `Summary.incomplete`.
        feedback, feedback_deleted, feedback_apart, feedback_differs, feedback_unproven: See `Summary`.
        feedback_sums: See `DayState`.
        attachments, attachment_bytes, attachments_missing: See `Summary`.
        count_check: `equal`, `fewer` (runs are missing here, or one could not be fetched again), `more` (LangSmith
            deleted some), `unproven` (past the retention, where 0 = 0 proves nothing), or `not_asked`.
    """

    project: str
    date: str
    outcome: Literal["created", "updated", "unchanged", "kept", "not_served"]
    runs: int
    traces: int
    bytes: int
    pending: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    no_longer_served: int = 0
    misfiled: list[str] = msgspec.field(default_factory=list, name="put_aside")
    forgotten: int = 0
    langsmith_count: int | None = None
    root_runs: int = 0
    langsmith_root_count: int | None = None
    count_check: Literal["equal", "fewer", "more", "unproven", "not_asked"] = msgspec.field(
        default="not_asked", name="proof"
    )
    incomplete: list[str] = []
    feedback: int | None = None
    feedback_deleted: int = 0
    feedback_apart: int = 0
    feedback_differs: list[str] = []
    feedback_unproven: list[str] = []
    feedback_sums: list[FeedbackSum] | None = None
    attachments: int | None = None
    attachment_bytes: int = 0
    attachments_missing: list[MissingAttachment] = []
    api: str | None = None
    requests: int = 0
    throttled: int = 0
    duration_seconds: float = 0.0

    @property
    def lacks_feedback(self) -> bool:
        """Whether feedback is known to be missing."""
        return bool(self.feedback_differs) or any(one.verdict == "differs" for one in self.feedback_sums or ())


class ZipResult(msgspec.Struct, kw_only=True):
    """A day archive; `written` is False if a zip of this content was there already.

    Attributes:
        left_out: Files and folders in the day's folder that are not in its checksums, and so not in the zip.
    """

    project: str
    date: str
    path: str
    written: bool
    files: int
    bytes_in: int
    bytes: int
    sha256: str
    content_sha256: str
    left_out: list[str] = []
    duration_seconds: float = 0.0


class UploadResult(msgspec.Struct, kw_only=True):
    """The day archive at its destination; `action` is `unchanged` if the same content was there already."""

    project: str
    date: str
    action: Literal["created", "replaced", "unchanged"]
    name: str
    file_id: str
    url: str | None
    bytes: int
    sha256: str
    duration_seconds: float = 0.0


class LoadResult(msgspec.Struct, kw_only=True):
    """What a load did to the day's rows.

    Attributes:
        total_files: Run files found, the invalid ones included.
        total_runs: Runs in them.
        batches_processed: Batches written, each one transaction.
        successful_inserts: Rows inserted.
        replaced: Rows whose content differed and was replaced.
        left: Existing rows that stayed: equal ones, and changed ones without `--overwrite`.
        changed_not_replaced: Of those, rows whose file has changed since.
        marked: Runs and records that JSONB cannot hold exactly; their rows hold a rendering, with the reason in `mark`.
        failed_inserts: Runs and records that could not be loaded, and invalid files and lines.
        forgotten, forgotten_records: Runs, and records of runs, that were erased on request and are not loaded again.
        feedback, attachments: Records in the day's files.
        feedback_written, attachments_written: Rows of them that were inserted or replaced; the others were equal.
        records_refused: Of both, the records that Postgres refused.
        errors: One line for each of those, bounded.
    """

    project: str
    date: str
    total_files: int = 0
    total_runs: int = 0
    batches_processed: int = 0
    successful_inserts: int = 0
    replaced: int = 0
    left: int = 0
    changed_not_replaced: int = 0
    marked: int = 0
    failed_inserts: int = 0
    forgotten: int = 0
    forgotten_records: int = 0
    feedback: int = 0
    feedback_written: int = 0
    attachments: int = 0
    attachments_written: int = 0
    records_refused: int = 0
    errors: list[str] = []
    load_id: int | None = None
    dry_run: bool = False
    duration_seconds: float = 0.0

    @property
    def rows(self) -> int:
        """The day's rows after the load."""
        return self.successful_inserts + self.replaced + self.left

    @property
    def refused(self) -> int:
        """Runs and records that could not be loaded; `failed_inserts` also counts invalid files and lines."""
        return self.total_runs - self.forgotten - self.rows + self.records_refused


class Inconsistency(msgspec.Struct, kw_only=True, frozen=True):
    """One run that differs between files and rows."""

    run_id: str
    trace_id: str
    what: str
    expected: str = ""
    found: str = ""
    paths: list[str] = []


class RecordDifference(msgspec.Struct, kw_only=True, frozen=True):
    """A feedback record, or an attachment, that differs between files and rows; `table` names which."""

    table: str
    id: str
    what: str
    expected: str = ""
    found: str = ""
    paths: list[str] = []


class VerificationResult(msgspec.Struct, kw_only=True):
    """The files of a day compared with its rows. The lists hold all ids, sorted.

    Attributes:
        inconsistent_runs: Runs that differ, each with what differs.
        filed_elsewhere: Of the runs missing in the database, those whose row has another project or day.
        feedback_in_files, feedback_in_db, attachments_in_files, attachments_in_db: Numbers of records.
        inconsistent_records: Records that differ or are missing on one side.
        broken_files: `name: reason` of files that hold no run of this day, and of lines that hold no record.
        marked_runs: Runs whose row is a rendering of what JSONB cannot hold; they count as consistent.
        fixed: Runs loaded or replaced by `--fix-missing` or `--fix`.
        fixed_records: Number of records loaded or replaced by them.
    """

    project: str
    date: str
    total_files: int = 0
    total_runs_in_files: int = 0
    total_runs_in_db: int = 0
    total_traces_in_files: int = 0
    total_traces_in_db: int = 0
    missing_runs_in_db: list[str] = []
    missing_runs_in_files: list[str] = []
    inconsistent_runs: list[Inconsistency] = []
    missing_traces_in_db: list[str] = []
    missing_traces_in_files: list[str] = []
    inconsistent_traces: list[str] = []
    filed_elsewhere: list[Inconsistency] = []
    feedback_in_files: int = 0
    feedback_in_db: int = 0
    attachments_in_files: int = 0
    attachments_in_db: int = 0
    inconsistent_records: list[RecordDifference] = []
    broken_files: list[str] = []
    marked_runs: list[str] = []
    fixed: list[str] = []
    fixed_records: int = 0
    is_consistent: bool = True
    duration_seconds: float = 0.0


class FullSweepResult(msgspec.Struct, kw_only=True):
    """The results of all steps of one day; None for a step that was skipped or not reached."""

    project: str
    date: str
    fetch_result: FetchResult | None = None
    zip_result: ZipResult | None = None
    upload_result: UploadResult | None = None
    db_result: LoadResult | None = None
    index_result: IndexResult | None = None
    lake_result: LakeResult | None = None
    verification_result: VerificationResult | None = None
    problems: list[str] = []
    total_duration: float = 0.0


class LakeResult(msgspec.Struct, kw_only=True):
    """A day in the lake; `written` is False if the lake had this content already.

    Attributes:
        source: What it was made from: `run files`, `zip`, or the destination.
        runs, feedback, attachments: Rows of the tables.
        bytes: Size of all Parquet files without `raw`.
        raw_bytes: Size of the table of the day's files.
    """

    project: str
    date: str
    written: bool
    source: str
    runs: int
    feedback: int
    attachments: int
    bytes: int
    raw_bytes: int
    content_sha256: str
    duration_seconds: float = 0.0


class IndexResult(msgspec.Struct, kw_only=True):
    """A day in the search index.

    Attributes:
        runs: Rows of the day in the index.
        indexed: Of those, rows that were added now.
        cut: Of all, runs of which a part is beyond the limits of the index.
    """

    project: str
    date: str
    runs: int
    indexed: int
    cut: int
    duration_seconds: float = 0.0


class RestoreResult(msgspec.Struct, kw_only=True):
    """What a restore did, or would do.

    Attributes:
        action: `restored` (there was no local day), `replaced` (the local day differed), `unchanged` (it is equal),
            `proven` (`--verify-only`: it could be restored), and in a dry run `would restore`, `would replace` or
            `would compare` (a zip of an older tool, whose content is known only after the download).
        source: The destination, or `local zip` if that has the copy's bytes.
        bytes: Size of the zip.
        unfit_files: Files that hold no run of the day; they are restored too.
        forgotten: Runs in the copy that were left out: they were erased on purpose (`lse forget`). The local zip is
            made without them, and differs from the copy.
        older: Whether the zip is of an older tool, without a manifest.
        db_result: What `--to-db` loaded.
    """

    project: str
    date: str
    action: Literal["restored", "replaced", "unchanged", "proven", "would restore", "would replace", "would compare"]
    name: str
    source: str
    bytes: int
    runs: int | None = None
    files: int | None = None
    content_sha256: str | None = None
    unfit_files: list[str] = []
    left_out: list[str] = []
    forgotten: int = 0
    older: bool = False
    db_result: LoadResult | None = None
    duration_seconds: float = 0.0


class PruneResult(msgspec.Struct, kw_only=True):
    """What a prune did to one day, or would do.

    Attributes:
        what: `files` or `zips`.
        action: `pruned`, `would prune`, or `kept`, with `why`.
        freed: Bytes.
    """

    project: str
    date: str
    what: str
    action: Literal["pruned", "would prune", "kept"]
    why: str = ""
    freed: int = 0
    duration_seconds: float = 0.0


class ImportResult(msgspec.Struct, kw_only=True):
    """What an import did to one UTC day, or would do.

    Attributes:
        action: `created`, `updated`, `unchanged`, `would create`, `would update`, or `refused`, with `why`.
        added: Runs that the day did not have.
        attachments: Attachments that the day did not have.
        present: Runs that it had already; they do not change.
        differing: Of those, runs whose imported file has other content.
        forgotten: Runs that were left out, because they were erased on purpose (`lse forget`).
    """

    project: str
    date: str
    action: Literal["created", "updated", "unchanged", "would create", "would update", "refused"]
    why: str = ""
    added: int = 0
    attachments: int = 0
    present: int = 0
    differing: list[str] = []
    forgotten: int = 0
    runs: int = 0
    duration_seconds: float = 0.0
