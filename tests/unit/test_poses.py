"""Pose comparison takes out one global rotation and shift, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kernels.poses import compare_poses, nearest_rotation, rotation_angle_deg


def relion_matrix(angles_deg: np.ndarray) -> np.ndarray:
    """RELION's A(rot, tilt, psi), by scipy: the inverse of the intrinsic ZYZ rotation."""
    return Rotation.from_euler("ZYZ", np.atleast_2d(angles_deg), degrees=True).inv().as_matrix()


def relion_angles(matrices: np.ndarray) -> np.ndarray:
    """rot, tilt, psi of matrices A (n, 3, 3)."""
    return Rotation.from_matrix(matrices).inv().as_euler("ZYZ", degrees=True)


@pytest.fixture
def truth() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return relion_angles(Rotation.random(60, random_state=rng).as_matrix()), rng.normal(0, 15, (60, 3))


def test_rotation_angle_is_accurate_for_small_and_large_rotations() -> None:
    angles = np.array([0.0, 1e-6, 1e-3, 1.0, 90.0, 179.9])
    matrices = Rotation.from_rotvec(np.outer(np.radians(angles), [0.6, 0.0, 0.8])).as_matrix()
    np.testing.assert_allclose(rotation_angle_deg(matrices), angles, rtol=1e-6, atol=1e-9)


def test_nearest_rotation_is_proper() -> None:
    rotation = nearest_rotation(np.diag([1.0, 1.0, -1.0]) + 0.01)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_identical_poses_have_no_error(truth: tuple[np.ndarray, np.ndarray]) -> None:
    errors = compare_poses(*truth, *truth)
    assert errors.angle_deg.max() < 1e-6
    assert errors.shift_angst.max() < 1e-6


def test_a_turned_and_moved_reference_costs_nothing(truth: tuple[np.ndarray, np.ndarray]) -> None:
    angles, origins = truth
    rotation = Rotation.from_rotvec([0.4, -1.1, 0.2]).as_matrix()
    vector = np.array([3.0, -7.0, 11.0])
    matrices = relion_matrix(angles)
    errors = compare_poses(relion_angles(matrices @ rotation), origins + matrices @ vector, angles, origins)
    np.testing.assert_allclose(errors.rotation, rotation, atol=1e-8)
    np.testing.assert_allclose(errors.shift_vector, vector, atol=1e-6)
    assert errors.angle_deg.max() < 1e-6
    assert errors.shift_angst.max() < 1e-6


def test_particles_are_left_in_place_by_the_global_shift(truth: tuple[np.ndarray, np.ndarray]) -> None:
    """One point of the object, written in both map frames, must sit at the same place in every particle."""
    angles, origins = truth
    rotation, vector = Rotation.from_rotvec([0.3, 0.2, -0.5]).as_matrix(), np.array([4.0, 1.0, -2.0])
    matrices = relion_matrix(angles)
    estimated = compare_poses(relion_angles(matrices @ rotation), origins + matrices @ vector, angles, origins)
    in_estimated_frame = np.array([20.0, -5.0, 8.0])
    in_true_frame = estimated.rotation @ in_estimated_frame - estimated.shift_vector
    np.testing.assert_allclose(
        matrices @ rotation @ in_estimated_frame - (origins + matrices @ vector),
        matrices @ in_true_frame - origins,
        atol=1e-5,
    )


def test_known_errors_are_reported_and_lost_particles_do_not_vote(truth: tuple[np.ndarray, np.ndarray]) -> None:
    angles, origins = truth
    rng = np.random.default_rng(5)
    wobble = Rotation.from_rotvec(np.radians(rng.normal(0, 2, (60, 3))))
    rotation = Rotation.from_rotvec([1.0, 0.3, 0.2]).as_matrix()
    matrices = wobble.as_matrix() @ relion_matrix(angles) @ rotation
    matrices[:15] = Rotation.random(15, random_state=rng).as_matrix()
    offsets = rng.normal(0, 1, (60, 3))
    offsets[:15] += 80
    errors = compare_poses(relion_angles(matrices), origins + offsets, angles, origins)
    expected = np.degrees(wobble.magnitude())[15:]
    assert np.abs(errors.angle_deg[15:] - expected).max() < 1.5
    assert np.median(errors.shift_angst[15:]) == pytest.approx(np.median(np.linalg.norm(offsets[15:], axis=1)), abs=0.4)
    assert np.median(errors.angle_deg[:15]) > 30
    assert errors.shift_angst[:15].min() > 100


def test_equivalent_poses_of_a_symmetric_map_agree(truth: tuple[np.ndarray, np.ndarray]) -> None:
    angles, origins = truth
    operators = Rotation.from_euler("Z", [[0], [90], [180], [270]], degrees=True).as_matrix()
    chosen = operators[np.random.default_rng(1).integers(0, 4, 60)]
    rotation = Rotation.from_rotvec([0.1, 0.5, 0.2]).as_matrix()
    frames = relion_matrix(angles) @ chosen
    moved = origins + frames @ np.array([0.0, 0.0, 6.0])
    with_symmetry = compare_poses(relion_angles(frames @ rotation), moved, angles, origins, operators)
    without = compare_poses(relion_angles(frames @ rotation), moved, angles, origins)
    assert with_symmetry.angle_deg.max() < 1e-5
    assert with_symmetry.shift_angst.max() < 1e-5
    assert np.sort(without.angle_deg)[30] > 10


def test_a_single_particle_is_explained_entirely() -> None:
    errors = compare_poses([[10, 20, 30]], [[1, 2, 3]], [[40, 50, 60]], [[0, 0, 0]])
    assert errors.angle_deg[0] < 1e-6
    assert errors.shift_angst[0] < 1e-6


@pytest.mark.parametrize("shape", [(0, 3), (4, 2), (3,)])
def test_misshapen_poses_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"four \(n, 3\) arrays"):
        compare_poses(*(np.zeros(shape) for _ in range(4)))
