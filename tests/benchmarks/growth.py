"""Growth of the E-step: processor time per particle over particles, box and angular order, beside the operations.

``python -m tests.benchmarks.growth [--curves particles box order] [--largest 3000] [--repeats 1]`` prints a Markdown
table for docs/benchmarks.md: medians of runs in turns.  Particles are simulated; each run is a process of its own with
one thread, from the simulation's own map.  Over particles it is one iteration, so that all have the same reference and
the same work; otherwise it is the second one of two.  ``E-step`` is the time of its units' stages, scaled by the share
of a processor that the process had, so that what other work is going on matters little; ``whole run`` is all processor
time beyond the imports.  The ``floor`` is that of the products of the first pass at the rate measured on this machine
right before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from threadpoolctl import threadpool_limits

from kernels.backend import cpu_backend
from kernels.floors import measure_floors
from tests.benchmarks.paired import subset
from tests.benchmarks.plan_check import imports_cpu_s, measured
from tests.parity.programs import TOMOBURST

HEADER = (
    "| search | box | particles | E-step, ms a particle (spread) | whole run, ms a particle | GFLOP a particle, "
    "first pass | rotated coefficients a particle, M | time at the floor of products |\n" + "|---" * 8 + "|"
)


@dataclass(frozen=True)
class Case:
    """One run; its last iteration counts."""

    box: int
    particles: int
    order: int
    local: bool = True
    iterations: int = 2

    @property
    def flags(self) -> str:
        """Flags of the search and the iterations."""
        return f"--healpix_order {self.order} --iter {self.iterations}" + " --sigma_ang 5" * self.local

    @property
    def name(self) -> str:
        """The search in words."""
        return f"{'local' if self.local else 'global'}, order {self.order}"


def cases(curve: str, largest: int) -> Iterator[Case]:
    """Yield the runs of one curve; ``largest`` is the most particles."""
    if curve == "particles":
        yield from (Case(24, count, 4, iterations=1) for count in (100, 1000, 3000) if count <= largest)
    if curve == "box":
        yield from (Case(box, 20, 4) for box in (24, 32, 48, 64))
    if curve == "order":
        yield from (Case(32, 20, order, local=False) for order in (1, 2, 3))


def simulated(folder: Path, case: Case, particles: int) -> Path:
    """Folder with ``particles`` simulated particles of the case's box, made once."""
    name = f"box_{case.box}"
    target = folder / name
    if not target.exists():
        size = f"--box {case.box} --angpix {320 / case.box:g} --particle_diameter 250"
        flags = f"--n {particles} {size} --snr 0.15 --angle_error 4 --seed 1 --o {name}"
        measured([*TOMOBURST, "simulate", *flags.split()], folder)
    return target


@dataclass(frozen=True)
class Cost:
    """What one run took: CPU seconds of the E-step and of all beyond the imports, operations, share of the floor."""

    estep_s: float
    whole_s: float
    flops: int
    samples: int
    floor: float


def run(folder: Path, case: Case, most: int, start_s: float) -> Cost:
    """Run one case."""
    folder.mkdir(exist_ok=True)
    data = simulated(folder, case, most)
    star = data / f"first_{case.particles}.star"
    subset(data / "particles.star", star, case.particles)
    flags = f"--i {star.name} --o out/run --ref truth.mrc --ctf --ctf_corrected_ref --ini_high 40 --zero_mask"
    flags += f" --particle_diameter 250 --flatten_solvent --offset_range 5 --offset_step 2 --perturb 0 {case.flags}"
    with threadpool_limits(1):
        rate = measure_floors(cpu_backend()).product_flops
    process = measured([*TOMOBURST, "refine", "--overwrite", "--random_seed", "1", *flags.split()], data)
    events = [json.loads(line) for line in (data / "out" / "run_events.jsonl").read_text().splitlines()]
    done = [event for event in events if event["event"] == "iteration_finished"][-1]
    estep_s = sum(done["stages"].values()) * min(1.0, process.cpu_s / process.wall_s)
    flops = done["operations"]["gemm_flops"]
    return Cost(estep_s, process.cpu_s - start_s, flops, done["operations"]["samples"], flops / rate / estep_s)


def row(case: Case, costs: list[Cost]) -> str:
    """One row of the table from the runs of a case."""
    esteps = [1000 * each.estep_s / case.particles for each in costs]
    whole = median(1000 * each.whole_s / case.particles for each in costs)
    spread = f" ({min(esteps):.1f}–{max(esteps):.1f})" if len(costs) > 1 else ""
    cells = [
        case.name,
        str(case.box),
        str(case.particles),
        f"{median(esteps):.1f}{spread}",
        f"{whole:.1f}",
        f"{costs[0].flops / case.particles / 1e9:.3g}",
        f"{costs[0].samples / case.particles / 1e6:.3g}",
        f"{100 * median(each.floor for each in costs):.0f} %",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    curves = ["particles", "box", "order"]
    parser.add_argument("--curves", nargs="*", default=curves, choices=curves)
    parser.add_argument("--largest", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start_s = imports_cpu_s(folder)
        print(HEADER)
        for curve in options.curves:
            runs = list(cases(curve, options.largest))
            most = {each.box: max(other.particles for other in runs if other.box == each.box) for each in runs}
            costs: dict[Case, list[Cost]] = {each: [] for each in runs}
            for _ in range(options.repeats):
                for case in runs:
                    costs[case].append(run(folder / curve, case, most[case.box], start_s))
            for case in runs:
                print(row(case, costs[case]), flush=True)


if __name__ == "__main__":
    main()
