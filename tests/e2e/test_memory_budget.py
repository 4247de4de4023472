"""``--memory`` holds: a process at the least budget that is accepted stays within it, and writes the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.plan.simulate_config import SimulateConfig
from runner.report.events import Events
from runner.simulate import run_simulate

pytestmark = pytest.mark.e2e

MEASURED = """
import sys
from runner.cli import run
from runner.planning.budget import peak_bytes
code = run(sys.argv[1:])
print(peak_bytes())
sys.exit(code)
"""
FLAGS = (
    "--i particles.star --ref truth.mrc --ctf --ctf_corrected_ref --zero_mask --particle_diameter 250 --random_seed 7"
)
FLAGS += " --K 2 --iter 1 --ini_high 11 --healpix_order 4 --sigma_ang 2 --offset_range 1 --offset_step 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(SimulateConfig(o=str(folder), n=4, box=64, angpix=5.0, particle_diameter=250.0, snr=1.0), Events())
    return folder


def refine(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, which prints its largest resident memory."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEASURED, "refine", *FLAGS.split(), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_peak_of_a_process_stays_within_the_least_budget_that_is_accepted(folder: Path):
    refused = refine(folder, "--o", "refused/run", "--memory", "0.05")
    error = refused.stderr.splitlines()[-1]
    assert refused.returncode == 2
    assert error.startswith("tomoburst: error: --memory 0.05: ")
    assert not (folder / "refused").exists()

    enough = error.partition("give --memory ")[2].split(";")[0]
    within, unbounded = refine(folder, "--o", "a/run", "--memory", enough), refine(folder, "--o", "b/run")
    assert within.returncode == unbounded.returncode == 0, within.stderr + unbounded.stderr
    assert 0.6 * float(enough) * 2**30 < int(within.stdout.split()[-1]) <= float(enough) * 2**30
    for name in ("run_it001_class001.mrc", "run_it001_class002.mrc", "run_it001_data.star"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()
