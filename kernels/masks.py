"""Soft spherical masks, background filling and solvent flattening.

Radii and edges are voxels; distances are measured from the box centre ``size//2``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.geometry import FloatArray, distance_from_centre


def soft_sphere(size: int, radius_px: float, edge_px: float) -> FloatArray:
    """Soft sphere: 1 inside ``radius_px``, 0 beyond ``radius_px + edge_px``, a raised cosine between.

    Returns
    -------
    (size, size, size) float64, z y x.
    """
    outer = radius_px + edge_px
    distance = distance_from_centre(size)
    edge = 0.5 - 0.5 * np.cos(np.pi * (outer - distance) / edge_px) if edge_px > 0 else np.ones_like(distance)
    return np.where(distance < radius_px, 1.0, np.where(distance > outer, 0.0, edge))


def background_mean(volume: npt.NDArray[np.floating], sphere: FloatArray) -> float:
    """Mean of a ``(n, n, n)`` volume outside a soft sphere, every voxel weighted by ``1 - sphere``.

    Raises
    ------
    ValueError : the sphere covers the whole box, so that no background is left.
    """
    outside = 1.0 - sphere
    total = float(outside.sum())
    if total <= 0.0:
        raise ValueError("the spherical mask leaves no background voxel in the box")
    return float((outside * volume).sum() / total)


def fill_background(
    volume: npt.NDArray[np.floating], sphere: FloatArray, background: npt.NDArray[np.floating] | None = None
) -> FloatArray:
    """Replace what lies outside a soft sphere by the mean background, or by another volume.

    Parameters
    ----------
    volume : (n, n, n) real.
    sphere : (n, n, n) mask of :func:`soft_sphere`.
    background : (n, n, n) values for the outside, e.g. coloured noise; by default the constant :func:`background_mean`
        (which is what RELION's ``--zero_mask`` does: the fill is the mean, not literally zero).

    Returns
    -------
    (n, n, n) float64, ``sphere * volume + (1 - sphere) * background``.
    """
    fill = background_mean(volume, sphere) if background is None else background
    filled: FloatArray = sphere * volume + (1.0 - sphere) * fill
    return filled


def flatten_solvent(
    volume: npt.NDArray[np.floating],
    mask: FloatArray,
    mean_mask: FloatArray | None = None,
    kept: FloatArray | None = None,
) -> FloatArray:
    """Multiply a map by a solvent mask in [0, 1].

    Parameters
    ----------
    volume, mask : (n, n, n).
    kept : (n, n, n), optional density to add to the masked map, e.g. a low-passed region (RELION's ``--lowpass_mask``).
    mean_mask : (n, n, n), optional second mask: where it is 1 the density becomes its own mean weighted by that mask
        (RELION's ``--solvent_mask2``, e.g. for the inside of a virus).

    Returns
    -------
    (n, n, n) float64.
    """
    flattened: FloatArray = np.asarray(volume * mask, dtype=np.float64)
    if kept is not None:
        flattened += kept
    if mean_mask is None:
        return flattened
    total = float(mean_mask.sum())
    mean = float((flattened * mean_mask).sum() / total) if total > 0.0 else 0.0
    replaced: FloatArray = (1.0 - mean_mask) * flattened + mean_mask * mean
    return replaced
