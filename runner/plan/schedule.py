"""The decisions of the automated refinement: resolution, image sizes, sampling, counters, convergence.

Pure functions from a state to the next one; every rule is RELION 3.1's, and the tests replay real runs of it.
Order within one iteration: `has_converged`, `with_image_sizes`, (accuracies), `refined_sampling`, expectation,
`with_fsc`, maximization, `with_changes`, `with_resolution`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from runner.model.state import FloatArray, PoseState, SamplingState, ScheduleState

UNKNOWN_ANGLE_DEG = UNKNOWN_OFFSET_ANGST = 999.0
UNKNOWN_CLASSES = 9999999.0


@dataclass(frozen=True)
class SchedulePolicy:
    """What the decisions depend on besides the state; names and defaults are those of RELION's flags.

    Attributes
    ----------
    box_size : model box in voxels; pixel_size_angst : its voxel; particle_diameter_angst : ``--particle_diameter``.
    split_halves : gold-standard halves (auto-refine).  ini_high_angst : ``--ini_high``, not positive = not given.
    minimum_resolution_shell : the resolution never falls below this shell.
    largest_offset_step_angst : the accuracy asks for no step coarser than this (after oversampling).
    changes_against_first_sampling : RELION's leader process never learns that the sampling was refined, and so measures
        the changes of the poses in steps of the first sampling; True repeats that, False takes the sampling in use.
    """

    box_size: int
    pixel_size_angst: float
    particle_diameter_angst: float
    split_halves: bool = True
    ini_high_angst: float = -1.0
    firstiter_cc: bool = False
    oversampling: int = 1
    auto_local_healpix_order: int = 4
    strict_highres_exp_angst: float = -1.0
    coarse_size: int = -1
    auto_ignore_angles: bool = False
    auto_resol_angles: bool = False
    allow_coarser_sampling: bool = False
    minimum_angular_sampling_deg: float = 0.0
    maximum_angular_sampling_deg: float = 0.0
    minimum_resolution_shell: int = 5
    largest_offset_step_angst: float = 1.5
    changes_against_first_sampling: bool = False

    @property
    def box_angst(self) -> float:
        """Edge of the box in Angstrom."""
        return self.box_size * self.pixel_size_angst


@dataclass(frozen=True)
class SamplingDecision:
    """What `refined_sampling` decided: the next sampling and schedule, and what changes in the models with them.

    Attributes
    ----------
    directions_changed : the HEALPix order changed: reset ``pdf_direction`` to uniform over the new directions.
    local_sigma_deg : width of the priors on rot, tilt and psi to switch local searches on with, else None.
    """

    sampling: SamplingState
    schedule: ScheduleState
    directions_changed: bool = False
    local_sigma_deg: float | None = None


def round_half_away(value: float) -> int:
    """The nearest integer, halves away from zero (RELION's ROUND)."""
    return math.trunc(value + 0.5) if value > 0 else math.trunc(value - 0.5)


def angular_step_deg(healpix_order: int, oversampling: int = 0) -> float:
    """Angle between neighbouring samples of ``healpix_order`` after ``oversampling``."""
    return float(360.0 / (6 * 2 ** (healpix_order + oversampling)))


def resolution_shell(policy: SchedulePolicy, ssnr: FloatArray, iteration: int) -> int:
    """The shell up to which the model is trusted after ``iteration``.

    Parameters
    ----------
    ssnr : (K, S) signal-to-noise ratio of the reconstructions by shell; in gold-standard mode 1 is an FSC of 0.5.
    """
    initial = iteration == 0 or (iteration == 1 and policy.firstiter_cc)
    if initial and policy.ini_high_angst > 0:
        return round_half_away(policy.box_angst / policy.ini_high_angst)
    nyquist = policy.box_size // 2
    best = policy.minimum_resolution_shell
    for spectrum in np.atleast_2d(ssnr):
        below = np.flatnonzero(spectrum[1:nyquist] < 1.0)
        shell = int(below[0]) if len(below) else nyquist - 1
        if policy.split_halves:
            above = np.flatnonzero(spectrum[1:nyquist] > 1.0)
            last = int(above[-1]) + 1 if len(above) else 0
            shell = last if last > shell + 3 else shell
        best = max(best, shell)
    return best


def with_resolution(policy: SchedulePolicy, schedule: ScheduleState, ssnr: FloatArray, iteration: int) -> ScheduleState:
    """The schedule once the resolution of ``iteration`` is known; for iteration 0 too, before iteration 1 starts."""
    resolution = resolution_shell(policy, ssnr, iteration) / policy.box_angst
    gained = resolution > schedule.current_resolution + 0.0001
    return replace(
        schedule,
        current_resolution=resolution,
        best_resolution=max(schedule.best_resolution, resolution),
        iterations_without_resolution_gain=0 if gained else schedule.iterations_without_resolution_gain + 1,
    )


def with_image_sizes(
    policy: SchedulePolicy, schedule: ScheduleState, sampling: SamplingState, average_pmax: float, final: bool = False
) -> ScheduleState:
    """The schedule with ``current_size`` and ``coarse_size`` of the coming iteration; ``final`` uses the whole box."""
    box = policy.box_size
    shell = round_half_away(schedule.current_resolution * policy.box_angst)
    jump = average_pmax > 0.1 and schedule.has_high_fsc_at_limit
    shell += round_half_away(0.25 * box / 2) if jump else schedule.incr_size
    current = box if final else min(2 * shell, box)
    return replace(schedule, current_size=current, coarse_size=min(_coarse_size(policy, sampling, current), current))


def _coarse_size(policy: SchedulePolicy, sampling: SamplingState, current_size: int) -> int:
    """Image size of the first pass: the coarse angular step sets the resolution that it can tell apart at the rim."""
    if policy.strict_highres_exp_angst > 0:
        return 2 * round_half_away(policy.box_angst / policy.strict_highres_exp_angst)
    if policy.oversampling <= 0:
        return current_size
    rotated_angst = angular_step_deg(sampling.healpix_order) / 360.0 * math.pi * policy.particle_diameter_angst
    size = 2 * math.ceil(policy.box_angst / (rotated_angst / 1.2))
    size = min(size, policy.box_size)
    return min(size, policy.coarse_size) if policy.coarse_size > 0 else size


def with_fsc(schedule: ScheduleState, fsc: FloatArray) -> ScheduleState:
    """The schedule after a gold-standard ``fsc`` (S,): how far the image size grows beyond the resolution."""
    half, seventh = _first_below(fsc, 0.5), _first_below(fsc, 0.143)
    at_limit = fsc[schedule.current_size // 2 - 1]
    return replace(
        schedule,
        incr_size=max(schedule.incr_size, seventh - half + 5),
        has_high_fsc_at_limit=bool(schedule.has_high_fsc_at_limit or at_limit > 0.2),
    )


def _first_below(fsc: FloatArray, threshold: float) -> int:
    below = np.flatnonzero(fsc < threshold)
    return int(below[0]) if len(below) else -1


def refined_sampling(policy: SchedulePolicy, schedule: ScheduleState, sampling: SamplingState) -> SamplingDecision:
    """The sampling of the coming iteration (from iteration 2 on), once ``schedule`` holds its accuracies.

    The sampling is refined when neither the resolution nor the poses improve any more, unless the step is already finer
    than three quarters of the accuracy.
    """
    fine_step = angular_step_deg(sampling.healpix_order, policy.oversampling)
    if not _may_proceed(policy, schedule, sampling, fine_step):
        return SamplingDecision(sampling, schedule)
    if _is_fine_enough(policy, fine_step, schedule.accuracy_rotation_deg):
        return SamplingDecision(sampling, replace(schedule, has_fine_enough_angular_sampling=True))
    order = sampling.healpix_order + 1
    step, offset_range = _next_offsets(policy, schedule, sampling)
    refined = replace(
        sampling,
        healpix_order=order,
        psi_step_deg=angular_step_deg(order),
        offset_step_angst=step,
        offset_range_angst=offset_range,
    )
    reset = replace(
        schedule,
        has_fine_enough_angular_sampling=False,
        iterations_without_resolution_gain=0,
        iterations_without_large_changes=0,
        smallest_changes_classes=UNKNOWN_CLASSES,
        smallest_changes_offsets_angst=UNKNOWN_OFFSET_ANGST,
        smallest_changes_orientations_deg=UNKNOWN_ANGLE_DEG,
    )
    return SamplingDecision(refined, reset, True, local_prior_sigma_deg(policy, order))


def local_prior_sigma_deg(policy: SchedulePolicy, healpix_order: int) -> float | None:
    """Width of the angular priors of an automated refinement at ``healpix_order``; None while it searches globally."""
    if healpix_order < policy.auto_local_healpix_order:
        return None
    return 2.0 * angular_step_deg(healpix_order, policy.oversampling)


def _may_proceed(policy: SchedulePolicy, schedule: ScheduleState, sampling: SamplingState, fine_step: float) -> bool:
    resolution = schedule.iterations_without_resolution_gain >= 1
    if policy.auto_resol_angles and schedule.current_resolution > 0:
        needed = 360.0 / math.ceil(math.pi * policy.particle_diameter_angst * schedule.current_resolution)
        resolution |= needed < fine_step and sampling.healpix_order + 1 != policy.auto_local_healpix_order
    return resolution and (policy.auto_ignore_angles or schedule.iterations_without_large_changes >= 1)


def _is_fine_enough(policy: SchedulePolicy, fine_step: float, accuracy_deg: float) -> bool:
    if policy.maximum_angular_sampling_deg > 0 and fine_step < policy.maximum_angular_sampling_deg:
        return True
    held_back = policy.minimum_angular_sampling_deg > 0 and fine_step > policy.minimum_angular_sampling_deg
    return fine_step < 0.75 * accuracy_deg and not held_back


def _next_offsets(policy: SchedulePolicy, schedule: ScheduleState, sampling: SamplingState) -> tuple[float, float]:
    """Offset step and range with the next angular order, Angstrom; both stay when the step would become coarser."""
    largest = policy.largest_offset_step_angst
    step = min(largest, 0.75 * schedule.accuracy_translation_angst) * 2.0**policy.oversampling
    step = max(sampling.offset_step_angst / 2.0, step)
    offset_range = min(3.0 * schedule.changes_offsets_angst, 1.3 * sampling.offset_range_angst)
    offset_range = max(offset_range, 1.5 * step)
    if offset_range > 4.0 * step:
        offset_range /= 2.0
    if offset_range > 4.0 * step:
        step = offset_range / 4.0
    if step > sampling.offset_step_angst:
        return sampling.offset_step_angst, sampling.offset_range_angst
    return step, offset_range


def coarser_sampling(policy: SchedulePolicy, schedule: ScheduleState, sampling: SamplingState) -> SamplingDecision:
    """``--allow_coarser_sampling``: the coarsest sampling that the accuracies allow, never finer than the original.

    The order falls from the original one as long as its fine step stays below 0.8 of the rotational accuracy; a first
    iteration by cross-correlation has none and takes the angle that the resolution asks for.
    """
    accuracy_deg = schedule.accuracy_rotation_deg
    if policy.firstiter_cc and accuracy_deg >= UNKNOWN_ANGLE_DEG:
        accuracy_deg = 360.0 / math.ceil(math.pi * policy.particle_diameter_angst * schedule.current_resolution)
    order = sampling.healpix_order_original
    while order > 0 and angular_step_deg(order - 1, policy.oversampling) < 0.8 * accuracy_deg:
        order -= 1
    step = 0.8 * schedule.accuracy_translation_angst * 2.0**policy.oversampling
    step = max(min(step, 0.95 * sampling.offset_range_angst), sampling.offset_step_original_angst)
    coarse = replace(sampling, healpix_order=order, psi_step_deg=angular_step_deg(order), offset_step_angst=step)
    return SamplingDecision(coarse, schedule, directions_changed=order != sampling.healpix_order)


def with_changes(
    policy: SchedulePolicy,
    schedule: ScheduleState,
    sampling: SamplingState,
    orientations_deg: float,
    offsets_angst: float,
    classes: float,
) -> ScheduleState:
    """The schedule after the mean changes of the poses in this iteration (`offset_change_angst`, `class_change`)."""
    order, step = sampling.healpix_order, sampling.offset_step_angst
    if policy.changes_against_first_sampling:
        order, step = sampling.healpix_order_original, sampling.offset_step_original_angst
    ratio_angles = orientations_deg / angular_step_deg(order, policy.oversampling)
    ratio_offsets = offsets_angst / (step / 2.0**policy.oversampling)
    fewest = schedule.smallest_changes_classes
    small = (
        1.03 * classes >= fewest
        and (ratio_offsets < 0.40 or 1.03 * offsets_angst >= schedule.smallest_changes_offsets_angst)
        and (ratio_angles < 0.40 or 1.03 * orientations_deg >= schedule.smallest_changes_orientations_deg)
    )
    return replace(
        schedule,
        changes_orientations_deg=orientations_deg,
        changes_offsets_angst=offsets_angst,
        changes_classes=classes,
        iterations_without_large_changes=schedule.iterations_without_large_changes + 1 if small else 0,
        smallest_changes_classes=float(round_half_away(classes)) if classes < fewest else fewest,
        smallest_changes_offsets_angst=min(schedule.smallest_changes_offsets_angst, offsets_angst),
        smallest_changes_orientations_deg=min(schedule.smallest_changes_orientations_deg, orientations_deg),
    )


def offset_change_angst(old: PoseState, new: PoseState) -> float:
    """RELION's mean change of the offsets: the root of half the mean squared displacement, in three dimensions too."""
    squared = np.sum((new.origins_angst - old.origins_angst) ** 2, axis=1)
    return float(np.sqrt(squared.mean() / 2.0))


def class_change(old: PoseState, new: PoseState) -> float:
    """Fraction of the particles whose best class changed."""
    return float(np.mean(old.class_number != new.class_number))


def has_converged(policy: SchedulePolicy, schedule: ScheduleState) -> bool:
    """Whether the coming iteration is the last one: halves joined, data to Nyquist."""
    settled = policy.auto_ignore_angles or schedule.iterations_without_large_changes >= 1
    return schedule.has_fine_enough_angular_sampling and schedule.iterations_without_resolution_gain >= 1 and settled
