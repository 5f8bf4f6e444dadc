"""Materializes a day's assets in this process, on the user's Dagster instance, so that the UI shows them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from datetime import date
from typing import TYPE_CHECKING

from lse_archive.errors import ArchiveError, DatabaseError
from lse_archive.texts import counted
from lse_cli.terminal.console import DayOutcome, Terminal
from lse_resources.projects import ProjectConfig
from lse_resources.settings import Settings

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.execution.job_execution_result import JobExecutionResult

    from lse_operations.steps import UploadStep

_POLL_SECONDS = 1.0


class Runner:
    """Materializes days, one after the other. Use it as a context manager.

    Args:
        upload: The step body of `drive_file`, see `project_assets`.

    Attributes:
        refusal: The error if Postgres cannot be used. File steps still run, and Dagster keeps no record of them.
    """

    def __init__(self, settings: Settings, terminal: Terminal, upload: UploadStep) -> None:
        self.refusal: DatabaseError | None = None
        self._settings = settings
        self._terminal = terminal
        self._upload = upload
        self._exit = contextlib.ExitStack()
        self._jobs: dict[ProjectConfig, dg.JobDefinition] = {}

    def __enter__(self) -> Runner:
        warnings.filterwarnings("ignore")
        # First of all: an import can discard an interrupt too.
        self._terminal.interrupted = self._exit.enter_context(_watched_interrupts())
        # Before threads start: an interrupt of an import that waits for another thread's import leaves CPython's import
        # lock held (3.11, `_get_module_lock`), and every thread then waits for it.
        import lse_location.definitions  # noqa: F401

        self._instance = self._exit.enter_context(self._open_instance())
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _open_instance(self) -> dg.DagsterInstance:
        import dagster as dg

        from lse_platform.home import open_home

        # Dagster's own logger prints every event to stderr; the instance records them anyway.
        logging.getLogger("dagster").setLevel(logging.CRITICAL)
        try:
            home = open_home(self._settings)
            home.check_dagster()
            os.environ.update(home.environment())
            return dg.DagsterInstance.from_config(str(home.dagster_home))
        except DatabaseError as error:
            self.refusal = error
            return dg.DagsterInstance.ephemeral()

    def run(
        self, project: ProjectConfig, day: date, steps: list[str], config: Mapping[str, Mapping[str, object]]
    ) -> DayOutcome:
        """Materializes the steps of a day.

        Args:
            steps: Names of assets, as in `lse_operations.steps.day_steps`.
            config: Their run config, by name.

        Raises:
            KeyboardInterrupt: It was interrupted.
        """
        import dagster as dg
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._materialize(project, day, steps, config)
        except dg.DagsterError as error:
            hint = "Run the command again; if Dagster refuses again, please report it"
            refusal = ArchiveError(f"Dagster refuses the day {day}", why=_one_line(str(error)).rstrip("."), hint=hint)
        except SQLAlchemyError as error:
            why = _one_line(str(getattr(error, "orig", None) or type(error).__name__))
            refusal = DatabaseError("cannot write Dagster's records", why=why, hint="Check LSE_DAGSTER_DATABASE_URL")
        self._terminal.failed(steps[0], refusal)
        return self._terminal.day

    def _materialize(
        self, project: ProjectConfig, day: date, steps: list[str], config: Mapping[str, Mapping[str, object]]
    ) -> DayOutcome:
        from dagster._core.definitions.job_base import InMemoryJob
        from dagster._core.execution.api import execute_run
        from dagster._core.storage.tags import MAX_RETRIES_TAG, PARTITION_NAME_TAG
        from dagster._core.utils import make_new_run_id

        from lse_platform.asset_keys import asset_key, job_origin
        from lse_platform.exited_runs import run_tags

        job = self._job(project)
        nodes = {step: job.asset_layer.get(asset_key(project.name, step)).assets_def.op for step in steps}
        self._wait_for_pools({op.pool for op in nodes.values() if op.pool})
        run_id = make_new_run_id()
        # The daemon repeats a run that it launched and whose process was lost; this one is the user's.
        tags = {PARTITION_NAME_TAG: str(day), MAX_RETRIES_TAG: "0"}
        run = self._instance.create_run_for_job(
            job,
            run_id=run_id,
            run_config={
                "ops": {nodes[step].name: {"config": dict(config[step])} for step in steps if step in config},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            tags=tags | run_tags(self._instance, run_id, project.name),
            asset_selection={asset_key(project.name, step) for step in steps},
            remote_job_origin=job_origin(project.name),
        )
        result = execute_run(InMemoryJob(job), run, self._instance)
        if self._terminal.interrupted():
            raise KeyboardInterrupt
        if not result.success:
            self._explain(result)
        return self._terminal.day

    def _job(self, project: ProjectConfig) -> dg.JobDefinition:
        import dagster as dg

        from lse_assets.assets import project_assets, project_job
        from lse_location.definitions import resources
        from lse_operations.steps import day_steps
        from lse_platform.asset_keys import job_name

        if project not in self._jobs:
            steps = day_steps(self._settings)
            definitions = dg.Definitions(
                assets=project_assets(project, steps=steps, upload=self._upload),
                jobs=[project_job(project, steps)],
                resources=resources(self._terminal),
                executor=dg.in_process_executor,
            )
            self._jobs[project] = definitions.resolve_job_def(job_name(project.name))
        return self._jobs[project]

    def _wait_for_pools(self, pools: set[str]) -> None:
        """Releases the pool slots of exited runs, and waits while running ones hold all slots of a pool.

        Dagster would wait as well, but without a message, and without reacting to Ctrl-C.
        """
        from lse_platform.exited_runs import fail_exited_runs, release_pool_slots

        reported: set[str] = set()
        while self._full(pools):
            fail_exited_runs(self._instance)
            release_pool_slots(self._instance)
            full = self._full(pools)
            for pool in full.keys() - reported:
                steps = counted(full[pool], "other step is", "other steps are")
                self._terminal.warn(f"  waiting: the pool {pool} is full, {steps} running")
            reported |= full.keys()
            if full:
                time.sleep(_POLL_SECONDS)

    def _full(self, pools: set[str]) -> dict[str, int]:
        storage = self._instance.event_log_storage
        if not storage.supports_global_concurrency_limits:  # an ephemeral instance
            return {}
        infos = map(storage.get_concurrency_info, sorted(pools))
        return {
            info.concurrency_key: info.limit
            for info in infos
            if info.limit is not None and info.assigned_step_count >= info.limit
        }

    def _explain(self, result: JobExecutionResult) -> None:
        """Raises KeyboardInterrupt, or reports a failure that no step has reported: a defect of this program."""
        [failure] = result.filter_events(lambda event: event.is_job_failure)
        reason = failure.job_failure_data.failure_reason
        # Dagster records an interrupt as a failure and does not raise it.
        if reason and reason.value == "UNEXPECTED_TERMINATION":
            raise KeyboardInterrupt
        if not self._terminal.day.errors and not _is_reported(result):
            step, cause = _cause(result, failure)
            hint = f"Please report it; the run {result.run_id} in the UI has the details"
            self._terminal.failed(step, ArchiveError("an unexpected error occurred", why=cause, hint=hint))


@contextlib.contextmanager
def _watched_interrupts() -> Generator[Callable[[], bool]]:
    """Yields a function that returns whether SIGINT arrived, also where Dagster discarded it.

    Dagster delays an interrupt while it writes its records, and discards one that arrives when a run begins or ends.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def interrupted() -> bool:
            with contextlib.suppress(BlockingIOError):
                return signal.SIGINT in reader.recv(4096, socket.MSG_PEEK)
            return False

        try:
            yield interrupted
        finally:
            signal.set_wakeup_fd(former)


def _is_reported(result: JobExecutionResult) -> bool:
    """Whether every failed step has reported why (it raised `dg.Failure`), for example by a failed check."""
    failures = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    return bool(failures) and all(failure.user_failure_data for failure in failures)


def _cause(result: JobExecutionResult, failure: dg.DagsterEvent) -> tuple[str, str]:
    """The step that failed first, and its innermost error message."""
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        while error and error.cause:
            error = error.cause
        if error:
            return (event.step_key or "").rpartition("__")[2], _one_line(error.message)
    data = failure.job_failure_data
    return "", _one_line(data.error.message if data.error else "no cause was recorded")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
