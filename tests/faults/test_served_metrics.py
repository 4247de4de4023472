"""Metrics of real drivers and workers, read over HTTP while they work."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, free_port, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes of one test; none is left behind."""
    found = Cluster(tmp_path)
    yield found
    found.close()


def figures(port: int) -> dict[str, float]:
    """All figures of a process, none while it does not serve."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    except urllib.error.URLError:
        return {}
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_driver_and_worker_count_what_they_do(cluster: Cluster) -> None:
    of_driver, of_worker = free_port(), free_port()
    cluster.scheduler()
    worker = cluster.worker("--metrics_port", str(of_worker))
    wait_for(lambda: figures(of_worker), worker)
    assert figures(of_worker)["tomoburst_units_total"] == 0
    driver = cluster.attached("--endless", "--seconds", "0.05", "--metrics_port", str(of_driver))
    wait_for(lambda: figures(of_worker)["tomoburst_units_total"] >= 3, driver)
    found = figures(of_worker)
    assert found["tomoburst_unit_seconds_sum"] >= 0.05 * found["tomoburst_unit_seconds_count"] > 0
    wait_for(lambda: figures(of_driver)["tomoburst_workers"] == 1, driver)
    worker.worker_processes()[0].kill()
    wait_for(lambda: figures(of_driver)["tomoburst_workers_lost_total"] == 1, driver)
    wait_for(lambda: figures(of_worker), worker)  # the process that takes its place serves too
    cluster.enough()
    assert driver.wait() == 0


def test_worker_whose_port_is_taken_says_so(cluster: Cluster) -> None:
    port = free_port()
    cluster.scheduler()
    first = cluster.worker("--metrics_port", str(port))
    wait_for(lambda: figures(port), first)
    second = cluster.worker("--metrics_port", str(port), ready=False)
    assert second.wait() == 2
    assert f"--metrics_port {port}: cannot listen there" in second.log.read_text()
