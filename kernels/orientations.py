"""Orientations: Euler angles and matrices, the HEALPix grid of poses, its oversampling and its random perturbation.

Euler angles are RELION's (rot, tilt, psi), degrees, ZYZ.  The pose matrix ``A`` acts on column vectors x, y, z; its
third row is the viewing direction, and a particle is ``reference(A^-1 (p + origin))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kernels.healpix_nest import child_offsets, pixel_centres
from kernels.symmetry import asymmetric_directions, canonical_name, direction_vectors

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Below this sine of the tilt angle rot and psi cannot be told apart: RELION then puts the whole rotation into psi.
_DEGENERATE_SIN_TILT = 16 * float(np.finfo(np.float32).eps)


def euler_to_matrix(angles_deg: npt.ArrayLike) -> FloatArray:
    """Pose matrices of Euler angles.

    Parameters
    ----------
    angles_deg : (..., 3) rot, tilt, psi.

    Returns
    -------
    float64 (..., 3, 3), ``Z(psi) Y(tilt) Z(rot)`` for column vectors x, y, z.
    """
    angles = np.deg2rad(np.asarray(angles_deg, dtype=np.float64))
    (ca, cb, cg), (sa, sb, sg) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    matrices = np.empty((*ca.shape, 3, 3))
    cc, sc = cg * cb, sg * cb
    matrices[..., 0, 0] = cc * ca - sg * sa
    matrices[..., 0, 1] = cc * sa + sg * ca
    matrices[..., 0, 2] = -cg * sb
    matrices[..., 1, 0] = -sc * ca - cg * sa
    matrices[..., 1, 1] = -sc * sa + cg * ca
    matrices[..., 1, 2] = sg * sb
    matrices[..., 2, 0] = sb * ca
    matrices[..., 2, 1] = sb * sa
    matrices[..., 2, 2] = cb
    return matrices


def matrix_to_euler(matrices: npt.ArrayLike) -> FloatArray:
    """Euler angles of pose matrices, by RELION's rules.

    Parameters
    ----------
    matrices : (..., 3, 3) rotations.

    Returns
    -------
    float64 (..., 3) rot, tilt, psi in degrees; rot and psi in [-180, 180], tilt in [0, 180].  Where the sine of tilt is
    not above 16 float32 epsilons, rot is 0, tilt 0 or 180 and psi holds the whole in-plane rotation.
    """
    a = np.asarray(matrices, dtype=np.float64) + 0.0  # no negative zeros, for which arctan2 would return -180
    sin_tilt = np.hypot(a[..., 0, 2], a[..., 1, 2])
    degenerate = sin_tilt <= _DEGENERATE_SIN_TILT
    up = a[..., 2, 2] > 0
    sign = np.where(up, 1.0, -1.0)
    rot = np.where(degenerate, 0.0, np.arctan2(a[..., 2, 1], a[..., 2, 0]))
    tilt = np.where(degenerate, np.where(up, 0.0, np.pi), np.arctan2(sin_tilt, a[..., 2, 2]))
    psi = np.where(
        degenerate,
        np.arctan2(-sign * a[..., 1, 0] + 0.0, sign * a[..., 0, 0] + 0.0),
        np.arctan2(a[..., 1, 2], -a[..., 0, 2] + 0.0),
    )
    angles: FloatArray = np.rad2deg(np.stack([rot, tilt, psi], axis=-1))
    return angles


def wrap_deg(angles_deg: npt.ArrayLike) -> FloatArray:
    """Angles brought into (-180, 180] degrees."""
    angles = np.asarray(angles_deg, dtype=np.float64)
    wrapped: FloatArray = angles - 360.0 * np.ceil((angles - 180.0) / 360.0)
    return wrapped


@dataclass(frozen=True)
class AngularGrid:
    """The coarse grid of orientations: the product of HEALPix directions and in-plane angles.

    Attributes
    ----------
    healpix_order : nside is ``2**healpix_order``.
    symmetry : canonical name of the point group the directions are reduced by.
    directions_deg : float64 (D, 2) rot in (-180, 180], tilt in [0, 180], in NEST order.
    pixel_index : int64 (D,) NEST pixel of every direction.
    psi_deg : float64 (P,), ``i * psi_step_deg``.
    psi_step_deg : step of the in-plane angle.
    """

    healpix_order: int
    symmetry: str
    directions_deg: FloatArray
    pixel_index: IntArray
    psi_deg: FloatArray
    psi_step_deg: float

    @cached_property
    def vectors(self) -> FloatArray:
        """Unit vectors x, y, z of the directions, float64 (D, 3)."""
        return direction_vectors(self.directions_deg[:, 0], self.directions_deg[:, 1])


def angular_step_deg(healpix_order: int, oversampling: int = 0) -> float:
    """RELION's nominal step in degrees, ``360 / (6 * 2**(order + oversampling))``."""
    return 360.0 / float(6 * 2 ** (healpix_order + oversampling))


def angular_grid(
    healpix_order: int, symmetry: str = "C1", psi_step_deg: float | None = None, limit_tilt_deg: float = -91.0
) -> AngularGrid:
    """The coarse grid of orientations of one HEALPix order.

    Parameters
    ----------
    healpix_order : 0 and up.
    symmetry : point group; only directions of its asymmetric unit are kept.
    psi_step_deg : in-plane step, rounded down to a divisor of 360; default the angular step of the order.
    limit_tilt_deg : positive keeps side views, negative top views, with the tilt folded to [0, 90]; -91 keeps all.

    Raises
    ------
    ValueError : unknown group, negative order, psi step not positive, or no direction left (I2 and I3 below order 2).
    """
    if healpix_order < 0:
        raise ValueError(f"healpix order must be 0 or more, got {healpix_order}")
    step = angular_step_deg(healpix_order) if psi_step_deg is None else psi_step_deg
    if not step > 0:
        raise ValueError(f"psi step must be positive, got {step}")
    n_psi = int(np.ceil(360.0 / step))
    directions = pixel_centres(healpix_order, np.arange(12 * 4**healpix_order))
    pixels = asymmetric_directions(symmetry, healpix_order)
    pixels = pixels[_within_tilt_limit(directions[pixels, 1], limit_tilt_deg)]
    if pixels.size == 0:
        raise ValueError(
            f"no direction of HEALPix order {healpix_order} is left with symmetry {symmetry} and tilt limit "
            f"{limit_tilt_deg:g}: use a higher order or a wider tilt limit"
        )
    return AngularGrid(
        healpix_order=healpix_order,
        symmetry=canonical_name(symmetry),
        directions_deg=directions[pixels],
        pixel_index=pixels,
        psi_deg=np.arange(n_psi, dtype=np.float64) * (360.0 / n_psi),
        psi_step_deg=360.0 / n_psi,
    )


def _within_tilt_limit(tilt_deg: FloatArray, limit_deg: float) -> npt.NDArray[np.bool_]:
    folded = np.minimum(tilt_deg, 180.0 - tilt_deg)
    return folded >= limit_deg if limit_deg > 0 else folded <= -limit_deg


def children_directions(grid: AngularGrid, direction_index: npt.ArrayLike, oversampling: int) -> FloatArray:
    """Directions of the fine pixels inside coarse pixels.

    Parameters
    ----------
    direction_index : integers (...) into ``grid.directions_deg``.
    oversampling : q; every direction has ``4**q`` children.

    Returns
    -------
    float64 (..., 4**q, 2) rot and tilt in degrees, pixel rows outer.  The coarse direction is not among them for q > 0.
    """
    pixels = grid.pixel_index[np.asarray(direction_index)]
    children = pixels[..., None] * 4**oversampling + child_offsets(oversampling)
    return pixel_centres(grid.healpix_order + oversampling, children)


def children_psi(grid: AngularGrid, psi_index: npt.ArrayLike, oversampling: int) -> FloatArray:
    """In-plane angles inside coarse steps: float64 (..., 2**q) degrees for integers (...) into ``grid.psi_deg``."""
    psi = grid.psi_deg[np.asarray(psi_index)]
    children: FloatArray = psi[..., None] + _centred_fractions(oversampling) * grid.psi_step_deg
    return children


def _centred_fractions(oversampling: int) -> FloatArray:
    """Positions of the children of a cell, in units of the cell and relative to its centre; shape (2**q,)."""
    count = 2**oversampling
    fractions: FloatArray = (0.5 + np.arange(count)) / count - 0.5
    return fractions


def perturb(matrices: npt.ArrayLike, perturbation: float, step_deg: float) -> FloatArray:
    """Pose matrices turned by the random perturbation of an iteration.

    Parameters
    ----------
    matrices : (..., 3, 3).
    perturbation : the fraction of a step drawn for this iteration.
    step_deg : the coarse angular step, at every oversampling.

    Returns
    -------
    float64 (..., 3, 3), ``A @ E(p*step, p*step, p*step)``.
    """
    rotation = euler_to_matrix(np.full(3, perturbation * step_deg))
    turned: FloatArray = np.asarray(matrices, dtype=np.float64) @ rotation
    return turned


def angular_distance(angles_a_deg: npt.ArrayLike, angles_b_deg: npt.ArrayLike, group: FloatArray) -> FloatArray:
    """RELION's distance between orientations: the mean angle between corresponding axes, least over symmetry copies.

    Parameters
    ----------
    angles_a_deg, angles_b_deg : (..., 3) rot, tilt, psi.
    group : (g, 3, 3) operators of the point group (:func:`kernels.symmetry.operators`).

    Returns
    -------
    float64 (...) degrees.  For a rotation by a small angle w this is about 0.8 w, not w itself.
    """
    a, b = euler_to_matrix(angles_a_deg), euler_to_matrix(angles_b_deg)
    least: FloatArray = np.full(np.broadcast_shapes(a.shape, b.shape)[:-2], np.inf)
    for operator in group:
        cosines = np.clip(np.einsum("...ij,...ij->...i", a, b @ operator), -1.0, 1.0)
        np.minimum(least, np.rad2deg(np.arccos(cosines)).mean(axis=-1), out=least)
    return least
