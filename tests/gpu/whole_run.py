"""A whole refinement on the CPU and twice on the GPU: how well they agree, and whether the GPU gives the same bytes."""

from __future__ import annotations

import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.orientations import euler_to_matrix
from kernels.poses import rotation_angle_deg
from kernels.spectra import fsc_of_maps
from runner.formats.mrc import read_mrc
from runner.formats.particles import read_particles
from runner.plan.config import RefineConfig
from runner.plan.simulate_config import SimulateConfig
from runner.refine import run_refine
from runner.report.events import Events
from runner.simulate import run_simulate

RESOLVED = 0.143
LEAST_FSC, LEAST_POSES = 0.999, 0.999
SAME_DEG, SAME_ANGST = 0.01, 0.01
OF_THE_RUN = ("_events.jsonl", "_manifest.json")
"""Files that tell when and where a run took place."""


@dataclass(frozen=True)
class Case:
    """Size of the simulated set, and the iterations after which a run ends that has not converged."""

    particles: int = 1000
    box: int = 32
    iterations: int = 20
    threads: int = 8


@dataclass(frozen=True)
class Agreement:
    """What came out.

    Attributes
    ----------
    fsc : least correlation of the maps of CPU and GPU in any shell up to the final resolution.
    poses : share of the particles that have the same pose.
    same_bytes : whether both runs on the GPU wrote the same results.
    seconds : of the runs: CPU, GPU, GPU again.
    """

    fsc: float
    poses: float
    same_bytes: bool
    seconds: tuple[float, ...]


def compare(case: Case, folder: Path) -> Agreement:
    """Simulate a set in an empty folder and refine it three times."""
    simulation = SimulateConfig(
        o="set",
        n=case.particles,
        box=case.box,
        angpix=10.0,
        particle_diameter=7.0 * case.box,
        snr=0.5,
        offset_sigma=1.0,
        random_seed=3,
    )
    with chdir(folder):
        run_simulate(simulation)
    seconds = tuple(_refined(case, folder / run, gpu) for run, gpu in (("cpu", None), ("gpu", ""), ("again", "")))
    same_bytes = _results(folder / "gpu") == _results(folder / "again")
    return Agreement(_least_fsc(folder), _same_poses(folder), same_bytes, seconds)


def _refined(case: Case, folder: Path, gpu: str | None) -> float:
    """Seconds of one run in a folder of its own, where all names are the same."""
    config = RefineConfig(
        i="../set/particles.star",
        o="out/run",
        ref="../set/truth.mrc",
        ctf=True,
        auto_refine=True,
        split_random_halves=True,
        auto_iter_max=case.iterations,
        ini_high=60.0,
        particle_diameter=7.0 * case.box,
        zero_mask=True,
        healpix_order=2,
        offset_range=3.0,
        offset_step=1.5,
        random_seed=5,
        j=case.threads,
        gpu=gpu,
    )
    folder.mkdir()
    with chdir(folder):
        start = time.perf_counter()
        run_refine(config, Events())
        return time.perf_counter() - start


def _results(folder: Path) -> dict[str, bytes]:
    """The files of a run by name, but those of the place."""
    files = [path for path in (folder / "out").glob("run_*") if path.is_file() and not path.name.endswith(OF_THE_RUN)]
    return {path.name: path.read_bytes() for path in files}


def _last(folder: Path, name: str) -> str:
    """Path of a file of the last iteration."""
    return str(max((folder / "out").glob(f"run_it*_{name}")))


def _least_fsc(folder: Path) -> float:
    """Of the averages of both halves, to the resolution that the halves on the CPU have."""
    names = ("half1_class001.mrc", "half2_class001.mrc")
    halves = [[read_mrc(_last(folder / run, name)).data for name in names] for run in ("cpu", "gpu")]
    resolved = fsc_of_maps(*halves[0]) >= RESOLVED
    last = int(np.argmin(resolved)) if not resolved.all() else len(resolved)
    maps = [np.add(*each) for each in halves]
    return float(fsc_of_maps(*maps)[:last].min())


def _same_poses(folder: Path) -> float:
    """Share of the particles with the same orientation and origin on the CPU and on the GPU."""
    one, other = (read_particles(_last(folder / run, "data.star"), check_files=False) for run in ("cpu", "gpu"))
    turned = np.swapaxes(euler_to_matrix(one.angles_deg), -1, -2) @ euler_to_matrix(other.angles_deg)
    moved = np.linalg.norm(one.origins_angst - other.origins_angst, axis=1)
    return float(np.mean((rotation_angle_deg(turned) < SAME_DEG) & (moved < SAME_ANGST)))
