"""Laws of the accumulators and spectra that hold whatever the data are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import maximization, spectra
from kernels.geometry import padded_squared_radius
from kernels.symmetry import operators
from kernels.wedge import half_ctf

BOX, PAD, R_MAX = 8, 2, 4
seeds = st.integers(0, 2**32 - 1)
scales = st.floats(1e-3, 1e3)


def accumulator(seed: int):
    data, weight = maximization.empty_accumulator(R_MAX, PAD)
    rng = np.random.default_rng(seed)
    data += rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape)
    weight += rng.uniform(0.1, 2.0, size=weight.shape)
    outside = padded_squared_radius(data.shape[0]) > (PAD * R_MAX) ** 2
    data[outside] = 0.0
    weight[outside] = 0.0
    return data, weight


def prepared(data, weight, group: str):
    maximization.enforce_hermitian(data, weight)
    return maximization.symmetrise(data, weight, operators(group), R_MAX, PAD)


@given(seeds, seeds, st.sampled_from(["C1", "C2", "C3", "D2"]))
def test_symmetry_of_a_sum_is_the_sum_of_the_symmetries(first, second, group):
    one, two = accumulator(first), accumulator(second)
    together = prepared(one[0] + two[0], one[1] + two[1], group)
    apart = prepared(*one, group), prepared(*two, group)
    for axis in range(2):
        np.testing.assert_allclose(together[axis], apart[0][axis] + apart[1][axis], rtol=0, atol=1e-10)


@given(seeds, st.sampled_from(["C2", "C4", "D2", "O"]))
def test_symmetrising_twice_multiplies_by_the_order_of_the_group(seed, group):
    once = prepared(*accumulator(seed), group)
    twice = maximization.symmetrise(*once, operators(group), R_MAX, PAD)
    order = len(operators(group))
    scale = float(np.abs(once[0]).max())
    np.testing.assert_allclose(twice[0], order * once[0], rtol=0, atol=1e-12 * scale * order)
    np.testing.assert_allclose(twice[1], order * once[1], rtol=0, atol=1e-12 * scale * order)


@given(seeds, scales, scales)
def test_reconstruction_is_linear_in_the_data_and_blind_to_a_common_scale(seed, factor, common):
    data, weight = prepared(*accumulator(seed), "C1")
    made = maximization.reconstruct(data, weight, BOX, PAD, R_MAX)
    scaled = maximization.reconstruct(factor * common * data, common * weight, BOX, PAD, R_MAX)
    np.testing.assert_allclose(scaled, factor * made, rtol=0, atol=1e-8 * factor * float(np.abs(made).max()))


@given(seeds, seeds, scales)
def test_fsc_is_symmetric_bounded_and_blind_to_scale(first, second, factor):
    one, two = accumulator(first), accumulator(second)
    fsc = spectra.fsc_of_accumulators(*one, *two, BOX, PAD, R_MAX)
    assert np.all(np.abs(fsc) <= 1.0 + 1e-12)
    assert fsc == pytest.approx(spectra.fsc_of_accumulators(*two, *one, BOX, PAD, R_MAX))
    assert fsc == pytest.approx(spectra.fsc_of_accumulators(factor * one[0], one[1], *two, BOX, PAD, R_MAX))


@given(seeds, st.floats(0.5, 4.0), st.booleans())
def test_gold_standard_ratio_grows_with_the_correlation(seed, fudge, joined):
    fsc = np.sort(np.random.default_rng(seed).uniform(-1.0, 1.0, 20))
    ssnr, tau2 = spectra.gold_standard_ssnr_tau2(fsc, np.ones(20), fudge, joined)
    assert np.all(np.diff(ssnr) >= 0.0)
    assert np.all((ssnr > 0.0) & (ssnr <= fudge * 999.0 * (1 + 1e-9)))
    assert np.array_equal(tau2, ssnr)


@given(seeds)
def test_a_half_volume_is_kept_and_a_cube_loses_nothing_but_its_mirror(seed):
    half = np.random.default_rng(seed).normal(size=(BOX, BOX, BOX // 2 + 1)).astype(np.float32)
    assert np.array_equal(half_ctf(half, BOX), half)
    cube = np.random.default_rng(seed).normal(size=(BOX,) * 3).astype(np.float32)
    read = half_ctf(cube, BOX)
    assert read[0, 0, 0] == cube[BOX // 2, BOX // 2, BOX // 2]
    assert np.isin(read, cube).all()
