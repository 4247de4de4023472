"""Paired timing of one E-step and M-step: tomoburst and RELION in turns on the same machine, data and sampling.

``python -m tests.benchmarks.paired DATA_FOLDER [--repeats 3] [--threads 1] [--global-particles 8]`` prints a Markdown
table of medians for docs/benchmarks.md.  The serial RELION program is used (3D classification with one class),
because the leader of its MPI program burns CPU time while it waits.  Whole processes are timed, starting and
compiling included.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.parity.compare import read_map, read_star, relative_l2
from tests.parity.programs import TOMOBURST, execute, relion_version

COMMON = "--ref rec.mrc --ctf --ctf_corrected_ref --zero_mask --flatten_solvent --particle_diameter 250 --ini_high 60"
COMMON += " --pad 2 --oversampling 1 --offset_range 5 --offset_step 2 --perturb 0 --random_seed 1 --dont_check_norm"
COMMON += " --K 1 --iter 1"
HEADER = (
    "| iteration | particles | mode | wall s, ours / RELION | ratio | CPU s, ours / RELION | ratio (spread) | "
    "maps, relative L2 |\n|---|---|---|---|---|---|---|---|"
)
STAGES = {"global, order 2": "--healpix_order 2", "local, order 4": "--healpix_order 4 --sigma_ang 3.75"}


@dataclass(frozen=True)
class Timing:
    """Wall time and CPU time (user and system, children included) of one process, seconds."""

    wall_s: float
    cpu_s: float


def subset(source: Path, target: Path, particles: int) -> None:
    """Copy a STAR file with its first ``particles`` particles only."""
    images = set(read_star(source)["particles"].columns["rlnImageName"][:particles])
    every = set(read_star(source)["particles"].columns["rlnImageName"])
    dropped = every - images
    lines = [line for line in source.read_text().splitlines() if not dropped.intersection(line.split())]
    target.write_text("\n".join(lines) + "\n")


def timed(command: list[str], folder: Path) -> Timing:
    """Run one command and measure it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    execute(command, folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def run_pair(folder: Path, star: str, stage: str, threads: int, parity: bool) -> tuple[Timing, Timing, float]:
    """Run tomoburst, then RELION; the relative L2 between their maps shows whether they did the same work."""
    arguments = ["--i", star, *COMMON.split(), *STAGES[stage].split(), "--j", str(threads)]
    for program in ("ours", "theirs"):
        shutil.rmtree(folder / program, ignore_errors=True)
        (folder / program).mkdir()
    exact = ["--parity", "relion-3.1"] if parity else []
    ours = timed([*TOMOBURST, "refine", "--o", "ours/run", *arguments, *exact], folder)
    theirs = timed(["relion_refine", "--o", "theirs/run", *arguments], folder)
    maps = [read_map(folder / program / "run_it001_class001.mrc") for program in ("ours", "theirs")]
    return ours, theirs, relative_l2(*maps)


def row(stage: str, particles: int, mode: str, pairs: list[tuple[Timing, Timing, float]]) -> str:
    """One row of the table: medians, ratios of medians, spread of the CPU ratio, difference of the maps."""
    wall = [statistics.median(pair[side].wall_s for pair in pairs) for side in (0, 1)]
    cpu = [statistics.median(pair[side].cpu_s for pair in pairs) for side in (0, 1)]
    ratios = [theirs.cpu_s / ours.cpu_s for ours, theirs, _ in pairs]
    cells = [stage, str(particles), mode, f"{wall[0]:.1f} / {wall[1]:.1f}", f"{wall[1] / wall[0]:.1f}"]
    cells += [f"{cpu[0]:.1f} / {cpu[1]:.1f}", f"{cpu[1] / cpu[0]:.1f} ({min(ratios):.1f}–{max(ratios):.1f})"]
    return f"| {' | '.join(cells)} | {max(pair[2] for pair in pairs):.1e} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--global-particles", type=int, default=8)
    parser.add_argument("--local-particles", type=int, default=40)
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} CPUs, --j {options.threads}, {relion_version().splitlines()[0]}\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for entry in options.data.iterdir():
            (folder / entry.name).symlink_to(entry.resolve())
        execute(["relion_reconstruct", "--3d_rot", "--ctf", "--i", "particles.star", "--o", "rec.mrc"], folder)
        for stage, particles in zip(STAGES, (options.global_particles, options.local_particles), strict=True):
            star = f"first_{particles}.star"
            subset(folder / "particles.star", folder / star, particles)
            for mode in ("default", "parity"):
                exact = mode == "parity"
                pairs = [run_pair(folder, star, stage, options.threads, exact) for _ in range(options.repeats)]
                print(row(stage, particles, mode, pairs), flush=True)


if __name__ == "__main__":
    main()
