"""How a run is expected to go: which iterations at which sampling and image size, by the rules of the schedule.

What a run only finds out, its resolution and how often an iteration repeats at one sampling, is assumed: see
`Assumptions`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.model.state import SamplingState, ScheduleState
from runner.plan.schedule import (
    SchedulePolicy,
    angular_step_deg,
    refined_sampling,
    round_half_away,
    with_image_sizes,
)

MOST_ORDERS = 9
ACCURACY_OF_RESOLUTION = 1.0 / 6.0
"""Poses are taken to be determined as well as moves the rim of the particle by this share of the resolution."""


@dataclass(frozen=True)
class Assumptions:
    """What is taken for granted about the data.

    Attributes
    ----------
    resolution_angst : where FSC or SSNR end up in the iterations before the last.
    iterations_per_order : of an automated refinement at one angular sampling.
    """

    resolution_angst: float
    iterations_per_order: int


@dataclass(frozen=True)
class Step:
    """Some iterations that are alike: their sampling, image sizes (in ``schedule``) and number."""

    sampling: SamplingState
    schedule: ScheduleState
    iterations: int
    first: bool = False
    final: bool = False


def expected_steps(
    policy: SchedulePolicy,
    sampling: SamplingState,
    incr_size: int,
    assumed: Assumptions,
    iterations: int,
    automatic: bool,
) -> Iterator[Step]:
    """Yield the steps of a run in order.

    Parameters
    ----------
    sampling : of the first iteration; incr_size : ``--incr_size``.
    iterations : the most there may be; of a classification, the number there will be.
    automatic : an automated refinement, which refines its sampling and joins the halves at the end.
    """
    start = policy.ini_high_angst if policy.ini_high_angst > 0 else assumed.resolution_angst
    begin = ScheduleState(incr_size=incr_size, current_resolution=1.0 / start)
    yield Step(sampling, with_image_sizes(policy, begin, sampling, 0.0), 1, first=True)
    if not automatic:
        if iterations > 1:
            yield Step(sampling, _sized(policy, begin, sampling, assumed.resolution_angst), iterations - 1)
        return
    left = iterations - 1
    for order in range(MOST_ORDERS):
        resolution = max(assumed.resolution_angst, _resolved_angst(policy, sampling))
        schedule = _sized(policy, begin, sampling, resolution)
        count = min(left, assumed.iterations_per_order - (order == 0))
        if count > 0:
            yield Step(sampling, schedule, count)
        left -= count
        decision = refined_sampling(policy, _stalled(policy, schedule, assumed), sampling)
        if decision.schedule.has_fine_enough_angular_sampling or left <= 0:
            break
        sampling = decision.sampling
    last = ScheduleState(incr_size=incr_size, current_resolution=1.0 / assumed.resolution_angst)
    yield Step(sampling, with_image_sizes(policy, last, sampling, 0.0, final=True), 1, final=True)


def _sized(
    policy: SchedulePolicy, begin: ScheduleState, sampling: SamplingState, resolution_angst: float
) -> ScheduleState:
    shell = min(round_half_away(policy.box_angst / resolution_angst), policy.box_size // 2 - 1)
    schedule = replace(begin, current_resolution=shell / policy.box_angst)
    return with_image_sizes(policy, schedule, sampling, 0.0)


def _resolved_angst(policy: SchedulePolicy, sampling: SamplingState) -> float:
    """What the oversampled angular step lets a reconstruction resolve at the rim of the particle."""
    step = angular_step_deg(sampling.healpix_order, policy.oversampling)
    return policy.particle_diameter_angst * math.tan(math.radians(step))


def _stalled(policy: SchedulePolicy, schedule: ScheduleState, assumed: Assumptions) -> ScheduleState:
    """The schedule once nothing improves any more, with the accuracies that the assumed resolution leads to."""
    moved = ACCURACY_OF_RESOLUTION * assumed.resolution_angst
    return replace(
        schedule,
        iterations_without_resolution_gain=1,
        iterations_without_large_changes=1,
        accuracy_rotation_deg=math.degrees(2.0 * moved / policy.particle_diameter_angst),
        accuracy_translation_angst=moved,
        changes_offsets_angst=0.0,
    )
