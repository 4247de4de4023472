"""Growth of the E-step: processor time per particle over particles, box and angular order, beside the operations.

``python -m tests.benchmarks.growth [--curves particles box order] [--largest 3000]`` prints Markdown tables for
docs/benchmarks.md.  Particles are simulated; each run is two iterations from the simulation's own map, in a process of
its own with one thread, and the second one counts.  ``E-step`` is the time of its units' stages, scaled by the share of
a processor that the process had, so that what other work is going on matters little.  The ``floor`` is that of the
products of the first pass at the rate measured on this machine right before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from kernels.backend import cpu_backend
from kernels.floors import measure_floors
from tests.benchmarks.plan_check import imports_cpu_s, measured
from tests.parity.programs import TOMOBURST

HEADER = (
    "| search | box | particles | E-step, ms a particle | whole run, CPU s | GFLOP a particle, 1st pass | samples a "
    "particle, M | time at the floor of products |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Case:
    """One run of one iteration."""

    box: int
    particles: int
    order: int
    local: bool = True

    @property
    def flags(self) -> str:
        """Flags of the search."""
        return f"--healpix_order {self.order}" + " --sigma_ang 5" * self.local

    @property
    def name(self) -> str:
        """The search in words."""
        return f"{'local' if self.local else 'global'}, order {self.order}"


def cases(curve: str, largest: int) -> Iterator[Case]:
    """Yield the runs of one curve; ``largest`` is the most particles."""
    if curve == "particles":
        yield from (Case(32, count, 4) for count in (100, 300, 1000, 3000) if count <= largest)
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


def row(folder: Path, case: Case, most: int, start_s: float) -> str:
    """Run one case."""
    folder.mkdir(exist_ok=True)
    data = simulated(folder, case, most)
    lines = (data / "particles.star").read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if "subtomo" in line and ".mrc" in line]
    dropped = set(rows[case.particles :])
    star = data / f"first_{case.particles}.star"
    star.write_text("\n".join(line for number, line in enumerate(lines) if number not in dropped) + "\n")
    flags = f"--i {star.name} --o out/run --ref truth.mrc --ctf --ctf_corrected_ref --ini_high 40 --iter 2 --zero_mask"
    flags += f" --particle_diameter 250 --flatten_solvent --offset_range 5 --offset_step 2 --perturb 0 {case.flags}"
    with threadpool_limits(1):
        rate = measure_floors(cpu_backend()).product_flops
    run = measured([*TOMOBURST, "refine", "--overwrite", "--random_seed", "1", *flags.split()], data)
    events = [json.loads(line) for line in (data / "out" / "run_events.jsonl").read_text().splitlines()]
    done = [event for event in events if event["event"] == "iteration_finished"][-1]
    spent = run.cpu_s - start_s
    estep = sum(done["stages"].values()) * min(1.0, run.cpu_s / run.wall_s)
    count, flops = case.particles, done["operations"]["gemm_flops"]
    cells = [
        case.name,
        str(case.box),
        str(count),
        f"{1000 * estep / count:.1f}",
        f"{spent:.1f}",
        f"{flops / count / 1e9:.3g}",
        f"{done['operations']['samples'] / count / 1e6:.3g}",
        f"{100 * flops / rate / estep:.0f} %",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    curves = ["particles", "box", "order"]
    parser.add_argument("--curves", nargs="*", default=curves, choices=curves)
    parser.add_argument("--largest", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start_s = imports_cpu_s(folder)
        print(HEADER)
        for curve in options.curves:
            runs = list(cases(curve, options.largest))
            for case in runs:
                most = max(each.particles for each in runs if each.box == case.box)
                print(row(folder / curve, case, most, start_s), flush=True)


if __name__ == "__main__":
    main()
