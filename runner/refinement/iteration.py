"""One iteration from state to state: the E-step on every half, the M-step, and what changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kernels.accuracy import pose_accuracy
from kernels.backend import cpu_backend
from kernels.clock import Clock
from kernels.orientations import angular_distance, angular_step_deg
from kernels.spectra import tau2_from_reference
from runner.model.state import HalfModel, PoseState, RunState, ScheduleState
from runner.plan.glibc_random import GlibcRandom, next_perturbation, processing_order, random_classes
from runner.plan.schedule import (
    class_change,
    coarser_sampling,
    offset_change_angst,
    refined_sampling,
    with_changes,
    with_image_sizes,
    with_resolution,
)
from runner.refinement.expectation import (
    Assigned,
    likelihood_model,
    lowest_shell,
    particle_rows,
    run_expectation,
    uses_cross_correlation,
    without_bad,
)
from runner.refinement.inputs import SET_ASIDE, Transform, limit_low_resolution, transform_references, with_transforms
from runner.refinement.maximization import HalfMaps, maximize_classes, maximize_halves
from runner.refinement.run import Run, coarse_grid, half_of_particles, progress, report_set_aside
from runner.report.events import IterationFinished, IterationStarted

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ACCURACY_PARTICLES = 100
ACCURACY_PARTICLES_RELION = 10
SMALLEST_CLASS = 0.01
UNKNOWN_ACCURACY = 999.0


def iterate(run: Run, state: RunState, final: bool = False) -> tuple[RunState, HalfMaps | None]:
    """Run one iteration.

    Parameters
    ----------
    final : the last iteration of a converged refinement: all data to Nyquist, halves joined.

    Returns
    -------
    The next state, and the unregularised half maps: of a final iteration, and of every one that corrects the FSC for
    the solvent mask.
    """
    found = _assigned(run, state, final)
    state, poses = found.state, found.assigned.poses
    schedule = _with_changes(run, state, found.schedule, poses)
    cross_correlation = uses_cross_correlation(run, state.iteration)
    maps, sums = None, found.assigned.sums
    with found.clock.stage("maximization"):
        if run.config.split_random_halves:
            halves, schedule, maps = maximize_halves(run, state.halves, sums, schedule, cross_correlation, final)
        else:
            halves = [maximize_classes(run, state.halves[0], sums[0], schedule, found.signal, cross_correlation)]
    if run.grows_classes and cross_correlation and state.iteration == 1:
        _copy_first_class(halves[0])
    schedule = with_resolution(run.policy, schedule, halves[0].ssnr, state.iteration)
    for half in halves:
        half.current_resolution, half.current_size = schedule.current_resolution, schedule.current_size
    state = replace(
        state,
        halves=halves,
        poses=poses,
        schedule=schedule,
        references_are_ctf_corrected=run.config.ctf or state.references_are_ctf_corrected,
    )
    _report(run, state, found)
    return state, maps


def assign_poses(run: Run, state: RunState) -> RunState:
    """The E-step of one iteration alone: new poses, the old model."""
    found = _assigned(run, state, final=False)
    return replace(found.state, poses=found.assigned.poses)


@dataclass(frozen=True)
class _Found:
    """What the E-step leaves to the M-step; ``signal`` (K, S) is tau2 of the references that it compared, ``clock``
    that of the driver.
    """

    state: RunState
    schedule: ScheduleState
    assigned: Assigned
    signal: FloatArray
    clock: Clock


def _assigned(run: Run, state: RunState, final: bool) -> _Found:
    """Settle sizes and sampling of the next iteration and assign all poses."""
    state = replace(state, iteration=state.iteration + 1)
    state = _with_perturbation(run, state)
    schedule = with_image_sizes(run.policy, state.schedule, state.sampling, state.halves[0].average_pmax, final)
    r_max, clock = schedule.current_size // 2, Clock()
    with clock.stage("references"):
        transforms = [transform_references(half.references, run.config.pad, r_max) for half in state.halves]
        signal = _signal(run, transforms[0], schedule)
        for half in transforms:
            limit_low_resolution(half, lowest_shell(run), run.config.pad)
    with clock.stage("accuracy"):
        state, schedule = _with_accuracy(run, state, schedule, transforms[0])
    state, schedule = _with_sampling(run, state, schedule)
    _announce(run, state, schedule)
    with clock.stage("expectation"):
        found = run_expectation(run, state, schedule, transforms, _class_restriction(run, state), progress(run))
    state = without_bad(run, state, found.bad)
    report_set_aside(run, found.bad)
    return _Found(state, schedule, found, signal, clock)


def _signal(run: Run, transforms: list[Transform], schedule: ScheduleState) -> FloatArray:
    """Signal spectra (K, S) of the references of a classification, unless they are given."""
    if run.fixed_tau2 is not None:
        return run.fixed_tau2
    r_max = schedule.current_size // 2
    return np.stack([tau2_from_reference(each, run.box, run.config.pad, r_max) for each in transforms])


def with_initial_resolution(run: Run, state: RunState) -> RunState:
    """The state that iteration 1 starts from; RELION writes its files of iteration 0 before it knows the resolution."""
    return replace(state, schedule=with_resolution(run.policy, state.schedule, state.halves[0].ssnr, state.iteration))


def _with_perturbation(run: Run, state: RunState) -> RunState:
    sampling = state.sampling
    perturbation = next_perturbation(sampling.perturbation, sampling.perturbation_factor, run.seed, state.iteration)
    if run.config.skip_align:
        perturbation = 0.0
    return replace(state, sampling=replace(sampling, perturbation=perturbation))


def _with_accuracy(
    run: Run, state: RunState, schedule: ScheduleState, transforms: list[Transform]
) -> tuple[RunState, ScheduleState]:
    """Estimate how accurately poses are determined, on some particles of the first half."""
    if run.config.skip_align or (state.iteration == 1 and run.config.firstiter_cc) or run.config.always_cc:
        return state, schedule
    half, backend = state.halves[0], cpu_backend(run.computing.precision)
    model = with_transforms(likelihood_model(run, state, half, schedule), transforms, backend)
    rows, half_of = _order(run, state), half_of_particles(run, state.poses, state.set_aside)
    if run.config.relion_parity:
        rows = rows[half_of[rows] != SET_ASIDE][:ACCURACY_PARTICLES_RELION]  # of both halves, when the first has fewer
    else:
        rows = rows[half_of[rows] == 0][:ACCURACY_PARTICLES]
    known, source = particle_rows(run, state, np.full(len(run.table), -1)), run.particles.source
    particles = [known.particle(int(row), None, source.read_ctf(int(row)) if run.config.ctf else None) for row in rows]
    axes = [_drawn_axis(run.seed + int(row)) for row in rows]
    rotation, translation = (np.full(run.classes, UNKNOWN_ACCURACY) for _ in range(2))
    orientability = np.zeros((run.classes, run.shells))
    for k in np.flatnonzero(half.pdf_class >= SMALLEST_CLASS):
        rotation[k], pixels, orientability[k] = pose_accuracy(
            particles, axes, model, int(k), not run.config.skip_rotate, backend
        )
        translation[k] = pixels * run.voxel_size_angst
    first = replace(
        half, accuracy_rotation_deg=rotation, accuracy_translation_angst=translation, orientability=orientability
    )
    halves = [first, *state.halves[1:]]
    schedule = replace(
        schedule,
        accuracy_rotation_deg=float(rotation.min()),
        accuracy_translation_angst=float(translation.min()),
    )
    return replace(state, halves=halves), schedule


def _drawn_axis(seed: int) -> int:
    """Which angle (and offset) is varied for a particle: RELION draws one of three from its own seed."""
    return int(np.searchsorted([0.3333, 0.6667], GlibcRandom(seed).uniform(), side="right"))


def _order(run: Run, state: RunState) -> IntArray:
    """RELION's order of processing, from which it takes the particles for the accuracies and random classes.

    Every iteration shuffles the order of the one before; a run that is gone on with starts from the table's again.
    """
    subsets = state.poses.random_subset if run.config.split_random_halves else None
    order: IntArray = np.arange(len(run.table))
    for iteration in range(run.continued_from + 1, state.iteration + 1):
        order = processing_order(order, run.seed, iteration, subsets, run.table.optics_index)
    return order


def _with_sampling(run: Run, state: RunState, schedule: ScheduleState) -> tuple[RunState, ScheduleState]:
    """Refine (auto-refine) or coarsen (classification, on request) the sampling; new directions start from equal
    odds.
    """
    if run.config.auto_refine and state.iteration > 1:
        decision = refined_sampling(run.policy, schedule, state.sampling)
    elif run.config.allow_coarser_sampling and not run.config.auto_refine:
        decision = coarser_sampling(run.policy, schedule, state.sampling)
    else:
        return state, schedule
    halves = state.halves
    if decision.directions_changed:
        count = len(coarse_grid(run, decision.sampling).directions_deg)
        halves = [
            replace(half, pdf_direction=np.repeat(half.pdf_class[:, None] / count, count, axis=1)) for half in halves
        ]
    if decision.local_sigma_deg is not None:
        variance = decision.local_sigma_deg**2
        halves = [
            replace(
                half,
                orientational_prior_mode=1,
                sigma2_rot_deg2=variance,
                sigma2_tilt_deg2=variance,
                sigma2_psi_deg2=variance,
            )
            for half in halves
        ]
    return replace(state, halves=halves, sampling=decision.sampling), decision.schedule


def _announce(run: Run, state: RunState, schedule: ScheduleState) -> None:
    sampling = state.sampling
    run.events.emit(
        IterationStarted(
            iteration=state.iteration,
            particles=len(run.table),
            resolution_angst=1.0 / max(schedule.current_resolution, 1e-6),
            current_size_px=schedule.current_size,
            healpix_order=sampling.healpix_order,
            angular_step_deg=angular_step_deg(sampling.healpix_order, run.policy.oversampling),
            offset_range_angst=sampling.offset_range_angst,
            offset_step_angst=sampling.offset_step_angst,
            local=state.halves[0].orientational_prior_mode == 1,
        )
    )


def _class_restriction(run: Run, state: RunState) -> IntArray:
    """Classes that grow from one reference start from one random class a particle (after the iteration by CC, if
    any).
    """
    free = np.full(len(run.table), -1)
    if not run.grows_classes:
        return free
    by_correlation = run.config.firstiter_cc
    if by_correlation and state.iteration == 1:
        return np.zeros(len(run.table), dtype=np.int64)
    if state.iteration == (2 if by_correlation else 1):
        return random_classes(_order(run, state), run.classes, run.seed) - 1
    return free


def _with_changes(run: Run, state: RunState, schedule: ScheduleState, poses: PoseState) -> ScheduleState:
    """What the iteration changed, on average over the particles that take part."""
    taking_part = half_of_particles(run, poses, state.set_aside) != SET_ASIDE
    before, after = (
        PoseState(**{name: values[taking_part] for name, values in vars(each).items()}) for each in (state.poses, poses)
    )
    angles = angular_distance(before.angles_deg, after.angles_deg, run.symmetry[0])
    return with_changes(
        run.policy,
        schedule,
        state.sampling,
        float(angles.mean()),
        offset_change_angst(before, after),
        class_change(before, after),
    )


def _copy_first_class(model: HalfModel) -> None:
    """Classes that grow from one reference all continue from the first map; so does RELION, to the same values."""
    classes = len(model.pdf_class)
    for values in (model.tau2, model.ssnr, model.references, model.pdf_direction):
        values[:] = values[:1]
    model.pdf_class = np.full(classes, model.pdf_class[0] / classes)


def _report(run: Run, state: RunState, found: _Found) -> None:
    schedule, took = state.schedule, found.assigned.took
    requests = Counter(run.meter.since())
    if not run.in_process:
        requests += took.requests
    run.events.emit(
        IterationFinished(
            iteration=state.iteration,
            resolution_angst=1.0 / max(schedule.current_resolution, 1e-6),
            changes_angles_deg=schedule.changes_orientations_deg,
            changes_offsets_angst=schedule.changes_offsets_angst,
            changes_classes=schedule.changes_classes,
            accuracy_rotation_deg=schedule.accuracy_rotation_deg,
            accuracy_translation_angst=schedule.accuracy_translation_angst,
            average_pmax=state.halves[0].average_pmax,
            store=dict(requests),
            stages=dict(took.stages),
            operations=dict(took.operations),
            driver=found.clock.seconds,
        )
    )
