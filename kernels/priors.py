"""Gaussian priors on the orientation of one particle: the poses a local search visits, and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.orientations import AngularGrid, euler_to_matrix
from kernels.symmetry import direction_vectors, operators

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CUTOFF_SIGMAS = 3.0


@dataclass(frozen=True)
class LocalPrior:
    """The coarse orientations of a local search, one entry per (direction, psi) pair, directions outer.

    Attributes
    ----------
    direction_index : int64 (m,) into ``grid.directions_deg``, not decreasing.
    psi_index : int64 (m,) into ``grid.psi_deg``.
    weight : float64 (m,) prior of the pair; sums to 1 when all three sigmas are set.
    """

    direction_index: IntArray
    psi_index: IntArray
    weight: FloatArray


def local_prior(
    grid: AngularGrid,
    angles_prior_deg: npt.ArrayLike,
    sigma_rot_deg: float,
    sigma_tilt_deg: float,
    sigma_psi_deg: float,
    *,
    polar_safe: bool,
) -> LocalPrior:
    """Coarse orientations within three sigmas of a prior orientation, with Gaussian weights.

    RELION's rule (``polar_safe=False``): of a direction the symmetry copy nearest to the prior counts, by its distance
    and the larger of the rot and tilt sigmas; psi counts by its plain difference from the prior psi, whatever the
    direction and the symmetry copy.  Near tilt 0 and 180, and for symmetric copies, this drops orientations close to
    the prior.

    With ``polar_safe=True`` psi is compared after the in-plane angle of the prior was carried along the great circle to
    the (symmetry copy of the) direction, for every symmetry copy within reach, so that neither the choice of rot at the
    poles nor that of the copy matters.  Without symmetry both rules agree at tilt 90.

    Parameters
    ----------
    angles_prior_deg : (3,) rot, tilt, psi of the prior centre.
    sigma_rot_deg, sigma_tilt_deg, sigma_psi_deg : standard deviations; 0 (or less) sets no prior on that angle.  With
        tilt alone the tilt of the nearest copy is compared; with rot alone the distance of the nearest copy from the
        great circle through the pole and the prior rot (rot + 180 included); ``polar_safe`` changes nothing then.

    Returns
    -------
    LocalPrior : never empty; where nothing lies within three sigmas, the single nearest direction or psi has weight 1.

    Raises
    ------
    ValueError : the prior is not three finite angles.
    """
    prior = np.asarray(angles_prior_deg, dtype=np.float64)
    if prior.shape != (3,) or not np.isfinite(prior).all():
        raise ValueError(f"a prior orientation is three finite angles rot, tilt, psi, got {prior.tolist()}")
    both = sigma_rot_deg > 0 and sigma_tilt_deg > 0
    if polar_safe and both and sigma_psi_deg > 0:
        return _transported_prior(grid, prior, max(sigma_rot_deg, sigma_tilt_deg), sigma_psi_deg)
    direction_index, direction_weight = _direction_prior(grid, prior, sigma_rot_deg, sigma_tilt_deg)
    psi_index, psi_weight = _within(_circular_distance(grid.psi_deg, prior[2]), sigma_psi_deg)
    return LocalPrior(
        np.repeat(direction_index, psi_index.size),
        np.tile(psi_index, direction_index.size),
        np.outer(direction_weight, psi_weight).ravel(),
    )


def _circular_distance(angles_deg: FloatArray, centre_deg: float | FloatArray) -> FloatArray:
    """Distance on the circle, in [0, 180] degrees."""
    distance = np.abs(angles_deg - centre_deg) % 360.0
    return np.minimum(distance, 360.0 - distance)


def _within(distance_deg: FloatArray, sigma_deg: float) -> tuple[IntArray, FloatArray]:
    """Indices closer than three sigmas (strictly) and their Gaussian weights, of sum 1; else the nearest one.

    A sigma that is not positive keeps everything with weight 1.
    """
    if not sigma_deg > 0:
        return np.arange(distance_deg.size), np.ones(distance_deg.size)
    index = np.flatnonzero(distance_deg < _CUTOFF_SIGMAS * sigma_deg)
    if index.size == 0:
        return np.array([int(np.argmin(distance_deg))]), np.ones(1)
    weight = np.exp(-0.5 * (distance_deg[index] / sigma_deg) ** 2)
    return index, weight / weight.sum()


def _near(cosine: FloatArray, sigma_deg: float) -> tuple[IntArray, FloatArray]:
    """What :func:`_within` gives for the angles of which the cosines (n,) are given."""
    cutoff = np.deg2rad(min(_CUTOFF_SIGMAS * sigma_deg, 180.0))
    index = np.flatnonzero(cosine > np.cos(cutoff) - 1e-9)
    if index.size == 0:
        index = np.array([int(np.argmax(cosine))])
    kept, weight = _within(np.rad2deg(np.arccos(np.clip(cosine[index], -1.0, 1.0))), sigma_deg)
    return index[kept], weight


def _direction_prior(
    grid: AngularGrid, prior: FloatArray, sigma_rot_deg: float, sigma_tilt_deg: float
) -> tuple[IntArray, FloatArray]:
    """Directions and normalised weights by RELION's rule."""
    group = operators(grid.symmetry)
    if sigma_rot_deg > 0 and sigma_tilt_deg > 0:
        # v S . p = v . (p S^T): compare the grid with every copy of the prior direction
        targets = euler_to_matrix(prior)[2] @ group.transpose(0, 2, 1)
        return _near((grid.vectors @ targets.T).max(axis=1), max(sigma_rot_deg, sigma_tilt_deg))
    if not (sigma_rot_deg > 0 or sigma_tilt_deg > 0):
        return _within(np.zeros(len(grid.vectors)), 0.0)
    copies = np.einsum("di,gij->gdj", grid.vectors, group)
    if sigma_rot_deg > 0:
        from_normal = np.arccos(np.clip(copies @ direction_vectors(prior[0] + 90.0, 90.0), -1.0, 1.0))
        return _within(np.abs(np.rad2deg(from_normal) - 90.0).min(axis=0), sigma_rot_deg)
    tilt = np.rad2deg(np.arccos(np.clip(copies[..., 2], -1.0, 1.0)))
    return _within(_circular_distance(tilt, prior[1]).min(axis=0), sigma_tilt_deg)


def _transported_prior(grid: AngularGrid, prior: FloatArray, sigma_deg: float, sigma_psi_deg: float) -> LocalPrior:
    """Pairs within reach of the prior or of one of its symmetry copies, psi measured along the great circle."""
    poses = euler_to_matrix(prior) @ operators(grid.symmetry).transpose(0, 2, 1)
    hits, hit_weight = _near((grid.vectors @ poses[:, 2].T).ravel(), sigma_deg)
    direction, copy = np.divmod(hits, len(poses))
    rot, tilt = np.moveaxis(grid.directions_deg[direction], -1, 0)
    at_zero_psi = euler_to_matrix(np.stack([rot, tilt, np.zeros_like(rot)], axis=-1))
    # psi of the grid direction whose residual rotation from the prior pose has no component about the viewing direction
    residual = np.einsum("mij,mkj->mik", at_zero_psi, poses[copy])
    twist = np.arctan2(residual[:, 0, 1] - residual[:, 1, 0], residual[:, 0, 0] + residual[:, 1, 1])
    return _collect_pairs(grid, direction, hit_weight, -np.rad2deg(twist), sigma_psi_deg)


def _collect_pairs(
    grid: AngularGrid, direction: IntArray, hit_weight: FloatArray, centre_psi_deg: FloatArray, sigma_psi_deg: float
) -> LocalPrior:
    """Pairs of every direction with the psi near its own centre; pairs reached through several copies are added up."""
    n_psi, step = grid.psi_deg.size, grid.psi_step_deg
    reach = min(int(np.ceil(_CUTOFF_SIGMAS * sigma_psi_deg / step)), n_psi // 2)
    offsets = np.arange(-reach, reach + 1)[:n_psi]
    psi_index = (np.rint(centre_psi_deg / step).astype(np.int64)[:, None] + offsets) % n_psi
    distance = _circular_distance(grid.psi_deg[psi_index], centre_psi_deg[:, None])
    weight = np.exp(-0.5 * (distance / sigma_psi_deg) ** 2) * (distance < _CUTOFF_SIGMAS * sigma_psi_deg)
    weight[:, reach] += weight.sum(axis=1) == 0  # nothing within the cut-off: the nearest psi, which has offset 0
    weight *= (hit_weight / weight.sum(axis=1))[:, None]
    key = direction[:, None] * n_psi + psi_index
    used = weight > 0
    pairs, inverse = np.unique(key[used], return_inverse=True)
    total = np.zeros(pairs.size)
    np.add.at(total, inverse, weight[used])
    return LocalPrior(pairs // n_psi, pairs % n_psi, total)
