"""`tomoburst scheduler`: the process through which drivers and workers find each other."""

from __future__ import annotations

from runner.execution import reporting, tls_files
from runner.plan.execution_config import SchedulerConfig
from runner.report.events import Events


def run_scheduler(config: SchedulerConfig, events: Events) -> None:
    """Serve until told to stop, or until nothing was asked for during ``--idle_timeout``.

    Raises
    ------
    Preempted, KeyboardInterrupt
        When it was told to stop, by SIGTERM and SIGINT.
    StorageError
        When it cannot listen where it should.
    """
    from runner.execute.dask_process import SchedulerOptions, run_scheduler_process

    options = SchedulerOptions(
        host=config.host,
        port=config.port,
        health_port=config.health_port,
        dashboard=config.dashboard,
        idle_timeout_seconds=config.idle_timeout,
        tls=tls_files(config),
    )
    run_scheduler_process(options, reporting(events))
