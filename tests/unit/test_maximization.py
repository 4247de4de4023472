"""Accumulators to maps: symmetry, joining and reconstruction, against exact cases."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import maximization, spectra
from kernels.geometry import distance_from_centre, padded_size, padded_squared_radius
from kernels.gridding import blob_table, blob_weights, gridding_weights
from kernels.projection import interpolation_correction, reference_rft
from kernels.symmetry import operators

BOX, PAD, R_MAX = 16, 2, 8


def random_accumulator(seed: int, r_max: int = R_MAX, pad: int = PAD):
    data, weight = maximization.empty_accumulator(r_max, pad)
    rng = np.random.default_rng(seed)
    data += rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape)
    weight += rng.uniform(0.5, 2.0, size=weight.shape)
    outside = padded_squared_radius(data.shape[0]) > (pad * r_max) ** 2
    data[outside] = 0.0
    weight[outside] = 0.0
    return data, weight


def smooth_map(size: int = BOX):
    """A blob well inside the box and well below Nyquist."""
    radius = distance_from_centre(size)
    axis = np.arange(size) - size // 2
    return np.exp(-(radius**2) / 4.5) * (1.0 + 0.2 * axis[:, None, None] - 0.1 * axis[None, None, :])


def full_accumulator(volume, weight: float, pad: int = PAD, r_max: int = R_MAX):
    """What perfect, complete data of a constant weight leave in an accumulator."""
    size = volume.shape[0]
    damped = reference_rft(volume * interpolation_correction(size, pad) ** 2, pad, r_max)
    return damped * weight, np.full(damped.shape, weight)


def test_hermitian_mates_are_added_on_the_plane_that_is_stored_twice():
    data, weight = random_accumulator(1)
    before, before_weight = data.copy(), weight.copy()
    maximization.enforce_hermitian(data, weight)
    plane = data[..., 0]
    centre = data.shape[0] // 2
    assert plane[3, 5] == before[3, 5, 0] + before[-4, -6, 0].conjugate()
    assert weight[3, 5, 0] == before_weight[3, 5, 0] + before_weight[-4, -6, 0]
    mates = plane == plane[::-1, ::-1].conj()
    mates[centre, centre] = True
    assert mates.all()
    assert plane[centre, centre] == before[centre, centre, 0]
    assert weight[centre, centre, 0] == before_weight[centre, centre, 0]
    assert np.array_equal(data[..., 1:], before[..., 1:])


def test_the_trivial_group_changes_nothing():
    data, weight = random_accumulator(2)
    same, same_weight = maximization.symmetrise(data, weight, operators("C1"), R_MAX, PAD)
    assert same is data
    assert same_weight is weight


@pytest.mark.parametrize("group", ["C2", "C4", "D2", "D4", "O"])
def test_groups_whose_axes_lie_on_the_grid_are_applied_exactly(group):
    data, weight = random_accumulator(3)
    maximization.enforce_hermitian(data, weight)
    summed, summed_weight = maximization.symmetrise(data, weight, operators(group), R_MAX, PAD)
    size, centre = data.shape[0], data.shape[0] // 2

    def value(array, x, y, z):
        if x < 0:
            return np.conj(array[centre - z, centre - y, -x])
        return array[centre + z, centre + y, x]

    rng = np.random.default_rng(4)
    points = [point for point in rng.integers(-centre, centre + 1, (60, 3)) if point @ point <= (PAD * R_MAX) ** 2]
    checked = [(abs(x), y, z) for x, y, z in points]
    for x, y, z in checked:
        if x == 0 and y == 0 and z == 0:
            continue
        rotated = [np.rint(operator @ (x, y, z)).astype(int) for operator in operators(group)]
        assert summed[centre + z, centre + y, x] == pytest.approx(sum(value(data, *point) for point in rotated))
        assert summed_weight[centre + z, centre + y, x] == pytest.approx(
            sum(value(weight, *point) for point in rotated)
        )
    assert len(checked) > 20
    assert summed.shape == (size, size, size // 2 + 1)


def test_symmetrising_makes_the_map_symmetric():
    data, weight = full_accumulator(smooth_map(), 1.0)
    data, weight = maximization.symmetrise(data, weight, operators("C2"), R_MAX, PAD)
    volume = maximization.reconstruct(data, weight, BOX, PAD, R_MAX)
    inner = volume[1:, 1:, 1:]  # an even box has no voxel opposite to its first one
    assert inner == pytest.approx(inner[:, ::-1, ::-1], abs=1e-9)


def test_joining_averages_low_shells_and_leaves_the_others():
    one, two = random_accumulator(5), random_accumulator(6)
    before = one[0].copy(), two[1].copy()
    mean_data, mean_weight = 0.5 * (one[0] + two[0]), 0.5 * (one[1] + two[1])
    maximization.join_low_resolution(one, two, 3, PAD, R_MAX)
    inside = padded_squared_radius(one[0].shape[0]) <= (3 * PAD) ** 2
    assert np.array_equal(one[0][inside], mean_data[inside])
    assert np.array_equal(two[1][inside], mean_weight[inside])
    assert np.array_equal(one[0][~inside], before[0][~inside])
    assert np.array_equal(two[1][~inside], before[1][~inside])
    assert spectra.fsc_of_accumulators(*one, *two, BOX, PAD, R_MAX)[:3] == pytest.approx(1.0)


def test_joining_beyond_the_data_is_refused():
    with pytest.raises(ValueError, match="shell 9"):
        maximization.join_low_resolution(random_accumulator(7), random_accumulator(8), 9, PAD, R_MAX)


@pytest.mark.parametrize("pad", [1, 2, 3])
def test_complete_data_give_the_map_back(pad):
    volume = smooth_map()
    data, weight = full_accumulator(volume, 2.5, pad)
    made = maximization.reconstruct(data, weight, BOX, pad, R_MAX, gridding=False)
    assert np.linalg.norm(made - volume) < 2e-4 * np.linalg.norm(volume)


def test_gridding_of_complete_data_gives_the_map_back_but_for_its_edge():
    volume = smooth_map()
    made = maximization.reconstruct(*full_accumulator(volume, 2.5), BOX, PAD, R_MAX)
    assert np.linalg.norm(made - volume) < 1e-2 * np.linalg.norm(volume)


def test_maximum_resolution_below_nyquist_keeps_a_smooth_map():
    volume = smooth_map()
    data, weight = full_accumulator(volume, 1.0, PAD, 7)
    made = maximization.reconstruct(data, weight, BOX, PAD, 7, gridding=False)
    assert np.linalg.norm(made - volume) / np.linalg.norm(volume) < 1e-2


@pytest.mark.parametrize("gridding", [True, False])
def test_the_map_does_not_depend_on_the_scale_of_the_weights(gridding):
    data, weight = random_accumulator(9)
    maximization.enforce_hermitian(data, weight)
    once = maximization.reconstruct(data, weight, BOX, PAD, R_MAX, gridding=gridding)
    many = maximization.reconstruct(50.0 * data, 50.0 * weight, BOX, PAD, R_MAX, gridding=gridding)
    scaled = maximization.reconstruct(data, weight, BOX, PAD, R_MAX, gridding=gridding, normalise=7.0)
    assert many == pytest.approx(once, abs=1e-9 * np.abs(once).max())
    assert scaled == pytest.approx(once, abs=1e-9 * np.abs(once).max())


def test_inputs_stay_as_they_are():
    data, weight = random_accumulator(10)
    copies = data.copy(), weight.copy()
    maximization.reconstruct(data, weight, BOX, PAD, R_MAX, tau2=np.ones(9))
    assert np.array_equal(data, copies[0])
    assert np.array_equal(weight, copies[1])


def test_a_strong_prior_damps_and_a_weak_one_does_not():
    volume = smooth_map()
    data, weight = full_accumulator(volume, 1.0)
    plain = maximization.reconstruct(data, weight, BOX, PAD, R_MAX, gridding=False)

    def with_tau2(value, minres_map=0, fudge=1.0):
        tau2 = np.full(9, value)
        options = {"gridding": False, "minres_map": minres_map, "tau2_fudge": fudge}
        return maximization.reconstruct(data, weight, BOX, PAD, R_MAX, tau2=tau2, **options)

    # Only coefficients on the outermost sphere, which are not regularised, can differ.
    assert with_tau2(1e12) == pytest.approx(plain, abs=1e-6)
    assert with_tau2(1.0 / PAD**3) == pytest.approx(plain / 2.0, abs=1e-6)  # weight 1 against inverse prior 1
    assert with_tau2(0.5 / PAD**3, fudge=2.0) == pytest.approx(plain / 2.0, abs=1e-6)
    assert with_tau2(1e-12, minres_map=9) == pytest.approx(plain, abs=1e-6)
    assert with_tau2(0.0) == pytest.approx(plain / 1001.0, abs=1e-6)  # no signal: inverse prior 1000 / weight


def test_empty_accumulators_give_an_empty_map():
    data, weight = maximization.empty_accumulator(R_MAX, PAD)
    for tau2 in (None, np.zeros(9)):
        for gridding in (True, False):
            made = maximization.reconstruct(data, weight, BOX, PAD, R_MAX, tau2=tau2, gridding=gridding)
            assert np.all(made == 0.0)


def test_gridding_weights_invert_a_uniform_density():
    size = padded_size(R_MAX, PAD)
    weights = gridding_weights(np.full((size, size, size // 2 + 1), 4.0), BOX, PAD, R_MAX)
    radius2 = padded_squared_radius(size)
    assert weights[radius2 < (PAD * 5) ** 2].mean() == pytest.approx(0.25, rel=1e-2)
    assert np.all(weights[radius2 >= (PAD * R_MAX) ** 2] == 0.0)


def test_blob_is_one_at_zero_and_read_from_the_entry_below():
    table = blob_table()
    assert table[0] == 1.0
    assert np.all(np.diff(table[:1000]) < 0.0)
    weights = blob_weights(7, 8.0)
    assert weights[0, 0, 0] == 1.0
    assert weights[0, 0, 1] == weights[6, 0, 0] == table[2500]  # frequency 1/8 of a table of 10000 entries up to 1/2
    assert weights[0, 4, 0] == table[7500]
    assert weights[0, 0, 3] == 0.0  # counts as -4: frequency 1/2, beyond the table
