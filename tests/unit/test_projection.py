"""Sampling rotated references and inserting transforms: compiled kernels against their twins and against analysis."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.backend import cpu_backend
from kernels.fourier import forward, inverse
from kernels.geometry import padded_radius, padded_size, padded_squared_radius
from kernels.orientations import euler_to_matrix
from kernels.projection import insert, interpolation_correction, reference_rft, sample
from kernels.sphere import sphere
from tests.unit.projection_twins import insert_arrays, sample_arrays

PRECISIONS = {"float32": 2e-5, "float64": 1e-12}
ANGLES_DEG = np.array([[0.0, 0.0, 0.0], [10.0, 40.0, -70.0], [-120.0, 180.0, 33.0], [77.0, 90.0, 5.0]])


def random_reference(r_max: int, pad: float, seed: int = 1) -> np.ndarray:
    """A random half grid as that of a real map: Friedel mates on the plane x = 0 agree, zero outside the sphere."""
    rng = np.random.default_rng(seed)
    size = padded_size(r_max, pad)
    grid = rng.normal(size=(size, size, size // 2 + 1, 2)) @ np.array([1.0, 1.0j])
    grid[:, :, 0] = 0.5 * (grid[:, :, 0] + grid[::-1, ::-1, 0].conj())
    grid[padded_squared_radius(size) > padded_radius(r_max, pad) ** 2] = 0
    return grid


def blobs(size: int, centres_xyz: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blobs of different weight in a box, z y x."""
    axis = np.arange(size) - size // 2
    volume = np.zeros((size,) * 3)
    for weight, (x, y, z) in enumerate(centres_xyz, start=1):
        distance = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2
        volume += weight * np.exp(-distance / (2 * sigma**2))
    return volume


CENTRES = np.array([[2.0, 0.5, -1.0], [-1.5, 1.0, 2.0], [0.5, -2.5, 0.0]])


def rotated_map(volume: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The map rotated in Fourier space."""
    size = len(volume)
    reference = reference_rft(volume, 2, size // 2)
    sampled = sample(reference, matrix[None], sphere(size).frequencies_xyz, 2, cpu_backend("float64"))
    return inverse(half_transform(size, sampled[0]))


def half_transform(size: int, stacked: np.ndarray) -> np.ndarray:
    """The half transform that holds sampled coefficients ``(2, n_f)``."""
    points = sphere(size)
    rft = np.zeros(size * size * (size // 2 + 1), dtype=np.complex128)
    rft[points.flat] = stacked[0] + 1j * stacked[1]
    return rft.reshape(size, size, size // 2 + 1)


@pytest.mark.parametrize("pad", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_compiled_sampling_equals_its_whole_array_twin(precision: str, pad: int):
    backend, points = cpu_backend(precision), sphere(10)
    reference = random_reference(5, pad).astype(backend.complex)
    matrices = euler_to_matrix(ANGLES_DEG)
    compiled = sample(reference, matrices, points.frequencies_xyz, pad, backend)
    rotations = (np.swapaxes(matrices, -1, -2) * pad).astype(backend.real)
    arrays = sample_arrays(reference, rotations, points.frequencies_xyz.astype(backend.real))
    assert compiled.dtype == backend.real
    assert compiled.shape == (4, 2, len(points))
    assert compiled == pytest.approx(arrays, abs=PRECISIONS[precision])


@pytest.mark.parametrize("values_dtype", [np.float32, np.float64])
def test_compiled_insertion_equals_its_whole_array_twin(values_dtype: type):
    rng, points, pad = np.random.default_rng(2), sphere(10), 2
    matrices = euler_to_matrix(ANGLES_DEG)
    values = rng.normal(size=(4, 2, len(points))).astype(values_dtype)
    weights = (rng.uniform(size=(4, len(points))) * (rng.uniform(size=(4, len(points))) > 0.3)).astype(values_dtype)
    shape = random_reference(5, pad).shape
    compiled, arrays = ((np.zeros(shape, dtype=np.complex128), np.zeros(shape)) for _ in range(2))
    insert(*compiled, matrices, points.frequencies_xyz, values, weights, pad)
    rotations = np.swapaxes(matrices, -1, -2) * pad
    insert_arrays(*arrays, rotations, points.frequencies_xyz.astype(float), values, weights)
    for one, other in zip(compiled, arrays, strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    assert compiled[1].sum() == pytest.approx(float(weights.astype(np.float64).sum()))


def test_insertion_is_the_adjoint_of_sampling():
    rng, points, pad = np.random.default_rng(3), sphere(8), 2
    reference, matrices = random_reference(4, pad), euler_to_matrix(ANGLES_DEG)
    values = rng.normal(size=(4, 2, len(points)))
    sampled = sample(reference, matrices, points.frequencies_xyz, pad, cpu_backend("float64"))
    data, weight = np.zeros(reference.shape, dtype=np.complex128), np.zeros(reference.shape)
    insert(data, weight, matrices, points.frequencies_xyz, values, np.ones((4, len(points))), pad)
    assert (sampled * values).sum() == pytest.approx((reference.conj() * data).sum().real, rel=1e-12)


def test_insertion_skips_points_without_weight_and_adds_in_place():
    points, pad = sphere(8), 2
    shape = random_reference(4, pad).shape
    data, weight = np.ones(shape, dtype=np.complex128), np.ones(shape)
    nothing = np.zeros((1, len(points)))
    insert(data, weight, np.eye(3)[None], points.frequencies_xyz, np.ones((1, 2, len(points))), nothing, pad)
    assert (data == 1).all()
    assert (weight == 1).all()


@pytest.mark.parametrize("r_max", [5, 8])
def test_identity_returns_the_plain_transform_of_the_corrected_map(r_max: int):
    size, pad = 16, 2
    volume = np.random.default_rng(4).normal(size=(size,) * 3)
    points = sphere(2 * r_max)
    reference = reference_rft(volume, pad, r_max)
    assert reference.shape == (padded_size(r_max, pad),) * 2 + (padded_size(r_max, pad) // 2 + 1,)
    sampled = sample(reference, np.eye(3)[None], points.frequencies_xyz, pad, cpu_backend("float64"))[0]
    kx, ky, kz = points.frequencies_xyz
    plain = forward(volume / interpolation_correction(size, pad))[kz % size, ky % size, kx]
    below = np.sqrt((points.frequencies_xyz**2).sum(axis=0)) < size // 2
    assert sampled[0][below] + 1j * sampled[1][below] == pytest.approx(plain[below], abs=1e-14)


@pytest.mark.parametrize("angles_deg", [(20, 50, -100), (-160, 130, 40), (40, 65, 10), (75, 20, 33)])
def test_a_rotated_blob_map_is_the_map_of_rotated_blobs(angles_deg: tuple[float, float, float]):
    size, sigma = 20, 1.6
    matrix = euler_to_matrix(np.array(angles_deg, dtype=float))
    rotated = rotated_map(blobs(size, CENTRES, sigma), matrix)
    expected = blobs(size, CENTRES @ matrix.T, sigma)
    assert np.abs(rotated - expected).max() < 0.02 * expected.max()
    assert np.abs(blobs(size, CENTRES, sigma) - expected).max() > 0.3 * expected.max()


@pytest.mark.parametrize("angles_deg", [(0, 0, 90), (90, 90, 0), (0, 180, 0)])
def test_rotations_onto_the_grid_are_exact_but_for_the_interpolation_correction(angles_deg: tuple[float, float, float]):
    size, sigma = 20, 1.6
    matrix = euler_to_matrix(np.array(angles_deg, dtype=float))
    rotated = rotated_map(blobs(size, CENTRES, sigma), matrix)
    expected = blobs(size, CENTRES @ matrix.T, sigma) / interpolation_correction(size, 2)
    assert np.abs(rotated - expected).max() < 1e-4 * expected.max()


def test_half_a_turn_about_y_conjugates_through_friedel_symmetry():
    size, pad, r_max = 12, 2, 5
    volume = np.random.default_rng(5).normal(size=(size,) * 3)
    points = sphere(2 * r_max)
    turned = sample(
        reference_rft(volume, pad, r_max),
        np.diag([-1.0, 1.0, -1.0])[None],
        points.frequencies_xyz,
        pad,
        cpu_backend("float64"),
    )[0]
    kx, ky, kz = points.frequencies_xyz
    plain = forward(volume / interpolation_correction(size, pad))
    # F(-kx, ky, -kz) = conj F(kx, -ky, kz)
    expected = plain[kz % size, -ky % size, kx].conj()
    assert turned[0] + 1j * turned[1] == pytest.approx(expected, abs=1e-14)


def test_the_reference_is_zero_outside_its_sphere_and_on_the_scale_of_the_unpadded_transform():
    volume = np.random.default_rng(6).normal(size=(12,) * 3)
    reference = reference_rft(volume, 2, 4)
    radius = padded_squared_radius(reference.shape[0])
    assert (reference[radius > 64] == 0).all()
    assert (reference[radius <= 64] != 0).all()
    centre = reference.shape[0] // 2
    corrected = volume / interpolation_correction(12, 2)
    assert reference[centre, centre, 0] == pytest.approx(corrected.mean())
