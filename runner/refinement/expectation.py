"""The E-step of one half model: its particles in units, the units over threads, their sums merged in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from kernels.accumulators import Accumulators
from kernels.expectation import DegenerateParticleError, expectation
from kernels.geometry import padded_radius, padded_squared_radius
from kernels.likelihood import Assignment, Model, Particle, Search
from kernels.projection import reference_rft
from kernels.translations import translation_grid
from runner.errors import InputError
from runner.execute.images import read_particle_volume
from runner.execute.local import ordered_map
from runner.model.state import HalfModel, PoseState, RunState, SamplingState, ScheduleState
from runner.plan.schedule import round_half_away
from runner.refinement.run import Run, coarse_grid

IntArray = npt.NDArray[np.int64]

SMALLEST_UNIT, LARGEST_UNIT = 10, 32


def transform_references(run: Run, half: HalfModel, schedule: ScheduleState) -> list[npt.NDArray[np.complex128]]:
    """Oversampled transforms of the references of one half up to the current size."""
    return [reference_rft(reference, run.config.pad, schedule.current_size // 2) for reference in half.references]


def limit_low_resolution(run: Run, transforms: list[npt.NDArray[np.complex128]]) -> None:
    """Take away, in place, what ``--strict_lowres_exp`` keeps out of the comparison."""
    if run.config.strict_lowres_exp <= 0:
        return
    shell = round_half_away(run.policy.box_angst / run.config.strict_lowres_exp)
    for transform in transforms:
        transform[padded_squared_radius(transform.shape[0]) <= padded_radius(shell, run.config.pad) ** 2] = 0


def likelihood_model(
    run: Run, state: RunState, half: HalfModel, transforms: list[npt.NDArray[np.complex128]], schedule: ScheduleState
) -> Model:
    """The model of one half as the E-step takes it."""
    backend, strict = run.backend, run.config.strict_highres_exp > 0
    pdf_direction = half.pdf_direction
    if run.rules.smooth_direction_prior:
        # One pseudo-particle per direction: the posterior mean under a uniform Dirichlet prior.
        count = half.group_particles.sum()
        pdf_direction = (pdf_direction * count + half.pdf_class[:, None]) / (count + pdf_direction.shape[1])
    return Model(
        box=run.box,
        voxel_size_angst=run.voxel_size_angst,
        pad=run.config.pad,
        current_size=schedule.current_size,
        coarse_size=schedule.coarse_size,
        fine_size=schedule.coarse_size if strict else schedule.current_size,
        references_rft=[backend.xp.asarray(transform, dtype=backend.complex) for transform in transforms],
        sigma2_noise=half.sigma2_noise,
        group_scale=half.group_scale,
        ssnr=half.ssnr,
        pdf_class=half.pdf_class,
        pdf_direction=pdf_direction,
        sigma2_offset_angst2=half.sigma2_offset_angst2,
        use_ctf=run.config.ctf,
        ctf_in_reference=run.config.ctf and state.references_are_ctf_corrected,
        use_scale=run.use_scale,
        weight_by_noise=not run.config.no_map,
    )


def pose_search(run: Run, half: HalfModel, sampling: SamplingState, iteration: int) -> Search:
    """The search of one iteration."""
    config = run.config
    sigmas = np.sqrt([half.sigma2_rot_deg2, half.sigma2_tilt_deg2, half.sigma2_psi_deg2])
    return Search(
        grid=coarse_grid(run, sampling),
        translations_angst=translation_grid(sampling.offset_range_angst, sampling.offset_step_angst),
        offset_step_angst=sampling.offset_step_angst,
        perturbation=sampling.perturbation,
        oversampling=run.policy.oversampling,
        adaptive_fraction=config.adaptive_fraction,
        max_significant=config.maxsig,
        cross_correlation=uses_cross_correlation(run, iteration),
        local=half.orientational_prior_mode == 1 and not run.fixed_orientation,
        sigma_rot_deg=float(sigmas[0]),
        sigma_tilt_deg=float(sigmas[1]),
        sigma_psi_deg=float(sigmas[2]),
        fixed_orientation=run.fixed_orientation,
        fixed_offset=config.skip_align,
    )


def uses_cross_correlation(run: Run, iteration: int) -> bool:
    """Whether poses are assigned by cross-correlation in this iteration."""
    return run.config.always_cc or (iteration == 1 and run.config.firstiter_cc)


@dataclass(frozen=True)
class Unit:
    """Some particles of one half, to be compared with that half's model."""

    half: int
    model: Model
    search: Search
    rows: IntArray


def cut_units(half: int, model: Model, search: Search, rows: IntArray) -> list[Unit]:
    """Units of one half: few enough particles for several units in a small set, enough to share rotated references.

    The cuts depend on the number of particles alone, never on the number of threads.
    """
    size = int(np.clip(-(-len(rows) // 4), SMALLEST_UNIT, LARGEST_UNIT))
    return [Unit(half, model, search, rows[start : start + size]) for start in range(0, len(rows), size)]


def run_units(
    run: Run, units: list[Unit], poses: PoseState, only_class: IntArray, progress: Callable[[int], None]
) -> tuple[list[Accumulators], list[Assignment]]:
    """E-step over ``units``: the sums of each half, merged in the order of the units, and all assignments."""
    sums: dict[int, Accumulators] = {}
    assignments: list[Assignment] = []
    results = ordered_map(partial(_compute, run, poses, only_class), units, run.config.j)
    for unit, (part, assigned) in zip(units, results, strict=True):
        sums[unit.half] = sums[unit.half].merge(part) if unit.half in sums else part
        assignments.extend(assigned)
        progress(len(assigned))
    return [sums[half] for half in sorted(sums)], assignments


def _compute(run: Run, poses: PoseState, only_class: IntArray, unit: Unit) -> tuple[Accumulators, list[Assignment]]:
    run.backend.activate()
    particles = [particle_at(run, poses, int(row), int(only_class[row])) for row in unit.rows]
    try:
        return expectation(particles, unit.model, unit.search, run.mask, run.rules, run.backend)
    except DegenerateParticleError as error:
        raise InputError(
            f"{run.table.describe(error.index)}: no pose has a weight above zero; check this particle and its CTF "
            "volume for NaN or zeros, and that particles and reference have the same grey scale (or use --firstiter_cc)"
        ) from error


def particle_at(run: Run, poses: PoseState, row: int, only_class: int = -1, volume: bool = True) -> Particle:
    """Particle ``row`` with its current pose; without its ``volume`` where only the pose and the CTF are needed."""
    table = run.table
    prior = table.angle_priors_deg[row]
    return Particle(
        index=row,
        volume=read_particle_volume(table, row) if volume else None,
        ctf_rft=run.ctfs.read(row) if run.ctfs is not None else None,
        ctf_premultiplied=run.config.ctf and table.optics[table.optics_index[row]].ctf_premultiplied,
        group=int(table.group_index[row]),
        angles_deg=poses.angles_deg[row],
        origin_angst=poses.origins_angst[row],
        prior_angles_deg=np.where(np.isnan(prior), poses.angles_deg[row], prior),
        prior_origin_angst=table.origin_priors_angst[row],
        only_class=only_class,
    )
