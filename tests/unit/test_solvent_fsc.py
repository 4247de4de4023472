"""FSC within a mask: the mask's own correlation is found and taken away."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.fourier import forward, inverse
from kernels.geometry import squared_radius
from kernels.masks import soft_sphere
from kernels.solvent_fsc import randomise_phases, solvent_corrected_fsc, without_mask_correlation
from kernels.spectra import fsc_of_maps

BOX = 32
MASK = soft_sphere(BOX, 5.0, 2.0)


def _halves(signal_shells: int) -> list[np.ndarray]:
    """Two maps: one signal up to a shell, within a sphere, and independent noise everywhere."""
    rng = np.random.default_rng(3)
    white = rng.normal(size=(BOX,) * 3) * soft_sphere(BOX, 8.0, 3.0)
    signal = inverse(forward(white) * (squared_radius(BOX) <= signal_shells**2))
    return [20.0 * signal + rng.normal(size=(BOX,) * 3) for _ in range(2)]


def test_moduli_and_low_shells_survive_randomisation() -> None:
    volume = np.random.default_rng(0).normal(size=(BOX,) * 3)
    before, after = forward(volume), forward(randomise_phases(volume, 6, np.random.default_rng(1)))
    inside = squared_radius(BOX) < 36
    np.testing.assert_allclose(after[inside], before[inside], atol=1e-14)
    interior = np.s_[:, :, 1:-1]  # Friedel mates on the outer planes are averaged by the inverse transform
    np.testing.assert_allclose(np.abs(after[interior]), np.abs(before[interior]), rtol=1e-9)
    assert abs(fsc_of_maps(volume, randomise_phases(volume, 6, np.random.default_rng(1)))[8:]).max() < 0.2


def test_a_tight_mask_correlates_noise_and_the_correction_removes_that() -> None:
    one, two = _halves(6)
    curves = solvent_corrected_fsc(one, two, MASK, 5)
    assert curves.randomise_from is not None
    start = curves.randomise_from
    np.testing.assert_array_equal(curves.corrected[: start + 2], curves.masked[: start + 2])
    assert curves.corrected[:5].min() > 0.8
    assert abs(curves.corrected[start + 3 :]).max() < 0.35
    assert (
        curves.corrected[start + 2 :] <= curves.masked[start + 2 :].clip(0) + abs(curves.random_masked[start + 2 :])
    ).all()


def test_same_seed_same_curve_other_seed_other_curve() -> None:
    one, two = _halves(6)
    curves = [solvent_corrected_fsc(one, two, MASK, seed).corrected for seed in (1, 1, 2)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert (curves[0] != curves[2]).any()


def test_identical_halves_keep_the_unmasked_curve() -> None:
    one, _ = _halves(6)
    curves = solvent_corrected_fsc(one, one, MASK, 0)
    assert curves.randomise_from is None
    np.testing.assert_allclose(curves.corrected, 1.0)


@pytest.mark.parametrize(
    ("masked", "random", "expected"), [(0.8, 0.2, 0.75), (0.3, 0.3, 0.0), (0.1, 0.4, 0.0), (0.2, -0.25, 0.36)]
)
def test_formula(masked: float, random: float, expected: float) -> None:
    found = without_mask_correlation(np.array([masked]), np.array([random]))
    np.testing.assert_allclose(found, [expected], atol=1e-15)
