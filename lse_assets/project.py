"""One project's assets, checks and job: a factory, because each project has its own first day, bar and plots."""

import contextlib
import warnings
from collections.abc import Generator
from datetime import date
from typing import Any

import dagster as dg
import msgspec

from lse_archive.days import parse_day
from lse_archive.errors import ArchiveError, SettingsError
from lse_archive.fetch import FetchOptions, fetch_day
from lse_archive.names import project_slug
from lse_archive.projects import ProjectConfig
from lse_archive.state import now_text, update_state
from lse_archive.zips import zip_day
from lse_assets.checks import CHECKS, check_hops, check_result
from lse_assets.config import FetchConfig, LoadConfig, UploadConfig, VerifyConfig, ZipConfig
from lse_assets.interaction import Counter, Interaction
from lse_resources.dagster_resources import ArchiveResource, GoogleDriveResource, LangSmithResource, PostgresResource
from lse_resources.drive_archive import upload_day
from lse_resources.runs_table import load_day

STEPS = ("run_files", "day_zip", "drive_file", "runs_table", "verification")


def asset_key(project: str, step: str) -> dg.AssetKey:
    """The key of a project's step."""
    return dg.AssetKey([project_slug(project), step])


def langsmith_key(project: str) -> dg.AssetKey:
    """The key of the external asset that stands for the project in LangSmith."""
    return dg.AssetKey([project_slug(project), "langsmith"])


@contextlib.contextmanager
def _step(ui: Interaction, step: str) -> Generator[None]:
    """Tells whoever watches of a failure, and fails the step with its one clear sentence."""
    try:
        yield
    except ArchiveError as error:
        ui.failed(step, error)
        raise dg.Failure(description=str(error), allow_retries=not isinstance(error, SettingsError)) from error


def _metadata(result: msgspec.Struct, **more: Any) -> dict[str, Any]:
    """The numbers of a result, which Dagster plots over the days."""
    fields = msgspec.structs.asdict(result)
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


def project_assets(project: ProjectConfig) -> list[dg.AssetsDefinition]:
    """The assets of a project, partitioned by UTC day."""
    name, slug = project.name, project_slug(project.name)
    common: dict[str, Any] = {
        "key_prefix": slug,
        "group_name": slug.replace("-", "_"),
        "partitions_def": dg.DailyPartitionsDefinition(start_date=project.start.isoformat(), timezone="UTC"),
    }

    def day_of(context: dg.AssetExecutionContext) -> date:
        return parse_day(context.partition_key)

    @dg.asset(**common, kinds={"json"}, deps=[langsmith_key(name)])
    def run_files(
        context: dg.AssetExecutionContext,
        config: FetchConfig,
        archive: ArchiveResource,
        langsmith: LangSmithResource,
        ui: dg.ResourceParam[Interaction],
    ) -> dg.MaterializeResult:
        """Every run that started on the day, root and child, as LangSmith sent it: one JSON file each."""
        paths = archive.layout().day(name, day_of(context))
        options = FetchOptions(config.ask_count, config.allow_shrink, project.retention_days)
        with (
            _step(ui, "run_files"),
            ui.progress("run_files", "runs") as advance,
            langsmith.client() as client,
            contextlib.closing(client.source(name)) as source,
        ):
            result = fetch_day(paths, source, options, progress=Counter(advance), on_wait=ui.waiting)
        ui.report("run_files", result)
        return dg.MaterializeResult(metadata=_metadata(result, folder=dg.MetadataValue.path(paths.folder)))

    @dg.asset(**common, kinds={"zip"}, deps=[run_files])
    def day_zip(
        context: dg.AssetExecutionContext,
        config: ZipConfig,
        archive: ArchiveResource,
        ui: dg.ResourceParam[Interaction],
    ) -> dg.MaterializeResult:
        """The day's archive: the same files give the same bytes, and it was read back before it counted."""
        paths = archive.layout().day(name, day_of(context))
        with _step(ui, "day_zip"), ui.progress("day_zip", "files") as advance:
            result = zip_day(paths, allow_shrink=config.allow_shrink, progress=advance, on_wait=ui.waiting)
        ui.report("day_zip", result)
        return dg.MaterializeResult(metadata=_metadata(result, path=dg.MetadataValue.path(paths.zip)))

    @dg.asset(**common, kinds={"googledrive"}, deps=[day_zip])
    def drive_file(
        context: dg.AssetExecutionContext,
        config: UploadConfig,
        archive: ArchiveResource,
        google_drive: GoogleDriveResource,
        ui: dg.ResourceParam[Interaction],
    ) -> dg.MaterializeResult:
        """The archive on Google Drive, compared by checksum after the upload."""
        paths = archive.layout().day(name, day_of(context))
        size = paths.zip.stat().st_size if paths.zip.exists() else None
        with (
            _step(ui, "drive_file"),
            ui.progress("drive_file", "bytes") as advance,
            google_drive.client() as drive,
        ):
            result = upload_day(
                drive,
                paths,
                allow_shrink=config.allow_shrink,
                may_replace=ui.confirm,
                progress=lambda sent: advance(sent, size),
                on_wait=ui.waiting,
            )
        ui.report("drive_file", result)
        link = {"url": dg.MetadataValue.url(result.url)} if result.url else {}
        return dg.MaterializeResult(metadata=_metadata(result, **link))

    @dg.asset(**common, kinds={"postgres"}, deps=[run_files])
    def runs_table(
        context: dg.AssetExecutionContext,
        config: LoadConfig,
        archive: ArchiveResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[Interaction],
    ) -> dg.MaterializeResult:
        """The day's rows in the table `runs`, one per run, as in the files."""
        day = day_of(context)
        paths = archive.layout().day(name, day)
        with _step(ui, "runs_table"), ui.progress("runs_table", "runs") as advance:
            result = load_day(
                postgres.database(),
                name,
                day,
                paths.folder,
                batch_size=config.batch_size,
                overwrite=config.overwrite,
                progress=advance,
            )
        ui.report("runs_table", result)
        rows = result.successful_inserts + result.replaced + result.left
        return dg.MaterializeResult(metadata=_metadata(result, **{"dagster/partition_row_count": rows}))

    @dg.asset(
        **common,
        kinds={"postgres", "googledrive"},
        deps=[drive_file, runs_table],
        check_specs=_check_specs(slug, common["partitions_def"]),
    )
    def verification(
        context: dg.AssetExecutionContext,
        config: VerifyConfig,
        archive: ArchiveResource,
        google_drive: GoogleDriveResource,
        postgres: PostgresResource,
        ui: dg.ResourceParam[Interaction],
    ) -> dg.MaterializeResult:
        """All places of the day compared as they are now; any day can be verified again, nothing is fetched."""
        day = day_of(context)
        paths = archive.layout().day(name, day)
        with _step(ui, "verification"), ui.progress("verification", "runs") as advance:
            checks = list(check_hops(paths, config, google_drive, postgres, ui, advance))
        for check in checks:
            ui.checked(check)
        if all(check.verdict in ("agrees", "unproven") for check in checks):
            update_state(paths, verified_at=now_text())
        return dg.MaterializeResult(
            metadata={"differences": sum(check.total for check in checks)},
            check_results=[check_result(check) for check in checks],
        )

    return [run_files, day_zip, drive_file, runs_table, verification]


def project_definitions(project: ProjectConfig) -> dg.Definitions:
    """Everything of one project: the external LangSmith asset, the day's assets with their checks, and the job."""
    slug = project_slug(project.name)
    assets = project_assets(project)
    external = dg.AssetSpec(
        langsmith_key(project.name),
        description=f"The tracing project '{project.name}' in LangSmith.",
        group_name=slug.replace("-", "_"),
        kinds={"langsmith"},
    )
    job = dg.define_asset_job(
        f"archive_{slug.replace('-', '_')}",
        selection=dg.AssetSelection.assets(*[asset_key(project.name, step) for step in STEPS]),
        description=f"Archives a day of '{project.name}' end to end and verifies it.",
    )
    return dg.Definitions(assets=[external, *assets], jobs=[job])
