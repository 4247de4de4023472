"""Predictions of `tomoburst plan` held against runs: processor time and operations (memory: `tests.benchmarks.memory`).

``python -m tests.benchmarks.plan_check DATA_FOLDER [--particles 40] [--cases local ...]`` prints a Markdown table for
docs/plan.md.  Times are processor seconds of whole processes with one thread, so that other work on the machine matters
less; a plan is made right before its run, after another one that lets the kernels be compiled.  ``iterations made``
corrects the prediction for the number of iterations, which no plan can know.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.paired import subset
from tests.parity.programs import TOMOBURST

COMMON = "--ref rec.mrc --ctf --ctf_corrected_ref --zero_mask --flatten_solvent --particle_diameter 250 --ini_high 60"
COMMON += " --pad 2 --oversampling 1 --offset_range 5 --offset_step 2 --random_seed 7 --j 1"
CLASSIFY, REFINE = " --K 1 --iter 3", " --auto_refine --split_random_halves --low_resol_join_halves 40 --firstiter_cc"
CASES = {
    "global": COMMON + CLASSIFY + " --healpix_order 2 --firstiter_cc",
    "local": COMMON + CLASSIFY + " --healpix_order 4 --sigma_ang 3.75 --firstiter_cc",
    "local, flat at first": COMMON + CLASSIFY + " --healpix_order 4 --sigma_ang 3.75",
    "auto-refine, local": COMMON + REFINE + " --healpix_order 4",
    "auto-refine, global": COMMON + REFINE + " --healpix_order 2",
}
HEADER = (
    "| run | particles | processor s: planned (range) / iterations made / measured | ratio | "
    "GFLOP 1st pass: planned / counted |\n"
    "|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    """Processor and wall-clock seconds and peak resident bytes of one process, and its standard output."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    output: str


def measured(command: list[str], folder: Path) -> Measured:
    """Run one command to its end."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "stdout.txt").open("w") as output, (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {(folder / 'stderr.txt').read_text()}")
    wall_s, output_text = time.perf_counter() - start, (folder / "stdout.txt").read_text()
    return Measured(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * 1024, output_text)


def imports_cpu_s(folder: Path) -> float:
    """Processor seconds that a run spends before it does anything."""
    return measured([sys.executable, "-c", "import runner.cli, runner.refine"], folder).cpu_s


def finished_iterations(folder: Path) -> list[dict[str, Any]]:
    """Start and end of every iteration in one record."""
    events = [json.loads(line) for line in (folder / "out" / "run_events.jsonl").read_text().splitlines()]
    starts = {event["iteration"]: event for event in events if event["event"] == "iteration_started"}
    ends = [event for event in events if event["event"] == "iteration_finished"]
    return [{**starts[event["iteration"]], **event} for event in ends]


def for_iterations_made(plan: dict[str, Any], made: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds and operations of the first pass that the plan gives for the iterations that a run made."""
    kinds = [(each["kind"], each) for each in plan["kinds"]]
    seconds = flops = 0.0
    counts: Counter[int] = Counter()
    for number, iteration in enumerate(made):
        order = min(iteration["healpix_order"], max(kind["healpix_order"] for kind, _ in kinds))
        alike = [index for index, (kind, _) in enumerate(kinds) if kind["healpix_order"] == order]
        last = [index for index in alike if kinds[index][0]["final"]]
        usual = [index for index in alike if not kinds[index][0]["final"]]
        chosen = last[0] if last and number == len(made) - 1 else usual[0] if number == 0 else usual[-1]
        counts[chosen] += 1
    for index, count in counts.items():
        seconds += count * kinds[index][1]["seconds"]
        flops += count * kinds[index][1]["operations"]["gemm_flops"]
    return seconds, flops


def row(name: str, folder: Path, star: str, particles: int) -> str:
    """Plan and run one case."""
    flags = ["--i", star, *CASES[name].split()]
    plan = json.loads(measured([*TOMOBURST, "plan", *flags, "--json"], folder).output)
    run = measured([*TOMOBURST, "refine", "--o", "out/run", "--overwrite", *flags], folder)
    made = finished_iterations(folder)
    seconds, flops = for_iterations_made(plan, made)
    seconds += plan["begin_seconds"]
    counted = sum(each["operations"]["gemm_flops"] for each in made)
    cells = [
        name,
        str(particles),
        f"{plan['seconds']:.3g} ({plan['fastest']:.3g}–{plan['slowest']:.3g}) / {seconds:.3g} / {run.cpu_s:.3g}",
        f"{seconds / run.cpu_s:.2f}",
        f"{flops / 1e9:.4g} / {counted / 1e9:.4g}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--particles", type=int, default=40)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    print(HEADER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for entry in options.data.iterdir():
            (folder / entry.name).symlink_to(entry.resolve())
        measured([*TOMOBURST, "reconstruct", "--ctf", "--i", "particles.star", "--o", "rec.mrc"], folder)
        subset(folder / "particles.star", folder / "first.star", options.particles)
        measured([*TOMOBURST, "plan", "--i", "first.star", *CASES["local"].split()], folder)
        for name in options.cases:
            print(row(name, folder, "first.star", options.particles), flush=True)


if __name__ == "__main__":
    main()
