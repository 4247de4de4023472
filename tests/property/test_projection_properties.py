"""Laws of sampling and insertion that hold for every rotation and size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.backend import cpu_backend
from kernels.geometry import padded_radius, padded_size, padded_squared_radius
from kernels.orientations import euler_to_matrix
from kernels.projection import insert, sample
from kernels.sphere import sphere
from tests.unit.projection_twins import insert_arrays, sample_arrays

angles = st.lists(st.tuples(*[st.floats(-360, 360)] * 3), min_size=1, max_size=3)
seeds = st.integers(0, 2**32 - 1)
radii = st.integers(1, 6)
paddings = st.sampled_from([1, 2, 3])


def grid(r_max: int, pad: int, rng: np.random.Generator) -> np.ndarray:
    """A random half grid as that of a real map: Friedel mates on the plane x = 0 agree, zero outside the sphere."""
    size = padded_size(r_max, pad)
    values = rng.normal(size=(size, size, size // 2 + 1)) + 1j * rng.normal(size=(size, size, size // 2 + 1))
    values[:, :, 0] = 0.5 * (values[:, :, 0] + values[::-1, ::-1, 0].conj())
    values[padded_squared_radius(size) > padded_radius(r_max, pad) ** 2] = 0
    return values


@settings(max_examples=60)
@given(angles, seeds, radii, paddings)
def test_sampling_equals_its_twin_and_insertion_is_its_adjoint(angles_deg, seed, r_max, pad):
    rng, points, backend = np.random.default_rng(seed), sphere(2 * r_max), cpu_backend("float64")
    reference, matrices = grid(r_max, pad, rng), euler_to_matrix(np.array(angles_deg))
    rotations, frequencies = np.swapaxes(matrices, -1, -2) * pad, points.frequencies_xyz.astype(float)
    sampled = sample(reference, matrices, frequencies, pad, backend)
    assert np.allclose(sampled, sample_arrays(reference, rotations, frequencies), atol=1e-11)

    values = rng.normal(size=sampled.shape)
    weights = rng.uniform(0.1, 1.0, size=(len(matrices), len(points)))
    data, weight = np.zeros_like(reference), np.zeros(reference.shape)
    insert(data, weight, matrices, frequencies, values, weights, pad)
    assert np.isclose((sampled * values).sum(), (reference.conj() * data).sum().real, rtol=1e-9, atol=1e-9)
    assert np.isclose(weight.sum(), weights.sum())

    twin_data, twin_weight = np.zeros_like(reference), np.zeros(reference.shape)
    insert_arrays(twin_data, twin_weight, rotations, frequencies, values, weights)
    assert np.allclose(data, twin_data, atol=1e-11)
    assert np.allclose(weight, twin_weight, atol=1e-11)


@settings(max_examples=30)
@given(angles, seeds, radii)
def test_single_precision_stays_close_to_double_precision(angles_deg, seed, r_max):
    rng, points = np.random.default_rng(seed), sphere(2 * r_max)
    reference, matrices = grid(r_max, 2, rng), euler_to_matrix(np.array(angles_deg))
    double = sample(reference, matrices, points.frequencies_xyz, 2, cpu_backend("float64"))
    single = sample(reference.astype(np.complex64), matrices, points.frequencies_xyz, 2, cpu_backend("float32"))
    # positions up to 12 carry an error of 1e-6, slopes are differences of neighbours up to 10
    assert np.abs(single - double).max() < 1e-4


@settings(max_examples=30)
@given(seeds, radii, st.tuples(*[st.floats(-360, 360)] * 3))
def test_turning_every_point_around_conjugates(seed, r_max, angles_deg):
    rng, points, backend = np.random.default_rng(seed), sphere(2 * r_max), cpu_backend("float64")
    reference, matrices = grid(r_max, 2, rng), euler_to_matrix(np.array([angles_deg]))
    here = sample(reference, matrices, points.frequencies_xyz, 2, backend)[0]
    opposite = sample(reference, matrices, -points.frequencies_xyz, 2, backend)[0]
    assert np.allclose(here[0], opposite[0], atol=1e-9)
    assert np.allclose(here[1], -opposite[1], atol=1e-9)
