"""Point groups: their rotation operators and RELION's asymmetric units of viewing directions.

Supported are the chiral groups Cn, Dn, T, O and the icosahedral settings I (= I2), I1, I2, I3, I4 with RELION's axes.
Directions are unit vectors x, y, z, ``(sin tilt cos rot, sin tilt sin rot, cos tilt)``: the third row of the pose
matrix ``A``.  A symmetry copy of a pose is ``A @ S`` for an operator ``S``; that of a direction (a row) is ``v @ S``.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kernels.healpix_nest import largest_pixel_radius_deg, pixel_centres

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

SUPPORTED_GROUPS = "Cn, Dn, T, O, I, I1, I2, I3, I4 (n = 1, 2, 3, ...)"

_GOLDEN = (1 + np.sqrt(5)) / 2
# Rotation about y, in degrees, from the setting I2 (two-fold axes on x, y and z) to the other icosahedral settings.
_FIVE_FOLD_TILT_DEG = float(np.rad2deg(np.arctan2(1.0, _GOLDEN)))
_ICOSAHEDRAL_SETTING_DEG = {"I1": 90.0, "I2": 0.0, "I3": -_FIVE_FOLD_TILT_DEG, "I4": _FIVE_FOLD_TILT_DEG}

# Normals of the borders of the asymmetric units, with the digits RELION has: on the border the last digits decide.
_TETRAHEDRAL_NORMALS = ((-0.942809, 0, 0), (0.471405, 0.272165, 0.7698), (0.471404, 0.816497, 0))
_OCTAHEDRAL_NORMALS = ((0, -1, 1), (1, 1, 0), (-1, 1, 0))
_ICOSAHEDRAL_NORMALS = ((0, 1, 0), (-0.5, -0.80901701, 0.30901699), (0.5, -0.80901701, 0.30901699))
_ICOSAHEDRAL_4_NORMALS = (
    (0, 0, 1),
    (0.187592467856686, -0.303530987314591, -0.491123477863004),
    (0.187592467856686, 0.303530987314591, -0.491123477863004),
)
_ICOSAHEDRAL_TILT_DEG = {1: 90.0, 2: 0.0, 3: 31.7174745559, 4: -31.7174745559}
_SEAM_LIMIT = 4000  # RELION removes the duplicates on the seam of the asymmetric unit below this number of directions


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
    """Upper-case name of a supported group, with ``I`` spelt ``I2``; ValueError when unknown."""
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


def _libm(function: Callable[[float], float], values: FloatArray) -> FloatArray:
    """A C library function of every value (n,): NumPy's vector versions may differ from it in the last bit."""
    return np.fromiter(map(function, values.tolist()), dtype=np.float64, count=values.size)


def _border_normals(family: str, order: int) -> FloatArray:
    """Normals (3, 3) whose scalar products with a direction of the asymmetric unit are not negative, for T, O and I."""
    if family in "TO":
        normals = np.array(_TETRAHEDRAL_NORMALS if family == "T" else _OCTAHEDRAL_NORMALS, dtype=np.float64)
        unit: FloatArray = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        return unit
    tilt = np.deg2rad(_ICOSAHEDRAL_TILT_DEG[order])
    turn = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    rotated: FloatArray = np.array(_ICOSAHEDRAL_4_NORMALS if order == 4 else _ICOSAHEDRAL_NORMALS) @ turn.T
    return -rotated if order == 4 else rotated


def in_asymmetric_unit(group: str, rot_deg: npt.ArrayLike, tilt_deg: npt.ArrayLike) -> BoolArray:
    """Whether directions belong to RELION's asymmetric unit, its borders included.

    Parameters
    ----------
    rot_deg, tilt_deg : (n,) degrees, rot in (-180, 180].

    Raises
    ------
    ValueError : unknown group.
    """
    family, order = parse_group(group)
    rot, tilt = np.asarray(rot_deg, dtype=np.float64), np.asarray(tilt_deg, dtype=np.float64)
    inside = np.ones(rot.shape, dtype=np.bool_)
    if family in "CD":
        middle = 90.0 if family == "D" else 0.0
        if order > 1:
            inside &= (rot >= middle - 180.0 / order) & (rot <= middle + 180.0 / order)
        return inside & (tilt <= 90.0) if family == "D" else inside
    if family == "T":
        inside = ((rot >= 90.0) & (rot <= 150.0)) | (rot == 0.0)
    elif family == "O":
        inside = ((rot >= 45.0) & (rot <= 135.0) & (tilt <= 90.0)) | (rot == 0.0)
    alpha, beta = rot[inside] * np.pi / 180.0, tilt[inside] * np.pi / 180.0
    sin_beta = _libm(math.sin, beta)
    x, y, z = sin_beta * _libm(math.cos, alpha), sin_beta * _libm(math.sin, alpha), _libm(math.cos, beta)
    normals = _border_normals(family, order)
    inside[inside] = np.all([x * n[0] + y * n[1] + z * n[2] >= 0 for n in normals], axis=0)
    return inside


def asymmetric_directions(group: str, healpix_order: int) -> IntArray:
    """NEST pixels whose centres make up RELION's asymmetric unit, ascending.

    Below 4000 directions, one within half the largest pixel radius of a symmetry copy of an earlier one is left out:
    both lie on a seam of the unit.  From 4000 on both sides of the seam stay, as in RELION.

    Raises
    ------
    ValueError : unknown group.
    """
    directions = pixel_centres(healpix_order, np.arange(12 * 4**healpix_order))
    pixels = np.flatnonzero(in_asymmetric_unit(group, directions[:, 0], directions[:, 1]))
    copies = operators(group)[1:]
    if pixels.size >= _SEAM_LIMIT or pixels.size == 0 or len(copies) == 0:
        return pixels
    from scipy.spatial import cKDTree  # takes a while to import, and groups need it only

    vectors = direction_vectors(directions[pixels, 0], directions[pixels, 1])
    chord = 2 * np.sin(np.deg2rad(0.5 * largest_pixel_radius_deg(healpix_order)) / 2)
    kept = np.ones(pixels.size, dtype=np.bool_)
    images = cKDTree((vectors @ copies).reshape(-1, 3))
    for index, near in enumerate(images.query_ball_point(vectors, chord)):
        earlier = np.asarray(near, dtype=np.int64) % pixels.size
        kept[index] = not kept[earlier[earlier < index]].any()
    return pixels[kept]
