"""The evaluation itself: known rotations, shifts, cut-offs and frames are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.accuracy.evaluate import evaluate, fsc, global_rotation, global_shift, into_true_frame, resolution
from tests.parity.dataset import PIXEL_ANGST, density, euler_matrix, write_mrc

RANDOM = np.random.default_rng(3)


def _rotations(number: int) -> np.ndarray:
    return np.array([euler_matrix(angles) for angles in RANDOM.uniform(-180.0, 180.0, (number, 3))])


def test_global_rotation_ignores_lost_particles() -> None:
    true, drift = _rotations(40), euler_matrix((11.0, 5.0, -3.0))
    estimated = true @ drift
    estimated[:10] = _rotations(10)
    assert np.allclose(global_rotation(estimated, true), drift, atol=1e-3)


def test_global_shift_ignores_lost_particles() -> None:
    vectors = np.tile([1.0, -2.0, 0.5], (40, 1)) + RANDOM.normal(0.0, 0.01, (40, 3))
    vectors[:10] += 30.0
    assert np.allclose(global_shift(vectors), [1.0, -2.0, 0.5], atol=0.02)


def test_resolution_of_a_curve() -> None:
    curve = np.array([1.0, 0.9, 0.6, 0.2, 0.1])
    assert resolution(curve, 0.143, 320.0, False) == pytest.approx(320.0 / 3)
    assert resolution(curve, 0.5, 320.0, True) == pytest.approx(320.0 / 2.25)
    assert resolution(np.ones(5), 0.5, 320.0, True) == pytest.approx(320.0 / 4)


def test_maps_are_brought_into_the_true_frame() -> None:
    rotation, shift = euler_matrix((10.0, 8.0, -4.0)), np.array([0.4, -0.7, 0.3])
    # The estimated frame: x_true = R x_estimated - v.
    estimated = density(rotation.T, rotation.T @ shift)
    truth = density(np.eye(3), np.zeros(3))
    assert fsc(into_true_frame(estimated, rotation, shift), truth)[1:6].min() > 0.98
    assert fsc(into_true_frame(estimated, rotation.T, shift), truth)[1:6].min() < 0.95


def test_a_drifted_run_is_judged_perfect(tmp_path: Path) -> None:
    rotation, shift = euler_matrix((10.0, 8.0, -4.0)), np.array([0.4, -0.7, 0.3])
    angles = np.column_stack(
        [RANDOM.uniform(-170.0, 170.0, 12), RANDOM.uniform(20.0, 160.0, 12), RANDOM.uniform(0, 90, 12)]
    )
    origins = RANDOM.normal(0.0, 10.0, (12, 3))
    _write_star(tmp_path / "truth.star", angles, origins)
    drifted, moved = [], []
    for angle, origin in zip(angles, origins, strict=True):
        true = euler_matrix(angle)
        drifted.append(_angles(true @ rotation))
        moved.append(origin + true @ shift * PIXEL_ANGST)
    _write_star(tmp_path / "run_data.star", np.array(drifted), np.array(moved))
    write_mrc(tmp_path / "truth.mrc", density(np.eye(3), np.zeros(3)))
    estimated = density(rotation.T, rotation.T @ shift)
    for name in ("run_class001", "run_half1_class001_unfil", "run_half2_class001_unfil"):
        write_mrc(tmp_path / f"{name}.mrc", estimated)
    found = evaluate(tmp_path, tmp_path / "run")
    assert found.particles == 12
    assert found.angle_median_deg < 0.01
    assert found.shift_median_px < 0.01
    assert found.within_15_deg == 1.0
    assert found.half_map_resolution_angst == pytest.approx(2 * PIXEL_ANGST)
    assert found.truth_resolution_angst < 30.0


def _angles(matrix: np.ndarray) -> tuple[float, float, float]:
    tilt = np.arccos(matrix[2, 2])
    angles = (np.arctan2(matrix[2, 1], matrix[2, 0]), tilt, np.arctan2(matrix[1, 2], -matrix[0, 2]))
    return tuple(float(value) for value in np.degrees(angles))


def _write_star(path: Path, angles: np.ndarray, origins: np.ndarray) -> None:
    lines = [
        "data_optics",
        "loop_",
        "_rlnImagePixelSize",
        f"{PIXEL_ANGST}",
        "",
        "data_particles",
        "loop_",
        "_rlnImageName",
    ]
    lines += [
        f"_rln{name}" for name in ("AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "OriginZAngst")
    ]
    for index, (angle, origin) in enumerate(zip(angles, origins, strict=True)):
        lines.append(f"subtomo/{index}.mrc " + " ".join(f"{value:.8f}" for value in (*angle, *origin)))
    path.write_text("\n".join(lines) + "\n")
