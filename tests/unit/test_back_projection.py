"""Back-projection of a particle: the kernel for the CPU against the one for a GPU and against single insertions."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import back_projection
from kernels.back_projection import Inserted, PoseWeights, back_project
from kernels.backend import Backend, cpu_backend
from kernels.geometry import padded_size
from kernels.orientations import euler_to_matrix
from kernels.projection import insert
from kernels.sphere import sphere
from tests.unit.strict_device import strict_backend

PAD, R_MAX = 2, 5
POINTS = sphere(2 * R_MAX)
SHAPE = (padded_size(R_MAX, PAD),) * 2 + (padded_size(R_MAX, PAD) // 2 + 1,)
MATRICES = euler_to_matrix(np.random.default_rng(1).uniform(-180, 180, size=(5, 3)))
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}


def weights(precision: str, order: slice = slice(None)) -> PoseWeights:
    """Five orientations and three translations, one to three of them each."""
    row = np.argsort(np.arange(5)[order])[[4, 0, 1, 1, 2, 3, 3, 3]]
    column = np.array([2, 1, 2, 0, 0, 2, 1, 0])
    return PoseWeights.of(row, column, np.linspace(0.1, 0.3, 8).astype(precision), 5)


def problem(precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image, its weight with zeros in it, phases of three translations and seven rotated references."""
    rng, count = np.random.default_rng(2), len(POINTS)
    image = (rng.normal(size=count) + 1j * rng.normal(size=count)).astype(np.result_type(precision, np.complex64))
    weight = (rng.uniform(size=count) * (rng.uniform(size=count) > 0.2)).astype(precision)
    return (
        image,
        weight,
        rng.normal(size=(3, 2, count)).astype(precision),
        rng.normal(size=(7, 2, count)).astype(precision),
    )


def projected(backend: Backend, times: int = 1, order: slice = slice(None), grey: float = 1.0) -> list[np.ndarray]:
    """Data, weight and totals after some back-projections of an image on a grey scale, orientations in any order."""
    data, weight, totals = np.zeros(SHAPE, dtype=np.complex128), np.zeros(SHAPE), np.zeros((3, len(POINTS)))
    inserted = Inserted(data, weight, backend)
    image, image_weight, phases, rotated = (backend.xp.asarray(part) for part in problem(backend.real.name))
    image = image * backend.real.type(grey)
    which = np.array([6, 0, 3, 2, 5])[order]
    poses = weights(backend.real.name, order)
    for _ in range(times):
        with inserted.particle(image, image_weight):
            back_project(
                inserted,
                MATRICES[order],
                POINTS.frequencies_xyz,
                PAD,
                (image, image_weight),
                poses,
                phases,
                rotated,
                which,
                totals,
                backend,
            )
    inserted.finish()
    return [data, weight, totals]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_back_projection_on_the_cpu_equals_the_kernel_for_a_gpu(precision: str):
    for one, other in zip(projected(cpu_backend(precision)), projected(strict_backend(precision)), strict=True):
        assert np.abs(one - other).max() < TOLERANCE[precision] * np.abs(other).max()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_on_a_gpu_the_order_of_insertions_changes_no_bit(precision: str):
    once, reverse = (
        projected(strict_backend(precision), order=order) for order in (slice(None), slice(None, None, -1))
    )
    np.testing.assert_array_equal(once[0], reverse[0])
    np.testing.assert_array_equal(once[1], reverse[1])


@pytest.mark.parametrize("grey", [1e-18, 1e15])
def test_on_a_gpu_the_fixed_point_follows_the_grey_scale(grey: float):
    (data, weight, _), (scaled, same, _) = (projected(strict_backend("float64"), grey=each) for each in (1.0, grey))
    assert np.abs(scaled - grey * data).max() < 1e-14 * grey * np.abs(data).max()
    np.testing.assert_array_equal(same, weight)


def test_it_inserts_the_image_under_the_summed_phases_and_sums_products_with_the_references():
    data, weight, totals = projected(cpu_backend("float64"))
    image, image_weight, phases, rotated = problem("float64")
    dense = np.zeros((5, 3))
    poses = weights("float64")
    dense[np.repeat(np.arange(5), np.diff(poses.starts)), poses.column] = poses.weight
    summed = np.tensordot(dense, phases[:, 0] + 1j * phases[:, 1], axes=1)
    references = (rotated[:, 0] + 1j * rotated[:, 1])[[6, 0, 3, 2, 5]]
    expected_data, expected_weight = np.zeros(SHAPE, dtype=np.complex128), np.zeros(SHAPE)
    moved = image * summed
    insert(
        expected_data,
        expected_weight,
        MATRICES,
        POINTS.frequencies_xyz,
        np.stack([moved.real, moved.imag], axis=1),
        dense.sum(axis=1)[:, None] * image_weight,
        PAD,
    )
    assert data == pytest.approx(expected_data, abs=1e-12)
    assert weight == pytest.approx(expected_weight, abs=1e-12)
    cross = (references.conj() * summed).sum(axis=0)
    power = (dense.sum(axis=1)[:, None] * np.abs(references) ** 2).sum(axis=0)
    assert totals == pytest.approx(np.stack([power, cross.real, cross.imag]), abs=1e-12)
    assert poses.totals() == pytest.approx(dense.sum(axis=1))


def test_what_is_gathered_joins_the_sums_before_it_grows_too_much_and_at_the_end(monkeypatch: pytest.MonkeyPatch):
    once = projected(cpu_backend("float64"))
    gathered = projected(cpu_backend("float64"), times=4)
    monkeypatch.setattr(back_projection, "ORIENTATIONS_PER_FLUSH", 12)
    flushed = projected(cpu_backend("float64"), times=4)
    for single, one, other in zip(once, gathered, flushed, strict=True):
        assert one == pytest.approx(4 * single, abs=1e-11)
        assert other == pytest.approx(4 * single, abs=1e-11)


def test_some_orientations_of_sparse_weights():
    part = weights("float64")[1:4]
    assert len(part) == 3
    assert part.starts.tolist() == [0, 2, 3, 6]
    assert part.column.tolist() == [0, 2, 0, 0, 1, 2]
