"""The cost model counts what the kernels count: grids, coefficients, bytes, and the operations of a real unit."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from kernels.accumulators import Accumulators
from kernels.backend import cpu_backend
from kernels.calibration import Problem, run_problem
from kernels.geometry import padded_size
from kernels.orientations import angular_grid
from kernels.priors import local_prior
from kernels.sphere import sphere
from kernels.translations import translation_grid
from runner.plan import cost
from runner.plan.config import RefineConfig
from runner.plan.cost import (
    Data,
    Kind,
    Rates,
    Sharpness,
    accumulator_bytes,
    ball_voxels,
    operations,
    result_bytes,
    stage_seconds,
)
from runner.plan.expected import Assumptions
from runner.planning.kinds import expected_kinds
from runner.refinement.result import UnitResult, packed_sums

DATA = Data(particles=40, groups=3, box=32, voxel_size_angst=10.0, volume_bytes=4 * 32**3 + 1024, ctf_bytes=100.0)
AUTO = RefineConfig(
    auto_refine=True, split_random_halves=True, ini_high=60, particle_diameter=250, firstiter_cc=True, healpix_order=2
)
ASSUMED = Assumptions(resolution_angst=30.0, iterations_per_order=6)


def kinds(config: RefineConfig = AUTO, assumed: Assumptions = ASSUMED) -> list[Kind]:
    """Kinds of iterations of a run on `DATA`."""
    return [kind for kind, _ in expected_kinds(config, DATA, assumed)]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_orientations_of_a_global_search_are_those_of_the_grid(order: int, symmetry: str):
    grid = angular_grid(order, symmetry)
    kind = kinds(RefineConfig(healpix_order=order, sym=symmetry, iter=3))[0]
    assert kind.orientations == len(grid.directions_deg) * len(grid.psi_deg)
    assert kind.directions == len(grid.directions_deg)
    assert kind.translations == len(translation_grid(60.0, 20.0))


def test_coefficients_are_those_of_the_spheres():
    for kind in kinds():
        assert kind.coarse_coefficients == len(sphere(kind.coarse_size))
        assert kind.fine_coefficients == len(sphere(kind.current_size))
        assert kind.grid == padded_size(kind.current_size // 2, 2)


def test_an_automated_refinement_goes_from_global_to_local_and_ends_with_all_data():
    found = kinds()
    assert [kind.healpix_order for kind in found] == [2, 2, 3, 4, 5, 5]
    assert [kind.local for kind in found] == [False, False, False, True, True, True]
    assert [kind.iterations for kind in found] == [1, 5, 6, 6, 6, 1]
    assert [kind.final for kind in found] == [False] * 5 + [True]
    assert [kind.cross_correlation for kind in found] == [True] + [False] * 5
    assert found[-1].current_size == DATA.box
    assert all(kind.halves == 2 for kind in found)


def test_iterations_stop_at_the_most_that_are_allowed():
    found = kinds(replace(AUTO, auto_iter_max=4))
    assert sum(kind.iterations for kind in found if not kind.final) == 4


def test_a_classification_repeats_one_sampling():
    found = kinds(RefineConfig(healpix_order=3, sigma_ang=5.0, iter=12, K=2, ini_high=60))
    assert [(kind.iterations, kind.local, kind.classes, kind.halves) for kind in found] == [
        (1, True, 2, 1),
        (11, True, 2, 1),
    ]
    assert found[0].current_size <= found[1].current_size


def test_given_angles_are_one_orientation():
    found = kinds(RefineConfig(skip_align=True, iter=2))
    assert {(kind.orientations, kind.translations) for kind in found} == {(1, 1)}


@pytest.mark.parametrize(("classes", "groups", "order", "r_max"), [(1, 1, 1, 4), (2, 3, 0, 9)])
def test_bytes_of_accumulators_are_those_of_the_arrays(classes: int, groups: int, order: int, r_max: int):
    directions, box = 12 * 4**order, 20
    sums = Accumulators.zeros(classes, groups, directions, box, r_max, 2)
    grid = padded_size(r_max, 2)
    nbytes = sum(getattr(sums, field.name).nbytes for field in fields(sums))
    assert accumulator_bytes(classes, groups, directions, box, grid) == nbytes
    packed = packed_sums(0, sums)
    assert packed["half0.weight_rft"].shape == (classes, ball_voxels(grid))
    written = sum(array.nbytes for array in packed.values())
    assert result_bytes(classes, 2, groups, directions, box, grid, 8) == 2 * written
    rounded = UnitResult(packed)
    rounded.round_grids()
    written = sum(array.nbytes for array in rounded.sums.values())
    assert result_bytes(classes, 2, groups, directions, box, grid) == 2 * written


def problem(local: bool) -> tuple[Problem, Kind]:
    """A made-up unit and the kind that describes it."""
    grid, offsets = angular_grid(3 if local else 1), translation_grid(2.0, 1.0)
    made = Problem(
        box=16, pad=2, coarse_size=12, current_size=14, grid=grid, translations_px=offsets, offset_step_px=1.0,
        oversampling=1, local=local, sigmas_deg=(10.0, 10.0, 10.0), fixed_orientation=False, fixed_offset=False,
        cross_correlation=False, use_ctf=False, zero_mask=True, particles=3, orientations=10**6,
    )  # fmt: skip
    kind = Kind(
        name="", iterations=1, healpix_order=1, angular_step_deg=30.0, local=local, final=False,
        cross_correlation=False, orientations=0, directions=len(grid.directions_deg), translations=len(offsets),
        oversampling=1, coarse_size=12, current_size=14, coarse_coefficients=len(sphere(12)),
        fine_coefficients=len(sphere(14)), grid=padded_size(7, 2),
    )  # fmt: skip
    return made, kind


@pytest.mark.parametrize("local", [False, True])
def test_operations_are_those_that_a_unit_counts(local: bool):
    made, kind = problem(local)
    counts = run_problem(made, cpu_backend()).counts
    grid, middle = made.grid, len(made.grid.directions_deg) // 2
    prior = np.array([*grid.directions_deg[middle], grid.psi_deg[0]])
    neighbours = len(local_prior(grid, prior, *made.sigmas_deg, polar_safe=True).weight)
    everything = len(grid.directions_deg) * len(grid.psi_deg)
    kind = replace(kind, orientations=neighbours if local else everything)
    found = operations(replace(DATA, particles=3), kind, Sharpness(0, 0, 0), units=1, chunks=1)
    assert found.particles == counts["particles"]
    assert found.gemm_flops == counts["gemm_flops"]
    assert found.comparisons < counts["comparisons"]  # those of the second pass are counted too
    second = counts["samples"] - found.samples
    assert second > 0
    assert second % kind.fine_coefficients == 0
    assert counts["insertions"] % kind.fine_coefficients == 0


def test_what_is_known_of_the_posterior_decides_the_second_pass():
    _, kind = problem(local=True)
    kind = replace(kind, orientations=100)
    one = operations(DATA, kind, Sharpness(1, 1, 1), 4, 4)
    more = operations(DATA, kind, Sharpness(5, 2, 20), 4, 4)
    assert one.fine_flops == 40 * 8 * 8 * 4 * len(sphere(14))
    assert more.fine_flops == 10 * one.fine_flops
    assert more.insertions == 20 * one.insertions == 20 * 40 * len(sphere(14))
    assert more.gemm_flops == one.gemm_flops
    assert operations(DATA, replace(kind, oversampling=0), Sharpness(5, 2, 20), 4, 4).fine_flops == 0


def test_the_first_iteration_from_a_blurred_reference_is_the_flattest():
    first, later = kinds(RefineConfig(healpix_order=4, sigma_ang=5.0, iter=3, ini_high=60))
    assert cost.expected_sharpness(first).retained > 5 * cost.expected_sharpness(later).retained
    by_correlation, _ = kinds(RefineConfig(healpix_order=4, sigma_ang=5.0, iter=3, ini_high=60, firstiter_cc=True))
    assert cost.expected_sharpness(by_correlation) == cost.SHARPEST


def test_rotated_references_of_a_global_search_are_shared_by_the_unit():
    _, kind = problem(local=False)
    kind = replace(kind, orientations=100, halves=2)
    found = operations(DATA, kind, Sharpness(0, 0, 0), units=4, chunks=4)
    assert found.samples == 4 * 2 * 100 * len(sphere(12))
    assert found.gemm_flops == 40 * 100 * kind.translations * 4 * len(sphere(12))


def test_bytes_read_and_written():
    _, kind = problem(local=False)
    found = operations(DATA, replace(kind, halves=2), Sharpness(1, 1, 1), units=4, chunks=5)
    assert found.read_bytes == 40 * (4 * 32**3 + 1024 + 100)
    assert found.read_objects == 5
    sums = result_bytes(1, 2, 3, kind.directions, 32, kind.grid)
    assert found.written_bytes == 4 * sums + 2 * (4 * 32**3 + 1024)


def test_time_follows_units_that_are_dealt_out_whole():
    _, kind = problem(local=True)
    kind = replace(kind, orientations=100, cross_correlation=True)
    found = operations(DATA, kind, Sharpness(5, 2, 20), units=4, chunks=4)
    rates = Rates({"first_pass": 1.0 / found.gemm_flops}, maximization=1e-6, accuracy=1.0, reading=found.read_bytes)
    for devices, expected in ((1, 1.0), (2, 0.5), (3, 0.5), (4, 0.25), (9, 0.25)):
        seconds = stage_seconds(found, kind, rates, devices, units=4)
        assert seconds["first_pass"] == pytest.approx(expected)
        assert seconds["read"] == pytest.approx(expected)
        assert seconds["accuracy"] == 0.0
        assert seconds["maximization"] == pytest.approx(1e-6 * kind.grid**3)


def test_halves_are_reconstructed_at_once_where_devices_allow_it():
    _, kind = problem(local=True)
    found = operations(DATA, kind, Sharpness(5, 2, 20), units=4, chunks=4)
    rates = Rates({}, maximization=1.0, accuracy=0.5, reading=1e9)
    halves = replace(kind, halves=2, orientations=100)
    assert stage_seconds(found, halves, rates, 1, 4)["maximization"] == 2 * kind.grid**3
    assert stage_seconds(found, halves, rates, 2, 4)["maximization"] == kind.grid**3
    assert stage_seconds(found, replace(halves, final=True), rates, 2, 4)["maximization"] > kind.grid**3
    assert stage_seconds(found, halves, rates, 1, 4)["accuracy"] == 0.5 * 20
