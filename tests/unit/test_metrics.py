"""Metrics: events and requests become figures that Prometheus reads over HTTP."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.report.events import (
    Event,
    Events,
    IterationFinished,
    IterationStarted,
    Noted,
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
from runner.report.metrics import Metrics, serve_metrics
from runner.store.counts import request_counts, reset_request_counts
from runner.store.objects import read_bytes, write_bytes

EVENTS: list[Event] = [
    IterationStarted(3, 100, 24.6, 26, 2, 7.5, 50.0, 20.0),
    UnitFinished(32, 100, "unit_00000", "", 0.0),  # found finished
    UnitFinished(64, 100, "unit_00001", "gpu-1", 2.0),
    UnitFinished(100, 100, "unit_00002", "gpu-2", 40.0),
    UnitRetried("unit_00001", 2),
    StragglerDuplicated("unit_00001"),
    WorkerJoined("gpu-4", workers=4),
    WorkerJoined("gpu-5"),
    WorkerLost("gpu-1", ("unit_00001",), workers=4),
    ParticleSetAside("7@a.mrcs", 7, "NaN"),
    StoreRetried("s3://b/k", 2),
    IterationFinished(3, 22.9),
    IterationStarted(4, 100, 22.9, 26, 2, 7.5, 50.0, 20.0),
    UnitFinished(32, 100, "unit_00000", "gpu-2", 0.2),
    StageStarted("writing", 2),
    UnitFinished(1, 2),
    IterationFinished(4, float("nan")),
    Noted("no figure"),
    RunFailed("no answer", 4),
]


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    served = serve_metrics(0, workers=2)
    yield served
    served.close()


def figures(metrics: Metrics) -> dict[str, float]:
    """All figures as Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_events_are_counted(metrics: Metrics) -> None:
    with Events(metrics) as events:
        for event in EVENTS:
            events.emit(event)
        found = figures(metrics)
    expected = {
        "tomoburst_units_total": 4,
        "tomoburst_particles_total": 101,
        "tomoburst_unit_retries_total": 1,
        "tomoburst_unit_duplicates_total": 1,
        "tomoburst_workers": 4,
        "tomoburst_workers_lost_total": 1,
        "tomoburst_particles_set_aside_total": 1,
        "tomoburst_store_retries_total": 1,
        "tomoburst_failures_total": 1,
        "tomoburst_iteration": 4,
        "tomoburst_resolution_angst": 22.9,
        "tomoburst_unit_seconds_count": 3,
        "tomoburst_unit_seconds_sum": pytest.approx(42.2),
        'tomoburst_unit_seconds_bucket{le="3.0"}': 2,
    }
    assert {name: found[name] for name in expected} == expected


def test_requests_to_stores_are_counted(metrics: Metrics, tmp_path: Path) -> None:
    reset_request_counts()
    write_bytes(str(tmp_path / "object"), b"12345")
    assert read_bytes(str(tmp_path / "object"), 0, 2) == b"12"
    found, counts = figures(metrics), request_counts()
    assert (counts["PUT"], counts["GET"]) == (1, 1)
    assert (
        found['tomoburst_store_requests_total{method="PUT"}'],
        found['tomoburst_store_requests_total{method="GET"}'],
    ) == (1, 1)
    assert found['tomoburst_store_bytes_total{direction="written"}'] == 5
    assert found['tomoburst_store_bytes_total{direction="read"}'] == 2


def test_nothing_listens_after_the_end(metrics: Metrics) -> None:
    with Events(metrics):
        figures(metrics)
    with pytest.raises(OSError, match="refused"):
        figures(metrics)


def test_port_that_is_taken_is_told(metrics: Metrics) -> None:
    with pytest.raises(UsageError, match=rf"--metrics_port {metrics.port}: cannot listen there .*; give a free port"):
        serve_metrics(metrics.port)


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"prometheus-client is missing; install tomoburst\[metrics\]"):
        serve_metrics(9000)
