"""The checks of a day: each compares two places as they are now and names the differences."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from lse_archive.errors import (
    ArchiveError,
    CorruptArchiveError,
    DatabaseError,
    DayLockedError,
    DestinationError,
    SettingsError,
)
from lse_archive.folder.attachments import ATTACHMENTS, attachment_file, read_attachments
from lse_archive.folder.contents import content_files, is_summary_as_recorded, require_folder
from lse_archive.folder.manifest import SUMMARY, Summary, content_sums, read_summary, read_sums
from lse_archive.folder.opened import Folder
from lse_archive.folder.pruned import day_content, is_pruned, pruned_records, pruned_runs, pruned_sums, read_pruned
from lse_archive.folder.reader import NOT_AS_RECORDED, open_run_files
from lse_archive.folder.state import DayVerdict, FeedbackSum, read_state
from lse_archive.layout import DayPaths
from lse_archive.results import VerificationResult
from lse_archive.runs.header import CANONICAL_UUID
from lse_archive.texts import counted
from lse_archive.zips.day import check_zip
from lse_operations.reporter import Advance, StepReporter
from lse_operations.upload import NO_FILE, find_copy_difference
from lse_resources.destinations.protocol import Destination
from lse_resources.postgres.database import Database
from lse_resources.postgres.verify.day import verify_against, verify_day

Verdict = Literal["agrees", "differs", "unproven", "unknown"]
MAX_ROWS = 50
_NO_ROW = "missing in the database"
_RESTORE_DAY = "Restore the day from its zip or from Drive"
OpenDestination = Callable[[], AbstractContextManager[Destination]]
"""Opens the archive's destination. Raises SettingsError where none is set up."""

CHECKS = {
    "langsmith_count": "The runs of the last fetch against LangSmith's own count.",
    "feedback_complete": "The feedback of the last fetch against the statistics of the runs, and of the day.",
    "attachments_complete": "The attachments that LangSmith listed against the files of them.",
    "run_files_intact": "The run files against their checksums.",
    "zip_matches_files": "The zip, read as a whole, against the run files' checksums.",
    "drive_matches_zip": "Checksum and size at the destination, as they are now, against the zip.",
    "runs_match_files": "Ids, traces and contents of the rows, feedback and attachments too, against the files.",
}
LAKE_CHECK = "lake_matches_files"


def day_checks(*, has_lake: bool) -> dict[str, str]:
    """The checks of a day, each with one line; without a lake there is none of it."""
    lake = {LAKE_CHECK: "Content, ids and hashes of the day in the lake against the files."}
    return CHECKS | (lake if has_lake else {})


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What is verified, and what is repaired from the files.

    Attributes:
        detailed: Compare the contents of the rows on the server, too.
        fix_missing: Load runs that have no row.
        fix: Replace rows that differ from their files as well.
        skip: Names of checks that are left out.
    """

    detailed: bool = False
    fix_missing: bool = False
    fix: bool = False
    skip: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: of a run, a file, or a count.

    Attributes:
        see: How to look at it: the path of its file, a command, or both; empty if there is neither.
    """

    item: str
    what: str
    expected: str = ""
    found: str = ""
    see: str = ""


class StepCheck(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        name: The check's key.
        verdict: `agrees`; `differs`; `unproven`, a warning: nothing is known to be wrong, and it cannot be shown to
            be right; `unknown`: the other place could not be reached.
        says: The finding in one line, for the user.
        hint: What the user can do, empty if nothing.
        total: Number of differences; `differences` holds at most `MAX_ROWS` of them.
    """

    name: str
    verdict: Verdict
    says: str
    hint: str = msgspec.field(default="", name="todo")
    total: int = 0
    differences: tuple[Difference, ...] = ()


def differing(name: str, says: str, hint: str, found: Iterable[Difference]) -> StepCheck:
    """The result of a check that found these differences."""
    rows = list(found)
    return StepCheck(name, "differs", says, hint, len(rows), tuple(rows[:MAX_ROWS]))


def check_steps(
    paths: DayPaths,
    open_destination: OpenDestination,
    open_database: Callable[[], Database],
    reporter: StepReporter,
    advance: Advance,
    options: VerifyOptions,
    lake: Callable[[], StepCheck] | None = None,
) -> Iterator[StepCheck]:
    """Yields the result of each of `day_checks`. If one place cannot be reached, the others are still checked.

    Args:
        lake: The check of the lake, if there is one.
    """

    def copy() -> StepCheck:
        try:
            with open_destination() as destination:
                return check_copy(paths, destination)
        except SettingsError as error:
            return check_copy(paths, error)

    def rows() -> StepCheck:
        try:
            result = compare_rows(open_database(), paths, options, advance, on_wait=reporter.waiting)
        except (DatabaseError, DayLockedError) as error:
            return StepCheck("runs_match_files", "unknown", error.what, error.hint, 1, (Difference("rows", error.why),))
        except CorruptArchiveError as error:
            return StepCheck("runs_match_files", "differs", str(error), error.hint, 1)
        reporter.report("verification", result)
        return check_rows(result, pruned=is_pruned(paths))

    checks: dict[str, Callable[[], StepCheck]] = {
        "langsmith_count": lambda: check_count(paths),
        "feedback_complete": lambda: check_feedback(paths),
        "attachments_complete": lambda: check_attachments(paths),
        "run_files_intact": lambda: check_files(paths),
        "zip_matches_files": lambda: check_archive(paths),
        "drive_matches_zip": copy,
        "runs_match_files": rows,
    }
    if lake is not None:
        checks[LAKE_CHECK] = lake
    for name, check in checks.items():
        if name in options.skip:
            yield StepCheck(name, "unproven", "it was skipped on request")
        else:
            yield _with_ways(paths, check())


def _with_ways(paths: DayPaths, check: StepCheck) -> StepCheck:
    """The check, each of its differences with the way to what it names."""
    if not check.differences:
        return check
    files: dict[str, Path] = {}
    with contextlib.suppress(OSError):  # a check says so
        for path in paths.folder.iterdir():
            files[path.name] = files[path.name.partition("_")[0]] = path

    def way(row: Difference) -> str:
        if row.item == paths.zip.name:
            return str(paths.zip) if paths.zip.exists() else ""
        ways = [str(files[row.item])] if row.item in files else []
        is_run = CANONICAL_UUID.fullmatch(row.item)
        if is_run and check.name == "langsmith_count":
            project = shlex.quote(paths.project)
            ways.append(f"lse archive fetch --refresh --project {project} --date {paths.day}")
        elif is_run and row.what != _NO_ROW:
            ways.append(f"lse sql \"SELECT data FROM runs WHERE run_id = '{row.item}'\"")
        return "; ".join(ways)

    rows = tuple(replace(row, see=way(row)) for row in check.differences)
    return msgspec.structs.replace(check, differences=rows)


def day_verdict(checks: Sequence[StepCheck], skipped: Sequence[str] = ()) -> DayVerdict | None:
    """The verdict of a day, see `DayState.verdict`; None if a check was skipped, or a place could not be reached.

    Proven are completeness and the agreement of all places that are configured: without a destination, or while the
    lake does not have the day, the other places prove it. What LangSmith's statistics of feedback count is not
    documented: no later fetch can prove it.
    """
    verdicts = {check.name: check.verdict for check in checks}
    if "differs" in verdicts.values():
        return "wrong"
    if skipped or "unknown" in verdicts.values():
        return None
    unproven = {name for name, verdict in verdicts.items() if verdict == "unproven"}
    return "not_provable" if unproven - {"drive_matches_zip", "feedback_complete", LAKE_CHECK} else "proven"


def compare_rows(
    database: Database,
    paths: DayPaths,
    options: VerifyOptions | None = None,
    advance: Advance = lambda _done, _total: None,
    *,
    on_wait: Callable[[str], None] | None = None,
) -> VerificationResult:
    """The day's rows against its run files, or against the record of a pruned day.

    Raises:
        DayLockedError: Another session loads or verifies the day in Postgres.
        DatabaseError: Postgres cannot be reached or refuses.
        ArchiveError: The run files or the record cannot be read.
    """
    options = options or VerifyOptions()
    if is_pruned(paths):
        runs, records = pruned_runs(paths), pruned_records(paths)
        return verify_against(database, paths.project, paths.day, runs, records, on_wait=on_wait)
    return verify_day(
        database,
        paths.project,
        paths.day,
        paths.folder,
        detailed=options.detailed,
        fix_missing=options.fix_missing,
        fix=options.fix,
        progress=advance,
        on_wait=on_wait,
    )


def check_count(paths: DayPaths) -> StepCheck:
    """`langsmith_count`: the runs of the last fetch against LangSmith's own count then."""
    state = read_state(paths)
    served, count = state.served_runs, state.langsmith_count
    name = "langsmith_count"
    hint = "Fetch the day again soon: what is missing is lost when LangSmith's retention ends"
    try:
        summary = _recorded_summary(paths)
    except CorruptArchiveError as error:
        return StepCheck(name, "unproven", str(error), error.hint)
    if summary and summary.incomplete:
        rows = [Difference(item, _lacking(item)) for item in summary.incomplete]
        says = f"the day is incomplete: LangSmith did not serve {counted(len(rows), 'run')}, or not as runs"
        return differing(name, says, hint, rows)
    if state.count_check == "equal":
        try:
            content = day_content(paths)
        except CorruptArchiveError as error:
            return StepCheck(name, "unproven", str(error), error.hint)
        if content is None or content != state.proven_content:
            says = f"LangSmith counted {counted(count or 0, 'run')}, but the content of the day has changed since then"
            return StepCheck(name, "unproven", says, "Fetch the day again while LangSmith has it")
        answer = f"LangSmith counted {counted(count, 'run')}, and served" if count is not None else "LangSmith served"
        return StepCheck(name, "agrees", f"{answer} them all")
    if state.count_check == "fewer":
        row = Difference("the day", "runs", "all" if count is None else str(count), str(served))
        says = f"LangSmith counts {counted(count or 0, 'run')} and served {served}"
        if count is None:
            says = "LangSmith did not serve every run again"
        return differing(name, says, f"{hint}; its index may lag", [row])
    says = {
        "more": f"LangSmith counts {counted(count or 0, 'run')} and served {served}: it is deleting some",
        "unproven": "the day was past LangSmith's retention when it was fetched, or LangSmith may count runs that were "
        "erased here (lse forget): it cannot be proven complete",
        "not_asked": "LangSmith's count was not requested (--no-count)",
    }.get(state.count_check or "", "the day was not fetched by this installation: LangSmith's count is not known")
    return StepCheck(name, "unproven", says)


def _recorded_summary(paths: DayPaths) -> Summary | None:
    return read_summary(paths.pruned if is_pruned(paths) else paths.folder)


def _lacking(item: str) -> str:
    """Why an entry of `Summary.incomplete` is there."""
    return "is kept as it came: it cannot be read as a run" if item.endswith(".bin") else "was not served"


def check_feedback(paths: DayPaths) -> StepCheck:
    """`feedback_complete`: the feedback of the last fetch against `feedback_stats` of the runs and of the day."""
    name = "feedback_complete"
    try:
        summary = _recorded_summary(paths)
    except CorruptArchiveError as error:
        return StepCheck(name, "unproven", str(error), error.hint)
    if summary is None or summary.feedback is None:
        return StepCheck(name, "agrees", "feedback was not collected")
    hint = "Fetch the day again: feedback may have been given while it was read"
    sums = read_state(paths).feedback_sums
    says = []
    if summary.feedback_differs:
        says.append(counted(len(summary.feedback_differs), "run has", "runs have"))
        says[-1] += " other feedback than their statistics say"
    if lacking := [one for one in sums or () if one.verdict == "differs"]:
        says.append(f"LangSmith counts more records on the day of {counted(len(lacking), 'key')}")
    if says:
        rows = [Difference(run, "its feedback_stats count other feedback") for run in summary.feedback_differs]
        rows += [_sum_difference(one) for one in lacking]
        return differing(name, "; ".join(says), hint, rows)
    if summary.feedback_unproven:
        says.append(counted(len(summary.feedback_unproven), "run has", "runs have"))
        says[-1] += " feedback of failed evaluators or of threads, which their statistics may not count"
    if sums:
        says.append(f"LangSmith counts other records on the day of {counted(len(sums), 'key')}, and none is missing")
    if says:
        rows = tuple(_sum_difference(one) for one in sums or ())[:MAX_ROWS]
        return StepCheck(name, "unproven", "; ".join(says), total=len(sums or ()), differences=rows)
    counts = "the statistics of the runs say" if sums is None else "the statistics of the runs, and of the day, say"
    return StepCheck(name, "agrees", f"{counted(summary.feedback, 'record')}, as many as {counts}")


def _sum_difference(one: FeedbackSum) -> Difference:
    expected = "" if one.counted is None else str(one.counted)
    return Difference(f"key {one.key[:100]!r}", "records of this key", expected, str(one.here))


def check_attachments(paths: DayPaths) -> StepCheck:
    """`attachments_complete`: what LangSmith listed when the day was fetched, against the files in the checksums."""
    name = "attachments_complete"
    hint = "Fetch the day again soon: what is missing is lost when LangSmith's retention ends"
    try:
        summary = _recorded_summary(paths)
        if summary and summary.attachments_missing:
            missing = summary.attachments_missing
            rows = [Difference(one.run_id, f"its attachment '{one.name}': {one.why}") for one in missing]
            return differing(name, f"{counted(len(rows), 'attachment')} could not be downloaded", hint, rows)
        if summary is None or summary.attachments is None:
            return StepCheck(name, "agrees", "attachments were not collected")
        listed = [] if is_pruned(paths) else read_attachments(paths.folder)
        sums = read_sums(paths.folder) or {}
    except CorruptArchiveError as error:
        return StepCheck(name, "differs", str(error), error.hint, 1)
    rows = [
        Difference(one.run_id, f"its attachment {one.name[:100]!r} has no file", attachment_file(one.sha256))
        for one in listed
        if sums.get(attachment_file(one.sha256)) != one.sha256
    ]
    if not is_pruned(paths) and len(listed) != summary.attachments:
        rows.append(Difference(ATTACHMENTS, "attachments", str(summary.attachments), str(len(listed))))
    if rows:
        hint = f"{_RESTORE_DAY}, or fetch it again"
        return differing(name, f"{counted(len(rows), 'attachment')} not in the day's files", hint, rows)
    return StepCheck(name, "agrees", f"{counted(summary.attachments, 'attachment is', 'attachments are')} here")


def check_files(paths: DayPaths) -> StepCheck:
    """`run_files_intact`: the folder's files against its checksums."""
    name = "run_files_intact"
    try:
        if pruned := read_pruned(paths):
            return StepCheck(name, "agrees", f"pruned on {pruned.pruned_at[:10]}: they are on {pruned.place}")
        require_folder(paths)
        with open_run_files(paths.folder) as folder:
            return _check_files(name, folder)
    except ArchiveError as error:
        return StepCheck(name, "differs", str(error), error.hint, 1)


def _check_files(name: str, folder: Folder) -> StepCheck:
    hint = f"{_RESTORE_DAY}, or fetch it again"
    recorded = read_sums(folder)
    if recorded is None:
        return StepCheck(name, "unproven", "the folder has no checksums", "lse archive zip makes them")
    expected = dict(content_sums(recorded))
    differences = []
    for path in content_files(folder):
        known = expected.pop(path.name, None)
        try:
            digest = folder.digest(path.name)
        except (ArchiveError, FileNotFoundError) as error:
            why = error.why if isinstance(error, ArchiveError) else error.strerror or ""
            differences.append(Difference(path.name, "cannot be read", found=why))
            continue
        if known is None:
            differences.append(Difference(path.name, "not in the checksums", "", digest.hex()))
        elif known != digest:
            differences.append(Difference(path.name, "changed", known.hex(), digest.hex()))
    differences += [Difference(missing, "missing", digest.hex()) for missing, digest in expected.items()]
    if SUMMARY not in recorded or not is_summary_as_recorded(folder, recorded):
        differences.append(Difference(SUMMARY, "changed or missing"))
    if differences:
        says = counted(len(differences), "file differs", "files differ")
        return differing(name, f"{says} from the checksums", hint, differences)
    says = counted(len(recorded) - 1, "file agrees with its checksum", "files agree with their checksums")
    return StepCheck(name, "agrees", says)


def check_archive(paths: DayPaths) -> StepCheck:
    """`zip_matches_files`: the zip, read as a whole, against the folder's checksums."""
    name = "zip_matches_files"
    hint = "Make it again: lse archive zip"
    if not paths.zip.is_file() and (pruned_at := read_state(paths).zip_pruned_at):
        return StepCheck(name, "agrees", f"the zip was pruned on {pruned_at[:10]}: its copy has its own check")
    if not paths.zip.is_file():
        return differing(name, "there is no archive", hint, [Difference(paths.zip.name, "missing")])
    try:
        sums = pruned_sums(paths) if is_pruned(paths) else read_sums(paths.folder) or {}
        check_zip(paths.zip, paths.zip, sums)
    except CorruptArchiveError as error:
        return differing(name, "the archive differs from the files", hint, [Difference(paths.zip.name, error.why)])
    return StepCheck(name, "agrees", f"the archive holds exactly the files: {len(sums):,}")


def check_copy(paths: DayPaths, destination: Destination | SettingsError) -> StepCheck:
    """`drive_matches_zip`: checksum and size at the destination, as they are now, against the local zip.

    Args:
        destination: The destination, or the error if none is set up.
    """
    name = "drive_matches_zip"
    if isinstance(destination, SettingsError):
        return StepCheck(name, "unproven", f"there is no copy elsewhere: {destination.why}", destination.hint)
    try:
        difference = find_copy_difference(destination, paths)
    except DestinationError as error:
        return StepCheck(name, "unknown", error.what, error.hint, 1, (Difference(paths.zip.name, error.why),))
    except CorruptArchiveError as error:
        row = Difference(paths.zip.name, error.why)
        return differing(name, "the local zip or checksums cannot be read", "Make it again: lse archive zip", [row])
    pruned_at = read_state(paths).copy_pruned_at
    if pruned_at and difference == NO_FILE and paths.zip.is_file():
        return StepCheck(
            name, "agrees", f"the copy on {destination.place} was pruned on {pruned_at[:10]}: the zip is here"
        )
    if difference:
        row = Difference(paths.zip.name, f"on {destination.place}", *difference)
        return differing(name, f"{destination.place} does not hold the archive", "Upload it: lse archive upload", [row])
    return StepCheck(name, "agrees", f"checksum and size on {destination.place} are those of the archive")


def check_rows(result: VerificationResult, *, pruned: bool = False) -> StepCheck:
    """`runs_match_files`: the result of the comparison of files with rows.

    Args:
        pruned: The day has no files to repair the rows from.
    """
    name = "runs_match_files"
    rows = [Difference(run, _NO_ROW) for run in result.missing_runs_in_db]
    rows += [Difference(run, "missing in the files") for run in result.missing_runs_in_files]
    rows += [Difference(run.run_id, run.what, run.expected, run.found) for run in result.inconsistent_runs]
    rows += [
        Difference(f"{record.table} {record.id}", record.what, record.expected, record.found)
        for record in result.inconsistent_records
    ]
    rows += [Difference(broken.partition(": ")[0], broken.partition(": ")[2]) for broken in result.broken_files]
    if not result.is_consistent:
        hint = "Load missing rows and replace differing ones from the files: lse archive verify --fix"
        if pruned:
            hint = "Restore the files that were pruned: lse archive restore; then: lse archive verify --fix"
        if any(broken.endswith(NOT_AS_RECORDED) for broken in result.broken_files):
            hint = f"{_RESTORE_DAY}: files here are damaged"
        return differing(name, f"files and rows differ in {counted(len(rows), 'place')}", hint, rows)
    says = f"{counted(result.total_runs_in_files, 'run agrees', 'runs agree')} in files and rows"
    if result.feedback_in_files or result.attachments_in_files:
        records = counted(result.feedback_in_files, "feedback record")
        says += f", {records} and {counted(result.attachments_in_files, 'attachment')} too"
    if result.broken_files:
        says += f"; without a run of the day: {counted(len(result.broken_files), 'file')}"
    return StepCheck(name, "agrees", says, total=0, differences=tuple(rows[:MAX_ROWS]))
