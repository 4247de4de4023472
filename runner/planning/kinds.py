"""The iterations that a run is expected to make, with the numbers of poses and coefficients of the real grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels.geometry import padded_size
from kernels.orientations import AngularGrid, angular_grid
from kernels.priors import local_prior
from kernels.sphere import sphere
from kernels.translations import translation_grid
from runner.errors import UsageError
from runner.plan.config import RefineConfig
from runner.plan.cost import Data, Kind
from runner.plan.expected import Assumptions, Step, expected_steps
from runner.plan.schedule import SchedulePolicy, angular_step_deg, local_prior_sigma_deg
from runner.refinement.initial import initial_sampling
from runner.refinement.run import schedule_policy

NEIGHBOURHOODS = 8
"""Priors over which the number of orientations of a local search is averaged."""

Sigmas = tuple[float, float, float]


@dataclass(frozen=True)
class Search:
    """What is searched in one kind of iteration: the grid, offsets in voxels, and the priors' widths (0: none)."""

    grid: AngularGrid
    translations_px: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    offset_step_px: float
    sigmas_deg: Sigmas


def expected_kinds(config: RefineConfig, data: Data, assumed: Assumptions) -> Iterator[tuple[Kind, Search]]:
    """Yield the kinds of iterations in order.

    Raises
    ------
    UsageError
        The flags leave no orientations to search.
    """
    box_angst = data.box * data.voxel_size_angst
    diameter = config.particle_diameter if config.particle_diameter > 0 else box_angst
    policy = schedule_policy(config, data.box, data.voxel_size_angst, diameter)
    sampling = initial_sampling(config, data.voxel_size_angst)
    most = config.auto_iter_max if config.auto_refine else config.iter
    for step in expected_steps(policy, sampling, config.incr_size, assumed, most, config.auto_refine):
        yield _kind(config, data, policy, step)


def _kind(config: RefineConfig, data: Data, policy: SchedulePolicy, step: Step) -> tuple[Kind, Search]:
    sampling, schedule = step.sampling, step.schedule
    fixed = config.skip_align or config.skip_rotate
    try:
        grid = angular_grid(sampling.healpix_order, sampling.symmetry, sampling.psi_step_deg, sampling.limit_tilt_deg)
    except ValueError as error:
        raise UsageError(f"--healpix_order, --sym, --limit_tilt: {error}") from error
    sigmas = _sigmas(config, policy, sampling.healpix_order)
    local = fixed or any(sigma > 0 for sigma in sigmas)
    offsets = translation_grid(sampling.offset_range_angst, sampling.offset_step_angst) / data.voxel_size_angst
    offsets = offsets[:1] if config.skip_align else offsets
    if fixed:
        orientations = 1
    elif local:
        orientations = _neighbours(grid, sigmas)
    else:
        orientations = len(grid.directions_deg) * len(grid.psi_deg)
    fine = schedule.coarse_size if config.strict_highres_exp > 0 else schedule.current_size
    width = angular_step_deg(sampling.healpix_order)
    name = f"{'local' if local else 'global'} {width:.3g} deg" + " (last)" * step.final
    kind = Kind(
        name="given angles" if fixed else name,
        iterations=step.iterations,
        healpix_order=sampling.healpix_order,
        angular_step_deg=width,
        local=local,
        final=step.final,
        cross_correlation=config.always_cc or (step.first and config.firstiter_cc),
        orientations=orientations,
        directions=len(grid.directions_deg),
        translations=len(offsets),
        oversampling=policy.oversampling,
        coarse_size=schedule.coarse_size,
        current_size=schedule.current_size,
        coarse_coefficients=len(sphere(schedule.coarse_size)),
        fine_coefficients=len(sphere(fine)),
        grid=padded_size(schedule.current_size // 2, config.pad),
        classes=config.K,
        halves=2 if config.split_random_halves else 1,
        first=step.first,
    )
    return kind, Search(grid, offsets, sampling.offset_step_angst / data.voxel_size_angst, sigmas)


def _sigmas(config: RefineConfig, policy: SchedulePolicy, healpix_order: int) -> Sigmas:
    """Widths of the priors on the angles, as a run sets them; zeros in a global search."""
    if config.auto_refine and (automatic := local_prior_sigma_deg(policy, healpix_order)) is not None:
        return automatic, automatic, automatic
    if config.sigma_ang > 0:
        return config.sigma_ang, config.sigma_ang, config.sigma_ang
    return max(0.0, config.sigma_rot), max(0.0, config.sigma_tilt), max(0.0, config.sigma_psi)


def _neighbours(grid: AngularGrid, sigmas: Sigmas) -> int:
    """Orientations of a local search, on average over priors of random directions."""
    rng = np.random.default_rng(0)
    priors = np.stack(
        [
            rng.uniform(-180, 180, NEIGHBOURHOODS),
            np.rad2deg(np.arccos(rng.uniform(-1, 1, NEIGHBOURHOODS))),
            rng.uniform(-180, 180, NEIGHBOURHOODS),
        ],
        axis=1,
    )
    return round(float(np.mean([len(local_prior(grid, each, *sigmas, polar_safe=True).weight) for each in priors])))
