"""The checks of every hop, as the asset `verification` carries them."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import msgspec

from lse_archive.errors import DatabaseError, SettingsError
from lse_archive.folder.pruned import is_pruned, pruned_runs
from lse_archive.layout import DayPaths
from lse_archive.results import VerificationResult
from lse_assets.config import VerifyConfig
from lse_assets.resources import DestinationResource, PostgresResource
from lse_operations.checks import (
    Difference,
    StepCheck,
    check_archive,
    check_copy,
    check_count,
    check_files,
    check_rows,
)
from lse_operations.reporter import Advance, StepReporter
from lse_resources.postgres.database import Database
from lse_resources.postgres.verify.day import verify_against, verify_day

CHECKS = {
    "langsmith_count": "The runs of the last fetch against LangSmith's own count.",
    "run_files_intact": "The run files against their checksums.",
    "zip_matches_files": "The archive, read as a whole, against the run files' checksums.",
    "drive_matches_zip": "Checksum and size on Drive, as they are now, against the archive.",
    "runs_match_files": "Ids, traces and contents of the rows, as they are now, against the run files.",
}


def check_steps(
    paths: DayPaths,
    config: VerifyConfig,
    google_drive: DestinationResource,
    postgres: PostgresResource,
    ui: StepReporter,
    advance: Advance,
) -> Iterator[StepCheck]:
    for name in CHECKS:
        if name in config.skip:
            yield StepCheck(name, "unproven", "it was left out on request")
        elif name == "langsmith_count":
            yield check_count(paths)
        elif name == "run_files_intact":
            yield check_files(paths)
        elif name == "zip_matches_files":
            yield check_archive(paths)
        elif name == "drive_matches_zip":
            try:
                with google_drive.client() as drive:
                    yield check_copy(paths, drive)
            except SettingsError as error:
                yield check_copy(paths, error)
        else:
            try:
                result = _compare_rows(postgres.database(), paths, config, advance)
            except DatabaseError as error:
                yield StepCheck(name, "unknown", error.what, error.hint, 1, (Difference("the rows", error.why),))
                continue
            ui.report("verification", result)
            yield check_rows(result)


def _compare_rows(database: Database, paths: DayPaths, config: VerifyConfig, advance: Advance) -> VerificationResult:
    if is_pruned(paths):
        return verify_against(database, paths.project, paths.day, pruned_runs(paths))
    return verify_day(
        database,
        paths.project,
        paths.day,
        paths.folder,
        detailed=config.detailed,
        fix_missing=config.fix_missing,
        fix=config.fix,
        progress=advance,
    )


def check_result(check: StepCheck) -> dg.AssetCheckResult:
    # Only what is known to be wrong, or cannot be looked at, is an error: a warning wakes nobody.
    severity = dg.AssetCheckSeverity.WARN if check.verdict == "unproven" else dg.AssetCheckSeverity.ERROR
    metadata: dict[str, Any] = {"differences": check.total}
    if check.hint:
        metadata["what to do"] = check.hint
    if check.differences:
        rows = [msgspec.to_builtins(row) for row in check.differences]
        metadata["differing"] = dg.MetadataValue.table([dg.TableRecord(row) for row in rows])
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.verdict == "agrees",
        severity=severity,
        description=check.says,
        metadata=metadata,
    )
