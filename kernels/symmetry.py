"""Point groups: their rotation operators and RELION's asymmetric units of viewing directions.

Supported are the chiral groups Cn, Dn, T, O and the icosahedral settings I (= I2), I1, I2, I3, I4 with RELION's axes.
Directions are unit vectors x, y, z of the viewing direction ``(sin tilt cos rot, sin tilt sin rot, cos tilt)``, that is the
third row of the pose matrix ``A``; a symmetry copy of a pose is ``A @ S`` for an operator ``S`` and the copy of a direction
row vector is ``v @ S``.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SUPPORTED_GROUPS = "Cn, Dn, T, O, I, I1, I2, I3, I4 (n = 1, 2, 3, ...)"

_GOLDEN = (1 + np.sqrt(5)) / 2
# Rotation about y, in degrees, that takes the setting I2 (two-fold axes on x, y and z) to the other icosahedral settings.
_FIVE_FOLD_TILT_DEG = float(np.rad2deg(np.arctan2(1.0, _GOLDEN)))
_ICOSAHEDRAL_SETTING_DEG = {"I1": 90.0, "I2": 0.0, "I3": -_FIVE_FOLD_TILT_DEG, "I4": _FIVE_FOLD_TILT_DEG}


def parse_group(name: str) -> tuple[str, int]:
    """Family and order of a point group given by its Schoenflies name in any case.

    Returns
    -------
    ``("C", n)``, ``("D", n)``, ``("T", 0)``, ``("O", 0)`` or ``("I", setting)`` with setting 1 to 4 (``I`` is ``I2``).

    Raises
    ------
    ValueError : one line naming the supported groups, when the group is unknown or has mirrors or inversions.
    """
    match = re.fullmatch(r"(C|D)(\d{1,3})|(T|O)|I([1-4]?)", name.strip().upper())
    if match is None or (match[2] is not None and int(match[2]) == 0):
        raise ValueError(f"unknown symmetry group {name!r}: expected one of {SUPPORTED_GROUPS}")
    if match[1]:
        return match[1], int(match[2])
    if match[3]:
        return match[3], 0
    return "I", int(match[4] or 2)


def canonical_name(name: str) -> str:
    """Upper-case name of a supported group, with ``I`` spelt ``I2``: equal for equal groups. ValueError when unknown."""
    family, order = parse_group(name)
    return f"{family}{order}" if order else family


def rotation_about(axis: npt.ArrayLike, angle_deg: float) -> FloatArray:
    """Right-handed rotation matrix (3, 3) by ``angle_deg`` about ``axis`` (x, y, z; any length), for column vectors."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    angle = np.deg2rad(angle_deg)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    matrix: FloatArray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return matrix


def _generators(family: str, order: int) -> list[FloatArray]:
    """Generators of a group; the axes are RELION's, to full precision."""
    if family == "C":
        return [rotation_about((0, 0, 1), 360 / order)]
    if family == "D":
        return [rotation_about((0, 0, 1), 360 / order), rotation_about((1, 0, 0), 180)]
    if family == "T":
        return [rotation_about((0, 0, 1), 120), rotation_about((0, np.sqrt(2), 1), 180)]
    if family == "O":
        return [rotation_about((1, 1, 1), 120), rotation_about((0, 0, 1), 90)]
    setting = rotation_about((0, 1, 0), _ICOSAHEDRAL_SETTING_DEG[f"I{order}"])
    axes = (((0, 0, 1), 180), ((1, 0, _GOLDEN), 72), ((0, 1 / _GOLDEN, _GOLDEN), 120))
    return [rotation_about(setting @ np.asarray(axis, dtype=np.float64), angle) for axis, angle in axes]


@cache
def _closure(family: str, order: int) -> FloatArray:
    generators = _generators(family, order)
    found = [np.eye(3)]
    for operator in found:  # grows while it is walked: breadth first from the identity
        for generator in generators:
            product = operator @ generator
            if min(float(np.abs(product - known).max()) for known in found) > 1e-6:
                found.append(product)
    stacked = np.array(found) + 0.0
    stacked[np.abs(stacked) < 1e-15] = 0.0
    stacked.flags.writeable = False
    return stacked


def operators(group: str) -> FloatArray:
    """All rotations of a point group, read-only float64 (g, 3, 3), the identity first.

    Raises
    ------
    ValueError : unknown group (see :func:`parse_group`).
    """
    return _closure(*parse_group(group))


def direction_vectors(rot_deg: npt.ArrayLike, tilt_deg: npt.ArrayLike) -> FloatArray:
    """Unit viewing directions x, y, z of rot and tilt (degrees, broadcast against each other); float64 (..., 3)."""
    rot, tilt = np.deg2rad(rot_deg), np.deg2rad(tilt_deg)
    sin_tilt = np.sin(tilt)
    parts = np.broadcast_arrays(sin_tilt * np.cos(rot), sin_tilt * np.sin(rot), np.cos(tilt))
    return np.stack(parts, axis=-1)
