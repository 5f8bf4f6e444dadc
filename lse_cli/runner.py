"""Runs the assets of a project's day in this process, on the user's Dagster instance, so that the UI shows it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from lse_archive.errors import ArchiveError, DatabaseError
from lse_archive.projects import ProjectConfig
from lse_cli.console import DayOutcome, Terminal
from lse_resources.settings import Settings

if TYPE_CHECKING:
    import dagster as dg


class Runner:
    """Materializes days, one after the other. Use it as a context manager.

    Without Postgres the file hops go on all the same; then no record of the runs is kept.
    """

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal
        self._exit = contextlib.ExitStack()
        self._assets: dict[ProjectConfig, list[dg.AssetsDefinition]] = {}

    def __enter__(self) -> Runner:
        warnings.filterwarnings("ignore")
        self._instance = self._exit.enter_context(self._open_instance())
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _open_instance(self) -> dg.DagsterInstance:
        import dagster as dg

        from lse_resources.house import open_house

        # Dagster's own logger prints every event to stderr; the instance records them all the same.
        logging.getLogger("dagster").setLevel(logging.CRITICAL)
        try:
            house = open_house(self._settings)
            os.environ.update(house.environment())
            return dg.DagsterInstance.from_config(str(house.dagster_home))
        except DatabaseError as error:
            self._terminal.warn(f"! {error}\n  Going on without the database: files, zip and Drive need none.")
            return dg.DagsterInstance.ephemeral()

    def run(
        self, project: ProjectConfig, day: date, steps: list[str], config: Mapping[str, Mapping[str, object]]
    ) -> DayOutcome:
        """Materializes the steps of a day.

        Args:
            steps: Names of assets, as in `lse_assets.project.STEPS`.
            config: Their run config, by name.

        Raises:
            ArchiveError: A step failed in a way that it does not explain itself.
        """
        import dagster as dg

        from lse_assets.dead_runs import process_tags
        from lse_assets.definitions import resources
        from lse_assets.project import project_assets

        assets = self._assets.setdefault(project, project_assets(project))
        by_name = {asset.key.path[-1]: asset for asset in assets}
        result = dg.materialize(
            assets,
            selection=[by_name[step] for step in steps],
            partition_key=str(day),
            resources=resources(self._terminal),
            instance=self._instance,
            run_config={
                "ops": {
                    by_name[step].op.name: {"config": dict(values)} for step, values in config.items() if step in steps
                },
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            tags=process_tags(),
            raise_on_error=False,
        )
        outcome = self._terminal.day
        if not result.success and not outcome.errors:
            raise ArchiveError(
                f"{project.name} {day} failed",
                why=_cause(result),
                todo=f"The run {result.run_id} in the UI has the details",
            )
        return outcome


def _cause(result: dg.ExecuteInProcessResult) -> str:
    for event in result.filter_events(lambda event: event.is_failure):
        error = getattr(event.event_specific_data, "error", None)
        if error is not None:
            while error.cause:
                error = error.cause
            return " ".join(error.message.split())[:300]
    return "no cause was recorded"
