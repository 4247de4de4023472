"""The E-step of an iteration: its input written for all units, the units computed, the poses they assigned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kernels.accumulators import Accumulators
from kernels.likelihood import Model, Search
from kernels.translations import translation_grid
from runner.errors import InputError
from runner.model.state import HalfModel, PoseState, RunState, SamplingState, ScheduleState
from runner.plan.schedule import round_half_away
from runner.refinement.inputs import (
    ExpectationInput,
    Opened,
    ParticleRows,
    Transform,
    forget,
    open_backend,
    remember,
    with_transforms,
    write_input,
)
from runner.refinement.reduction import INPUT, Reduced, UnitDone, Work, reduce_units
from runner.refinement.result import unpacked_sums
from runner.refinement.run import Run, coarse_grid, half_of_particles

IntArray = npt.NDArray[np.int64]

UNIT = "runner.refinement.unit:run_unit"


@dataclass(frozen=True)
class Assigned:
    """The result of an E-step: the sums of each half model, the new poses of all particles, those newly set aside with
    the reasons, and what the units took, see `Reduced`.
    """

    sums: list[Accumulators]
    poses: PoseState
    bad: dict[int, str]
    took: Reduced


def run_expectation(
    run: Run,
    state: RunState,
    schedule: ScheduleState,
    transforms: list[list[Transform]],
    only_class: IntArray,
    done: Callable[[UnitDone], None],
) -> Assigned:
    """E-step of the iteration ``state.iteration``.

    Parameters
    ----------
    transforms : of the references of each half, as the units make them from the maps; emptied, to free them.
    only_class : (n,) 0-based class to which a particle is restricted, -1 for all.
    done : hears of every finished unit.

    Raises
    ------
    InputError
        A particle cannot be used and is not to be skipped, or a half has no particle left.
    """
    given = _input(run, state, schedule, only_class)
    folder = run.folder(state.iteration)
    digest, written = write_input(f"{folder}/{INPUT}", given)
    if run.in_process:
        remember(f"{folder}/{INPUT}", digest, _opened(run, given, transforms))
    else:
        written.result()
    transforms.clear()
    work = Work(UNIT, folder, digest, len(run.table), run.device, given.skip_bad, not run.in_process)
    reduced = reduce_units(run.executor, work, done)
    forget(f"{folder}/{INPUT}", digest)
    written.result()
    result = reduced.result
    for half in range(len(given.models)):
        if f"half{half}.weight" not in result.sums:
            raise InputError(
                f"{run.table.source}: half {half + 1} has no particle left that can be used; add particles"
            )
    sums = [unpacked_sums(half, result.sums, model.r_max, model.pad) for half, model in enumerate(given.models)]
    poses = PoseState(**{name: values.copy() for name, values in vars(state.poses).items()})
    rows = result.rows.pop("row")
    for name, values in result.rows.items():
        getattr(poses, name)[rows] = values
    return Assigned(sums, poses, result.bad, reduced)


def _opened(run: Run, given: ExpectationInput, transforms: list[list[Transform]]) -> Opened:
    """The input as units of this process take it."""
    backend = open_backend(run.computing, run.device)
    models = [with_transforms(*each, backend) for each in zip(given.models, transforms, strict=True)]
    return Opened(given, models, run.particles, backend)


def _input(run: Run, state: RunState, schedule: ScheduleState, only_class: IntArray) -> ExpectationInput:
    return ExpectationInput(
        where=run.particles.where,
        rows=particle_rows(run, state, only_class),
        models=[likelihood_model(run, state, half, schedule) for half in state.halves],
        references=[half.references for half in state.halves],
        lowest_shell=lowest_shell(run),
        searches=[pose_search(run, half, state.sampling, state.iteration) for half in state.halves],
        mask=run.mask,
        rules=run.rules,
        computing=run.computing,
        skip_bad=run.skip_bad,
    )


def particle_rows(run: Run, state: RunState, only_class: IntArray) -> ParticleRows:
    """What the E-step knows of all particles beside their volumes."""
    table, poses = run.table, state.poses
    prior = table.angle_priors_deg
    premultiplied = np.array([run.config.ctf and optics.ctf_premultiplied for optics in table.optics], dtype=bool)
    return ParticleRows(
        angles_deg=poses.angles_deg,
        origins_angst=poses.origins_angst,
        prior_angles_deg=np.where(np.isnan(prior), poses.angles_deg, prior),
        prior_origins_angst=table.origin_priors_angst,
        half=half_of_particles(run, poses, state.set_aside),
        group=table.group_index,
        only_class=only_class,
        ctf_premultiplied=premultiplied[table.optics_index],
    )


def lowest_shell(run: Run) -> int:
    """Last shell that ``--strict_lowres_exp`` keeps out of the comparison, -1 without it."""
    if run.config.strict_lowres_exp <= 0:
        return -1
    return round_half_away(run.policy.box_angst / run.config.strict_lowres_exp)


def likelihood_model(run: Run, state: RunState, half: HalfModel, schedule: ScheduleState) -> Model:
    """The model of one half as the E-step takes it, without the transforms of its references."""
    strict = run.config.strict_highres_exp > 0
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
        references_rft=None,
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


def without_bad(run: Run, state: RunState, bad: dict[int, str]) -> RunState:
    """The state without particles that were set aside just now: they count no more in the numbers of their groups."""
    halves = [replace(half, group_particles=half.group_particles.copy()) for half in state.halves]
    half_of = half_of_particles(run, state.poses, state.set_aside)
    for row in bad:
        halves[half_of[row]].group_particles[run.table.group_index[row]] -= 1
    return replace(state, halves=halves, set_aside=state.set_aside | bad)
