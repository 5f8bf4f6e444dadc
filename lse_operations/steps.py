"""The steps of a day. Assets call them in Dagster's runs, and the command line calls them outside of a run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lse_archive.errors import ArchiveError, CorruptArchiveError
from lse_archive.fetch.day import FetchOptions, fetch_day
from lse_archive.fetch.source import RunSource
from lse_archive.folder.locks import day_lock
from lse_archive.folder.pruned import day_content, is_pruned
from lse_archive.folder.state import now_text, update_state
from lse_archive.layout import DayPaths, Layout
from lse_archive.results import FetchResult, IndexResult, LakeResult, LoadResult, UploadResult, ZipResult
from lse_archive.texts import counted
from lse_archive.zips.day import zip_day
from lse_operations.checks import OpenDestination, StepCheck, VerifyOptions, check_steps, day_verdict
from lse_operations.days_record import note_load, note_verification
from lse_operations.reporter import Counter, StepReporter
from lse_operations.restore.restore import restore_pruned
from lse_operations.tombstones import recall_tombstones
from lse_operations.upload import upload_day
from lse_resources.postgres.advisory_locks import OnWait
from lse_resources.postgres.database import Database
from lse_resources.postgres.load.batches import BATCH_SIZE
from lse_resources.postgres.load.day import PartlyLoadedError, Progress, load_day
from lse_resources.postgres.search.index import index_day

if TYPE_CHECKING:
    from lse_resources.lake.place import LakePlace
    from lse_resources.settings import Settings

_log = logging.getLogger(__name__)

STEPS = ("run_files", "day_zip", "drive_file", "runs_table", "verification")
"""The steps in the order in which a day is processed. Assets have the same names."""
SEARCH_STEP = "search_index"
LAKE_STEP = "lake_files"


def day_steps(settings: Settings) -> tuple[str, ...]:
    """The steps of a day: `STEPS`, and those that the settings add before the verification."""
    wanted = {SEARCH_STEP: settings.has_search, LAKE_STEP: settings.lake_url is not None}
    return (*STEPS[:-1], *(step for step, is_wanted in wanted.items() if is_wanted), STEPS[-1])


def fetch_step(
    paths: DayPaths,
    source: RunSource,
    open_destination: OpenDestination,
    open_database: Callable[[], Database],
    reporter: StepReporter,
    options: FetchOptions,
) -> FetchResult:
    """Fetches the day; a pruned day is restored first, so that its runs are part of the union.

    Runs that the database lists as erased stay so. Without the database the fetch goes on: LangSmith deletes.

    Raises:
        ArchiveError: See `fetch_day`, `restore_pruned` and `recall_tombstones`.
    """
    layout = Layout(paths.data_dir, paths.archive_dir)
    recall_tombstones(open_database, layout, paths.project, [paths.day], warn=_log.warning)
    with reporter.progress("run_files", "runs") as advance:
        if is_pruned(paths):
            with open_destination() as destination:
                restore_pruned(destination, paths, on_wait=reporter.waiting)
        result = fetch_day(paths, source, options, progress=Counter(advance), on_wait=reporter.waiting)
    reporter.report("run_files", result)
    return result


def zip_step(
    paths: DayPaths, reporter: StepReporter, *, target: Path | None = None, allow_shrink: bool = False
) -> ZipResult:
    """Writes the day's zip. Raises ArchiveError, see `zip_day`."""
    with reporter.progress("day_zip", "files") as advance:
        result = zip_day(paths, target=target, allow_shrink=allow_shrink, progress=advance, on_wait=reporter.waiting)
    reporter.report("day_zip", result)
    return result


def upload_step(
    paths: DayPaths, open_destination: OpenDestination, reporter: StepReporter, *, allow_shrink: bool = False
) -> UploadResult:
    """Uploads the day's zip. Raises ArchiveError, see `upload_day`."""
    with reporter.progress("drive_file", "bytes") as advance, open_destination() as destination:
        result = upload_day(
            destination,
            paths,
            allow_shrink=allow_shrink,
            may_replace=reporter.confirm,
            progress=advance,
            on_wait=reporter.waiting,
        )
    reporter.report("drive_file", result)
    return result


UploadStep = Callable[..., UploadResult]
"""`upload_step`, or a function with its parameters."""


def load_step(
    paths: DayPaths, database: Database, reporter: StepReporter, *, batch_size: int, overwrite: bool
) -> LoadResult:
    """Loads the day's run files into the table `runs`.

    Raises:
        ArchiveError: See `load_rows`.
    """
    with reporter.progress("runs_table", "runs") as advance:
        result = load_rows(
            paths,
            database,
            overwrite=overwrite,
            on_wait=reporter.waiting,
            batch_size=batch_size,
            progress=advance,
        )
    reporter.report("runs_table", result)
    return result


def load_rows(
    paths: DayPaths,
    database: Database,
    *,
    overwrite: bool,
    on_wait: OnWait,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> LoadResult:
    """Loads the day's run files with `load_day`, and records the load in the table `days`.

    Raises:
        ArchiveError: No run of the day could be loaded; or see `load_day`.
    """
    try:
        result = load_day(
            database,
            paths.project,
            paths.day,
            paths.folder,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=progress,
            on_wait=on_wait,
        )
    except PartlyLoadedError as error:
        note_load(database, paths, error.rows)
        raise
    note_load(database, paths, result.rows)
    if result.total_runs and not result.rows:
        raise ArchiveError(
            f"{paths.project} {paths.day} could not be loaded: {counted(result.total_runs, 'run')}, all rejected",
            why=result.errors[0] if result.errors else "",
            hint="Check the project's name; lse archive verify names the runs",
        )
    return result


def search_step(paths: DayPaths, database: Database, reporter: StepReporter) -> IndexResult:
    """Adds the day's rows to the search index. Raises ArchiveError, see `index_day`."""
    with reporter.progress(SEARCH_STEP, "runs") as advance:
        result = index_day(database, paths.project, paths.day, progress=advance, on_wait=reporter.waiting)
    reporter.report(SEARCH_STEP, result)
    return result


def lake_step(
    paths: DayPaths,
    lake: LakePlace,
    open_destination: OpenDestination,
    reporter: StepReporter,
    *,
    workspace: str | None,
    allow_shrink: bool,
) -> LakeResult:
    """Builds the day in the lake. Raises ArchiveError, see `build_day`."""
    from lse_operations.lake import build_day  # pyarrow is slow to import

    with reporter.progress(LAKE_STEP, "runs") as advance:
        result = build_day(
            lake,
            paths,
            open_destination,
            workspace=workspace,
            allow_shrink=allow_shrink,
            progress=Counter(advance),
            on_wait=reporter.waiting,
        )
    reporter.report(LAKE_STEP, result)
    return result


def verify_step(
    paths: DayPaths,
    open_destination: OpenDestination,
    open_database: Callable[[], Database],
    reporter: StepReporter,
    options: VerifyOptions,
    lake: LakePlace | None = None,
) -> list[StepCheck]:
    """Compares all places of the day as they are now, and records the verdict in its state.

    Args:
        lake: The lake, if there is one.

    Raises:
        ArchiveError: The day's lock is held by another process.
    """
    with reporter.progress("verification", "runs") as advance:
        content = _content(paths)
        of_lake = _lake_check(lake, paths, options) if lake else None
        checks = list(check_steps(paths, open_destination, open_database, reporter, advance, options, of_lake))
        verdict = day_verdict(checks, options.skip)
        rows = next(check.verdict for check in checks if check.name == "runs_match_files")
        if verdict and rows in ("agrees", "differs"):
            note_verification(open_database(), paths, verdict)
    for check in checks:
        reporter.checked(check)
    if verdict == "wrong" or (verdict and content is not None):
        with day_lock(paths, on_wait=reporter.waiting):
            if content == _content(paths):  # the checks hold for no other content
                try:
                    update_state(paths, verdict=verdict, verified_at=None if verdict == "wrong" else now_text())
                except ArchiveError as error:  # for example on read-only media: the checks are done
                    _log.warning("%s", error)
    return checks


def _lake_check(lake: LakePlace, paths: DayPaths, options: VerifyOptions) -> Callable[[], StepCheck]:
    from lse_operations.lake import check_lake  # pyarrow is slow to import

    return lambda: check_lake(lake, paths, detailed=options.detailed)


def _content(paths: DayPaths) -> str | None:
    with contextlib.suppress(CorruptArchiveError):  # a check reports it
        return day_content(paths)
    return None
