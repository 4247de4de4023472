"""Spectra against loops over single coefficients and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels import spectra
from kernels.fourier import forward
from kernels.geometry import frequencies, padded_size
from kernels.projection import interpolation_correction, reference_rft


def relion_round(value: float) -> int:
    return math.floor(value + 0.5) if value > 0 else math.ceil(value - 0.5)


def random_accumulator(r_max: int, pad: int, seed: int):
    size = padded_size(r_max, pad)
    rng = np.random.default_rng(seed)
    shape = (size, size, size // 2 + 1)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape), rng.uniform(0.0, 2.0, shape)


def test_power_spectrum_is_the_mean_over_every_stored_coefficient():
    size = 8
    rft = forward(np.random.default_rng(1).normal(size=(size,) * 3))
    sums, counts = np.zeros(5), np.zeros(5)
    for iz, kz in enumerate(frequencies(size)):
        for iy, ky in enumerate(frequencies(size)):
            for kx in range(5):
                shell = relion_round(math.sqrt(kz**2 + ky**2 + kx**2))
                if shell <= 4:
                    sums[shell] += abs(rft[iz, iy, kx]) ** 2
                    counts[shell] += 1
    assert spectra.power_spectrum(rft) == pytest.approx(sums / counts)


def test_low_pass_is_a_raised_cosine_two_shells_wide():
    weights = spectra.low_pass_shell_weights(32, 10.0, 40.0)  # nominal shell 8
    assert weights[:8] == pytest.approx(1.0)
    assert weights[8] == pytest.approx(0.5)
    assert weights[9:] == pytest.approx(0.0)
    grid = spectra.low_pass_weights(32, 10.0, 40.0)
    assert grid[0, 0, :] == pytest.approx(weights)
    radius = math.sqrt(6**2 + 5**2 + 3**2)  # 8.37, between the edges
    assert grid[6, -5, 3] == pytest.approx(0.5 - 0.5 * math.cos(math.pi * (9.0 - radius) / 2.0))


def test_initial_noise_is_half_the_power_less_that_of_the_average():
    sums = np.array([[8.0, 12.0, 4.0], [0.0, 0.0, 0.0]])
    noise = spectra.initial_sigma2_noise(sums, np.array([2, 0]), np.array([1.0, 2.0, 0.5]))
    assert noise[0] == pytest.approx([1.5, 2.0, 0.75])
    assert np.all(noise[1] == 0.0)


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        ([0.0, 3.0, 0.0], [1.0, 1.0, 1.0]),  # the shell before it
        ([3.0, 0.0, 0.0], [1.0, 1.0, 1.0]),  # no shell before it: the next positive one
        ([3.0, 3.0, 0.0], [1.0, 1.0, 1.0]),
    ],
)
def test_negative_noise_takes_a_neighbouring_shell(average, expected):
    noise = spectra.initial_sigma2_noise(np.full((1, 3), 2.0), np.array([1]), np.array(average))
    assert noise[0] == pytest.approx(expected)


def test_initial_tau2_and_ssnr():
    tau2 = spectra.initial_tau2(np.array([2.0, 4.0, 6.0]), 3.0)
    assert tau2 == pytest.approx([3.0, 6.0, 9.0])
    noise = np.array([[1.0, 1.0, 1.0], [4.0, 4.0, 4.0]])
    ssnr = spectra.initial_ssnr(tau2, noise, np.array([2, 1]), 0.5)  # mean noise 2
    assert ssnr == pytest.approx([3.0 * 1.5 / 2.0, 6.0 * 1.5 / (2.0 * 2.0), 9.0 * 1.5 / (2.0 * 4.0)])


@pytest.mark.parametrize("pad", [1, 2])
@pytest.mark.parametrize("r_max", [5, 8])
def test_tau2_of_a_reference_counts_stored_coefficients_of_the_padded_transform(pad, r_max):
    box = 16
    reference = np.random.default_rng(4).normal(size=(box,) * 3)
    padded = pad * box
    volume = np.zeros((padded,) * 3)
    start = padded // 2 - box // 2
    volume[(slice(start, start + box),) * 3] = reference / interpolation_correction(box, pad)
    power = np.abs(np.fft.rfftn(volume) / padded**3 * pad**3) ** 2
    kz = frequencies(padded)
    radius2 = kz[:, None, None] ** 2 + kz[None, :, None] ** 2 + np.arange(padded // 2 + 1)[None, None, :] ** 2
    shell = np.floor(np.sqrt(radius2) / pad + 0.5).astype(int)
    expected = [
        0.5 * power[(shell == i) & (radius2 <= (pad * r_max) ** 2)].mean() if i <= r_max else 0.0 for i in range(9)
    ]
    tau2 = spectra.tau2_from_reference(reference_rft(reference, pad, r_max), box, pad, r_max)
    assert tau2 == pytest.approx(np.array(expected))


def test_sigma2_ref_is_the_inverse_mean_weight():
    _, weight = random_accumulator(6, 2, 5)
    weight[:] = 0.25
    sigma2 = spectra.sigma2_ref(weight, 16, 2, 6)
    assert sigma2[:7] == pytest.approx(1.0 / (8.0 * 0.25))
    assert np.all(sigma2[7:] == 0.0)
    assert np.all(spectra.sigma2_ref(np.zeros_like(weight), 16, 2, 6) == 0.0)


def test_gold_standard_ssnr_of_known_correlations():
    fsc = np.array([1.0, 0.5, 0.0, -0.3])
    ssnr, tau2 = spectra.gold_standard_ssnr_tau2(fsc, np.array([1.0, 2.0, 3.0, 0.0]), 2.0)
    assert ssnr == pytest.approx([2 * 999.0, 2.0, 2 * 0.001 / 0.999, 2 * 0.001 / 0.999])
    assert tau2 == pytest.approx(ssnr * [1.0, 2.0, 3.0, 0.0])
    joined, _ = spectra.gold_standard_ssnr_tau2(np.array([0.5]), np.ones(1), joined=True)
    whole = math.sqrt(2 * 0.5 / 1.5)
    assert joined == pytest.approx([whole / (1.0 - whole)])


def test_class3d_ssnr_and_coverage_of_a_uniform_weight():
    _, weight = random_accumulator(6, 2, 6)
    weight[:] = 0.5
    tau2 = np.array([4.0, 0.1, 0.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0])
    ssnr = spectra.class3d_ssnr(weight, tau2, 16, 2, 6, tau2_fudge=2.0)
    assert ssnr[[0, 1, 3]] == pytest.approx([32.0, 0.8, 8.0])
    assert ssnr[2] == pytest.approx(0.001 * 0.5**2)  # no signal
    assert np.all(ssnr[7:] == 0.0)
    coverage = spectra.fourier_coverage(weight, tau2, 16, 2, 6, tau2_fudge=2.0)
    assert coverage[:4] == pytest.approx([1.0, 0.0, 0.0, 1.0])
    assert np.all(coverage[7:] == 0.0)


@pytest.mark.parametrize("pad", [1, 2, 3])
def test_accumulator_fsc_matches_a_loop_over_grid_points(pad):
    r_max, box = 4, 10
    first, second = random_accumulator(r_max, pad, 7), random_accumulator(r_max, pad, 8)
    first[1][1, 2, 1] = second[1][3, 3, 0] = 0.0

    def average(data, weight):
        sums: dict[tuple[int, int, int], complex] = {}
        weights: dict[tuple[int, int, int], float] = {}
        centre = data.shape[0] // 2
        for (z, y, x), value in np.ndenumerate(data):
            key = tuple(relion_round(i / pad) for i in (z - centre, y - centre, x))
            sums[key] = sums.get(key, 0.0) + value
            weights[key] = weights.get(key, 0.0) + weight[z, y, x]
        return {key: sums[key] / weights[key] if weights[key] > 0 else 0.0 for key in sums}

    one, two = average(*first), average(*second)
    cross, power_one, power_two = np.zeros((3, box // 2 + 1))
    for key, value in one.items():
        radius = math.sqrt(sum(i * i for i in key))
        if radius <= r_max:
            cross[relion_round(radius)] += (value * two[key].conjugate()).real
            power_one[relion_round(radius)] += abs(value) ** 2
            power_two[relion_round(radius)] += abs(two[key]) ** 2
    expected = np.zeros(box // 2 + 1)
    expected[: r_max + 1] = cross[: r_max + 1] / np.sqrt(power_one * power_two)[: r_max + 1]
    expected[0] = 1.0
    assert spectra.fsc_of_accumulators(*first, *second, box, pad, r_max) == pytest.approx(expected)


def test_fsc_of_maps_of_equal_and_opposite_maps():
    volume = np.random.default_rng(9).normal(size=(12, 12, 12))
    assert spectra.fsc_of_maps(volume, 3.0 * volume) == pytest.approx(1.0)
    assert spectra.fsc_of_maps(volume, -volume)[1:] == pytest.approx(-1.0)
    independent = np.random.default_rng(10).normal(size=(12, 12, 12))
    assert np.all(np.abs(spectra.fsc_of_maps(volume, independent)[3:]) < 0.4)


def test_resolution_is_the_last_shell_before_the_ratio_falls_below_one():
    ssnr = np.array([99.0, 9.0, 3.0, 1.0, 0.9, 5.0, 0.1, 0.0, 0.0])
    coverage = np.array([1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    resolution, completeness = spectra.resolution_and_completeness(ssnr, coverage, 10.0)
    assert resolution == pytest.approx(160.0 / 3.0)
    cube = [(z, y, x) for z in range(-2, 3) for y in range(-2, 3) for x in range(-2, 3)]
    inner = [coverage[int(math.hypot(*point))] for point in cube]  # the truncated radius of the corners is 3: all count
    assert completeness == pytest.approx(np.mean(inner))


@pytest.mark.parametrize("first", [0.5, 5.0])
def test_no_resolution_without_signal(first):
    assert spectra.resolution_and_completeness(np.array([first, 0.1, 0.0]), np.ones(3), 10.0) == (999.0, 0.0)
