"""The assets, checks and job of one project: each project has its own first day, partitions and plots."""

import contextlib
import functools
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from lse_archive.days import parse_day
from lse_archive.errors import (
    AccessError,
    ArchiveError,
    DatabaseAccessError,
    DatabaseError,
    DayLockedError,
    DestinationError,
    SourceError,
)
from lse_archive.fetch.day import FetchOptions
from lse_archive.files import disk_error
from lse_archive.folder.manifest import read_summary
from lse_archive.layout import DayPaths
from lse_archive.names import project_slug
from lse_archive.printable import markdown, printable
from lse_archive.runs.header import CANONICAL_UUID
from lse_assets.config import FetchConfig, LakeConfig, LoadConfig, UploadConfig, VerifyConfig, ZipConfig
from lse_assets.resources import ArchiveResource, DestinationResource, LangSmithResource, PostgresResource
from lse_operations.checks import StepCheck, VerifyOptions, day_checks, day_verdict
from lse_operations.project_state import note_ends, note_retention, retention
from lse_operations.reporter import StepReporter
from lse_operations.steps import (
    LAKE_STEP,
    SEARCH_STEP,
    STEPS,
    UploadStep,
    fetch_step,
    lake_step,
    load_step,
    search_step,
    upload_step,
    verify_step,
    zip_step,
)
from lse_platform.addresses import runs_address, some_runs_address
from lse_platform.asset_keys import FAILED_CHECKS, asset_key, job_name, langsmith_key
from lse_platform.exited_runs import tag_run
from lse_resources.projects import ProjectConfig

# Retries after 20, 60 and 140 seconds, with jitter: an outside system may be back by then.
_RETRY = dg.RetryPolicy(max_retries=3, delay=20, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_RETRYABLE = (SourceError, DestinationError, DatabaseError, DayLockedError, OSError)
_NOT_PLOTTED = (
    "project",
    "date",
    "errors",
    "put_aside",
    "incomplete",
    "load_id",
    "left_out",
    "feedback_differs",
    "feedback_unproven",
    "feedback_sums",
    "attachments_missing",
)
_RUNS_TABLE = {
    "dagster/table_name": "runs",
    "dagster/column_schema": dg.TableSchema(
        [
            dg.TableColumn("run_id", "uuid", "LangSmith's id of the run"),
            dg.TableColumn("trace_id", "uuid", "id of its trace"),
            dg.TableColumn("project", "text", "the LangSmith name, unchanged"),
            dg.TableColumn("run_date", "date", "UTC day in which it started"),
            dg.TableColumn("data", "jsonb", "the run as LangSmith sent it; where `mark` is set, a rendering of it"),
            dg.TableColumn("created_at", "timestamptz", "when the row was written"),
            dg.TableColumn("file_sha256", "bytea", "hash of the run file that was loaded"),
            dg.TableColumn("row_sha256", "bytea", "hash of `data` as text, when the row was written"),
            dg.TableColumn("mark", "text[]", "why jsonb cannot store the run unchanged; NULL: it can"),
            dg.TableColumn("load_id", "bigint", "the load that wrote the row"),
        ]
    ),
}


@dataclass(frozen=True)
class _Shared:
    """What the assets of a project have in common."""

    project: ProjectConfig
    retry_policy: dg.RetryPolicy | None
    has_lake: bool

    @property
    def slug(self) -> str:
        return project_slug(self.project.name)

    @property
    def partitions(self) -> dg.DailyPartitionsDefinition:
        return dg.DailyPartitionsDefinition(start_date=self.project.start.isoformat(), timezone="UTC")

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of every asset."""
        return {
            "key_prefix": self.slug,
            "owners": [self.project.owner] if self.project.owner else None,
            "group_name": self.slug.replace("-", "_"),
            "partitions_def": self.partitions,
        }

    def paths(self, context: dg.AssetExecutionContext, archive: ArchiveResource) -> DayPaths:
        """Where the run's day is on disk."""
        return archive.layout().day(self.project.name, parse_day(context.partition_key))


@contextlib.contextmanager
def _step(shared: _Shared, context: dg.AssetExecutionContext, reporter: StepReporter) -> Generator[None]:
    """Reports a failure, and fails the step with the error's text. Only retryable errors are retried."""
    tag_run(context, shared.project.name)
    try:
        yield
    except (ArchiveError, OSError) as error:
        failure = disk_error(f"cannot process {context.partition_key}", error) if isinstance(error, OSError) else error
        reporter.failed(context.asset_key.path[-1], failure)
        retryable = isinstance(error, _RETRYABLE) and not isinstance(error, (AccessError, DatabaseAccessError))
        raise dg.Failure(description=printable(str(failure)), allow_retries=retryable) from error


def _metadata(result: msgspec.Struct, **more: Any) -> dict[str, Any]:
    """The numbers of a result, which Dagster plots over the days."""
    fields = msgspec.to_builtins(result)
    shown = {key: value for key, value in fields.items() if value is not None and key not in _NOT_PLOTTED}
    return {key: printable(value) if isinstance(value, str) else value for key, value in shown.items()} | more


def project_assets(
    project: ProjectConfig,
    retry_policy: dg.RetryPolicy | None = None,
    *,
    steps: Sequence[str] = STEPS,
    upload: UploadStep = upload_step,
) -> list[dg.AssetsDefinition]:
    """The assets of a project, partitioned by UTC day.

    Args:
        retry_policy: For the steps that use outside systems. The command line has none: it reports an error at once,
            and an interrupt ends the step (Dagster would retry it).
        steps: The steps of a day, see `day_steps`.
        upload: The step body of `drive_file`.
    """
    shared = _Shared(project, retry_policy, LAKE_STEP in steps)
    run_files = _run_files(shared)
    day_zip = _day_zip(shared, run_files)
    drive_file = _drive_file(shared, day_zip, upload)
    runs_table = _runs_table(shared, run_files)
    places = [run_files, day_zip, drive_file, runs_table]
    index = [_search_index(shared, runs_table)] if SEARCH_STEP in steps else []
    lake = [_lake_files(shared, run_files)] if shared.has_lake else []
    # A run may skip any step, so verification depends on each place that it compares.
    return [*places, *index, *lake, _verification(shared, [*places, *lake])]


def _run_files(shared: _Shared) -> dg.AssetsDefinition:
    name = shared.project.name

    @dg.asset(
        **shared.common,
        kinds={"json"},
        pool="langsmith",
        retry_policy=shared.retry_policy,
        deps=[langsmith_key(name)],
        output_required=False,
    )
    def run_files(
        context: dg.AssetExecutionContext,
        config: FetchConfig,
        archive: ArchiveResource,
        langsmith: LangSmithResource,
        google_drive: DestinationResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> Iterator[dg.MaterializeResult | dg.AssetObservation]:
        """Every run that started on the day, as LangSmith sent it: one JSON file each; with feedback and attachments.

        A day that LangSmith no longer has, and of which nothing is here, is not materialized, and its other steps are
        skipped: nobody can prove that it was empty.
        """
        paths, layout = shared.paths(context, archive), archive.layout()
        with (
            _step(shared, context, ui),
            langsmith.client() as client,
            contextlib.closing(client.source(name)) as source,
        ):
            note_retention(layout, name, client.retention_days(source.project))
            # A project that LangSmith keeps for longer now has days that it kept for less: the shorter one is proof.
            options = FetchOptions(
                config.ask_count,
                config.allow_shrink,
                min(shared.project.retention_days, retention(layout, shared.project).days),
                config.feedback,
                replace(archive.attachment_limits(), skip=not config.attachments),
            )
            result = fetch_step(paths, source, google_drive.client, postgres.database, ui, options)
            note_ends(layout, name, client.announced_ends)
            link, summary = source.project.url, read_summary(paths.folder)
        if result.outcome == "not_served":
            says = "LangSmith serves no run of the day, which is past its retention: nothing is archived or proven"
            yield dg.AssetObservation(
                context.asset_key, description=says, partition=context.partition_key, metadata=_metadata(result)
            )
            return
        places: dict[str, Any] = {
            "folder": dg.MetadataValue.path(printable(str(paths.folder))),
            "look at": _link(paths),
        }
        if link:
            places["LangSmith project"] = dg.MetadataValue.url(link)
        if summary:
            places |= {"errors": summary.errors, "tokens": summary.tokens, "cost": summary.cost}
        yield dg.MaterializeResult(metadata=_metadata(result, **places))

    return run_files


def _day_zip(shared: _Shared, run_files: dg.AssetsDefinition) -> dg.AssetsDefinition:
    @dg.asset(**shared.common, kinds={"zip"}, deps=[run_files])
    def day_zip(
        context: dg.AssetExecutionContext,
        config: ZipConfig,
        archive: ArchiveResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The day's zip. The same files give the same bytes, and it is read back before it is published."""
        paths = shared.paths(context, archive)
        target = Path(config.output_dir) / paths.zip.name if config.output_dir else paths.zip
        with _step(shared, context, ui):
            result = zip_step(paths, ui, target=target, allow_shrink=config.allow_shrink)
        more: dict[str, Any] = {"ratio": round(result.bytes_in / result.bytes, 2)}
        if result.left_out:
            more["left out"] = printable(", ".join(result.left_out))
        return dg.MaterializeResult(
            metadata=_metadata(result, **more, path=dg.MetadataValue.path(printable(str(target))))
        )

    return day_zip


def _drive_file(shared: _Shared, day_zip: dg.AssetsDefinition, upload: UploadStep) -> dg.AssetsDefinition:
    @dg.asset(
        **shared.common,
        kinds={"googledrive"},
        pool="google_drive",
        retry_policy=shared.retry_policy,
        deps=[day_zip],
    )
    def drive_file(
        context: dg.AssetExecutionContext,
        config: UploadConfig,
        archive: ArchiveResource,
        google_drive: DestinationResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The zip on Google Drive or in an object store, compared by checksum after the upload."""
        with _step(shared, context, ui):
            paths = shared.paths(context, archive)
            result = upload(paths, google_drive.client, ui, allow_shrink=config.allow_shrink)
        link = {"url": dg.MetadataValue.url(result.url)} if result.url else {}
        return dg.MaterializeResult(metadata=_metadata(result, **link))

    return drive_file


def _runs_table(shared: _Shared, run_files: dg.AssetsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        **shared.common,
        kinds={"postgres"},
        metadata=_RUNS_TABLE,
        retry_policy=shared.retry_policy,
        deps=[run_files],
    )
    def runs_table(
        context: dg.AssetExecutionContext,
        config: LoadConfig,
        archive: ArchiveResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The day's rows in the table `runs`, one per run, as in the files."""
        paths = shared.paths(context, archive)
        with _step(shared, context, ui):
            result = load_step(paths, postgres.database(), ui, batch_size=config.batch_size, overwrite=config.overwrite)
        more = {"dagster/partition_row_count": result.rows, "look at": _link(paths)}
        return dg.MaterializeResult(metadata=_metadata(result, **more))

    return runs_table


def _search_index(shared: _Shared, runs_table: dg.AssetsDefinition) -> dg.AssetsDefinition:
    @dg.asset(**shared.common, kinds={"postgres"}, retry_policy=shared.retry_policy, deps=[runs_table])
    def search_index(
        context: dg.AssetExecutionContext,
        archive: ArchiveResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The words of the day's rows, for the search; a row that changes leaves the index at once."""
        with _step(shared, context, ui):
            result = search_step(shared.paths(context, archive), postgres.database(), ui)
        return dg.MaterializeResult(metadata=_metadata(result))

    return search_index


def _lake_files(shared: _Shared, run_files: dg.AssetsDefinition) -> dg.AssetsDefinition:
    @dg.asset(**shared.common, kinds={"parquet"}, retry_policy=shared.retry_policy, deps=[run_files])
    def lake_files(
        context: dg.AssetExecutionContext,
        config: LakeConfig,
        archive: ArchiveResource,
        google_drive: DestinationResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The day's Parquet files in the lake, which any engine reads; each table is replaced at once."""
        with _step(shared, context, ui):
            result = lake_step(
                shared.paths(context, archive),
                archive.lake(),
                google_drive.client,
                ui,
                workspace=archive.workspace(),
                allow_shrink=config.allow_shrink,
            )
        return dg.MaterializeResult(metadata=_metadata(result))

    return lake_files


def _verification(shared: _Shared, deps: list[dg.AssetsDefinition]) -> dg.AssetsDefinition:
    @dg.asset(
        **shared.common,
        kinds={"postgres", "googledrive"},
        retry_policy=shared.retry_policy,
        deps=deps,
        check_specs=_check_specs(shared),
    )
    def verification(
        context: dg.AssetExecutionContext,
        config: VerifyConfig,
        archive: ArchiveResource,
        google_drive: DestinationResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """Compares all copies of the day in their current state. Any day can be verified again; nothing is fetched.

        A day with a check that is ERROR is not materialized: it shows as failed.
        """
        paths = shared.paths(context, archive)
        options = VerifyOptions(config.detailed, config.fix_missing, config.fix, config.skip)
        with _step(shared, context, ui):
            lake = archive.lake() if shared.has_lake else None
            checks = verify_step(paths, google_drive.client, postgres.database, ui, options, lake)
        results = [_check_result(check, paths) for check in checks]
        red = ", ".join(check.name for check in checks if check.verdict in ("differs", "unknown"))
        if not red:
            verdict = day_verdict(checks, config.skip) or "not known: a place was skipped, or could not be reached"
            yield dg.MaterializeResult(metadata={"verdict": verdict}, check_results=results)
            return
        yield from results
        raise dg.Failure(description=f"{red} failed", metadata={FAILED_CHECKS: red}, allow_retries=False)

    return verification


def _check_specs(shared: _Shared) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        # Partitioned checks are in preview; tests cover what is used of them.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check,
                asset=dg.AssetKey([shared.slug, "verification"]),
                description=description,
                partitions_def=shared.partitions,
            )
            for check, description in day_checks(has_lake=shared.has_lake).items()
        ]


def _link(paths: DayPaths) -> dg.UrlMetadataValue:
    """The day's runs in the pages of the archive."""
    return dg.MetadataValue.url(runs_address(paths.project, paths.day, paths.day))


def _check_result(check: StepCheck, paths: DayPaths) -> dg.AssetCheckResult:
    # ERROR if a difference was found or nothing could be compared: a warning raises no alert.
    severity = dg.AssetCheckSeverity.WARN if check.verdict == "unproven" else dg.AssetCheckSeverity.ERROR
    metadata: dict[str, Any] = {"differences": check.total}
    if check.hint:
        metadata["what to do"] = printable(check.hint)
    if check.differences:
        rows = [msgspec.to_builtins(row).items() for row in check.differences]
        records = [dg.TableRecord({key: printable(text) for key, text in row}) for row in rows]
        metadata["differing"] = dg.MetadataValue.table(records)
        items = [row.item.partition("_")[0] for row in check.differences]  # a run, or the name of its file
        if runs := list(filter(CANONICAL_UUID.fullmatch, items)):
            metadata["look at"] = dg.MetadataValue.url(some_runs_address(paths.project, runs))
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.verdict == "agrees",
        severity=severity,
        description=markdown(check.says),
        metadata=metadata,
    )


@functools.lru_cache(maxsize=1000)  # Dagster requests all definitions twice; hundreds of assets take seconds to build
def project_definitions(project: ProjectConfig, steps: tuple[str, ...] = STEPS) -> dg.Definitions:
    """Everything of one project: the external LangSmith asset, the day's assets with their checks, and the job.

    Args:
        steps: The steps of a day, see `day_steps`.
    """
    name = markdown(project.name)
    external = dg.AssetSpec(
        langsmith_key(project.name),
        description=f"The tracing project '{name}' in LangSmith.",
        group_name=project_slug(project.name).replace("-", "_"),
        kinds={"langsmith"},
    )
    return dg.Definitions(
        assets=[external, *project_assets(project, _RETRY, steps=steps)],
        jobs=[project_job(project, steps)],
    )


def project_job(project: ProjectConfig, steps: Sequence[str] = STEPS) -> UnresolvedAssetJobDefinition:
    """The job of a project's assets."""
    return dg.define_asset_job(
        job_name(project.name),
        selection=dg.AssetSelection.assets(*[asset_key(project.name, step) for step in steps]),
        description=f"Archives a day of '{markdown(project.name)}' end to end and verifies it, or only verifies it"
        " again.",
    )
