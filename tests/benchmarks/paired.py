"""Paired timings: tomoburst and RELION in turns on the same machine, data, sampling and iterations.

``python -m tests.benchmarks.paired DATA_FOLDER [--cases NAME ...] [--repeats 3] [--limit 100] [--relion5 FOLDER]``
prints a Markdown table for docs/benchmarks.md.  ``DATA_FOLDER`` is `sim_small_40`; particles of box 64 are simulated.
RELION is its MPI program with two working ranks, tomoburst has two threads; whole processes are timed, start-up
included, and compared by medians.  RELION is stopped after ``--limit`` times the wall time that tomoburst took right
before, and its figures have a ``>`` then.  ``--relion5`` names the folder of RELION 5 programs built with ``ALTCPU``,
which take ``--cpu``.

Rows that end in ``particles alone`` give what the particles above the first few add to a run, by the difference of two
runs: what is left is the E-step, without start-up, references and files.

The first run of tomoburst in each row has an empty cache of compiled kernels: ``cold``, and not among the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.accuracy.run import COMMANDS
from tests.benchmarks.processes import Timing, mpi, timed
from tests.parity.compare import read_map, read_star, relative_l2
from tests.parity.programs import TOMOBURST

CLASSIFY = "--ref rec.mrc --ctf --ctf_corrected_ref --zero_mask --flatten_solvent --ini_high 60 --pad 2"
CLASSIFY += " --oversampling 1 --offset_range 5 --offset_step 2 --perturb 0 --dont_check_norm --K 1 --iter 1"
HEADER = (
    "| run | box | particles | beside | wall s, ours / RELION | ratio (spread) | CPU s, ours / RELION's workers | "
    "ratio (spread) | CPU s of RELION's leader | wall s, ours cold | maps, relative L2 |\n" + "|---" * 11 + "|"
)


@dataclass(frozen=True)
class Measured:
    """Timings of one case: ours cold and warm, those of each RELION; differences of the maps from RELION 3.1.3."""

    cold: Timing
    ours: list[Timing] = field(default_factory=list)
    theirs: dict[str, list[Timing]] = field(default_factory=dict)
    differences: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """What both programs do: flags, and the first ``particles`` of the data set, or simulated ones of another box.

    With ``fewer``, what a run of so many takes is subtracted.
    """

    flags: str
    particles: int
    box: int = 32
    map_name: str = "run_it001_class001.mrc"
    fewer: int = 0


CASES = {
    "global, order 2": Case(f"{CLASSIFY} --healpix_order 2", 24),
    "global, order 2, box 64": Case(f"{CLASSIFY} --healpix_order 2", 24, box=64),
    "global, order 3": Case(f"{CLASSIFY} --healpix_order 3", 2),
    "local, order 4": Case(f"{CLASSIFY} --healpix_order 4 --sigma_ang 3.75", 40),
    "local, order 4, particles alone": Case(f"{CLASSIFY} --healpix_order 4 --sigma_ang 3.75", 40, fewer=10),
    "auto-refine, local": Case(COMMANDS["local"], 40, map_name="run_class001.mrc"),
    "auto-refine, global": Case(COMMANDS["global"], 40, map_name="run_class001.mrc"),
}


def subset(source: Path, target: Path, particles: int) -> None:
    """Copy a STAR file with its first ``particles`` particles only."""
    images = set(read_star(source)["particles"].columns["rlnImageName"][:particles])
    every = set(read_star(source)["particles"].columns["rlnImageName"])
    dropped = every - images
    lines = [line for line in source.read_text().splitlines() if not dropped.intersection(line.split())]
    target.write_text("\n".join(lines) + "\n")


def prepare(data: Path, folder: Path, case: Case) -> None:
    """Fill ``folder`` with particles and the map of their input poses."""
    source = data
    if case.box != 32:
        source = folder / "simulated"
        size = f"--box {case.box} --angpix {320 / case.box:g} --particle_diameter 250 --n {case.particles}"
        timed([*TOMOBURST, "simulate", *f"{size} --snr 0.15 --angle_error 4 --seed 1 --o simulated".split()], folder)
    for entry in source.iterdir():
        if entry.name != "particles.star":
            (folder / entry.name).symlink_to(entry.resolve())
    subset(source / "particles.star", folder / "particles.star", case.particles)
    if case.fewer:
        subset(source / "particles.star", folder / "fewer.star", case.fewer)
    timed([*TOMOBURST, "reconstruct", "--ctf", "--i", "particles.star", "--o", "rec.mrc"], folder)


def measure(folder: Path, case: Case, options: argparse.Namespace) -> Measured:
    """Run all programs in turns."""
    flags = [*case.flags.split(), "--particle_diameter", "250", "--random_seed", "7"]
    if "particles.star" not in flags:
        flags += ["--i", "particles.star"]
    exact = ["--parity", "relion-3.1"] if options.parity else []
    caches = {"NUMBA_CACHE_DIR": str(folder / "kernels")}
    command = [*TOMOBURST, "refine", "--o", "ours/run", "--j", "2", "--overwrite", *flags, *exact]
    (folder / "ours").mkdir()
    result = Measured(timed(command, folder, caches))
    for _ in range(options.repeats):
        ours = taken(case, command, folder, caches)
        result.ours.append(ours)
        for version, program, further in programs(options.relion5):
            shutil.rmtree(folder / "theirs", ignore_errors=True)
            (folder / "theirs").mkdir()
            their_command = mpi([program, "--o", "theirs/run", "--j", "1", *flags, *further])
            theirs = taken(case, their_command, folder, limit_s=options.limit * ours.wall_s)
            result.theirs.setdefault(version, []).append(theirs)
            if version == "3.1.3" and not theirs.stopped:
                maps = [read_map(folder / side / case.map_name) for side in ("ours", "theirs")]
                result.differences.append(relative_l2(*maps))
    return result


def taken(
    case: Case,
    command: list[str],
    folder: Path,
    environment: dict[str, str] | None = None,
    limit_s: float | None = None,
) -> Timing:
    """Timing of one program; with ``case.fewer`` of the particles above these alone."""
    few = Timing(0.0, 0.0)
    if case.fewer:
        few = timed(["fewer.star" if word == "particles.star" else word for word in command], folder, environment)
    return timed(command, folder, environment, limit_s) - few


def programs(relion5: str) -> Iterator[tuple[str, str, list[str]]]:
    """Version, program and further flags of each RELION to run."""
    yield "3.1.3", "relion_refine_mpi", []
    if relion5:
        yield "5", str(Path(relion5).resolve() / "relion_refine_mpi"), ["--cpu"]


def compared(ours: list[float], theirs: list[float], more: str = "") -> tuple[str, str]:
    """Medians, and their ratio with the spread of the pairs; ``more`` stands before what is a lower bound."""
    medians = statistics.median(ours), statistics.median(theirs)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    spread = f" ({min(ratios):.1f}–{max(ratios):.1f})" if len(ratios) > 1 else ""
    return f"{medians[0]:.1f} / {more}{medians[1]:.1f}", f"{more}{medians[1] / medians[0]:.1f}{spread}"


def rows(name: str, case: Case, measured: Measured) -> Iterator[str]:
    """Rows of one case, one for each RELION; the CPU time of a RELION that was stopped is not known."""
    wall, cpu = ([getattr(each, kind) for each in measured.ours] for kind in ("wall_s", "cpu_s"))
    for version, theirs in measured.theirs.items():
        stopped = any(each.stopped for each in theirs)
        cells = [name.removesuffix(f", box {case.box}"), str(case.box), str(case.particles), f"RELION {version}"]
        cells += compared(wall, [each.wall_s for each in theirs], "> " if stopped else "")
        if stopped:
            cells += [f"{statistics.median(cpu):.1f} / –", "–", "–"]
        else:
            cells += compared(cpu, [each.cpu_s - each.leader_s for each in theirs])
            cells.append(f"{statistics.median(each.leader_s for each in theirs):.1f}")
        difference = f"{max(measured.differences):.1e}" if measured.differences and version == "3.1.3" else "–"
        yield f"| {' | '.join([*cells, f'{measured.cold.wall_s:.1f}', difference])} |"


def machine() -> str:
    """Processor and version of RELION in one line."""
    found = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=False).stdout
    relion = found.strip().splitlines()[0]
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs; {relion}, two working ranks; ours --j 2"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=100.0, help="stop RELION after so many times our wall time")
    parser.add_argument("--relion5", default="", help="folder of RELION 5's programs")
    parser.add_argument("--parity", action="store_true", help="the same work to the last step: --parity relion-3.1")
    options = parser.parse_args()
    print(f"{machine()}\n\n{HEADER}", flush=True)
    for name in options.cases:
        with tempfile.TemporaryDirectory() as temporary:
            prepare(options.data, Path(temporary), CASES[name])
            for row in rows(name, CASES[name], measure(Path(temporary), CASES[name], options)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
