"""A small made-up work unit, run to learn how fast the E-step and the M-step are on this device."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from kernels.accuracy import pose_accuracy
from kernels.backend import Backend
from kernels.clock import Clock
from kernels.expectation import expectation
from kernels.fourier import forward
from kernels.geometry import padded_size
from kernels.likelihood import FloatArray, Mask, Model, Particle, Rules, Search
from kernels.maximization import empty_accumulator, reconstruct
from kernels.orientations import AngularGrid, euler_to_matrix
from kernels.projection import reference_rft

EVIDENCE = 2000.0
"""Squared difference of right from wrong, in units of the noise: posteriors of a few points, as in refinements."""


@dataclass(frozen=True)
class Problem:
    """Sizes of a made-up unit; lengths in voxels.

    Attributes
    ----------
    grid, translations_px, offset_step_px, oversampling, local, sigmas_deg : the search; a local one visits its whole
        neighbourhood, of a global one ``orientations`` are taken.
    """

    box: int
    pad: float
    coarse_size: int
    current_size: int
    grid: AngularGrid
    translations_px: FloatArray
    offset_step_px: float
    oversampling: int
    local: bool
    sigmas_deg: tuple[float, float, float]
    fixed_orientation: bool
    fixed_offset: bool
    cross_correlation: bool
    use_ctf: bool
    zero_mask: bool
    particles: int
    orientations: int


def run_problem(problem: Problem, backend: Backend) -> Clock:
    """Run the E-step on the made-up unit and return its seconds and counts by stage."""
    particles, model, search = _unit(problem, backend)
    mask = Mask(0.4 * problem.box, 3.0, problem.zero_mask)
    clock = Clock()
    expectation(particles, model, search, mask, Rules(), backend, clock)
    return clock


def accuracy_seconds(problem: Problem, backend: Backend) -> float:
    """Processor seconds for the estimated accuracy of the poses of one particle."""
    particles, model, _ = _unit(replace(problem, particles=1), backend)
    start = time.thread_time()
    pose_accuracy(particles, [0], model, 0, True, backend)
    return time.thread_time() - start


def reconstruction_seconds(box: int, pad: float, r_max: int, iterations: int) -> float:
    """Processor seconds of a reconstruction, divided by the voxels ``P**3`` of its grid."""
    rng = np.random.default_rng(0)
    data, weight = empty_accumulator(r_max, pad)
    data += rng.standard_normal(data.shape)
    weight += 1.0
    start = time.thread_time()
    reconstruct(data, weight, box, pad, r_max, tau2=np.ones(box // 2 + 1), iterations=iterations)
    return (time.thread_time() - start) / padded_size(r_max, pad) ** 3


def _unit(problem: Problem, backend: Backend) -> tuple[list[Particle], Model, Search]:
    """Particles made of a reference of a few blobs, noise included, and the model and search they are compared with."""
    rng = np.random.default_rng(1)
    box, shells = problem.box, problem.box // 2 + 1
    centres = rng.normal(size=(8, 3)) * box / 10
    reference = _blobs(centres, box)
    transform = reference_rft(reference, problem.pad, problem.current_size // 2)
    power = np.abs(forward(reference).ravel()[1:]) ** 2  # the mean density says nothing about poses
    sigma2 = np.full((1, shells), power.sum() / (2 * EVIDENCE))
    grid = problem.grid if problem.local else _part(problem.grid, problem.orientations)
    angles = np.array([*grid.directions_deg[len(grid.directions_deg) // 2], grid.psi_deg[0]])
    turned = _blobs(centres @ euler_to_matrix(angles).T, box)
    noise = np.sqrt(2 * sigma2[0, 0] * box**3)
    ctf = np.ones((box, box, box // 2 + 1), dtype=np.float32) if problem.use_ctf else None
    particles = [
        Particle(
            index=index,
            volume=(turned + noise * rng.standard_normal(turned.shape)).astype(np.float32),
            ctf_rft=ctf,
            ctf_premultiplied=False,
            group=0,
            angles_deg=angles,
            origin_angst=np.zeros(3),
            prior_angles_deg=angles,
            prior_origin_angst=np.zeros(3),
        )
        for index in range(problem.particles)
    ]
    directions = len(grid.directions_deg)
    model = Model(
        box=box,
        voxel_size_angst=1.0,
        pad=problem.pad,
        current_size=problem.current_size,
        coarse_size=problem.coarse_size,
        fine_size=problem.current_size,
        references_rft=[backend.xp.asarray(transform, dtype=backend.complex)],
        sigma2_noise=sigma2,
        group_scale=np.ones(1),
        ssnr=np.zeros((1, shells)),
        pdf_class=np.ones(1),
        pdf_direction=np.full((1, directions), 1.0 / directions),
        sigma2_offset_angst2=4.0,
        use_ctf=problem.use_ctf,
        ctf_in_reference=problem.use_ctf,
        use_scale=False,
    )
    search = Search(
        grid=grid,
        translations_angst=problem.translations_px,
        offset_step_angst=problem.offset_step_px,
        perturbation=0.0,
        oversampling=problem.oversampling,
        cross_correlation=problem.cross_correlation,
        local=problem.local,
        sigma_rot_deg=problem.sigmas_deg[0],
        sigma_tilt_deg=problem.sigmas_deg[1],
        sigma_psi_deg=problem.sigmas_deg[2],
        fixed_orientation=problem.fixed_orientation,
        fixed_offset=problem.fixed_offset,
    )
    return particles, model, search


def _blobs(centres_px: FloatArray, box: int) -> FloatArray:
    """Gaussian blobs at ``centres_px`` (n, 3) x, y, z from the box centre; (N, N, N)."""
    axis = np.arange(box) - box // 2
    volume = np.zeros((box, box, box))
    width = 2.0 * (0.06 * box) ** 2
    for x, y, z in centres_px:
        volume += (
            np.exp(-((axis - z) ** 2) / width)[:, None, None]
            * np.exp(-((axis - y) ** 2) / width)[None, :, None]
            * np.exp(-((axis - x) ** 2) / width)[None, None, :]
        )
    return volume


def _part(grid: AngularGrid, orientations: int) -> AngularGrid:
    """A grid of about ``orientations`` neighbouring orientations of ``grid``."""
    turns = min(len(grid.psi_deg), 24)
    count = max(1, min(len(grid.directions_deg), orientations // turns))
    return replace(
        grid,
        directions_deg=grid.directions_deg[:count],
        pixel_index=grid.pixel_index[:count],
        psi_deg=grid.psi_deg[:turns],
    )
