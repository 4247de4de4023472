"""Peak resident memory of refine under several budgets of ``--memory``, and whether the maps are the same.

``python -m tests.benchmarks.memory DATA_FOLDER [--particles 20] [--budgets 0.01 0.1 1] [--flags "..."]`` prints a
Markdown table for docs/plan.md.  The budget is that of the temporary arrays of one thread; ``beyond the imports`` is
what the process takes over one that has imported all it needs and done nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.paired import subset
from tests.benchmarks.plan_check import measured
from tests.parity.programs import TOMOBURST

FLAGS = "--healpix_order 4 --sigma_ang 3.75 --iter 1 --ini_high 60 --ctf --ctf_corrected_ref --zero_mask"
FLAGS += " --flatten_solvent --particle_diameter 250 --offset_range 5 --offset_step 2 --random_seed 7"
HEADER = "| --memory GB | --j | peak MB | beyond the imports MB | CPU s | map |\n|---|---|---|---|---|---|"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--particles", type=int, default=20)
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.01, 0.1, 1.0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    parser.add_argument("--flags", default=FLAGS)
    options = parser.parse_args()
    print(HEADER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for entry in options.data.iterdir():
            (folder / entry.name).symlink_to(entry.resolve())
        measured([*TOMOBURST, "reconstruct", "--ctf", "--i", "particles.star", "--o", "rec.mrc"], folder)
        subset(folder / "particles.star", folder / "first.star", options.particles)
        idle = measured([sys.executable, "-c", "import runner.cli, runner.refine"], folder)
        command = [*TOMOBURST, "refine", "--i", "first.star", "--ref", "rec.mrc", "--o", "out/run", "--overwrite"]
        for threads in options.threads:
            for budget in options.budgets:
                given = ["--memory", str(budget), "--j", str(threads), *options.flags.split()]
                run = measured([*command, *given], folder)
                digest = hashlib.sha256((folder / "out" / "run_it001_class001.mrc").read_bytes()).hexdigest()[:8]
                peak = [run.peak_bytes / 1e6, (run.peak_bytes - idle.peak_bytes) / 1e6]
                cells = [f"{budget:g}", str(threads), *(f"{each:.0f}" for each in peak), f"{run.cpu_s:.1f}", digest]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
