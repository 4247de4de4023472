"""Comparing poses with known poses, whatever frame the map has drifted into.

A refined map may be turned and moved as a whole without being any worse, so estimated poses agree with true ones only
after one rotation and one shift of the reference have been taken out.  With ``x_true = R x_est - v`` between the two
map frames and RELION's data model ``x_particle = A x_reference - origin``, the estimates of a perfect refinement are
``A_est = A_true R`` and ``o_est = o_true + A_true v``.  With a point group ``S`` each particle may also sit in any of
its equivalent poses ``A_true S_j``.  Both ``R`` and ``v`` are found robustly: a minority of lost particles does not
move them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.orientations import euler_to_matrix

FloatArray = npt.NDArray[np.float64]

_CAPTURE_DEG = 10.0
_CANDIDATES = 200
_ITERATIONS = 30


@dataclass(frozen=True)
class PoseErrors:
    """Errors of poses that are left after one global rotation and one global shift of the reference.

    Attributes
    ----------
    angle_deg : (n,) angle of the rotation between the estimated and the true pose.
    shift_angst : (n,) distance between the estimated and the true origin.
    rotation : (3, 3) the global rotation ``R`` in ``A_est = A_true R``.
    shift_vector : (3,) the global shift ``v`` in ``o_est = o_true + A_true v``, Angstrom, in the true map's frame.
    """

    angle_deg: FloatArray
    shift_angst: FloatArray
    rotation: FloatArray
    shift_vector: FloatArray


def rotation_angle_deg(matrices: npt.ArrayLike) -> FloatArray:
    """Angle in degrees of rotation matrices ``(..., 3, 3)``; accurate near 0 too, unlike ``arccos`` of the trace."""
    array = np.asarray(matrices, dtype=np.float64)
    chord = np.linalg.norm(array - np.eye(3), axis=(-2, -1)) / np.sqrt(8.0)
    return np.asarray(np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0))))


def nearest_rotation(matrix: npt.ArrayLike) -> FloatArray:
    """The rotation ``(3, 3)`` nearest to any matrix ``(3, 3)`` in the Frobenius norm (determinant +1)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=np.float64))
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def compare_poses(
    angles_deg: npt.ArrayLike,
    origins_angst: npt.ArrayLike,
    true_angles_deg: npt.ArrayLike,
    true_origins_angst: npt.ArrayLike,
    symmetry_operators: npt.ArrayLike | None = None,
) -> PoseErrors:
    """Compare estimated with true poses after the best global rotation and shift of the reference.

    Parameters
    ----------
    angles_deg, true_angles_deg : (n, 3) rot, tilt, psi.
    origins_angst, true_origins_angst : (n, 3) x, y, z: the shifts that centre the particles.
    symmetry_operators : (g, 3, 3) point group of the true map; None for C1.

    Raises
    ------
    ValueError
        When the four arrays are not all ``(n, 3)`` with the same n of at least one.
    """
    poses = [np.asarray(a, dtype=np.float64) for a in (angles_deg, origins_angst, true_angles_deg, true_origins_angst)]
    if poses[0].ndim != 2 or poses[0].shape[1] != 3 or len({a.shape for a in poses}) != 1 or len(poses[0]) == 0:
        raise ValueError(f"poses must be four (n, 3) arrays of the same length, got {[a.shape for a in poses]}")
    operators = np.eye(3)[None] if symmetry_operators is None else np.asarray(symmetry_operators, dtype=np.float64)
    estimated, true = euler_to_matrix(poses[0]), euler_to_matrix(poses[2])
    # relative[i, j] is the rotation of the reference that would explain particle i by its equivalent true pose j
    relative = np.einsum("jba,icb,icd->ijad", operators, true, estimated)
    rotation = _global_rotation(relative)
    angle, choice = _nearest_angles(relative, rotation)
    frames = np.einsum("iab,ibc->iac", true, operators[choice])
    difference = poses[1] - poses[3]
    vector = _global_shift(np.einsum("iba,ib->ia", frames, difference), angle)
    residual = difference - np.einsum("iab,b->ia", frames, vector)
    return PoseErrors(angle, np.asarray(np.linalg.norm(residual, axis=1)), rotation, vector)


def _nearest_angles(relative: FloatArray, rotation: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Smallest angle (n,) over the equivalent poses of ``relative (n, g, 3, 3)``, and which pose gave it."""
    angles = rotation_angle_deg(np.einsum("ab,ijac->ijbc", rotation, relative))
    choice = np.argmin(angles, axis=1)
    return angles[np.arange(len(angles)), choice], choice


def _global_rotation(relative: FloatArray) -> FloatArray:
    """Robust centre of ``relative (n, g, 3, 3)``: best single particle first, then reweighted chordal means."""
    step = max(1, len(relative) // _CANDIDATES)
    candidates = [np.eye(3), *relative[::step, 0]]
    scores = [np.sum(1.0 / (1.0 + (_nearest_angles(relative, c)[0] / _CAPTURE_DEG) ** 2)) for c in candidates]
    rotation: FloatArray = np.asarray(candidates[int(np.argmax(scores))])
    for _ in range(_ITERATIONS):
        angle, choice = _nearest_angles(relative, rotation)
        scale = float(np.clip(1.5 * np.median(angle), 1e-3, _CAPTURE_DEG))
        weight = 1.0 / (1.0 + (angle / scale) ** 2)
        rotation = nearest_rotation(np.einsum("i,iab->ab", weight, relative[np.arange(len(angle)), choice]))
    return rotation


def _global_shift(shifts: FloatArray, angle_deg: FloatArray) -> FloatArray:
    """Robust centre (3,) of shifts ``(n, 3)`` in the map frame; clearly lost orientations do not vote."""
    trusted = angle_deg <= max(2.0 * _CAPTURE_DEG, float(np.median(angle_deg)))
    shifts = shifts[trusted]
    vector: FloatArray = np.median(shifts, axis=0)
    for _ in range(_ITERATIONS):
        distance = np.linalg.norm(shifts - vector, axis=1)
        scale = max(1.5 * float(np.median(distance)), 1e-6)
        weight = 1.0 / (1.0 + (distance / scale) ** 2)
        vector = weight @ shifts / weight.sum()
    return np.asarray(vector)
