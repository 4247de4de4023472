"""All that needs a GPU in one call: its tests, whole runs beside the CPU, and the figures for docs/benchmarks.md.

``python -m tests.gpu.run_all`` installs nothing, prints Markdown and ends with 0 when all tests passed and both runs
agree.  ``--dry-run`` does the same on tiny sets with the stand-in for CuPy, whose figures mean nothing.

A rate is that of the E-step of one work unit of made-up particles in one thread, compilation left out.  The peak is a
large product of matrices in single precision, measured on the same device right before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np

from kernels.backend import Backend, cuda_backend
from kernels.calibration import Problem, run_problem
from kernels.orientations import angular_grid, angular_step_deg
from kernels.translations import translation_grid
from runner.refinement.inputs import open_backend
from tests.gpu.whole_run import LEAST_FSC, LEAST_POSES, Agreement, Case, compare
from tests.unit.strict_device import strict_backend

TESTS = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)]
SIGMA_DEG = 5.0
PARTICLES, REPEATS = 32, 3
RATES = (
    "| search | box | image, 1st / 2nd pass | particles/s | GFLOP a particle, products | share of the peak |\n"
    "|---|---|---|---|---|---|\n"
)
RUNS = (
    "| particles | box | CPU, s | GPU, s | GPU again, s | least FSC to the resolution | same poses | same bytes |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def problem(box: int, order: int, local: bool, particles: int) -> Problem:
    """A search with 81 translations; images as large as RELION's rules have them at three quarters of Nyquist."""
    grid, current = angular_grid(order), 2 * round(0.375 * box)
    rotated = angular_step_deg(order) / 360.0 * np.pi * 0.8 * box
    return Problem(
        box=box,
        pad=2.0,
        coarse_size=min(2 * int(np.ceil(1.2 * box / rotated)), current),
        current_size=current,
        grid=grid,
        translations_px=translation_grid(5.0, 2.0),
        offset_step_px=2.0,
        oversampling=1,
        local=local,
        sigmas_deg=(SIGMA_DEG,) * 3,
        fixed_orientation=False,
        fixed_offset=False,
        cross_correlation=False,
        use_ctf=True,
        zero_mask=True,
        particles=particles,
        orientations=len(grid.directions_deg) * len(grid.psi_deg),
    )


def peak_flops(backend: Backend, size: int) -> float:
    """Rate of a product of square matrices, the best of some."""
    xp = backend.xp
    matrix = xp.ones((size, size), dtype=backend.real)
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def rates(boxes: list[int], particles: int, global_order: int, backend: Backend, peak: float) -> Iterator[str]:
    """Rows of the table of rates."""
    for box in boxes:
        for order, local in ((global_order, False), (global_order + 2, True)):
            unit = problem(box, order, local, particles)
            clocks = [run_problem(unit, backend) for _ in range(REPEATS)]
            seconds = [sum(clock.seconds.values()) for clock in clocks]
            fastest = int(np.argmin(seconds))
            done = clocks[fastest].counts
            flops = done["gemm_flops"] + done.get("fine_flops", 0)
            yield (
                f"| {'local' if local else 'global'}, order {order} | {box} | {unit.coarse_size} / {unit.current_size} "
                f"| {particles / seconds[fastest]:.1f} | {flops / particles / 1e9:.3g} "
                f"| {flops / seconds[fastest] / peak:.1%} |\n"
            )


def whole_run(case: Case, dry_run: bool) -> tuple[Agreement, str]:
    """The agreement of whole runs, and their row."""
    with tempfile.TemporaryDirectory() as folder, on_the_stand_in() if dry_run else nullcontext():
        found = compare(case, Path(folder))
    seconds = " | ".join(f"{each:.1f}" for each in found.seconds)
    return found, (
        f"| {case.particles} | {case.box} | {seconds} | {found.fsc:.6f} | {found.poses:.1%} "
        f"| {'yes' if found.same_bytes else 'no'} |\n"
    )


@contextmanager
def on_the_stand_in() -> Iterator[None]:
    """Runs with ``--gpu`` find the stand-in."""
    open_backend.cache_clear()
    with patch("runner.refinement.inputs.cuda_backend", lambda precision, **_: strict_backend(precision)):
        yield
    open_backend.cache_clear()


def device_name(backend: Backend) -> str:
    """Name of the GPU as its driver has it."""
    name: bytes = backend.xp.cuda.runtime.getDeviceProperties(backend.device)["name"]
    return name.decode()


def main(arguments: list[str] | None = None) -> int:
    """Test, measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sets on a stand-in: does this script work?")
    dry_run = parser.parse_args(arguments).dry_run
    if dry_run:
        tests, backend, name, peak = 0, strict_backend(), "stand-in", peak_flops(strict_backend(), 64)
        rows, case = rates([16], 2, 0, backend, peak), Case(particles=8, box=16, iterations=1, threads=1)
    else:
        tests = subprocess.run(TESTS).returncode
        backend = cuda_backend()
        name, peak = device_name(backend), peak_flops(backend, 8192)
        rows, case = rates([64, 128], PARTICLES, 2, backend, peak), Case()
    print(f"\n{name}; products of matrices at {peak / 1e12:.3g} TFLOP/s in single precision.\n\n{RATES}{''.join(rows)}")
    found, row = whole_run(case, dry_run)
    print(f"{RUNS}{row}")
    agree = found.fsc > LEAST_FSC and found.poses >= LEAST_POSES and found.same_bytes
    return 0 if tests == 0 and agree else 1


if __name__ == "__main__":
    sys.exit(main())
