"""Peak resident memory of whole runs under several budgets of ``--memory``, what their plans say, and their results.

``python -m tests.benchmarks.memory [--boxes 32 64 96] [--cases global ...] [--threads 1 2]`` prints the table of
docs/plan.md.  Particles are simulated, and the reference is compared to Nyquist from the start, so that the runs need
all that a budget has to provide for.  The least budget is the one that a refused run asks for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.parity.programs import TOMOBURST

DIAMETER_ANGST, WIDTH_ANGST = 250, 320
COMMON = "--i particles.star --ref truth.mrc --ctf --ctf_corrected_ref --zero_mask --flatten_solvent --random_seed 7"
COMMON += f" --particle_diameter {DIAMETER_ANGST} --offset_range 2 --offset_step 2"
CASES = {
    "global": "--iter 1 --healpix_order 1",
    "local": "--auto_refine --split_random_halves --auto_iter_max 2 --firstiter_cc --healpix_order 4",
    "2 classes": "--K 2 --iter 2 --healpix_order 4 --sigma_ang 2",
}
MEASURED = """
import sys
from runner.cli import run
from runner.planning.budget import peak_bytes
code = run(sys.argv[1:])
print(peak_bytes())
sys.exit(code)
"""
FACTORS = (1.0, 1.5, 3.0)
HEADER = (
    "| box | run | --j | budget GB | peak GB | of the budget | planned / peak | maps |\n"
    "|---|---|---|---|---|---|---|---|"
)


def finished(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, whatever it is."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def refine(folder: Path, flags: list[str], budget: float) -> tuple[int, str]:
    """Peak bytes of a process that refines, and a digest of its maps."""
    given = ["refine", "--o", "out/run", "--overwrite", *flags, "--memory", str(budget)]
    done = finished([sys.executable, "-c", MEASURED, *given], folder)
    if done.returncode:
        raise SystemExit(done.stderr)
    maps = sorted((folder / "out").glob("*.mrc"))
    return int(done.stdout.split()[-1]), hashlib.sha256(b"".join(each.read_bytes() for each in maps)).hexdigest()[:8]


def least_budget(folder: Path, flags: list[str]) -> float:
    """The budget in GB that a run with too small a one asks for."""
    refused = finished([*TOMOBURST, "refine", "--o", "refused/run", *flags, "--memory", "0.01"], folder)
    return float(refused.stderr.partition("give --memory ")[2].split(";")[0])


def planned_bytes(folder: Path, flags: list[str], budget: float, voxel_angst: float) -> int:
    """Peak that `tomoburst plan` predicts for a run to Nyquist."""
    given = ["plan", *flags, "--memory", str(budget), "--resolution", str(2 * voxel_angst), "--json"]
    plan = json.loads(finished([*TOMOBURST, *given], folder).stdout)
    return int(plan["peak_bytes"][0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, nargs="*", default=[32, 64, 96])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    parser.add_argument("--particles", type=int, default=12)
    options = parser.parse_args()
    print(HEADER)
    for box in options.boxes:
        voxel = WIDTH_ANGST / box
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            data = [
                "--n",
                str(options.particles),
                "--box",
                str(box),
                "--angpix",
                str(voxel),
                "--snr",
                "1",
                "--seed",
                "3",
            ]
            data += ["--particle_diameter", str(DIAMETER_ANGST)]
            finished([*TOMOBURST, "simulate", "--o", temporary, *data], folder)
            for case in options.cases:
                for threads in options.threads:
                    flags = [*COMMON.split(), *CASES[case].split(), "--ini_high", str(2.2 * voxel), "--j", str(threads)]
                    least = least_budget(folder, flags)
                    for factor in FACTORS:
                        budget = round(factor * least, 2)
                        peak, maps = refine(folder, flags, budget)
                        planned = planned_bytes(folder, flags, budget, voxel)
                        cells = [str(box), case, str(threads), f"{budget:g}", f"{peak / 2**30:.2f}"]
                        cells += [f"{peak / 2**30 / budget:.2f}", f"{planned / peak:.2f}", maps]
                        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
