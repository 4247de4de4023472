"""The automated schedule: real RELION runs replayed decision by decision, and each rule by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runner.model.state import PoseState, SamplingState, ScheduleState
from runner.plan.schedule import (
    SchedulePolicy,
    angular_step_deg,
    class_change,
    coarser_sampling,
    has_converged,
    local_prior_sigma_deg,
    offset_change_angst,
    refined_sampling,
    resolution_shell,
    round_half_away,
    with_changes,
    with_fsc,
    with_image_sizes,
    with_resolution,
)
from tests.unit import relion_schedules
from tests.unit.relion_schedules import Iteration

SMALL = SchedulePolicy(32, 10.0, 250.0, ini_high_angst=60.0, firstiter_cc=True)
PARITY = replace(SMALL, changes_against_first_sampling=True)


def sampling(order: int = 2, offset_range: float = 50.0, step: float = 20.0) -> SamplingState:
    return SamplingState(
        order,
        angular_step_deg(order),
        offset_range,
        step,
        healpix_order_original=order,
        psi_step_original_deg=angular_step_deg(order),
        offset_range_original_angst=offset_range,
        offset_step_original_angst=step,
    )


def ssnr_of(fsc: np.ndarray) -> np.ndarray:
    clipped = np.clip(fsc, 0.001, 0.999)
    return (clipped / (1 - clipped))[None]


RUNS = {
    "local": (PARITY, sampling(4), 10, relion_schedules.LOCAL_CTF),
    "ribosomes": (
        replace(PARITY, box_size=24, pixel_size_angst=20.0, particle_diameter_angst=280.0),
        sampling(4, 100.0, 40.0),
        10,
        relion_schedules.RIBOSOMES,
    ),
    "global to local": (
        replace(PARITY, box_size=18, particle_diameter_angst=110.0, auto_local_healpix_order=3),
        sampling(1, 20.0, 20.0),
        3,
        relion_schedules.GLOBAL_TO_LOCAL,
    ),
}


@pytest.mark.parametrize(("policy", "start", "incr_size", "run"), RUNS.values(), ids=RUNS)
def test_replays_relion(policy: SchedulePolicy, start: SamplingState, incr_size: int, run: list[Iteration]) -> None:
    current, pmax = start, 0.0
    sigma = local_prior_sigma_deg(policy, start.healpix_order) or 0.0
    dark = np.zeros((1, policy.box_size // 2 + 1))
    schedule = with_resolution(policy, ScheduleState(incr_size=incr_size), dark, 0)
    for number, relion in enumerate(run, start=1):
        assert not has_converged(policy, schedule)
        schedule = with_image_sizes(policy, schedule, current, pmax)
        rotation, translation = relion.accuracy
        schedule = replace(schedule, accuracy_rotation_deg=rotation, accuracy_translation_angst=translation)
        if number > 1:
            decision = refined_sampling(policy, schedule, current)
            assert decision.directions_changed == (decision.sampling.healpix_order != current.healpix_order)
            current, schedule, sigma = decision.sampling, decision.schedule, decision.local_sigma_deg or sigma
        schedule = with_fsc(schedule, np.array(relion.fsc))
        schedule = with_changes(policy, schedule, current, *relion.changes)
        schedule = with_resolution(policy, schedule, ssnr_of(np.array(relion.fsc)), number)
        pmax = relion.pmax
        assert (current.healpix_order, current.offset_range_angst, current.offset_step_angst) == relion.sampling
        assert current.psi_step_deg == angular_step_deg(relion.sampling[0])
        assert sigma == relion.sigma
        assert schedule.current_size == relion.size
        assert 1 / schedule.current_resolution == pytest.approx(relion.resolution_angst)
        counters = (schedule.iterations_without_resolution_gain, schedule.iterations_without_large_changes)
        assert counters == relion.counters, number
        smallest = (
            schedule.smallest_changes_orientations_deg,
            schedule.smallest_changes_offsets_angst,
            schedule.smallest_changes_classes,
        )
        assert smallest == relion.smallest
        assert schedule.has_high_fsc_at_limit == relion.high_fsc
    assert has_converged(policy, schedule)
    assert with_image_sizes(policy, schedule, current, pmax, final=True).current_size == policy.box_size
    assert refined_sampling(policy, schedule, current).sampling == current


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 1), (1.5, 2), (2.5, 3), (2.49, 2), (-0.5, -1), (-2.5, -3), (0.0, 0)]
)
def test_rounds_halves_away_from_zero(value: float, expected: int) -> None:
    assert round_half_away(value) == expected


def test_initial_resolution_is_that_of_the_low_pass() -> None:
    dark = np.zeros((1, 17))
    assert resolution_shell(SMALL, dark, 0) == 5
    assert resolution_shell(SMALL, dark, 1) == 5
    assert resolution_shell(SchedulePolicy(16, 10.0, 120.0, ini_high_angst=60.0), dark, 0) == 3
    assert resolution_shell(replace(SMALL, ini_high_angst=-1.0), ssnr_of(np.linspace(1, 0, 17)), 0) == 8
    assert resolution_shell(SMALL, np.full((1, 17), 9.0), 2) == 15


def test_resolution_is_never_below_the_fifth_shell_and_is_the_best_over_classes() -> None:
    assert resolution_shell(SMALL, np.zeros((1, 17)), 2) == 5
    two = np.vstack([ssnr_of(np.repeat([0.9, 0.1], [8, 9])), ssnr_of(np.repeat([0.9, 0.1], [11, 6]))])
    assert resolution_shell(replace(SMALL, split_halves=False), two, 2) == 10


def test_a_dip_of_the_fsc_is_bridged_with_halves_only() -> None:
    fsc = np.repeat([0.9, 0.1, 0.9, 0.1], [7, 3, 3, 4])
    assert resolution_shell(SMALL, ssnr_of(fsc), 2) == 12
    assert resolution_shell(replace(SMALL, split_halves=False), ssnr_of(fsc), 2) == 6


def test_resolution_gain_needs_more_than_a_ten_thousandth() -> None:
    schedule = ScheduleState(current_resolution=8 / 320)
    better = with_resolution(SMALL, schedule, ssnr_of(np.repeat([0.9, 0.1], [10, 7])), 3)
    assert better.iterations_without_resolution_gain == 0
    worse = with_resolution(SMALL, better, ssnr_of(np.repeat([0.9, 0.1], [8, 9])), 4)
    assert worse.iterations_without_resolution_gain == 1
    assert worse.current_resolution == 7 / 320
    assert worse.best_resolution == 9 / 320


def test_image_size_jumps_when_the_fsc_is_high_at_its_limit() -> None:
    policy = replace(SMALL, box_size=128)
    schedule = ScheduleState(current_resolution=10 / 1280)
    assert with_image_sizes(policy, schedule, sampling(), 0.5).current_size == 40
    high = replace(schedule, has_high_fsc_at_limit=True)
    assert with_image_sizes(policy, high, sampling(), 0.5).current_size == 52
    assert with_image_sizes(policy, high, sampling(), 0.05).current_size == 40


@pytest.mark.parametrize(
    ("box", "pixel", "order", "expected"),
    [(64, 10.0, 2, 48), (96, 5.0, 2, 36), (96, 5.0, 3, 72), (128, 2.7, 2, 26), (128, 2.7, 3, 52), (128, 2.7, 4, 102)],
)
def test_coarse_size(box: int, pixel: float, order: int, expected: int) -> None:
    policy = SchedulePolicy(box, pixel, 250.0)
    schedule = ScheduleState(current_resolution=1.0)
    assert with_image_sizes(policy, schedule, sampling(order), 0.0).coarse_size == expected
    capped = with_image_sizes(replace(policy, coarse_size=20), schedule, sampling(order), 0.0)
    assert capped.coarse_size == 20


def test_coarse_size_is_never_above_the_current_size() -> None:
    schedule = ScheduleState(current_resolution=5 / 320)
    assert with_image_sizes(SMALL, schedule, sampling(6), 0.0).coarse_size == 30
    assert with_image_sizes(replace(SMALL, oversampling=0), schedule, sampling(), 0.0).coarse_size == 30
    assert with_image_sizes(replace(SMALL, strict_highres_exp_angst=40), schedule, sampling(), 0.0).coarse_size == 16


def test_a_wide_gap_in_the_fsc_enlarges_the_increment_for_good() -> None:
    fsc = np.repeat([0.9, 0.3, 0.0], [4, 9, 4])
    schedule = with_fsc(ScheduleState(current_size=20), fsc)
    assert schedule.incr_size == 14
    assert schedule.has_high_fsc_at_limit
    later = with_fsc(schedule, np.repeat([0.9, 0.0], [4, 13]))
    assert later.incr_size == 14
    assert later.has_high_fsc_at_limit


def settled(**changes: float) -> ScheduleState:
    values = {"accuracy_rotation_deg": 2.0, "accuracy_translation_angst": 3.0, "changes_offsets_angst": 2.0} | changes
    return replace(
        ScheduleState(iterations_without_resolution_gain=1, iterations_without_large_changes=1),
        **values,  # type: ignore[arg-type]
    )


def test_sampling_stays_until_both_counters_have_run() -> None:
    for name in ("iterations_without_resolution_gain", "iterations_without_large_changes"):
        decision = refined_sampling(SMALL, settled(**{name: 0}), sampling())
        assert decision.sampling == sampling()
        assert not decision.directions_changed
    assert refined_sampling(SMALL, settled(), sampling()).sampling.healpix_order == 3
    ignoring = replace(SMALL, auto_ignore_angles=True)
    moving = settled(iterations_without_large_changes=0)
    assert refined_sampling(ignoring, moving, sampling()).sampling.healpix_order == 3


def test_refinement_halves_the_offset_step_and_resets_the_counters() -> None:
    decision = refined_sampling(SMALL, settled(), sampling(3))
    assert (decision.sampling.offset_step_angst, decision.sampling.offset_range_angst) == (10.0, 15.0)
    assert decision.local_sigma_deg == 2 * angular_step_deg(4, 1) == 3.75
    assert decision.schedule.iterations_without_resolution_gain == 0
    assert decision.schedule.iterations_without_large_changes == 0
    assert decision.schedule.smallest_changes_orientations_deg == 999.0
    assert refined_sampling(SMALL, settled(), sampling(2)).local_sigma_deg is None


@pytest.mark.parametrize(
    ("change", "accuracy", "expected"),
    [
        (8.0, 3.0, (10.0, 24.0)),  # three times the change
        (15.0, 3.0, (10.0, 22.5)),  # more than four steps: halved
        (2.0, 30.0, (10.0, 15.0)),  # a bad accuracy asks for no more than half the old step
        (99.0, 3.0, (10.0, 32.5)),  # at most 1.3 times the old range, then halved
    ],
)
def test_offset_range(change: float, accuracy: float, expected: tuple[float, float]) -> None:
    state = settled(changes_offsets_angst=change, accuracy_translation_angst=accuracy)
    refined = refined_sampling(SMALL, state, sampling(3)).sampling
    assert (refined.offset_step_angst, refined.offset_range_angst) == pytest.approx(expected)


def test_offsets_stay_when_the_step_would_become_coarser() -> None:
    start = sampling(3, 50.0, 5.0)
    refined = refined_sampling(SMALL, settled(changes_offsets_angst=50.0), start).sampling
    assert (refined.offset_step_angst, refined.offset_range_angst) == (5.0, 50.0)


def test_angles_fine_enough_for_the_accuracy_stop_the_refinement() -> None:
    decision = refined_sampling(SMALL, settled(accuracy_rotation_deg=11.0), sampling(2))
    assert decision.schedule.has_fine_enough_angular_sampling
    assert decision.sampling == sampling(2)
    assert has_converged(SMALL, decision.schedule)
    held = replace(SMALL, minimum_angular_sampling_deg=3.0)
    assert refined_sampling(held, settled(accuracy_rotation_deg=11.0), sampling(2)).sampling.healpix_order == 3
    capped = replace(SMALL, maximum_angular_sampling_deg=8.0)
    assert refined_sampling(capped, settled(), sampling(2)).schedule.has_fine_enough_angular_sampling


def test_resolution_may_ask_for_finer_angles_by_itself() -> None:
    policy = replace(SMALL, auto_resol_angles=True)
    state = settled(iterations_without_resolution_gain=0, current_resolution=1 / 12)
    assert refined_sampling(policy, state, sampling(2)).sampling.healpix_order == 3
    assert refined_sampling(policy, state, sampling(3)).sampling.healpix_order == 3


def test_changes_count_as_small_below_forty_percent_of_a_step() -> None:
    state = replace(ScheduleState(), smallest_changes_classes=0.0)
    small = with_changes(SMALL, state, sampling(2), 2.9, 3.9, 0.0)
    assert small.iterations_without_large_changes == 1
    large = with_changes(SMALL, small, sampling(2), 2.9, 1.0, 0.0)
    assert large.iterations_without_large_changes == 2
    falling = with_changes(SMALL, replace(small, smallest_changes_orientations_deg=9.0), sampling(2), 8.0, 1.0, 0.0)
    assert falling.iterations_without_large_changes == 0
    assert falling.smallest_changes_orientations_deg == 8.0


def test_changes_are_measured_in_steps_of_the_sampling_in_use() -> None:
    refined = replace(sampling(5, 15.0, 10.0), healpix_order_original=4, offset_step_original_angst=20.0)
    state = replace(
        ScheduleState(),
        smallest_changes_classes=0.0,
        smallest_changes_orientations_deg=0.69,
        smallest_changes_offsets_angst=3.09,
    )
    assert with_changes(SMALL, state, refined, 0.60, 2.52, 0.0).iterations_without_large_changes == 0
    assert with_changes(PARITY, state, refined, 0.60, 2.52, 0.0).iterations_without_large_changes == 1


def test_coarser_sampling_follows_the_accuracies() -> None:
    start = sampling(4, 100.0, 10.0)
    rough = settled(accuracy_rotation_deg=5.0, accuracy_translation_angst=12.0)
    coarse = coarser_sampling(SMALL, rough, start)
    assert coarse.sampling.healpix_order == 3
    assert coarse.sampling.offset_step_angst == pytest.approx(19.2)
    assert coarse.directions_changed
    exact = settled(accuracy_rotation_deg=0.1, accuracy_translation_angst=0.1)
    restored = coarser_sampling(SMALL, exact, coarse.sampling).sampling
    assert (restored.healpix_order, restored.offset_step_angst) == (4, 10.0)


def test_coarser_sampling_before_there_are_accuracies_follows_the_resolution() -> None:
    unknown = ScheduleState(current_resolution=1 / 64)
    decision = coarser_sampling(SMALL, unknown, sampling(4, 100.0, 10.0))
    assert decision.sampling.healpix_order == 1  # 27.7 degrees at 64 A, steps of 15 with oversampling
    assert decision.sampling.offset_step_angst == 95.0


def test_pose_changes() -> None:
    def poses(origins: list[list[float]], classes: list[int]) -> PoseState:
        count = len(classes)
        return PoseState(
            np.zeros((count, 3)),
            np.array(origins),
            np.array(classes),
            np.ones(count, int),
            np.ones(count),
            np.zeros(count),
            np.zeros(count),
            np.zeros(count, int),
        )

    old, new = poses([[0, 0, 0], [1, 1, 1]], [1, 2]), poses([[3, 4, 0], [1, 1, 1]], [1, 1])
    assert offset_change_angst(old, new) == pytest.approx(2.5)
    assert class_change(old, new) == 0.5
