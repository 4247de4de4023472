"""`tomoburst worker`: a process that computes what drivers send through a scheduler."""

from __future__ import annotations

import os
import threading
from typing import Any

from runner.execution import reporting, tls_files
from runner.plan.execution_config import WorkerConfig
from runner.report.events import Events, UnitFinished
from runner.report.metrics import serve_metrics

METRICS_PORT = "TOMOBURST_METRICS_PORT"


def run_worker(config: WorkerConfig, events: Events) -> None:
    """Work until the scheduler ends.

    Raises
    ------
    Preempted, SchedulerLost
        When the worker was told to stop, or finds no scheduler.
    UsageError
        When metrics cannot be served at ``--metrics_port``.
    """
    if config.metrics_port:
        serve_metrics(config.metrics_port).close()  # the process that computes will: told here if it cannot
        os.environ[METRICS_PORT] = str(config.metrics_port)
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
        preload=(__name__,) if config.metrics_port else (),
    )
    run_worker_process(options, reporting(events))


def dask_setup(worker: Any) -> None:
    """Serve the metrics of the process that computes; Dask calls this when it starts there."""
    from runner.execute.remote import observers

    metrics = serve_metrics(int(os.environ[METRICS_PORT]), workers=1)
    lock, particles = threading.Lock(), 0

    def observe(spec: dict[str, Any], seconds: float) -> None:
        nonlocal particles
        with lock:
            particles += spec.get("stop", 0) - spec.get("start", 0)
            metrics.write(UnitFinished(particles, particles, str(spec.get("output", "")), str(worker.name), seconds))

    observers.append(observe)
