"""Whole refinements on a store that fails: the same bytes, or exit code 4 and a run that goes on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate
from runner.store import objects
from tests.conftest import REPOSITORY, Bucket
from tests.faults.proxy import ALL

pytestmark = pytest.mark.e2e

STORAGE, PREEMPTED = 4, 75
FLAGS = (
    "--ctf --healpix_order 1 --offset_range 2 --offset_step 1 --particle_diameter 110 --ini_high 60 --flatten_solvent "
    "--zero_mask --firstiter_cc --K 2 --iter 2 --random_seed 3"
)
IMPATIENT = """
from runner.cli import main
from runner.store import retry
retry.POLICY = retry.RetryPolicy(first_pause=0.01, longest_pause=0.05)
main()
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 particles of 16 voxels."""
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(
        SimulateConfig(o=str(folder), n=24, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, random_seed=3)
    )
    return folder


def command_in(place: str, simulated: Path) -> list[str]:
    """A classification whose input and output lie in a bucket; the input is put there."""
    for path in (path for path in simulated.rglob("*") if path.is_file()):
        objects.write_bytes(f"{place}/{path.relative_to(simulated)}", path.read_bytes())
    names = ["--i", f"{place}/particles.star", "--ref", f"{place}/truth.mrc", "--o", f"{place}/out/run"]
    return ["refine", *names, *FLAGS.split()]


def written(place: str) -> dict[str, bytes]:
    """Every object of the run but the log, which holds times."""
    names = [each.url for each in objects.list_objects(f"{place}/out")]
    # the slower of two workers with the same unit may note its end when the marks of the ingestion are removed already
    left = ("_events.jsonl", "/sources/ingestion/")
    return {name: objects.read_bytes(name) for name in names if not any(part in name for part in left)}


def collected(place: str) -> dict[str, bytes]:
    """What a run has written; nothing of it is left."""
    files = written(place)
    objects.delete([each.url for each in objects.list_objects(f"{place}/out")])
    return files


def units_done(log: str) -> Counter[str]:
    """How often each unit was computed and counted, from the lines on standard error."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return Counter(line["unit"] for line in lines if line["event"] == "unit_finished")


@pytest.mark.parametrize("flags", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_failing_requests_change_no_byte_and_count_no_unit_twice(
    flags: list[str], faulty_s3: Bucket, quick_retries: None, simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = faulty_s3.proxy
    assert proxy is not None
    proxy.rate = 0.0
    command = command_in(faulty_s3.url, simulated)
    assert cli.run(command) == 0
    expected = collected(faulty_s3.url)
    units = units_done(capsys.readouterr().err)
    objects.reset_request_counts()
    proxy.rate, proxy.hang = 0.1, 2.5
    assert cli.run([*command, *flags]) == 0
    proxy.rate = 0.0
    assert units_done(capsys.readouterr().err) == units
    assert cli.run([*command, *flags]) == 0  # a stale listing may have hidden work that was to be removed
    assert not units_done(capsys.readouterr().err)
    files = written(faulty_s3.url)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []
    assert len(proxy.counts) >= len(ALL) // 2
    assert 0 < objects.request_counts()["retries"] <= proxy.counts.total()


def test_a_store_that_fails_for_good_ends_the_run_and_the_same_command_goes_on(
    faulty_s3: Bucket, quick_retries: None, simulated: Path
) -> None:
    proxy = faulty_s3.proxy
    assert proxy is not None
    proxy.rate = 0.0
    command = command_in(faulty_s3.url, simulated)
    before = proxy.requests
    assert cli.run(command) == 0
    number = proxy.requests - before
    expected = collected(faulty_s3.url)
    moments = random.Random(1)
    for kind in ("503", "lost"):
        proxy.force("", moments.randint(10, number - 10))
        proxy.force(kind, 1_000_000)
        done = drive(command)
        proxy.end_force()
        assert done.returncode == STORAGE, done.stderr
        assert done.stderr.splitlines()[-1].startswith("tomoburst: error: ")
        assert "Traceback" not in done.stderr
        assert faulty_s3.server.secret_key not in done.stderr
        assert drive(command).returncode == 0
        files = collected(faulty_s3.url)
        assert files.keys() == expected.keys()
        assert [name for name in files if files[name] != expected[name]] == []


def drive(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A driver of its own process, which does not wait long for the store."""
    words = [sys.executable, "-c", IMPATIENT, *command]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


def test_keys_that_are_replaced_in_the_middle_of_a_run(
    rotating: tuple[str, Callable[..., None]], simulated: Path
) -> None:
    place, rotate = rotating
    command = command_in(place, simulated)
    assert cli.run(command) == 0
    expected = collected(place)

    def replace_keys() -> None:
        while not objects.exists(f"{place}/out/run_work/it001/commit.json"):
            time.sleep(0.02)
        rotate()

    thread = threading.Thread(target=replace_keys)
    thread.start()
    assert cli.run(command) == 0
    thread.join()
    files = written(place)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []


@pytest.mark.parametrize("flags", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_a_run_is_stopped_in_time_though_the_store_stands_still(
    flags: list[str], faulty_s3: Bucket, simulated: Path
) -> None:
    proxy = faulty_s3.proxy
    assert proxy is not None
    proxy.rate, proxy.hang = 0.0, 600
    command = [*command_in(faulty_s3.url, simulated), *flags]
    assert drive(command).returncode == 0
    expected = collected(faulty_s3.url)
    words = [sys.executable, "-c", "from runner.cli import main; main()", *command]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    while not faulty_s3.server.client.exists(f"{faulty_s3.url}/out/run_work/it000/commit.json"):
        assert driver.poll() is None
        time.sleep(0.02)
    proxy.force("timeout", 1_000_000)
    time.sleep(1.0)
    driver.terminate()
    _, said = driver.communicate(timeout=20)
    assert driver.returncode == PREEMPTED
    assert said.splitlines()[-1].startswith("tomoburst: error: stopped (SIGTERM)")
    proxy.end_force()
    assert drive(command).returncode == 0
    files = collected(faulty_s3.url)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []
