"""Figures of a running process for Prometheus, from its events and from the requests that it makes to stores.

The package prometheus-client is an extra: it is imported when metrics are asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.report.events import (
    Event,
    IterationFinished,
    IterationStarted,
    ParticleSetAside,
    RunFailed,
    StageStarted,
    StoreRetried,
    StragglerDuplicated,
    UnitFinished,
    UnitRetried,
    WorkerJoined,
    WorkerLost,
)
from runner.store.counts import request_counts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

METHODS = ("GET", "PUT", "LIST", "HEAD", "DELETE")
UNIT_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def serve_metrics(port: int, workers: int = 0) -> Metrics:
    """Serve the metrics of this process over HTTP on ``port`` (0: a free one) until it is closed; a sink of events.

    Raises
    ------
    UsageError
        When prometheus-client is missing, or the port is taken.
    """
    try:
        client: Any = importlib.import_module("prometheus_client")
    except ImportError as error:
        raise UsageError(
            f"--metrics_port {port}: the package prometheus-client is missing; install tomoburst[metrics]"
        ) from error
    metrics = Metrics(client, workers)
    try:
        metrics.serve(port)
    except OSError as error:
        raise UsageError(f"--metrics_port {port}: cannot listen there ({error.strerror}); give a free port") from error
    return metrics


class Metrics:
    """A sink of events that counts them; ``registry`` holds the figures, ``port`` is where they are served."""

    def __init__(self, client: Any, workers: int = 0) -> None:
        self._client = client
        self.registry: CollectorRegistry = client.CollectorRegistry()
        self.port = 0
        self._server: Any = None
        self._done = 0
        self._make_figures()
        self._workers.set(workers)
        self.registry.register(_StoreRequests(client))

    def _make_figures(self) -> None:
        def counter(name: str, text: str) -> Any:
            return self._client.Counter(f"tomoburst_{name}", text, registry=self.registry)

        def gauge(name: str, text: str) -> Any:
            return self._client.Gauge(f"tomoburst_{name}", text, registry=self.registry)

        self._units = counter("units", "Units of work that were finished.")
        self._retries = counter("unit_retries", "Units of work that were tried again.")
        self._duplicates = counter("unit_duplicates", "Units of work that were given to a second worker.")
        self._particles = counter("particles", "Particles that were processed, in every iteration again.")
        self._set_aside = counter("particles_set_aside", "Particles that take no part any more.")
        self._store_retries = counter("store_retries", "Requests to stores that were made again.")
        self._lost_workers = counter("workers_lost", "Workers that left or died.")
        self._failures = counter("failures", "Commands that ended without their results.")
        self._iteration = gauge("iteration", "Iteration under way.")
        self._resolution = gauge("resolution_angst", "Resolution after the last iteration in Angstrom.")
        self._workers = gauge("workers", "Workers, or threads of a run in one process.")
        self._seconds = self._client.Histogram(
            "tomoburst_unit_seconds", "Time that units of work took.", buckets=UNIT_SECONDS, registry=self.registry
        )

    def serve(self, port: int) -> None:
        """Start to serve on ``port``, or on a free one if it is 0."""
        self._server, _ = self._client.start_http_server(port, registry=self.registry)
        self.port = self._server.server_port

    def write(self, event: Event) -> None:
        """Count one record."""
        match event:
            case StageStarted():
                self._done = 0
            case IterationStarted():
                self._done = 0
                self._iteration.set(event.iteration)
                self._set_resolution(event.resolution_angst)
            case UnitFinished():
                self._count_unit(event)
            case IterationFinished():
                self._set_resolution(event.resolution_angst)
            case WorkerJoined():
                self._workers.inc() if not event.workers else self._workers.set(event.workers)
            case WorkerLost():
                self._lost_workers.inc()
                self._workers.set(event.workers)
            case UnitRetried():
                self._retries.inc()
            case StragglerDuplicated():
                self._duplicates.inc()
            case ParticleSetAside():
                self._set_aside.inc()
            case StoreRetried():
                self._store_retries.inc()
            case RunFailed():
                self._failures.inc()

    def close(self) -> None:
        """Serve no longer."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _count_unit(self, event: UnitFinished) -> None:
        before, self._done = self._done, event.done
        if event.was_found:
            return
        self._units.inc()
        self._particles.inc(max(event.done - before, 0))
        if math.isfinite(event.seconds):
            self._seconds.observe(event.seconds)

    def _set_resolution(self, angst: float) -> None:
        if math.isfinite(angst):
            self._resolution.set(angst)


class _StoreRequests:
    """Reads the counters of `runner.store.counts` whenever they are asked for."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def collect(self) -> Iterator[Any]:
        """Yield requests by method and bytes by direction."""
        counts = request_counts()
        family = self._client.metrics_core.CounterMetricFamily
        requests = family("tomoburst_store_requests", "Requests to stores.", labels=["method"])
        for method in METHODS:
            requests.add_metric([method], counts[method])
        yield requests
        bytes_ = family("tomoburst_store_bytes", "Bytes from and to stores.", labels=["direction"])
        for direction in ("read", "written"):
            bytes_.add_metric([direction], counts[f"bytes_{direction}"])
        yield bytes_
