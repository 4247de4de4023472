"""``tomoburst demo``: simulate, reconstruct and refine a small case, and hold the result against the truth."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels import density, fourier, masks, spectra
from kernels.poses import PoseErrors, compare_poses
from runner.errors import InputError
from runner.formats.mrc import read_mrc
from runner.formats.particles import read_particles
from runner.formats.star import read_star
from runner.plan.config import ReconstructConfig, RefineConfig
from runner.plan.simulate_config import DemoConfig, SimulateConfig
from runner.reconstruct import run_reconstruct
from runner.refine import run_refine
from runner.report.events import Events
from runner.report.table import print_table
from runner.simulate import Simulation, run_simulate
from runner.store import objects

FloatArray = npt.NDArray[np.float64]

PARTICLES = 48
BOX_PX = 24
VOXEL_ANGST = 10.0
DIAMETER_ANGST = 180.0
MASK_EDGE_PX = 3.0
FSC_THRESHOLD = 0.5


@dataclass(frozen=True)
class Quality:
    """A set of poses and a map against the truth: pose errors, and where the FSC to the true map falls below 0.5."""

    poses: PoseErrors
    resolution_angst: float


def run_demo(config: DemoConfig, events: Events | None = None) -> tuple[Quality, Quality]:
    """Run the demonstration and print its table; returns the quality before and after the refinement.

    Raises
    ------
    UsageError, StorageError
        For flags that cannot work and a folder that cannot be written.
    """
    config.validate()
    events = events or Events()
    simulation = run_simulate(simulation_of(config), events)
    first_map = objects.join(config.o, "rec.mrc")
    run_reconstruct(reconstruction_of(config, simulation, first_map), events)
    refinement = refinement_of(config, simulation, first_map)
    run_refine(refinement, events)
    refined_map = f"{refinement.o}_class001.mrc"
    before = measure(simulation, simulation.particles, first_map)
    after = measure(simulation, f"{refinement.o}_data.star", refined_map)
    events.close()
    show(simulation, before, after, refinement.o)
    return before, after


def simulation_of(config: DemoConfig) -> SimulateConfig:
    """The simulated case: 48 noisy subtomograms with a missing wedge, their angles 10 degrees off and not centred."""
    return SimulateConfig(
        o=config.o,
        overwrite=True,
        n=PARTICLES,
        box=BOX_PX,
        angpix=VOXEL_ANGST,
        particle_diameter=DIAMETER_ANGST,
        snr=0.2,
        offset_sigma=1.5,
        random_seed=config.random_seed,
    )


def reconstruction_of(config: DemoConfig, simulation: Simulation, first_map: str) -> ReconstructConfig:
    """The first map, from the poses as they were "picked"."""
    return ReconstructConfig(i=simulation.particles, o=first_map, ctf=True, rot_3d=True, j=_threads(config))


def refinement_of(config: DemoConfig, simulation: Simulation, first_map: str) -> RefineConfig:
    """The RELION page's refinement of poses that are known roughly: local searches from the start."""
    return RefineConfig(
        i=simulation.particles,
        o=objects.join(config.o, "refine/run"),
        overwrite=True,
        ref=first_map,
        ctf=True,
        auto_refine=True,
        split_random_halves=True,
        firstiter_cc=True,
        ini_high=60.0,
        particle_diameter=DIAMETER_ANGST,
        flatten_solvent=True,
        zero_mask=True,
        oversampling=1,
        healpix_order=3,
        auto_local_healpix_order=3,
        offset_range=5.0,
        offset_step=2.0,
        low_resol_join_halves=40.0,
        norm=True,
        scale=True,
        random_seed=config.random_seed,
        j=_threads(config),
    )


def _threads(config: DemoConfig) -> int:
    return config.j if config.j > 0 else os.cpu_count() or 1


def measure(simulation: Simulation, particles: str, map_url: str) -> Quality:
    """Compare the poses of a STAR file and a map with the truth of a simulation."""
    found, true = read_particles(particles, check_files=False), read_particles(simulation.truth, check_files=False)
    order = {name: row for row, name in enumerate(true.image_names)}
    rows = [order[name] for name in found.image_names]
    poses = compare_poses(found.angles_deg, found.origins_angst, true.angles_deg[rows], true.origins_angst[rows])
    curve = _fsc_to_truth(map_url, simulation.maps[0], poses)
    return Quality(poses, _resolution(curve, BOX_PX * VOXEL_ANGST))


def _fsc_to_truth(map_url: str, truth_url: str, poses: PoseErrors) -> FloatArray:
    """FSC within a sphere of a map and the true map, which is brought into the map's frame first."""
    volume, truth = read_mrc(map_url), read_mrc(truth_url)
    size, voxel = volume.data.shape[0], volume.voxel_size_angst
    # the map holds at x what the truth holds at R x - v: the truth in the pose A = R^T with the origin -R^T v
    turned = density.map_rft(
        density.map_model(truth.data, voxel), size, voxel, poses.rotation.T, -poses.rotation.T @ poses.shift_vector
    )
    mask = masks.soft_sphere(size, 0.5 * DIAMETER_ANGST / voxel, MASK_EDGE_PX)
    return spectra.fsc_of_maps(volume.data * mask, fourier.inverse(turned) * mask)


def _resolution(curve: FloatArray, box_angst: float) -> float:
    """Where a curve first falls below the threshold, between shells by linear interpolation; Nyquist if never."""
    below = np.flatnonzero(curve[1:] < FSC_THRESHOLD) + 1
    if len(below) == 0:
        return box_angst / (len(curve) - 1)
    shell = int(below[0])
    fraction = (curve[shell - 1] - FSC_THRESHOLD) / (curve[shell - 1] - curve[shell])
    return float(box_angst / (shell - 1 + fraction))


def _gold_standard_resolution(model_star: str) -> float:
    """Resolution of the refinement by the FSC of its halves, from its model STAR file."""
    block = read_star(model_star).blocks.get("model_general")
    if block is None or "rlnCurrentResolution" not in block.columns:
        raise InputError(f"{model_star}: holds no rlnCurrentResolution; run the demo again")
    return float(block.columns["rlnCurrentResolution"][0])


def show(simulation: Simulation, before: Quality, after: Quality, prefix: str) -> None:
    """Print the table and where the files are, on standard output."""
    rows: list[tuple[str, str, list[float]]] = [
        (
            "median angular error (deg)",
            ".1f",
            [float(np.median(quality.poses.angle_deg)) for quality in (before, after)],
        ),
        (
            "median shift error (voxels)",
            ".2f",
            [float(np.median(quality.poses.shift_angst)) / VOXEL_ANGST for quality in (before, after)],
        ),
        ("FSC = 0.5 to the true map (A)", ".1f", [quality.resolution_angst for quality in (before, after)]),
    ]
    resolution = _gold_standard_resolution(f"{prefix}_model.star")
    print_table(
        "tomoburst demo",
        ("against the truth", "before", "after"),
        [(label, *(format(value, number) for value in values)) for label, number, values in rows],
        (
            f"resolution by the two half maps: {resolution:.1f} A; Nyquist: {2 * VOXEL_ANGST:.1f} A",
            f"refined map: {prefix}_class001.mrc",
            f"refined poses: {prefix}_data.star",
            f"true map: {simulation.maps[0]}",
            f"particles: {simulation.particles}",
        ),
    )
