"""One project's assets, checks and job: a factory, because each project has its own first day, bar and plots."""

import contextlib
import functools
import warnings
from collections.abc import Generator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec

from lse_archive.days import parse_day
from lse_archive.errors import (
    AccessError,
    ArchiveError,
    CorruptArchiveError,
    DatabaseError,
    DayLockedError,
    DestinationError,
    SourceError,
)
from lse_archive.fetch.day import FetchOptions, fetch_day
from lse_archive.folder.locks import day_lock
from lse_archive.folder.manifest import read_summary
from lse_archive.folder.pruned import day_content, is_pruned
from lse_archive.folder.state import now_text, update_state
from lse_archive.layout import DayPaths
from lse_archive.names import project_slug
from lse_archive.results import UploadResult
from lse_archive.zips.day import zip_day
from lse_assets.config import FetchConfig, LoadConfig, UploadConfig, VerifyConfig, ZipConfig
from lse_assets.resources import ArchiveResource, DestinationResource, LangSmithResource, PostgresResource
from lse_assets.verification import CHECKS, check_result, check_steps
from lse_operations.days_record import note_load, note_verification
from lse_operations.reporter import Counter, StepReporter
from lse_operations.restore.restore import bring_back
from lse_operations.upload import upload_day
from lse_platform.asset_keys import STEPS, asset_key, job_name, langsmith_key
from lse_platform.exited_runs import tag_owner
from lse_resources.postgres.load.day import load_day
from lse_resources.projects import ProjectConfig

# What the outside refuses now it may grant a minute later: after 20, 60 and 140 seconds, each up to 20 more or less.
_RETRY = dg.RetryPolicy(max_retries=3, delay=20, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_OUTSIDE = (SourceError, DestinationError, DatabaseError, DayLockedError)
_RUNS_TABLE = {
    "dagster/table_name": "runs",
    "dagster/column_schema": dg.TableSchema(
        [
            dg.TableColumn("run_id", "uuid", "LangSmith's id of the run"),
            dg.TableColumn("trace_id", "uuid", "id of its trace"),
            dg.TableColumn("project", "text", "the LangSmith name, as it is"),
            dg.TableColumn("run_date", "date", "UTC day in which it started"),
            dg.TableColumn("data", "jsonb", "the run as LangSmith sent it; where `mark` is set, a rendering of it"),
            dg.TableColumn("created_at", "timestamptz", "when the row was written"),
            dg.TableColumn("file_sha256", "bytea", "of the run file that was loaded"),
            dg.TableColumn("row_sha256", "bytea", "of `data` as text, when the row was written"),
            dg.TableColumn("mark", "text[]", "why jsonb cannot hold the run as it is; NULL: it does"),
            dg.TableColumn("load_id", "bigint", "the load that wrote the row"),
        ]
    ),
}


@contextlib.contextmanager
def _step(context: dg.AssetExecutionContext, ui: StepReporter) -> Generator[None]:
    """Tells whoever watches of a failure, and fails the step with its one clear sentence.

    What will not be otherwise in a minute is not repeated.
    """
    tag_owner(context)
    try:
        yield
    except ArchiveError as error:
        ui.failed(context.asset_key.path[-1], error)
        passing = isinstance(error, _OUTSIDE) and not isinstance(error, AccessError)
        raise dg.Failure(description=str(error), allow_retries=passing) from error


def _content(paths: DayPaths) -> str | None:
    try:
        return day_content(paths)
    except CorruptArchiveError:  # the checks say so
        return None


def _metadata(result: msgspec.Struct, **more: Any) -> dict[str, Any]:
    """The numbers of a result, which Dagster plots over the days."""
    fields = msgspec.to_builtins(result)
    left_out = ("project", "date", "errors", "put_aside", "load_id")
    return {key: value for key, value in fields.items() if value is not None and key not in left_out} | more


def _check_specs(slug: str, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        # Partitioned checks are in preview; tests hold the behaviour that is relied on here.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check,
                asset=dg.AssetKey([slug, "verification"]),
                description=description,
                partitions_def=partitions,
            )
            for check, description in CHECKS.items()
        ]


def project_assets(project: ProjectConfig, retry_policy: dg.RetryPolicy | None = None) -> list[dg.AssetsDefinition]:
    """The assets of a project, partitioned by UTC day.

    Args:
        retry_policy: For the steps that ask the outside. Without one, as for a person who waits: an error is told at
            once, and an interrupt ends the step (Dagster would repeat it).
    """
    name, slug = project.name, project_slug(project.name)
    common: dict[str, Any] = {
        "key_prefix": slug,
        "owners": [project.owner] if project.owner else None,
        "group_name": slug.replace("-", "_"),
        "partitions_def": dg.DailyPartitionsDefinition(start_date=project.start.isoformat(), timezone="UTC"),
    }

    def day_of(context: dg.AssetExecutionContext) -> date:
        return parse_day(context.partition_key)

    @dg.asset(**common, kinds={"json"}, pool="langsmith", retry_policy=retry_policy, deps=[langsmith_key(name)])
    def run_files(
        context: dg.AssetExecutionContext,
        config: FetchConfig,
        archive: ArchiveResource,
        langsmith: LangSmithResource,
        google_drive: DestinationResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """Every run that started on the day, root and child, as LangSmith sent it: one JSON file each."""
        paths = archive.layout().day(name, day_of(context))
        options = FetchOptions(config.ask_count, config.allow_shrink, project.retention_days)
        with (
            _step(context, ui),
            ui.progress("run_files", "runs") as advance,
            langsmith.client() as client,
            contextlib.closing(client.source(name)) as source,
        ):
            if is_pruned(paths):
                with google_drive.client() as destination:
                    bring_back(destination, paths, on_wait=ui.waiting)
            result = fetch_day(paths, source, options, progress=Counter(advance), on_wait=ui.waiting)
            link = source.project.url
        ui.report("run_files", result)
        places: dict[str, Any] = {"folder": dg.MetadataValue.path(paths.folder)}
        if link:
            places["LangSmith project"] = dg.MetadataValue.url(link)
        if summary := read_summary(paths.folder):
            places |= {"errors": summary.errors, "tokens": summary.tokens, "cost": summary.cost}
        return dg.MaterializeResult(metadata=_metadata(result, **places))

    @dg.asset(**common, kinds={"zip"}, deps=[run_files])
    def day_zip(
        context: dg.AssetExecutionContext,
        config: ZipConfig,
        archive: ArchiveResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The day's archive: the same files give the same bytes, and it was read back before it counted."""
        paths = archive.layout().day(name, day_of(context))
        target = Path(config.output_dir) / paths.zip.name if config.output_dir else paths.zip
        with _step(context, ui), ui.progress("day_zip", "files") as advance:
            result = zip_day(
                paths, target=target, allow_shrink=config.allow_shrink, progress=advance, on_wait=ui.waiting
            )
        ui.report("day_zip", result)
        ratio = round(result.bytes_in / result.bytes, 2)
        return dg.MaterializeResult(metadata=_metadata(result, ratio=ratio, path=dg.MetadataValue.path(target)))

    @dg.asset(**common, kinds={"googledrive"}, pool="google_drive", retry_policy=retry_policy, deps=[day_zip])
    def drive_file(
        context: dg.AssetExecutionContext,
        config: UploadConfig,
        archive: ArchiveResource,
        google_drive: DestinationResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The archive on Google Drive, compared by checksum after the upload."""
        paths = archive.layout().day(name, day_of(context))
        with _step(context, ui), ui.progress("drive_file", "bytes") as advance:

            def upload() -> UploadResult:
                with google_drive.client() as drive:
                    return upload_day(
                        drive,
                        paths,
                        allow_shrink=config.allow_shrink,
                        may_replace=ui.confirm,
                        progress=advance,
                        on_wait=ui.waiting,
                    )

            result = ui.perform(upload)
        ui.report("drive_file", result)
        link = {"url": dg.MetadataValue.url(result.url)} if result.url else {}
        return dg.MaterializeResult(metadata=_metadata(result, **link))

    @dg.asset(**common, kinds={"postgres"}, metadata=_RUNS_TABLE, retry_policy=retry_policy, deps=[run_files])
    def runs_table(
        context: dg.AssetExecutionContext,
        config: LoadConfig,
        archive: ArchiveResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """The day's rows in the table `runs`, one per run, as in the files."""
        day = day_of(context)
        paths = archive.layout().day(name, day)
        with _step(context, ui), ui.progress("runs_table", "runs") as advance:
            database = postgres.database()
            result = load_day(
                database,
                name,
                day,
                paths.folder,
                batch_size=config.batch_size,
                overwrite=config.overwrite,
                progress=advance,
            )
            rows = result.successful_inserts + result.replaced + result.left
            note_load(database, paths, rows)
            if result.total_runs and not rows:
                raise ArchiveError(
                    f"none of the {result.total_runs} runs of {name} {day} could be loaded",
                    why=result.errors[0] if result.errors else "",
                    hint="Is the project's name right? lse archive verify names the runs",
                )
        ui.report("runs_table", result)
        return dg.MaterializeResult(metadata=_metadata(result, **{"dagster/partition_row_count": rows}))

    @dg.asset(
        **common,
        kinds={"postgres", "googledrive"},
        retry_policy=retry_policy,
        # Of each hop that it looks at, not of the last ones alone: any of them may be left out of a run.
        deps=[run_files, day_zip, drive_file, runs_table],
        check_specs=_check_specs(slug, common["partitions_def"]),
    )
    def verification(
        context: dg.AssetExecutionContext,
        config: VerifyConfig,
        archive: ArchiveResource,
        google_drive: DestinationResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[StepReporter],
    ) -> dg.MaterializeResult:
        """All places of the day compared as they are now; any day can be verified again, nothing is fetched."""
        day = day_of(context)
        paths = archive.layout().day(name, day)
        with _step(context, ui), ui.progress("verification", "runs") as advance:
            content = _content(paths)
            checks = list(check_steps(paths, config, google_drive, postgres, ui, advance))
            good = all(check.verdict in ("agrees", "unproven") for check in checks)
            if any(check.name == "runs_match_files" and check.verdict in ("agrees", "differs") for check in checks):
                note_verification(postgres.database(), paths, consistent=good)
        for check in checks:
            ui.checked(check)
        if good and not config.skip and content is not None:
            with day_lock(paths, on_wait=ui.waiting):
                if content == _content(paths):  # else it was written meanwhile, and is another day
                    update_state(paths, verified_at=now_text())
        return dg.MaterializeResult(
            metadata={"differences": sum(check.total for check in checks)},
            check_results=[check_result(check) for check in checks],
        )

    return [run_files, day_zip, drive_file, runs_table, verification]


@functools.lru_cache(maxsize=1000)  # Dagster asks for all definitions twice, and hundreds of assets take seconds
def project_definitions(project: ProjectConfig) -> dg.Definitions:
    """Everything of one project: the external LangSmith asset, the day's assets with their checks, and the job."""
    slug = project_slug(project.name)
    external = dg.AssetSpec(
        langsmith_key(project.name),
        description=f"The tracing project '{project.name}' in LangSmith.",
        group_name=slug.replace("-", "_"),
        kinds={"langsmith"},
    )
    job = dg.define_asset_job(
        job_name(project.name),
        selection=dg.AssetSelection.assets(*[asset_key(project.name, step) for step in STEPS]),
        description=f"Archives a day of '{project.name}' end to end and verifies it, or only verifies it again.",
    )
    return dg.Definitions(assets=[external, *project_assets(project, _RETRY)], jobs=[job])
