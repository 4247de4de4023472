"""The same command again in a bucket: drivers killed around random requests, and drivers that start at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate
from runner.store import objects

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[2]
PREEMPTED = 75
KILLS, LONGEST = 3, 22  # a driver writes some 70 objects; between two commits there are up to 16

FLAGS = (
    "--ctf --healpix_order 1 --offset_range 2 --offset_step 1 --particle_diameter 110 --ini_high 60 --flatten_solvent "
    "--zero_mask --firstiter_cc --K 2 --iter 2 --random_seed 3"
)
MAIN = "from runner.cli import main; main()"
KILLED_AT_A_WRITE = f"""
import itertools, os, signal, sys
from runner.store import objects
moments = itertools.count(1)  # writes come from several threads
moment, after = int(sys.argv.pop(1)), sys.argv.pop(1) == "after"
def counted(write):
    def counting(url, data):
        now = next(moments) == moment
        if now and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = write(url, data)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return counting
objects.write_bytes, objects.create_bytes = counted(objects.write_bytes), counted(objects.create_bytes)
{MAIN}
"""


@pytest.fixture
def command(s3: Any, tmp_path: Path) -> list[str]:
    """Refinement of 24 particles, all in a bucket."""
    run_simulate(
        SimulateConfig(o=str(tmp_path), n=24, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, random_seed=3)
    )
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        objects.write_bytes(f"{s3.url}/{path.relative_to(tmp_path)}", path.read_bytes())
    names = ["--i", f"{s3.url}/particles.star", "--ref", f"{s3.url}/truth.mrc", "--o", f"{s3.url}/out/run"]
    return ["refine", *names, *FLAGS.split()]


def written(s3: Any) -> dict[str, bytes]:
    """Every object of the run but the log, which holds times."""
    names = [each.url for each in objects.list_objects(f"{s3.url}/out")]
    return {name: objects.read_bytes(name) for name in names if not name.endswith("_events.jsonl")}


def start(program: str, words: list[str]) -> subprocess.Popen[str]:
    """A driver of its own process."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", program, *words], env=environment, stderr=subprocess.PIPE, text=True)


def test_drivers_killed_around_random_requests_and_the_same_bytes_in_the_end(s3: Any, command: list[str]) -> None:
    assert cli.run(command) == 0
    expected = written(s3)
    objects.delete([each.url for each in objects.list_objects(f"{s3.url}/out")])
    moments, codes = random.Random(2), list[int]()
    while not codes or codes[-1] != 0:
        moment = [str(moments.randint(4, LONGEST)), moments.choice(["before", "after"])]
        process = start(KILLED_AT_A_WRITE, [*moment, *command])
        _, error = process.communicate(timeout=300)
        assert process.returncode in (0, -signal.SIGKILL), error
        codes.append(process.returncode)
    assert len(codes) > KILLS
    files = written(s3)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []


def test_of_drivers_that_start_at_once_one_works_and_the_others_go(s3: Any, command: list[str]) -> None:
    words = [*command, "--iter", "500"]
    processes = [start(MAIN, words) for _ in range(3)]
    try:
        losers = _first_to_end(processes, 2)
        for process in losers:
            assert process.returncode == PREEMPTED
            assert process.stderr is not None
            assert "works on this run; wait for it" in process.stderr.read()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _first_to_end(processes: list[subprocess.Popen[str]], count: int) -> list[subprocess.Popen[str]]:
    """So many of the processes, as soon as they have ended."""
    deadline = time.monotonic() + 300
    while len(ended := [process for process in processes if process.poll() is not None]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return ended
