"""The compared coefficients as lines, and translations as phases on them."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import fourier, geometry
from kernels.backend import cpu_backend
from kernels.sphere import shifted, sphere
from tests.unit.strict_device import strict_backend

SIZES = [2, 8, 10, 16]


@pytest.mark.parametrize("size", SIZES)
def test_the_sphere_lists_every_coefficient_within_the_radius_once(size: int):
    points = sphere(size)
    inside = geometry.squared_radius(size).ravel() <= (size // 2) ** 2
    assert np.array_equal(points.flat, np.flatnonzero(inside))
    kx, ky, kz = points.frequencies_xyz
    for frequency, axis in zip((kz, ky, kx), geometry.half_frequencies(size), strict=True):
        assert np.array_equal(frequency, np.broadcast_to(axis, geometry.half_shape(size)).ravel()[points.flat])
    assert np.array_equal(points.shell, geometry.relion_round(np.sqrt(kx**2 + ky**2 + kz**2)))
    assert np.array_equal(points.likelihood, ~((kx == 0) & (ky < 0)))
    assert np.array_equal(points.inserted, ~((kx == 0) & (kz < 0)))


@pytest.mark.parametrize("size", SIZES)
def test_lines_cover_the_sphere_each_with_constant_ky_and_kz_and_kx_from_zero(size: int):
    points = sphere(size)
    covered = []
    for start, length in points.lines:
        kx, ky, kz = points.frequencies_xyz[:, start : start + length]
        assert np.array_equal(kx, np.arange(length))
        assert len(set(ky)) == len(set(kz)) == 1
        covered.extend(range(start, start + length))
    assert covered == list(range(len(points)))
    assert len({tuple(points.frequencies_xyz[1:, start]) for start, _ in points.lines}) == len(points.lines)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("coefficients", [1, 7, 50, 10**6])
def test_blocks_of_lines_cover_everything_once_and_keep_to_their_length(size: int, coefficients: int):
    points = sphere(size)
    expected = 0
    line = 0
    for chosen, lines in points.blocks(coefficients):
        assert chosen.start == expected
        assert lines.start == line
        assert points.lines[lines, 1].sum() == chosen.stop - chosen.start
        assert chosen.stop - chosen.start <= coefficients or lines.stop - lines.start == 1
        expected, line = chosen.stop, lines.stop
    assert expected == len(points)
    assert line == len(points.lines)


def random_particle(size: int, box: int, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """A cropped half transform and some shifts."""
    rng = np.random.default_rng(size)
    rft = fourier.crop(fourier.forward(rng.normal(size=(box,) * 3)), size)
    dtype = np.complex64 if precision == "float32" else np.complex128
    return rft.astype(dtype), np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0], [0.25, 0.5, -1.75], [-6.0, 0.1, 11.3]])


@pytest.mark.parametrize(("size", "box"), [(8, 8), (8, 12), (10, 16)])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float64", 1e-15)])
def test_shifted_equals_the_phase_shift_of_the_transform_on_the_cpu_and_on_a_device(
    size: int, box: int, precision: str, tolerance: float
):
    backend, points = cpu_backend(precision), sphere(size)
    rft, shifts = random_particle(size, box, precision)
    values = rft.ravel()[points.flat]
    stacked = shifted(values, shifts, points, box, backend)
    assert stacked.dtype == backend.real
    assert stacked.shape == (len(shifts), 2, len(points))
    for one, by in zip(stacked, shifts, strict=True):
        expected = fourier.shift(rft, by, box).ravel()[points.flat]
        assert one[0] + 1j * one[1] == pytest.approx(expected, abs=tolerance)
    device = strict_backend(precision)
    moved = shifted(device.xp.asarray(values), shifts, points, box, device)
    assert moved.get() == pytest.approx(stacked, abs=tolerance)


def test_shifted_blocks_of_lines_are_the_parts_of_the_whole():
    backend, points = cpu_backend("float64"), sphere(10)
    rft, shifts = random_particle(10, 16, "float64")
    values = rft.ravel()[points.flat]
    whole = shifted(values, shifts, points, 16, backend)
    parts = [shifted(values[chosen], shifts, points, 16, backend, lines) for chosen, lines in points.blocks(40)]
    assert len(parts) > 2
    assert np.array_equal(np.concatenate(parts, axis=2), whole)


def test_shifting_moves_a_density_by_whole_voxels():
    backend, points, size = cpu_backend("float64"), sphere(8), 8
    volume = np.random.default_rng(3).normal(size=(size,) * 3)
    stacked = shifted(
        fourier.forward(volume).ravel()[points.flat], np.array([[1.0, 2.0, -3.0]]), points, size, backend
    )[0]
    moved = fourier.forward(np.roll(volume, (-3, 2, 1), axis=(0, 1, 2))).ravel()[points.flat]
    below = points.shell < size // 2  # at Nyquist +k and -k share one coefficient
    assert (stacked[0] + 1j * stacked[1])[below] == pytest.approx(moved[below], abs=1e-15)
