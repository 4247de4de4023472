"""Who computes the units of a use case, as its flags say, and how what happens there becomes records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runner.execute.local import LocalExecutor
from runner.execute.protocol import Executor, Happening, Report
from runner.plan.execution_config import WithExecution, WithTls
from runner.report.events import (
    Event,
    Events,
    Noted,
    SchedulerBack,
    SchedulerLost,
    StoreRetried,
    StragglerDuplicated,
    UnitRetried,
    WorkerJoined,
    WorkerLost,
)
from runner.report.metrics import serve_metrics

if TYPE_CHECKING:
    from runner.execute.dask_link import TlsFiles

RECORDS: dict[str, type[Event]] = {
    "noted": Noted,
    "worker_joined": WorkerJoined,
    "worker_lost": WorkerLost,
    "unit_retried": UnitRetried,
    "straggler_duplicated": StragglerDuplicated,
    "store_retried": StoreRetried,
    "scheduler_lost": SchedulerLost,
    "scheduler_back": SchedulerBack,
}


def open_executor(config: WithExecution, events: Events, *, overlap: bool = False) -> Executor:
    """Return the executor of a run: threads, ``--workers`` processes, or the workers of ``--scheduler``.

    ``overlap`` is for threads with a store that takes its time, see `LocalExecutor`. With ``--metrics_port`` the
    ``events`` are counted and served for Prometheus from now on.

    Raises
    ------
    UsageError
        When metrics cannot be served there.
    runner.errors.SchedulerLost
        When no scheduler answers at ``--scheduler``.
    """
    report = reporting(events)
    if config.metrics_port:
        events.add(serve_metrics(config.metrics_port))
    if not config.workers and not config.scheduler:
        return LocalExecutor(config.j, report, overlap=overlap)
    from runner.execute.dask_cluster import DaskExecutor

    if config.workers:
        return DaskExecutor.local(config.workers, report, gpus_of(config))
    return DaskExecutor.attach(config.scheduler, tls_files(config), report)


def gpus_of(config: WithExecution) -> tuple[str, ...]:
    """Return the numbers of ``--gpu 0:1``, for use cases that have it; none: whatever there is."""
    return tuple(part for part in (getattr(config, "gpu", None) or "").replace(",", ":").split(":") if part)


def workers_of_a_gpu(config: WithExecution) -> int:
    """Return how many of the local workers share one GPU."""
    return max(1, math.ceil(config.workers / max(len(gpus_of(config)), 1)))


def tls_files(config: WithTls) -> TlsFiles:
    """Return the files of an encrypted connection; none where no flag names them."""
    from runner.execute.dask_link import TlsFiles

    return TlsFiles(config.tls_ca, config.tls_cert, config.tls_key)


def reporting(events: Events) -> Report:
    """Return a function that turns happenings into records."""

    def report(happening: Happening) -> None:
        events.emit(RECORDS[happening.what](**happening.details))

    return report
