"""The E-step alone, one thread: its seconds, the rate of the first pass beside the machine's, and the other stages.

``python -m tests.benchmarks.estep DATA_FOLDER [--repeats 3]`` prints a Markdown table for docs/benchmarks.md: medians
of one iteration of the cases of `tests.benchmarks.paired`, in single and in double precision (``--parity``).  Each run
is a process of its own; the rate of the machine's products is measured right before it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from threadpoolctl import threadpool_limits

from kernels.backend import cpu_backend
from kernels.floors import measure_floors
from tests.benchmarks.paired import CASES, prepare
from tests.benchmarks.processes import timed
from tests.parity.programs import TOMOBURST

RUNS = ("global, order 2", "global, order 2, box 64", "local, order 4")
PRECISIONS = {"float32": [], "float64": ["--parity", "relion-3.1"]}
HEADER = (
    "| iteration | particles | precision | E-step, s | products of the first pass, GFLOP/s | of the machine's | of the "
    "E-step | rotate and sample | translate | back-project |\n" + "|---" * 10 + "|"
)


@dataclass(frozen=True)
class Cost:
    """Seconds of the stages of one E-step, operations of its first pass, and the machine's rate."""

    stages: dict[str, float]
    flops: int
    machine: float

    @property
    def whole_s(self) -> float:
        """Seconds of all stages."""
        return sum(self.stages.values())

    @property
    def rate(self) -> float:
        """Operations a second of the products of the first pass."""
        return self.flops / self.stages["first_pass"]


def run(folder: Path, command: list[str], precision: str) -> Cost:
    """One run; stages are wall time, scaled by the share of a processor that the process had."""
    with threadpool_limits(1):
        machine = measure_floors(cpu_backend(precision)).product_flops
    process = timed(command, folder)
    events: list[dict[str, Any]] = [json.loads(line) for line in (folder / "out/run_events.jsonl").open()]
    (done,) = (event for event in events if event["event"] == "iteration_finished")
    had = min(1.0, process.cpu_s / process.wall_s)
    return Cost(
        {name: had * seconds for name, seconds in done["stages"].items()}, done["operations"]["gemm_flops"], machine
    )


def row(name: str, particles: int, precision: str, costs: list[Cost]) -> str:
    """One row of the table."""
    seconds = [each.whole_s for each in costs]
    shares = [
        f"{100 * median(each.stages[stage] / each.whole_s for each in costs):.0f} %"
        for stage in ("first_pass", "sample", "shift", "insert")
    ]
    cells = [name, str(particles), {"float32": "single", "float64": "double, parity"}[precision]]
    cells += [f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"]
    cells += [f"{median(each.rate for each in costs) / 1e9:.0f} of {median(each.machine for each in costs) / 1e9:.0f}"]
    cells += [f"{100 * median(each.rate / each.machine for each in costs):.0f} %", *shares]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(HEADER)
    for name in RUNS:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(options.data, folder, case)
            flags = [*case.flags.split(), "--i", "particles.star", "--particle_diameter", "250", "--random_seed", "7"]
            command = [*TOMOBURST, "refine", "--o", "out/run", "--overwrite", "--j", "1", *flags]
            for precision, exact in PRECISIONS.items():
                timed([*command, *exact], folder)  # compiles
                costs = [run(folder, [*command, *exact], precision) for _ in range(options.repeats)]
                print(row(name, case.particles, precision, costs), flush=True)


if __name__ == "__main__":
    main()
