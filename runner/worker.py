"""`tomoburst worker`: a process that computes what drivers send through a scheduler."""

from __future__ import annotations

from runner.execution import reporting, tls_files
from runner.plan.execution_config import WorkerConfig
from runner.report.events import Events


def run_worker(config: WorkerConfig, events: Events) -> None:
    """Work until the scheduler ends.

    Raises
    ------
    Preempted, SchedulerLost
        When the worker was told to stop, or finds no scheduler.
    """
    from runner.execute.dask_process import WorkerOptions, run_worker_process

    options = WorkerOptions(
        scheduler=config.scheduler,
        name=config.name,
        threads=config.nthreads,
        memory_limit=config.memory_limit_bytes(),
        gpu=config.gpu,
        death_timeout_seconds=config.death_timeout,
        idle_timeout_seconds=config.idle_timeout,
        health_port=config.health_port,
        tls=tls_files(config),
    )
    run_worker_process(options, reporting(events))
