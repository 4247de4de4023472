"""Refinements whose units are computed by other processes, also such that die: the bytes of one that runs alone."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate
from runner.store import objects
from tests.faults.cluster import PATIENCE_SECONDS, TOMOBURST, Cluster, Process, wait_for

pytestmark = pytest.mark.e2e

FLAGS = (
    "--ctf --healpix_order 1 --offset_range 2 --offset_step 1 --particle_diameter 110 --ini_high 60 --flatten_solvent "
    "--zero_mask --firstiter_cc --scale --random_seed 3"
)


def command_in(place: str, flags: str) -> list[str]:
    """A refinement whose files are all in a folder."""
    return f"refine --i {place}/particles.star --ref {place}/truth.mrc --o {place}/out/run {FLAGS} {flags}".split()


HALVES = command_in(".", "--auto_refine --split_random_halves --auto_iter_max 3")
CLASSES = command_in(".", "--K 2 --iter 2")
LONG_FLAGS = "--K 2 --iter 60"  # more units than a fast machine does between deaths
LONG = command_in(".", LONG_FLAGS)
PREEMPTED = 75
DEATHS_OF_WORKERS, DEATHS_OF_DRIVERS = 20, 10


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 particles of 16 voxels."""
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(
        SimulateConfig(o=str(folder), n=24, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, random_seed=3)
    )
    return folder


@pytest.fixture
def cluster(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Processes in a copy of the set, which is the working directory too; none is left behind."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    found = Cluster(tmp_path)
    yield found
    found.close()


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """A folder with the set: the working directory, or a bucket."""
    if request.param == "files":
        return "."
    bucket: str = request.getfixturevalue("s3").url
    for path in (path for path in Path().rglob("*") if path.is_file()):
        objects.write_bytes(f"{bucket}/{path}", path.read_bytes())
    return bucket


def results(place: str = ".") -> dict[str, bytes]:
    """RELION's files of the run; all of it is removed."""
    every = [each.url for each in objects.list_objects(f"{place}/out")]
    names = [url for url in every if objects.parent(url) == f"{place}/out" and url.endswith((".mrc", ".star", ".bild"))]
    files = {objects.basename(url): objects.read_bytes(url) for url in names}
    objects.delete(every)
    return files


@pytest.mark.parametrize(
    ("command", "workers"), [(HALVES, [2]), (CLASSES, [1, 2, 4])], ids=["refinement", "classification"]
)
def test_processes_give_the_bytes_of_threads(cluster: Cluster, command: list[str], workers: list[int]):
    assert cli.run(command) == 0
    alone = results()
    assert len(alone) > 10
    for number in workers:
        assert cli.run([*command, "--workers", str(number)]) == 0
        assert results() == alone, number


@pytest.mark.slow
def test_same_bytes_whoever_dies(cluster: Cluster, place: str):
    """Workers and drivers die at random, the scheduler once: a death soon after each unit, while there are any left.

    The command is given again when its driver is dead.
    """
    command = command_in(place, LONG_FLAGS)
    assert cli.run(command) == 0
    alone = results(place)
    chance = random.Random(5)
    deaths = ["worker"] * DEATHS_OF_WORKERS + ["driver"] * DEATHS_OF_DRIVERS + ["scheduler"]
    chance.shuffle(deaths)
    scheduler = cluster.scheduler()
    workers = [cluster.worker() for _ in range(2)]
    driver = attached(cluster, command)
    seen = 0
    while driver.popen.poll() is None:
        finished = len([record for record in driver.records("unit_finished") if record["worker"]])
        if finished == seen or not deaths:
            time.sleep(0.02)
            continue
        seen = finished
        time.sleep(chance.uniform(0.0, 0.1))
        match deaths.pop():
            case "worker":
                for process in chance.choice(workers).worker_processes():
                    process.kill()
            case "driver":
                driver.kill()
                driver, seen = attached(cluster, command), 0
            case "scheduler":
                scheduler.kill()
                scheduler = cluster.scheduler()
    assert driver.wait() == 0, driver.log.read_text()
    assert deaths == []
    assert_lost_units_are_those_under_way(cluster, place)
    assert results(place) == alone


def assert_lost_units_are_those_under_way(cluster: Cluster, place: str) -> None:
    """Each death of a worker, of one thread, lost one unit or none; no unit was computed again that had been finished.

    The log of the run lacks what drivers that were killed have told last; all of it is on their standard error.
    """
    told = [record for process in cluster.started for record in process.records("worker_lost")]
    logged = [json.loads(line) for line in objects.read_bytes(f"{place}/out/run_events.jsonl").splitlines()]
    lost = [record["units"] for record in logged if record["event"] == "worker_lost"]
    assert 0 < len(lost) <= len(told)
    assert max(len(record["units"]) for record in told) <= 1
    computed: Counter[tuple[int, str]] = Counter()
    for process in cluster.started:
        iteration = 0
        for record in process.records():
            iteration = record["iteration"] if record["event"] == "iteration_started" else iteration
            if record["event"] == "unit_finished" and record["unit"].startswith("unit_") and record["worker"]:
                computed[iteration, record["unit"]] += 1
    assert set(computed.values()) == {1}


def test_driver_is_stopped_and_goes_on_with_other_workers(cluster: Cluster):
    assert cli.run(LONG) == 0
    alone = results()
    cluster.scheduler()
    cluster.worker()
    driver = attached(cluster, LONG)
    wait_for(lambda: driver.records("iteration_finished"), driver)
    driver.popen.terminate()
    assert driver.popen.wait(PATIENCE_SECONDS) == PREEMPTED
    assert cli.run([*LONG, "--workers", "2"]) == 0
    assert results() == alone


def attached(cluster: Cluster, command: list[str]) -> Process:
    """A driver whose units go to the workers of the cluster."""
    return cluster.start([*TOMOBURST, *command, "--scheduler", cluster.url], "refine")
